//! The operator: what a cluster needs done once, not per node. One of several running operators leads and acts.
//!
//! Watches (`world`) and the words of other clusters (`mesh`) -> pure planners (`plan`) -> thin appliers (`apply`), driven
//! by `controller`. A library so that the tests can stand in for the other clusters; the binary is `main.rs`.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test's helpers may panic"))]

mod app;
mod apply;
mod config;
mod controller;
mod crd;
mod leader;
mod mesh;
mod plan;
mod telemetry;
mod world;

pub use app::{operate, run};
pub use config::{Flags, LogFormat};
pub use mesh::{Listener, Remotes};
