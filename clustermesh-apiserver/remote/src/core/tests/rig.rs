//! A machine with a store in memory, driven by hand.

use std::collections::BTreeMap;
use std::time::Instant;

use causeway_mesh_kv::{FailureKind, Outcome, SessionId, Twin};
use causeway_mesh_schema::{Capabilities, ClusterConfig, HEARTBEAT, Kind, Layout, cluster_config_key};

use super::*;

/// A machine, its store, and what it did.
pub(super) struct Rig {
    pub(super) remote: Remote,
    pub(super) twin: Twin,
    pub(super) base: Instant,
    pub(super) now: Duration,
    /// Counts sessions; `None` without one.
    pub(super) session: Option<u64>,
    pub(super) sessions: u64,
    /// Requests in this session, in short.
    pub(super) asked: Vec<String>,
    pub(super) told: Vec<String>,
    /// What a request for a number is answered with.
    pub(super) refuse: Option<&'static str>,
    /// The store takes requests and answers nothing.
    pub(super) mute: bool,
    /// Lists and watches of this prefix are treated so.
    pub(super) trouble: Option<(String, Trouble)>,
    /// Answers that the store does not give.
    denials: Vec<Reply>,
    /// Nobody can connect.
    pub(super) cut: bool,
    pub(super) can: Capabilities,
    pub(super) beats: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Trouble {
    Denied,
    NeverAnswered,
}

pub(super) fn name() -> ClusterName {
    ClusterName::parse("c2").unwrap()
}

impl Rig {
    pub(super) fn new() -> Rig {
        Rig::with(Settings { kinds: [Kind::Nodes, Kind::Services].into(), ..Settings::default() })
    }

    pub(super) fn with(settings: Settings) -> Rig {
        Rig {
            remote: Remote::new(name(), Arc::new(settings), 1, Duration::ZERO),
            twin: Twin::new(100),
            base: Instant::now(),
            now: Duration::ZERO,
            session: None,
            sessions: 0,
            asked: Vec::new(),
            told: Vec::new(),
            refuse: None,
            mute: false,
            trouble: None,
            denials: Vec::new(),
            cut: false,
            can: Capabilities { synced_canaries: true, ..Capabilities::default() },
            beats: 0,
        }
    }

    pub(super) fn beat(&mut self) {
        self.beats += 1;
        self.twin.put(HEARTBEAT, self.beats.to_string());
    }

    pub(super) fn config(&mut self, id: u32) {
        let config = ClusterConfig { id, capabilities: self.can.clone() };
        self.twin.put(&cluster_config_key(&name()), config.encode());
    }

    pub(super) fn canary(&mut self, kind: Kind, layout: Layout) {
        self.twin.put(&kind.canary(layout, &name()), "now");
    }

    pub(super) fn put(&mut self, kind: Kind, entry: &str, value: &str) {
        self.twin.put(&kind.key(Layout::State, &name(), entry), value.to_owned());
    }

    /// A cluster with everything in its place.
    pub(super) fn furnish(&mut self) {
        self.beat();
        self.config(2);
        self.canary(Kind::Nodes, Layout::State);
        self.canary(Kind::Services, Layout::State);
        self.put(Kind::Nodes, "n1", "a");
        self.put(Kind::Services, "ns/s1", "b");
    }

    pub(super) fn input(&mut self, input: Input) {
        self.remote.handle(self.now, input);
        self.drain();
    }

    /// Answers until nobody has anything to say.
    pub(super) fn settle(&mut self) {
        self.input(Input::Tick);
        while !self.mute {
            let Some(session) = self.session else { break };
            let mut replies = self.twin.take(SessionId(session));
            replies.append(&mut self.denials);
            if replies.is_empty() {
                break;
            }
            for reply in replies {
                self.input(Input::Reply(reply));
            }
        }
    }

    /// Lets time pass, waking the machine when it wants to be. With a writer that beats, if `alive`.
    pub(super) fn pass(&mut self, time: Duration, alive: bool) {
        let end = self.now + time;
        self.settle();
        while self.now < end {
            let wake = self.remote.deadline(self.now).unwrap_or(end).max(self.now);
            let next = if alive { self.now + 5 * S } else { end };
            self.now = wake.min(next).min(end);
            if alive {
                self.beat();
            }
            self.settle();
        }
    }

    /// Breaks the connection; there is no other until `cut` is taken back.
    pub(super) fn cut(&mut self) {
        self.cut = true;
        self.twin.set_reachable(SessionId(self.sessions), false);
        self.settle();
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.remote.poll_output() {
            match output {
                Output::Open => {
                    self.sessions += 1;
                    self.session = Some(self.sessions);
                    self.asked.clear();
                    if self.cut {
                        self.twin.set_reachable(SessionId(self.sessions), false);
                    }
                }
                Output::Close => self.session = None,
                Output::Submit(ticket, op) => {
                    self.asked.push(short(&op));
                    let session = self.session.expect("asked within a session");
                    match self.trouble_with(&op) {
                        Some(Trouble::Denied) => {
                            let failure =
                                Failure { kind: FailureKind::Denied, message: "permission denied".to_owned() };
                            let store = self.twin.store();
                            self.denials.push(Reply { ticket, store, outcome: Outcome::Failed(failure) });
                        }
                        Some(Trouble::NeverAnswered) => {}
                        None => self.twin.submit(SessionId(session), ticket, op, self.base + self.now),
                    }
                }
                Output::Reserve(id) => {
                    self.told.push(format!("reserve {id}"));
                    let answer = self.refuse.map_or(Input::Reserved, |reason| Input::Refused(reason.to_owned()));
                    self.remote.handle(self.now, answer);
                }
                Output::Release => self.told.push("release".to_owned()),
                Output::Tell(change) => self.told.push(say(&change)),
                Output::Gone => self.told.push("gone".to_owned()),
            }
        }
    }

    fn trouble_with(&self, op: &Op) -> Option<Trouble> {
        let (Op::List { prefix, .. } | Op::Watch { prefix, .. }) = op else { return None };
        self.trouble.as_ref().filter(|(of, _)| of == prefix).map(|(_, trouble)| *trouble)
    }

    pub(super) fn phase(&self) -> Phase {
        self.remote.stats(self.now).phase
    }

    /// What was told since the last time.
    pub(super) fn told(&mut self) -> String {
        std::mem::take(&mut self.told).join(", ")
    }

    pub(super) fn failure(&self) -> String {
        self.remote.stats(self.now).last_failure.map_or_else(String::new, |(_, text)| text.to_string())
    }

    pub(super) fn entries(&self) -> BTreeMap<Kind, usize> {
        self.remote.stats(self.now).kinds.into_iter().map(|kind| (kind.kind, kind.entries)).collect()
    }
}

pub(super) fn short(op: &Op) -> String {
    match op {
        Op::Get { key } => format!("get {key}"),
        Op::List { prefix, .. } => format!("list {prefix}"),
        Op::Watch { prefix, .. } => format!("watch {prefix}"),
        Op::Cancel => "cancel".to_owned(),
        other => panic!("a reader does not {other:?}"),
    }
}

pub(super) fn say(change: &Change) -> String {
    match change {
        Change::Connected(info) => format!("connected {}", info.origin.id),
        Change::Relisting(kind) => format!("{kind}["),
        Change::Put { kind, name, value, .. } => format!("{kind} {name}={}", String::from_utf8_lossy(value)),
        Change::Deleted { kind, name, .. } => format!("{kind} -{name}"),
        Change::Listed(kind) => format!("]{kind}"),
        Change::Forget => "forget".to_owned(),
        Change::Stage(stage) => stage.to_string(),
    }
}
