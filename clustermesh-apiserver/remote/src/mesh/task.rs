//! The task of one remote cluster: waits, feeds, drains.

use std::any::Any;
use std::hash::{BuildHasher, RandomState};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use causeway_mesh_kv::{Connect, Reply, Session};
use causeway_mesh_schema::ClusterName;
use futures::FutureExt as _;
use tokio::sync::watch;

use super::board::{Board, Snapshot};
use crate::change::{Change, Sink};
use crate::core::{Input, Output, Phase, Remote};
use crate::settings::Settings;

/// What the directory wants of a running task. Only the latest counts, so it is kept in a cell and not in a queue.
#[derive(Debug)]
pub(crate) enum Command {
    /// Reach it this way from now on.
    Connect(Arc<Connect>),
    /// Forget it and end.
    Remove,
}

pub(crate) struct Task {
    name: ClusterName,
    board: Arc<Board>,
    sink: Box<dyn Sink>,
    connect: Arc<Connect>,
    remote: Remote,
    session: Option<Session>,
    phase: Phase,
}

impl Task {
    pub(crate) fn new(
        name: ClusterName,
        connect: Arc<Connect>,
        settings: Arc<Settings>,
        board: Arc<Board>,
        sink: Box<dyn Sink>,
    ) -> Task {
        let seed = RandomState::new().hash_one(name.as_str());
        let remote = Remote::new(name.clone(), settings, seed, board.now());
        Task { name, board, sink, connect, remote, session: None, phase: Phase::Waiting }
    }

    /// Until it is removed. `commands` closed means the same as the mesh dropped: end without a word.
    pub(crate) async fn run(mut self, mut commands: watch::Receiver<Command>) {
        // Only a panic, of the sink or of ours, keeps it from reading on. After it nothing of the machine is used.
        if let Err(panic) = AssertUnwindSafe(self.read(&mut commands)).catch_unwind().await {
            self.fail(&*panic);
            self.await_removal(&mut commands).await;
        }
    }

    async fn read(&mut self, commands: &mut watch::Receiver<Command>) {
        while self.drain() {
            self.publish();
            let now = self.board.now();
            let Some(deadline) = self.remote.deadline(now) else { return };
            let input = tokio::select! {
                reply = next(&mut self.session) => Input::Reply(reply),
                changed = commands.changed() => match (changed, &*commands.borrow_and_update()) {
                    (Err(_), _) => return,
                    (Ok(()), Command::Remove) => Input::Remove,
                    (Ok(()), Command::Connect(connect)) => {
                        self.connect = Arc::clone(connect);
                        Input::Reconnect
                    }
                },
                () = tokio::time::sleep_until(self.board.instant(deadline).into()) => Input::Tick,
            };
            self.remote.handle(self.board.now(), input);
        }
    }

    /// What it told stays told, as in any silence, and its number stays its. Said in the status.
    fn fail(&mut self, panic: &(dyn Any + Send)) {
        self.session = None;
        let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("no reason given");
        tracing::error!(cluster = %self.name, panic = text, "the reader of a remote cluster stopped");
        self.board.fail(&self.name, format!("its reader stopped: {text}; remove the cluster's file and add it again"));
    }

    /// The sink hears the end that the machine cannot tell any more.
    async fn await_removal(&mut self, commands: &mut watch::Receiver<Command>) {
        if commands.wait_for(|command| matches!(command, Command::Remove)).await.is_ok() {
            self.sink.apply(Change::Forget);
        }
    }

    /// Does what the machine wants. False when it is gone.
    fn drain(&mut self) -> bool {
        while let Some(output) = self.remote.poll_output() {
            match output {
                Output::Open => self.session = Some(Session::open(Connect::clone(&self.connect))),
                Output::Close => self.session = None,
                Output::Submit(ticket, op) => {
                    if let Some(session) = &mut self.session {
                        session.submit(ticket, op);
                    }
                }
                Output::Reserve(id) => {
                    let input = match self.board.reserve(&self.name, id) {
                        Ok(()) => Input::Reserved,
                        Err(reason) => Input::Refused(reason),
                    };
                    self.remote.handle(self.board.now(), input);
                }
                Output::Release => self.board.release(&self.name),
                Output::Tell(change) => self.sink.apply(change),
                Output::Gone => return false,
            }
        }
        true
    }

    fn publish(&mut self) {
        let stats = self.remote.stats(self.board.now());
        if self.phase != stats.phase {
            let (from, to) = (self.phase, stats.phase);
            let failure = stats.last_failure.as_ref().filter(|_| to == Phase::Waiting).map(|(_, text)| text);
            tracing::info!(cluster = %self.name, ?from, ?to, failure = failure.map(|text| &**text), "remote cluster");
            self.phase = to;
        }
        let session = self.session.as_ref().map(Session::status);
        self.board.publish(&self.name, Snapshot { stats, session, connect: Arc::clone(&self.connect) });
    }
}

/// The session's next reply; never, without a session. Cancel-safe, as `Session::next` is.
async fn next(session: &mut Option<Session>) -> Reply {
    match session {
        Some(session) => session.next().await,
        None => std::future::pending().await,
    }
}
