//! The task of one remote cluster: waits, feeds, drains.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use causeway_mesh_kv::{Connect, Reply, Session};
use causeway_mesh_schema::ClusterName;
use tokio::sync::mpsc;

use super::board::{Board, Snapshot};
use crate::change::Sink;
use crate::core::{Input, Output, Phase, Remote};
use crate::settings::Settings;

/// What the directory wants of a running task.
#[derive(Debug)]
pub(crate) enum Command {
    /// Reach it this way from now on.
    Connect(Connect),
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
        connect: Connect,
        settings: Arc<Settings>,
        board: Arc<Board>,
        sink: Box<dyn Sink>,
    ) -> Task {
        let seed = RandomState::new().hash_one(name.as_str());
        let remote = Remote::new(name.clone(), settings, seed, board.now());
        Task { name, board, sink, connect: Arc::new(connect), remote, session: None, phase: Phase::Waiting }
    }

    /// Until it is removed. `commands` closed means the same as the mesh dropped: end without a word.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while self.drain() {
            self.publish();
            let now = self.board.now();
            let Some(deadline) = self.remote.deadline(now) else { return };
            let input = tokio::select! {
                reply = next(&mut self.session) => Input::Reply(reply),
                command = commands.recv() => match command {
                    Some(Command::Remove) => Input::Remove,
                    Some(Command::Connect(connect)) => {
                        self.connect = Arc::new(connect);
                        Input::Reconnect
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(self.board.instant(deadline).into()) => Input::Tick,
            };
            self.remote.handle(self.board.now(), input);
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
