//! From etcd's errors to [`Failure`]. etcd's texts are in its `api/v3rpc/rpctypes/error.go`.

use std::error::Error as StdError;
use std::fmt::Write as _;

use etcd_client::Error;
use tonic::{Code, Status};

use crate::op::{Failure, FailureKind, Outcome};

/// What is in every error that etcd itself says; others come from the connection.
const ETCD: &str = "etcdserver: ";

/// `what`: the operation and its object, for the message.
pub(super) fn outcome(what: &str, error: &Error) -> Outcome {
    let kind = match error {
        Error::GRpcStatus(status) if status.message().contains("required revision has been compacted") => {
            // The status does not say what is left.
            return Outcome::Compacted { oldest: 0 };
        }
        Error::GRpcStatus(status) => status_kind(status),
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::Utf8Error(_) => FailureKind::Refused,
        _ => FailureKind::Unavailable,
    };
    Outcome::Failed(Failure { kind, message: format!("{what}: {}", text(error)) })
}

/// Why a watch was cancelled by the server, which says it in words only.
pub(super) fn cancelled(what: &str, reason: &str) -> Outcome {
    let kind = text_kind(reason).unwrap_or(FailureKind::Refused);
    Outcome::Failed(Failure { kind, message: format!("{what}: {reason}") })
}

/// An error with all its causes, outermost first.
pub(super) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

fn text(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => match status.source() {
            Some(source) => format!("{}: {}", status.message(), chain(source)),
            None => status.message().to_owned(),
        },
        other => chain(other),
    }
}

fn status_kind(status: &Status) -> FailureKind {
    let message = status.message();
    if message.contains("message length too large") {
        return FailureKind::TooLarge;
    }
    if let Some(kind) = text_kind(message) {
        return kind;
    }
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => FailureKind::Denied,
        Code::DeadlineExceeded => FailureKind::TimedOut,
        Code::Unavailable => FailureKind::Unavailable,
        _ if message.starts_with(ETCD) => FailureKind::Refused,
        // gRPC in Go, about a request that is longer than the server takes.
        Code::ResourceExhausted if message.contains("larger than max") => FailureKind::Refused,
        _ => FailureKind::Unavailable,
    }
}

fn text_kind(message: &str) -> Option<FailureKind> {
    let kinds = [
        ("database space exceeded", FailureKind::NoSpace),
        ("requested lease not found", FailureKind::LeaseGone),
        ("permission denied", FailureKind::Denied),
        ("user name is empty", FailureKind::Denied),
        ("invalid auth token", FailureKind::Denied),
        ("request timed out", FailureKind::TimedOut),
        ("too many requests", FailureKind::Unavailable),
        ("no leader", FailureKind::Unavailable),
    ];
    // The reason of a cancelled watch has words of gRPC before it.
    let etcd = message.contains(ETCD);
    kinds.into_iter().find(|(text, _)| etcd && message.contains(text)).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_what_etcd_says() {
        for (code, message, kind) in [
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", FailureKind::NoSpace),
            (Code::NotFound, "etcdserver: requested lease not found", FailureKind::LeaseGone),
            (Code::PermissionDenied, "etcdserver: permission denied", FailureKind::Denied),
            (Code::InvalidArgument, "etcdserver: user name is empty", FailureKind::Denied),
            (Code::Unauthenticated, "etcdserver: invalid auth token", FailureKind::Denied),
            (Code::Unavailable, "etcdserver: request timed out", FailureKind::TimedOut),
            (Code::Unavailable, "etcdserver: no leader", FailureKind::Unavailable),
            (Code::ResourceExhausted, "etcdserver: too many requests", FailureKind::Unavailable),
            (Code::InvalidArgument, "etcdserver: request is too large", FailureKind::Refused),
            (Code::InvalidArgument, "etcdserver: duplicate key given in txn request", FailureKind::Refused),
            (
                Code::ResourceExhausted,
                "grpc: received message larger than max (2097252 vs. 2097152)",
                FailureKind::Refused,
            ),
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes",
                FailureKind::TooLarge,
            ),
            (Code::Unknown, "transport error", FailureKind::Unavailable),
            (Code::Internal, "h2 protocol error: error reading a body from connection", FailureKind::Unavailable),
            (Code::Cancelled, "operation was canceled", FailureKind::Unavailable),
        ] {
            let error = Error::GRpcStatus(Status::new(code, message));
            let Outcome::Failed(failure) = outcome("get a/1", &error) else { panic!("{message}") };
            assert_eq!(failure.kind, kind, "{message}");
            assert_eq!(failure.message, format!("get a/1: {message}"));
        }
        let reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        assert!(matches!(cancelled("watch", reason), Outcome::Failed(failure) if failure.kind == FailureKind::Denied));
        let compacted = Status::new(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
        assert_eq!(outcome("list", &Error::GRpcStatus(compacted)), Outcome::Compacted { oldest: 0 });
    }
}
