//! What lies between readers and stores: machines' wishes, sessions, and the time that words are under way.

use std::time::Duration;

use causeway_mesh_kv::{Op, SessionId, Ticket};
use causeway_mesh_remote::Change;
use causeway_mesh_remote::core::{Input, Output};
use causeway_mesh_schema::ClusterId;

use crate::fault::span;
use crate::link::{Link, REQUEST_TIMEOUT};
use crate::reader::Reader;
use crate::world::{Event, MS, S, World};

impl World {
    /// Gives the machine an input, and does what it wants.
    pub(crate) fn tell(&mut self, reader: usize, input: Input) {
        if self.loud {
            println!("{:?} reader {reader} <- {input:?}", self.now);
        }
        let Some(remote) = &mut self.readers[reader].remote else { return };
        remote.handle(self.now, input);
        while let Some(output) = self.readers[reader].remote.as_mut().and_then(|remote| remote.poll_output()) {
            if self.loud {
                println!("{:?} reader {reader} -> {output:?}", self.now);
            }
            self.perform(reader, output);
        }
        let Reader { remote, wake, .. } = &mut self.readers[reader];
        let deadline = remote.as_ref().and_then(|remote| remote.deadline(self.now));
        if let Some(deadline) = deadline.filter(|deadline| *wake != Some(*deadline)) {
            *wake = Some(deadline);
            self.sequence += 1;
            self.events.insert((deadline.max(self.now), self.sequence), Event::Wake(reader));
        }
    }

    pub(crate) fn perform(&mut self, reader: usize, output: Output) {
        match output {
            Output::Open => {
                self.sessions += 1;
                self.hang_up(reader);
                self.readers[reader].link = Some(Link::new(SessionId(self.sessions)));
            }
            Output::Close => self.hang_up(reader),
            Output::Submit(ticket, op) => self.submit(reader, ticket, op),
            Output::Reserve(id) => {
                let holder = *self.reserved[self.readers[reader].agent].entry(id).or_insert(reader);
                if holder == reader {
                    self.release(reader, Some(id));
                    self.tell(reader, Input::Reserved);
                } else {
                    self.totals.refused += 1;
                    self.tell(reader, Input::Refused("taken".to_owned()));
                }
            }
            Output::Release => self.release(reader, None),
            Output::Tell(change) => {
                let Reader { cluster, .. } = self.readers[reader];
                let asks = matches!(change, Change::Relisting(_) | Change::Listed(_));
                let licence = asks.then(|| self.readers[reader].licence(self.now, &self.settings));
                let consumer = &mut self.readers[reader].consumer;
                consumer.apply(change, &self.writers[cluster], &licence.unwrap_or_default());
                *self.totals.stages.entry(word(consumer.stage)).or_default() += 1;
            }
            Output::Gone => {
                self.readers[reader].remote = None;
                self.hang_up(reader);
            }
        }
    }

    /// All numbers of the reader but `kept`.
    pub(crate) fn release(&mut self, reader: usize, kept: Option<ClusterId>) {
        let agent = self.readers[reader].agent;
        self.reserved[agent].retain(|id, holder| *holder != reader || Some(*id) == kept);
    }

    pub(crate) fn submit(&mut self, reader: usize, ticket: Ticket, op: Op) {
        let cut = self.readers[reader].cut_until > self.now;
        let Some(link) = &mut self.readers[reader].link else { panic!("asked without a session") };
        let session = link.session;
        link.ask(ticket, &op);
        let lasts = !matches!(op, Op::Watch { .. } | Op::Cancel);
        if cut {
            let noticed = span(&mut self.rng, MS, 5 * S);
            return self.at(noticed, Event::Keepalive(reader, session));
        }
        if lasts {
            self.at(REQUEST_TIMEOUT, Event::TimeOut(reader, session, ticket));
        }
        let latency = span(&mut self.rng, MS, 20 * MS);
        self.at(latency, Event::Request(reader, session, ticket, op));
    }

    pub(crate) fn request(&mut self, reader: usize, session: SessionId, ticket: Ticket, op: Op) {
        if self.link(reader, session).is_none() {
            return;
        }
        let cluster = self.readers[reader].cluster;
        self.writers[cluster].twin.submit(session, ticket, op, self.base + self.now);
        self.feed(cluster);
    }

    /// Sends what the store has to say on its way.
    pub(crate) fn feed(&mut self, cluster: usize) {
        for reader in 0..self.readers.len() {
            if self.readers[reader].cluster != cluster {
                continue;
            }
            let (slow, until) = self.readers[reader].slow;
            let Some(session) = self.readers[reader].link.as_ref().map(|link| link.session) else { continue };
            for reply in self.writers[cluster].twin.take(session) {
                let latency = span(&mut self.rng, MS, 20 * MS) + if until > self.now { slow } else { Duration::ZERO };
                let Some(link) = &mut self.readers[reader].link else { continue };
                let arrival = link.arrival(self.now, latency) - self.now;
                self.at(arrival, Event::Reply(reader, session, reply));
            }
        }
    }

    pub(crate) fn link(&mut self, reader: usize, session: SessionId) -> Option<&mut Link> {
        self.readers[reader].link.as_mut().filter(|link| link.session == session)
    }

    pub(crate) fn break_link(&mut self, reader: usize) {
        if let Some(session) = self.readers[reader].link.as_ref().map(|link| link.session) {
            self.snap(reader, session);
        }
    }

    /// Both ends know that the connection is gone.
    pub(crate) fn snap(&mut self, reader: usize, session: SessionId) {
        let cluster = self.readers[reader].cluster;
        let Some(link) = self.link(reader, session) else { return };
        let replies = link.snap();
        self.writers[cluster].twin.disconnect(session);
        for reply in replies {
            if self.link(reader, session).is_some() {
                self.tell(reader, Input::Reply(reply));
            }
        }
    }

    /// The reader ends its session.
    pub(crate) fn hang_up(&mut self, reader: usize) {
        if let Some(link) = self.readers[reader].link.take() {
            let cluster = self.readers[reader].cluster;
            self.writers[cluster].twin.disconnect(link.session);
            self.writers[cluster].twin.take(link.session);
        }
    }
}

fn word(stage: causeway_mesh_remote::Stage) -> &'static str {
    use causeway_mesh_remote::Stage;
    match stage {
        Stage::Fresh => "fresh",
        Stage::Silent => "silent",
        Stage::DePreferred => "de-preferred",
        Stage::Probed => "probed",
        Stage::Revoked => "revoked",
    }
}
