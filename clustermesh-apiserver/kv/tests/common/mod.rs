//! What the tests against a real etcd share.

pub(crate) mod ask;
pub(crate) mod etcd;
pub(crate) mod pki;
