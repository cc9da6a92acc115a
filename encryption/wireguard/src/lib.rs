//! An embedded WireGuard device: for kernels that have none, and as fast as user space gets.
//!
//! The protocol's core (handshakes, sessions, timers, replay window) is the library `gotatun`; its own device is not used.
//! Packets come and go by our own I/O: a TUN device with offloads (`IFF_VNET_HDR`), so that one system call moves up to
//! 64 KiB of a flow, and UDP sockets with segmentation and receive offload (`UDP_SEGMENT`, `UDP_GRO`).
//!
//! It is a process of its own, `causeway-wireguard`, so that sockets, device and sessions outlive the node's agent. It
//! decides nothing: the agent tells it by its control socket what to hold (`causeway_encryption_plan::Change`).
//!
//! - [`engine`]: peers, links, prefixes; packets in, packets out. Knows no socket.
//! - `split`, `join`: super-packets from and for the kernel.
//! - [`device`]: the TUN device, the sockets, and the threads between them.
//! - [`control`]: the control socket, JSON lines.

mod checksum;
pub mod control;
pub mod device;
pub mod engine;
mod join;
mod packet;
mod split;
mod tun;
mod udp;

pub use join::Joiner;
pub use split::{Malformed, VnetHeader, split};
