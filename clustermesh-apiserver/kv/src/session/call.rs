//! One request, one answer: everything but watches.

use std::time::Duration;

use bytes::Bytes;
use etcd_client::{
    Client, DeleteOptions, Error, GetOptions, GetResponse, KeyValue, KvClient, LeaseClient, PutOptions, ResponseHeader,
    Txn, TxnOp,
};

use super::failure;
use crate::op::{Entry, Failure, FailureKind, LeaseId, Op, Outcome, Write};

/// What sends requests over one connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Caller {
    kv: KvClient,
    lease: LeaseClient,
    timeout: Duration,
}

/// The store's number, 0 if unknown, and what it said.
pub(super) type Answer = (u64, Outcome);

impl Caller {
    pub(super) fn new(client: &Client, max_message: usize, timeout: Duration) -> Self {
        let kv = client.kv_client().max_decoding_message_size(max_message);
        Self { kv, lease: client.lease_client(), timeout }
    }

    pub(super) async fn call(self, op: Op) -> Answer {
        let (what, timeout) = (describe(&op), self.timeout);
        match tokio::time::timeout(timeout, self.send(op)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => (0, failure::outcome(&what, &error)),
            Err(_) => {
                let message = format!("{what}: no answer in {timeout:?}");
                (0, Outcome::Failed(Failure { kind: FailureKind::TimedOut, message }))
            }
        }
    }

    async fn send(mut self, op: Op) -> Result<Answer, Error> {
        match op {
            Op::Get { key } => {
                let response = self.kv.get(key, None).await?;
                Ok(page(response))
            }
            Op::List { prefix, after, limit, revision } => {
                let (start, end) = range(&prefix, after.as_ref());
                let limit = i64::try_from(limit).unwrap_or(i64::MAX);
                let options = GetOptions::new().with_range(end).with_limit(limit).with_revision(revision);
                let response = self.kv.get(start, Some(options)).await?;
                Ok(page(response))
            }
            Op::Write { writes } => {
                let operations: Vec<_> = writes.into_iter().map(operation).collect();
                let response = self.kv.txn(Txn::new().and_then(operations)).await?;
                Ok(written(response.header()))
            }
            Op::Grant { ttl } => {
                let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
                let response = self.lease.grant(seconds.max(1), None).await?;
                Ok(lease(response.header(), response.id(), response.ttl()))
            }
            Op::KeepAlive { lease: id } => self.keep_alive(id).await,
            Op::Revoke { lease } => {
                let response = self.lease.revoke(lease).await?;
                Ok(written(response.header()))
            }
            Op::Watch { .. } | Op::Cancel => Err(Error::InvalidArgs("a watch is no request".to_owned())),
        }
    }

    async fn keep_alive(&mut self, id: LeaseId) -> Result<Answer, Error> {
        // The client takes the first answer for itself; only the second one says the time.
        let (mut keeper, mut answers) = match self.lease.keep_alive(id).await {
            Err(Error::LeaseKeepAliveError(_)) => return Ok(lease(None, id, 0)),
            other => other?,
        };
        keeper.keep_alive().await?;
        match answers.message().await? {
            Some(response) => Ok(lease(response.header(), id, response.ttl())),
            None => Err(Error::LeaseKeepAliveError("the stream ended".to_owned())),
        }
    }
}

/// The operation and its object, for people.
pub(super) fn describe(op: &Op) -> String {
    match op {
        Op::Get { key } => format!("get {key}"),
        Op::List { prefix, .. } => format!("list {prefix}"),
        Op::Watch { prefix, .. } => format!("watch {prefix}"),
        Op::Cancel => "cancel a watch".to_owned(),
        Op::Write { writes } => {
            let first = match writes.first() {
                Some(Write::Put { key, .. } | Write::Delete { key }) => key,
                Some(Write::DeletePrefix { prefix }) => prefix,
                None => return "write nothing".to_owned(),
            };
            match writes.len() {
                1 => format!("write {first}"),
                more => format!("write {first} and {} more", more - 1),
            }
        }
        Op::Grant { .. } => "grant a lease".to_owned(),
        Op::KeepAlive { lease } => format!("keep lease {lease:x} alive"),
        Op::Revoke { lease } => format!("revoke lease {lease:x}"),
    }
}

pub(super) fn store_of(header: Option<&ResponseHeader>) -> u64 {
    header.map_or(0, ResponseHeader::cluster_id)
}

pub(super) fn entry(kv: KeyValue) -> Entry {
    let mod_revision = kv.mod_revision();
    let (key, value) = kv.into_key_value();
    Entry { key: Bytes::from(key), value: Bytes::from(value), mod_revision }
}

/// First key and first key beyond. etcd sorts by key by itself, and reads everything if it is asked to.
fn range(prefix: &str, after: Option<&Bytes>) -> (Vec<u8>, Vec<u8>) {
    let start = match after {
        Some(last) => [last.as_ref(), b"\0"].concat(),
        None if prefix.is_empty() => vec![0],
        None => prefix.as_bytes().to_vec(),
    };
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return (start, end);
        }
    }
    // etcd's word for "no end".
    (start, vec![0])
}

fn operation(write: Write) -> TxnOp {
    match write {
        Write::Put { key, value, lease } => TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease))),
        Write::Delete { key } => TxnOp::delete(key, None),
        Write::DeletePrefix { prefix } => TxnOp::delete(prefix, Some(DeleteOptions::new().with_prefix())),
    }
}

fn page(mut response: GetResponse) -> Answer {
    let entries = response.take_kvs().into_iter().map(entry).collect();
    let header = response.header();
    let revision = header.map_or(0, ResponseHeader::revision);
    (store_of(header), Outcome::Page { entries, more: response.more(), revision })
}

fn written(header: Option<&ResponseHeader>) -> Answer {
    (store_of(header), Outcome::Written { revision: header.map_or(0, ResponseHeader::revision) })
}

fn lease(header: Option<&ResponseHeader>, id: LeaseId, ttl: i64) -> Answer {
    let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
    (store_of(header), Outcome::Lease { id, ttl })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_a_prefix_and_nothing_else() {
        for (prefix, after, start, end) in [
            ("a/", None, &b"a/"[..], &b"a0"[..]),
            ("a/", Some("a/x"), b"a/x\0", b"a0"),
            ("", None, b"\0", b"\0"),
            ("", Some("k"), b"k\0", b"\0"),
            ("\u{7f}", None, b"\x7f", b"\x80"),
        ] {
            let after = after.map(|key| Bytes::copy_from_slice(key.as_bytes()));
            assert_eq!(range(prefix, after.as_ref()), (start.to_vec(), end.to_vec()), "{prefix:?}");
        }
    }
}
