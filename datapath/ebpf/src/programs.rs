//! One module per program.

mod from_net;
mod from_pod;
mod to_pod;
