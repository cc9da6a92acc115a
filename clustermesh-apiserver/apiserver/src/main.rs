//! The clustermesh API server.
#![allow(dead_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test's helpers may panic"))]

mod convert;
mod export;
mod flags;

fn main() {}
