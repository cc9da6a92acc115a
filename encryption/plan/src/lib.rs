//! What WireGuard between nodes shall look like, and the way there: keys and their epochs, peers, links, prefixes, MTU.
//!
//! It is not a WireGuard device, holds no socket, file or clock, and makes no randomness: seeds and `now` are arguments.
//! The agent drives it: it turns nodes and keys into [`Desired`], asks a device for its [`Actual`], and sends the
//! [`Change`]s that [`plan`] names. [`Rotation`] is the life of this node's own keys.
//!
//! Words: a *peer* is another node. An *identity* is a key pair of ours. A *link* is a WireGuard session's two ends, one
//! identity of ours and one public key of the peer; a peer has several while somebody rotates, and one of them is
//! *active*: what new packets take. Packets are accepted on every link.

mod announce;
mod control;
mod device;
mod key;
mod links;
mod mtu;
mod rotation;

pub use announce::{AnnounceError, Announcement, EpochKey};
pub use control::{Answer, Request};
pub use device::{
    Actual, Change, Desired, DeviceSpec, Link, LinkStats, Peer, PeerName, PeerStats, Snapshot, Unfit, plan,
};
pub use key::{KeyError, PrivateKey, PublicKey};
pub use links::{RemoteKeys, active_link, cold_links, links};
pub use mtu::{Mtu, MtuError};
pub use rotation::{Input, Output, OwnKey, OwnKeys, PeerView, Phase, Rotation, RotationConfig, Start};
