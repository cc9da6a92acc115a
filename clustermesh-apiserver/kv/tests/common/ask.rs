//! Asks a session in the plain order of a test: one question, its answer.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use causeway_mesh_kv::{Connect, Entry, Event, Op, Outcome, Reply, Session, Ticket, Write};

/// How long an answer may take on a busy machine. A test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Asker {
    pub session: Session,
    last: u64,
    /// Answers to other tickets than the one that was waited for.
    heard: VecDeque<Reply>,
}

impl Asker {
    pub fn open(connect: Connect) -> Self {
        Self { session: Session::open(connect), last: 0, heard: VecDeque::new() }
    }

    pub fn submit(&mut self, op: Op) -> Ticket {
        self.last += 1;
        self.session.submit(Ticket(self.last), op);
        Ticket(self.last)
    }

    /// The next answer to `ticket`.
    pub async fn answer(&mut self, ticket: Ticket) -> anyhow::Result<Reply> {
        if let Some(at) = self.heard.iter().position(|reply| reply.ticket == ticket) {
            return self.heard.remove(at).context("it was there");
        }
        loop {
            let reply = tokio::time::timeout(PATIENCE, self.session.next()).await;
            let reply = reply.with_context(|| format!("no answer to {ticket:?}; {:?}", self.session.status()))?;
            if reply.ticket == ticket {
                return Ok(reply);
            }
            self.heard.push_back(reply);
        }
    }

    pub async fn call(&mut self, op: Op) -> anyhow::Result<Outcome> {
        let ticket = self.submit(op);
        Ok(self.answer(ticket).await?.outcome)
    }

    /// Tries until the server is back; what fails otherwise is an error.
    pub async fn call_until_up(&mut self, op: Op) -> anyhow::Result<Outcome> {
        loop {
            match self.call(op.clone()).await? {
                Outcome::Failed(failure) => {
                    tracing::debug!(%failure, "again");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                outcome => return Ok(outcome),
            }
        }
    }

    pub async fn put(&mut self, key: &str, value: impl Into<Bytes>) -> anyhow::Result<Outcome> {
        self.call(Op::Write { writes: vec![put(key, value, 0)] }).await
    }

    /// Everything under `prefix`, by pages of `limit`, all of one revision.
    pub async fn list(&mut self, prefix: &str, limit: usize) -> anyhow::Result<Vec<Entry>> {
        let (mut all, mut after, mut pinned) = (Vec::new(), None, 0);
        loop {
            let op = Op::List { prefix: prefix.to_owned(), after: after.take(), limit, revision: pinned };
            let Outcome::Page { entries, more, revision } = self.call(op).await? else {
                anyhow::bail!("no page of {prefix}");
            };
            pinned = if pinned == 0 { revision } else { pinned };
            after = entries.last().map(|entry| entry.key.clone());
            all.extend(entries);
            if !more {
                return Ok(all);
            }
        }
    }
}

pub fn put(key: &str, value: impl Into<Bytes>, lease: i64) -> Write {
    Write::Put { key: key.to_owned(), value: value.into(), lease }
}

/// Keys of events, `-` before deleted ones.
pub fn keys(events: &[Event]) -> Vec<String> {
    let text = |key: &Bytes| String::from_utf8_lossy(key).into_owned();
    events
        .iter()
        .map(|event| match event {
            Event::Put(entry) => text(&entry.key),
            Event::Delete { key, .. } => format!("-{}", text(key)),
        })
        .collect()
}
