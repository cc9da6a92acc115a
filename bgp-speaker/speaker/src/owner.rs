//! The owner task: holds the core, feeds it, and does what it asks for.
//!
//! It waits for one of: a new wish, an event of a connection, a question, a deadline, the end. All waits are cancel-safe;
//! nothing is lost when another one is first. It never waits for a connection: sends go into bounded queues.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use causeway_bgp_core::{ConnId, Core, CoreOptions, Input, Observation, Output, SpeakerStatus};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::desired::{DesiredCell, Wish};
use crate::link::{self, Link, LinkEvent};
use crate::listen::Listeners;
use crate::{AdvertisedRoutes, StartOptions, socket};

/// Events that wait for the owner, each of at most 64 KB: beyond it TCP holds the peers back.
const EVENT_QUEUE: usize = 256;
/// Counters are published at most this often; a change of state at once.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);
/// How often a port that could not be opened is tried again.
const LISTEN_RETRY: Duration = Duration::from_secs(5);
/// How long the end may take: writers linger for two seconds.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);
/// Text of RFC 9003 to the peers.
const SHUTDOWN_TEXT: &str = "the speaker was stopped by its operator";

/// A question to the owner.
#[derive(Debug)]
pub(crate) enum Question {
    Routes { instance: String, peer: String, answer: oneshot::Sender<Option<AdvertisedRoutes>> },
    Shutdown { graceful: bool, done: oneshot::Sender<()> },
}

pub(crate) struct Owner {
    core: Core,
    desired: Arc<DesiredCell>,
    questions: mpsc::Receiver<Question>,
    status: watch::Sender<Arc<SpeakerStatus>>,
    events: mpsc::Receiver<LinkEvent>,
    event_sender: mpsc::Sender<LinkEvent>,
    attempts: HashMap<ConnId, AbortHandle>,
    links: HashMap<ConnId, Link>,
    accepted: HashMap<u64, TcpStream>,
    next_token: u64,
    listeners: Listeners,
    listen_retry: Option<Instant>,
    publish_at: Option<Instant>,
    configs: HashMap<String, causeway_bgp_core::InstanceConfig>,
}

impl Owner {
    pub(crate) fn new(
        start: StartOptions,
        desired: Arc<DesiredCell>,
        questions: mpsc::Receiver<Question>,
        status: watch::Sender<Arc<SpeakerStatus>>,
    ) -> Self {
        let options = CoreOptions {
            restarting: start.restarting,
            forwarding_preserved: start.forwarding_preserved,
            hostname: start.hostname,
            software: start.software,
            seed: start.seed,
        };
        let (event_sender, events) = mpsc::channel(EVENT_QUEUE);
        Self {
            core: Core::new(Instant::now(), options),
            desired,
            questions,
            status,
            events,
            event_sender,
            attempts: HashMap::new(),
            links: HashMap::new(),
            accepted: HashMap::new(),
            next_token: 0,
            listeners: Listeners::default(),
            listen_retry: None,
            publish_at: None,
            configs: HashMap::new(),
        }
    }

    /// Runs until it is told to stop or until the last handle is gone.
    pub(crate) async fn run(mut self) {
        let ended = loop {
            let next = [self.core.deadline(), self.publish_at, self.listen_retry].into_iter().flatten().min();
            let desired = Arc::clone(&self.desired);
            tokio::select! {
                () = desired.changed() => self.take_wishes(),
                Some(event) = self.events.recv() => self.take_event(event),
                question = self.questions.recv() => match question {
                    Some(Question::Routes { instance, peer, answer }) => {
                        // The one who asked may have gone.
                        let _ = answer.send(self.routes(&instance, &peer));
                    }
                    Some(Question::Shutdown { graceful, done }) => break Some((graceful, done)),
                    None => break None,
                },
                () = sleep_until(next) => self.tick(),
            }
            self.drain();
            self.publish_if_due();
        };
        let (graceful, done) = ended.map_or((true, None), |(graceful, done)| (graceful, Some(done)));
        self.shut_down(graceful).await;
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    fn take_wishes(&mut self) {
        for wish in self.desired.take() {
            let input = match wish {
                Wish::Instance(config) => {
                    self.listeners.set(&config, &self.event_sender);
                    self.watch_listener(&config.name);
                    self.configs.insert(config.name.clone(), config.clone());
                    Input::SetInstance(config)
                }
                Wish::Gone(name) => {
                    self.listeners.remove(&name);
                    self.configs.remove(&name);
                    Input::RemoveInstance(name)
                }
                Wish::Routes { instance, peer, routes } => Input::SetRoutes { instance, peer, routes },
                Wish::Complete(name) => Input::RoutesComplete(name),
            };
            self.feed(input);
        }
        self.publish_at.get_or_insert_with(Instant::now);
    }

    fn watch_listener(&mut self, instance: &str) {
        if let Some(error) = self.listeners.error(instance) {
            tracing::warn!(instance, "{error}");
            self.listen_retry = Some(Instant::now() + LISTEN_RETRY);
        }
    }

    fn take_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Connected { conn, stream } => self.connected(conn, stream),
            LinkEvent::ConnectFailed { conn, error } => {
                self.attempts.remove(&conn);
                self.feed(Input::ConnectFailed { conn, error });
            }
            LinkEvent::Accepted { instance, stream } => self.accept(instance, stream),
            LinkEvent::Received { conn, bytes } => self.feed(Input::Received { conn, bytes }),
            LinkEvent::Written { conn, octets } => self.feed(Input::Written { conn, octets, sends: 1 }),
            LinkEvent::Closed { conn, error } => self.feed(Input::Closed { conn, error }),
        }
        self.publish_at.get_or_insert_with(|| Instant::now() + PUBLISH_EVERY);
    }

    fn connected(&mut self, conn: ConnId, stream: TcpStream) {
        // Closed by the core in the meantime: the stream is dropped.
        if self.attempts.remove(&conn).is_none() {
            return;
        }
        match link::endpoints(&stream) {
            Ok(endpoints) => {
                let addresses = socket::addresses_beside(endpoints.local.ip());
                self.links.insert(conn, Link::start(conn, stream, &self.event_sender));
                self.feed(Input::Connected { conn, endpoints, addresses });
            }
            Err(error) => self.feed(Input::ConnectFailed { conn, error: error.to_string() }),
        }
    }

    fn accept(&mut self, instance: String, stream: TcpStream) {
        let Ok(endpoints) = link::endpoints(&stream) else { return };
        let addresses = socket::addresses_beside(endpoints.local.ip());
        self.next_token += 1;
        let token = self.next_token;
        self.accepted.insert(token, stream);
        self.feed(Input::Accepted { token, instance, endpoints, addresses });
    }

    fn tick(&mut self) {
        if self.listen_retry.is_some_and(|at| at <= Instant::now()) {
            self.listen_retry = None;
            let failed = self.configs.values().filter(|config| self.listeners.failed(&config.name)).cloned();
            for config in failed.collect::<Vec<_>>() {
                self.listeners.set(&config, &self.event_sender);
            }
            if self.listeners.has_errors() {
                self.listen_retry = Some(Instant::now() + LISTEN_RETRY);
            }
        }
        self.feed(Input::Tick);
    }

    fn feed(&mut self, input: Input) {
        self.core.handle(Instant::now(), input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Connect(request) => {
                    let conn = request.conn;
                    self.attempts.insert(conn, link::attempt(request, self.event_sender.clone()));
                }
                Output::Adopt { token, conn, ttl } => self.adopt(token, conn, ttl),
                Output::Refuse { token, reason } => {
                    self.accepted.remove(&token);
                    tracing::debug!(reason, "connection refused");
                }
                Output::Send { conn, bytes } => self.send(conn, bytes),
                Output::Close { conn } => {
                    self.links.remove(&conn);
                    if let Some(attempt) = self.attempts.remove(&conn) {
                        attempt.abort();
                    }
                }
                Output::Observed { instance, peer, what } => {
                    log(&instance, &peer, &what);
                    if matches!(what, Observation::Moved { .. }) {
                        self.publish_at = Some(Instant::now());
                    }
                }
            }
        }
    }

    fn adopt(&mut self, token: u64, conn: ConnId, ttl: Option<u8>) {
        let Some(stream) = self.accepted.remove(&token) else { return };
        let is_ipv4 = stream.local_addr().is_ok_and(|local| local.is_ipv4());
        let socket = socket2::SockRef::from(&stream);
        let tuned = socket.set_tcp_nodelay(true).and_then(|()| socket::set_ttl(&socket, is_ipv4, ttl));
        if let Err(error) = tuned {
            tracing::warn!(%error, "socket options of an accepted connection");
        }
        self.links.insert(conn, Link::start(conn, stream, &self.event_sender));
    }

    fn send(&mut self, conn: ConnId, bytes: Arc<Vec<u8>>) {
        if let Some(link) = self.links.get(&conn)
            && !link.send(bytes)
        {
            self.links.remove(&conn);
            // Fed after this output, so that the core never handles an input inside of another one.
            let error = "the connection takes no more data".to_owned();
            self.core.handle(Instant::now(), Input::Closed { conn, error });
        }
    }

    fn routes(&self, instance: &str, peer: &str) -> Option<AdvertisedRoutes> {
        let (next_hops, routes) = self.core.told(instance, peer)?;
        Some(AdvertisedRoutes { next_hops, routes: Arc::new(routes) })
    }

    fn publish_if_due(&mut self) {
        if self.publish_at.is_some_and(|at| at <= Instant::now()) {
            self.publish_at = None;
            let mut status = self.core.status(Instant::now(), SystemTime::now());
            for (name, instance) in &mut status.instances {
                instance.listen_error = self.listeners.error(name).cloned();
            }
            self.status.send_replace(Arc::new(status));
        }
    }

    async fn shut_down(mut self, graceful: bool) {
        self.listeners.close_all();
        self.feed(Input::Shutdown { graceful, text: SHUTDOWN_TEXT.to_owned() });
        self.publish_at = Some(Instant::now());
        self.publish_if_due();
        self.links.clear();
        for attempt in self.attempts.values() {
            attempt.abort();
        }
        // Readers and writers hold the other senders: the queue ends when the last one is done.
        drop(self.event_sender);
        let mut events = self.events;
        let all_done = async { while events.recv().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_LIMIT, all_done).await.is_err() {
            tracing::warn!("some peers did not take their last message in time");
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The one place where observations become log lines.
fn log(instance: &str, peer: &str, what: &Observation) {
    match what {
        Observation::Moved { from, to, reason: Some(reason) } => {
            tracing::info!(instance, peer, %from, %to, reason, "session");
        }
        Observation::Moved { from, to, reason: None } => tracing::info!(instance, peer, %from, %to, "session"),
        Observation::NotificationSent(text) => tracing::debug!(instance, peer, "NOTIFICATION sent: {text}"),
        Observation::NotificationReceived(text) => tracing::debug!(instance, peer, "NOTIFICATION received: {text}"),
        Observation::Malformed(text) => tracing::warn!(instance, peer, "malformed UPDATE: {text}"),
        Observation::Collision(closed) => tracing::debug!(instance, peer, closed, "connections collided"),
        Observation::Unsendable(text) => tracing::error!(instance, peer, "cannot be sent: {text}"),
        Observation::FamilyHeldBack(text) => tracing::warn!(instance, peer, "not advertised: {text}"),
    }
}
