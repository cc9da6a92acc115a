//! Pure decisions: from intent rows to desired rows. No I/O, no clock, no await.

pub(crate) mod ipam;
