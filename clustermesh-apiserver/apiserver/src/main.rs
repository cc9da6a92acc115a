//! The clustermesh API server.
fn main() {}
