//! The task behind a session: connects when something is asked, serves until the connection is gone, and answers every
//! ticket exactly once (a watch: ends it exactly once).
//!
//! One task; it may be dropped at any await. While its consumer does not take answers it reads no further, and HTTP/2's
//! flow control holds the server back.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};

use super::call::{Answer, Caller};
use super::dial::{Dialed, dial};
use super::watches::Watches;
use super::{Connect, Link, SessionStatus};
use crate::op::{Failure, FailureKind, Op, Outcome, Reply, Ticket};

pub(super) struct Task {
    pub(super) connect: Arc<Connect>,
    pub(super) commands: mpsc::UnboundedReceiver<(Ticket, Op)>,
    pub(super) replies: mpsc::Sender<Reply>,
    pub(super) status: watch::Sender<SessionStatus>,
}

/// The session was dropped.
struct Closed;

/// A connection that stands, and what is under way on it.
struct Connected {
    caller: Caller,
    watches: Watches,
    gone: oneshot::Receiver<String>,
    calls: FuturesUnordered<BoxFuture<'static, (Ticket, Answer)>>,
    asked: BTreeSet<Ticket>,
    /// Beyond what may be under way at the same time.
    queue: VecDeque<(Ticket, Op)>,
    /// For answers that do not say it.
    store: u64,
}

impl Task {
    pub(super) async fn run(mut self) {
        while let Some(first) = self.commands.recv().await {
            if matches!(first.1, Op::Cancel) {
                continue;
            }
            if self.connect_and_serve(first).await.is_err() {
                return;
            }
        }
    }

    async fn connect_and_serve(&mut self, first: (Ticket, Op)) -> Result<(), Closed> {
        let mut waiting = VecDeque::from([first]);
        self.status.send_modify(|status| status.link = Link::Connecting);
        let connect = Arc::clone(&self.connect);
        let dialing = dial(&connect);
        tokio::pin!(dialing);
        let dialed = loop {
            tokio::select! {
                dialed = &mut dialing => break dialed,
                command = self.commands.recv() => match command.ok_or(Closed)? {
                    (ticket, Op::Cancel) => waiting.retain(|(other, _)| *other != ticket),
                    command => waiting.push_back(command),
                },
            }
        };
        match dialed {
            Ok(dialed) => self.serve(dialed, waiting).await,
            Err(error) => {
                tracing::debug!(%error, "no connection");
                self.ended(&error);
                self.fail(waiting.into_iter().map(|(ticket, _)| ticket), &error).await
            }
        }
    }

    async fn serve(&mut self, dialed: Dialed, waiting: VecDeque<(Ticket, Op)>) -> Result<(), Closed> {
        let endpoint = dialed.endpoint.clone();
        self.status.send_modify(|status| {
            status.link = Link::Connected;
            status.endpoint = Some(endpoint.clone());
            status.connects += 1;
            status.last_error = None;
        });
        let mut connected = Connected::new(&self.connect, dialed);
        for (ticket, op) in waiting {
            connected.take(ticket, op, self.connect.in_flight).await;
        }
        let cause = loop {
            tokio::select! {
                biased;
                why = &mut connected.gone => {
                    let silence = self.connect.keepalive + self.connect.keepalive_timeout;
                    break why.unwrap_or_else(|_| format!("no sign of life for {silence:?}"));
                }
                command = self.commands.recv() => {
                    let (ticket, op) = command.ok_or(Closed)?;
                    connected.take(ticket, op, self.connect.in_flight).await;
                }
                Some((ticket, answer)) = connected.calls.next() => {
                    let reply = connected.answered(ticket, answer, self.connect.in_flight);
                    self.deliver(reply, &mut connected.store).await?;
                }
                happening = connected.watches.next() => {
                    for reply in connected.watches.process(happening).await {
                        self.deliver(reply, &mut connected.store).await?;
                    }
                }
            }
        };
        let cause = format!("{endpoint}: {cause}");
        tracing::debug!(%cause, "connection ended");
        self.ended(&cause);
        self.fail(connected.tickets(), &cause).await
    }

    async fn deliver(&mut self, mut reply: Reply, store: &mut u64) -> Result<(), Closed> {
        match &reply.outcome {
            Outcome::Failed(_) => {}
            _ if reply.store == 0 => reply.store = *store,
            _ => {
                *store = reply.store;
                self.status.send_if_modified(|status| {
                    let news = status.store != reply.store;
                    status.store = reply.store;
                    news
                });
            }
        }
        self.replies.send(reply).await.map_err(|_| Closed)
    }

    fn ended(&self, cause: &str) {
        self.status.send_modify(|status| {
            status.link = Link::Idle;
            status.last_error = Some(cause.to_owned());
        });
    }

    async fn fail(&self, tickets: impl IntoIterator<Item = Ticket>, cause: &str) -> Result<(), Closed> {
        for ticket in tickets {
            let failure = Failure { kind: FailureKind::Unavailable, message: cause.to_owned() };
            let reply = Reply { ticket, store: 0, outcome: Outcome::Failed(failure) };
            self.replies.send(reply).await.map_err(|_| Closed)?;
        }
        Ok(())
    }
}

impl Connected {
    fn new(connect: &Connect, Dialed { client, gone, .. }: Dialed) -> Self {
        Self {
            caller: Caller::new(&client, connect.max_message, connect.request_timeout),
            watches: Watches::new(&client, connect.max_message, connect.request_timeout),
            gone,
            calls: FuturesUnordered::new(),
            asked: BTreeSet::new(),
            queue: VecDeque::new(),
            store: 0,
        }
    }

    async fn take(&mut self, ticket: Ticket, op: Op, in_flight: usize) {
        match op {
            Op::Watch { prefix, revision } => self.watches.open(ticket, prefix, revision).await,
            Op::Cancel => self.watches.cancel(ticket).await,
            op => {
                self.queue.push_back((ticket, op));
                self.start(in_flight);
            }
        }
    }

    fn start(&mut self, in_flight: usize) {
        while self.calls.len() < in_flight.max(1) {
            let Some((ticket, op)) = self.queue.pop_front() else { return };
            let call = self.caller.clone().call(op);
            self.asked.insert(ticket);
            self.calls.push(Box::pin(async move { (ticket, call.await) }));
        }
    }

    fn answered(&mut self, ticket: Ticket, (store, outcome): Answer, in_flight: usize) -> Reply {
        self.asked.remove(&ticket);
        self.start(in_flight);
        Reply { ticket, store, outcome }
    }

    /// All that wait for an answer.
    fn tickets(&self) -> Vec<Ticket> {
        let queued = self.queue.iter().map(|(ticket, _)| *ticket);
        self.asked.iter().copied().chain(queued).chain(self.watches.tickets()).collect()
    }
}
