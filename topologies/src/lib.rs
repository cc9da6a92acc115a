//! A topology: racks, clusters and hosts described once, and the pure plans that follow from the description.
//!
//! Nothing here does I/O. [`spec`] parses `topology.toml`, [`plan`] gives every interface its addresses, [`drawing`]
//! prints the rack as text and [`frr`] writes the switches' configuration. The `causeway-lab` binary realises a plan in
//! network namespaces; a simulation or a test may read the same plan.

pub mod drawing;
pub mod frr;
mod nearest;
pub mod plan;
pub mod spec;

pub use plan::Plan;
pub use spec::{ParseError, Topology};
