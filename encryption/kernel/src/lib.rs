//! WireGuard by the kernel, as a [`causeway_encryption_device::Device`].
//!
//! Licence: this crate is ours, and stands alone because it links `wireguard-control`, which is LGPL-2.1-or-later: whoever
//! hands out a binary with it must let its users relink that library. The agent has it behind a feature, and works without.
//!
//! - [`Kernel`]: the device. Blocking, as the trait allows.
//! - `slots`: which identity and which link lives on which interface, pure. Its head says how keys rotate without loss.
//! - `watch`: what is made of the kernel's counters, pure.
//! - `encode`, `decode`: payloads of the `wireguard` netlink family, pure.
//! - `wire`: netlink. [`probe`]: whether the kernel has WireGuard.

mod decode;
mod encode;
mod kernel;
mod slots;
#[cfg(test)]
mod tests;
mod uapi;
mod watch;
mod wire;

pub use kernel::Kernel;
pub use wire::{Clock, Netlink, Wire, probe};
