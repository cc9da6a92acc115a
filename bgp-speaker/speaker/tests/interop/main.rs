//! Our speaker against FRR, BIRD and GoBGP, each as a real process, over loopback in a network namespace of the test's own.
//!
//! Needs root (for the namespace) and the three daemons; a missing one fails the test and says which package has it.
//! `make e2e TOPIC=bgp` runs it; so does `cargo nextest run -p causeway-bgp-speaker --test interop --run-ignored all`.
mod bird;
mod frr;
mod gobgp;
mod net;
mod ours;
mod restart;
