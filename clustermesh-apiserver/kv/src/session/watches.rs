//! All watches of a connection, on one stream as long as etcd lets them.
//!
//! etcd 3.4 stops reading the requests of a stream on which it denied one, without ending it. So a stream with a denied
//! or unanswered watch takes no new ones ([`Lane::sealed`]): what runs on it goes on, what it has not confirmed moves to
//! another. A denial does not name its watch either; confirmations come in the order of the requests.
//!
//! Fragments are not asked for: etcd sends all events of a revision in one message then, and the client library does
//! not show the marks of fragments.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{
    Client, Error, EventType, ResponseHeader, WatchClient, WatchOptions, WatchRequestSender, WatchResponse, WatchStream,
};
use futures::StreamExt as _;
use futures::future::{AbortHandle, BoxFuture};
use futures::stream::{self, BoxStream, FuturesUnordered, SelectAll};

use super::call::store_of;
use super::failure;
use crate::op::{Entry, Event, Failure, FailureKind, Outcome, Reply, Revision, Ticket};

/// What a lane's stream says, and its end.
type Heard = (u64, Option<Result<WatchResponse, Error>>);

/// What [`Watches::process`] deals with.
pub(super) enum Happening {
    Opened(u64, Result<WatchStream, Error>),
    Heard(u64, Option<Result<WatchResponse, Error>>),
    /// The time of a watch to be confirmed in is over: lane and watch.
    Late(u64, i64),
}

type Opened = (u64, Result<WatchStream, Error>);

pub(super) struct Watches {
    client: WatchClient,
    timeout: Duration,
    lanes: BTreeMap<u64, Lane>,
    last_lane: u64,
    /// A stream is being opened; these wait for it.
    opening: FuturesUnordered<BoxFuture<'static, Opened>>,
    heard: SelectAll<BoxStream<'static, Heard>>,
    timers: FuturesUnordered<BoxFuture<'static, (u64, i64)>>,
}

struct Lane {
    /// `None` while the stream is being opened.
    sender: Option<WatchRequestSender>,
    /// Asked for while the stream is being opened.
    waiting: VecDeque<i64>,
    watches: BTreeMap<i64, Watch>,
    /// Sent and not confirmed, in this order.
    unconfirmed: VecDeque<i64>,
    last_watch: i64,
    sealed: bool,
    /// Ends the stream.
    abort: Option<AbortHandle>,
}

struct Watch {
    ticket: Ticket,
    prefix: String,
    revision: Revision,
    confirmed: bool,
}

impl Watches {
    pub(super) fn new(client: &Client, max_message: usize, timeout: Duration) -> Self {
        Self {
            client: client.watch_client().max_decoding_message_size(max_message),
            timeout,
            lanes: BTreeMap::new(),
            last_lane: 0,
            opening: FuturesUnordered::new(),
            heard: SelectAll::new(),
            timers: FuturesUnordered::new(),
        }
    }

    pub(super) fn tickets(&self) -> impl Iterator<Item = Ticket> {
        self.lanes.values().flat_map(|lane| lane.watches.values().map(|watch| watch.ticket))
    }

    /// `revision` 0: from now on.
    pub(super) async fn open(&mut self, ticket: Ticket, prefix: String, revision: Revision) {
        let number = match self.lanes.iter().find(|(_, lane)| !lane.sealed) {
            Some((number, _)) => *number,
            None => self.add_lane(),
        };
        let Some(lane) = self.lanes.get_mut(&number) else { return };
        lane.last_watch += 1;
        let id = lane.last_watch;
        lane.watches.insert(id, Watch { ticket, prefix, revision, confirmed: false });
        let timeout = self.timeout;
        self.timers.push(Box::pin(async move {
            tokio::time::sleep(timeout).await;
            (number, id)
        }));
        if id == 1 {
            self.open_stream(number, id);
        } else if lane.sender.is_some() {
            lane.request(id).await;
        } else {
            lane.waiting.push_back(id);
        }
    }

    pub(super) async fn cancel(&mut self, ticket: Ticket) {
        for lane in self.lanes.values_mut() {
            let found = lane.watches.iter().find(|(_, watch)| watch.ticket == ticket).map(|(id, _)| *id);
            let Some(id) = found else { continue };
            lane.watches.remove(&id);
            if let Some(sender) = lane.sender.as_mut().filter(|_| !lane.sealed) {
                // A stream that is gone says so by itself.
                let _ = sender.cancel(id).await;
            }
            break;
        }
        self.drop_empty_sealed();
    }

    /// Waits for something to happen. Cancel-safe; waits for ever without watches.
    pub(super) async fn next(&mut self) -> Happening {
        let Self { opening, heard, timers, .. } = self;
        tokio::select! {
            Some((number, result)) = opening.next() => Happening::Opened(number, result),
            Some((number, message)) = heard.next() => Happening::Heard(number, message),
            Some((number, id)) = timers.next() => Happening::Late(number, id),
            else => std::future::pending().await,
        }
    }

    /// Not to be dropped half-way, other than with the connection.
    pub(super) async fn process(&mut self, happening: Happening) -> Vec<Reply> {
        match happening {
            Happening::Opened(number, result) => self.opened(number, result).await,
            Happening::Heard(number, message) => self.hear(number, message).await,
            Happening::Late(number, id) => self.late(number, id),
        }
    }

    fn add_lane(&mut self) -> u64 {
        self.last_lane += 1;
        let lane = Lane {
            sender: None,
            waiting: VecDeque::new(),
            watches: BTreeMap::new(),
            unconfirmed: VecDeque::new(),
            last_watch: 0,
            sealed: false,
            abort: None,
        };
        self.lanes.insert(self.last_lane, lane);
        self.last_lane
    }

    fn open_stream(&mut self, number: u64, first: i64) {
        let Some(lane) = self.lanes.get_mut(&number) else { return };
        lane.unconfirmed.push_back(first);
        let Some(watch) = lane.watches.get(&first) else { return };
        let (mut client, prefix, options) = (self.client.clone(), watch.prefix.clone(), watch.options(first));
        self.opening.push(Box::pin(async move { (number, client.watch(prefix, Some(options)).await) }));
    }

    async fn opened(&mut self, number: u64, result: Result<WatchStream, Error>) -> Vec<Reply> {
        let stream = match result {
            Ok(stream) => stream,
            Err(error) => return self.end_lane(number, Some(&error)),
        };
        let Some(lane) = self.lanes.get_mut(&number) else { return Vec::new() };
        let (sender, answers) = stream.split();
        lane.sender = Some(sender);
        let heard = answers.map(move |message| (number, Some(message)));
        let heard = heard.chain(stream::once(async move { (number, None) }));
        let (heard, abort) = stream::abortable(heard);
        lane.abort = Some(abort);
        self.heard.push(heard.boxed());
        while let Some(id) = lane.waiting.pop_front() {
            lane.request(id).await;
        }
        Vec::new()
    }

    async fn hear(&mut self, number: u64, message: Option<Result<WatchResponse, Error>>) -> Vec<Reply> {
        let response = match message {
            Some(Ok(response)) => response,
            Some(Err(error)) => return self.end_lane(number, Some(&error)),
            None => return self.end_lane(number, None),
        };
        let Some(lane) = self.lanes.get_mut(&number) else { return Vec::new() };
        let replies = lane.hear(&response);
        let moving = if lane.sealed { lane.take_unconfirmed() } else { Vec::new() };
        self.drop_empty_sealed();
        for Watch { ticket, prefix, revision, .. } in moving {
            self.open(ticket, prefix, revision).await;
        }
        replies
    }

    /// The stream is over: so are its watches.
    fn end_lane(&mut self, number: u64, error: Option<&Error>) -> Vec<Reply> {
        let Some(lane) = self.lanes.remove(&number) else { return Vec::new() };
        let watches = lane.watches.values();
        watches
            .map(|watch| {
                let what = watch.describe();
                let outcome = match error {
                    Some(error) => failure::outcome(&what, error),
                    None => failed(FailureKind::Unavailable, format!("{what}: the stream ended")),
                };
                Reply { ticket: watch.ticket, store: 0, outcome }
            })
            .collect()
    }

    fn late(&mut self, number: u64, id: i64) -> Vec<Reply> {
        let Some(lane) = self.lanes.get_mut(&number) else { return Vec::new() };
        if lane.watches.get(&id).is_none_or(|watch| watch.confirmed) {
            return Vec::new();
        }
        lane.sealed = true;
        let Some(watch) = lane.watches.remove(&id) else { return Vec::new() };
        self.drop_empty_sealed();
        let message = format!("{}: not confirmed in {:?}", watch.describe(), self.timeout);
        vec![Reply { ticket: watch.ticket, store: 0, outcome: failed(FailureKind::TimedOut, message) }]
    }

    fn drop_empty_sealed(&mut self) {
        self.lanes.retain(|_, lane| !(lane.sealed && lane.watches.is_empty()));
    }
}

impl Lane {
    async fn request(&mut self, id: i64) {
        if let (Some(sender), Some(watch)) = (&mut self.sender, self.watches.get(&id)) {
            // A stream that is gone says so by itself.
            let _ = sender.watch(watch.prefix.as_str(), Some(watch.options(id))).await;
            self.unconfirmed.push_back(id);
        }
    }

    fn take_unconfirmed(&mut self) -> Vec<Watch> {
        let ids: Vec<_> = self.watches.iter().filter(|(_, watch)| !watch.confirmed).map(|(id, _)| *id).collect();
        ids.iter().filter_map(|id| self.watches.remove(id)).collect()
    }

    /// Which watch is meant.
    fn id_of(&mut self, response: &WatchResponse) -> i64 {
        let id = response.watch_id();
        if !response.created() {
            return id;
        }
        if id < 0 {
            return self.unconfirmed.pop_front().unwrap_or(id);
        }
        self.unconfirmed.retain(|other| *other != id);
        id
    }

    fn hear(&mut self, response: &WatchResponse) -> Vec<Reply> {
        let id = self.id_of(response);
        let denied = response.created() && response.canceled() && response.compact_revision() == 0;
        self.sealed |= denied;
        // Unknown: it has been cancelled here, and the server has not heard of it.
        let Some(watch) = self.watches.get_mut(&id) else { return Vec::new() };
        let (ticket, store) = (watch.ticket, store_of(response.header()));
        let revision = response.header().map_or(0, ResponseHeader::revision);
        let reply = |outcome| Reply { ticket, store, outcome };
        let mut replies = Vec::new();
        if response.canceled() {
            let what = watch.describe();
            self.watches.remove(&id);
            replies.push(reply(match response.compact_revision() {
                0 => failure::cancelled(&what, response.cancel_reason()),
                oldest => Outcome::Compacted { oldest },
            }));
            return replies;
        }
        if response.created() && !watch.confirmed {
            watch.confirmed = true;
            replies.push(reply(Outcome::Watching { revision }));
        }
        let events: Vec<_> = response.events().iter().filter_map(event).collect();
        if !events.is_empty() {
            replies.push(reply(Outcome::Events { events, revision }));
        } else if !response.created() {
            replies.push(reply(Outcome::Progress { revision }));
        }
        replies
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(abort) = &self.abort {
            abort.abort();
        }
    }
}

impl Watch {
    fn options(&self, id: i64) -> WatchOptions {
        WatchOptions::new().with_prefix().with_start_revision(self.revision).with_watch_id(id).with_progress_notify()
    }

    fn describe(&self) -> String {
        format!("watch {}", self.prefix)
    }
}

fn event(event: &etcd_client::Event) -> Option<Event> {
    let kv = event.kv()?;
    let (key, mod_revision) = (Bytes::copy_from_slice(kv.key()), kv.mod_revision());
    Some(match event.event_type() {
        EventType::Put => Event::Put(Entry { key, value: Bytes::copy_from_slice(kv.value()), mod_revision }),
        EventType::Delete => Event::Delete { key, mod_revision },
    })
}

fn failed(kind: FailureKind, message: String) -> Outcome {
    Outcome::Failed(Failure { kind, message })
}
