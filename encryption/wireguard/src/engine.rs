//! Identities, peers, links and prefixes, and what they make of packets. No socket, no TUN, no thread: the shell in
//! [`crate::device`] lends packets and sends what comes out. Time is the noise library's own (it asks the clock).
//!
//! Locks, always taken in this order: `table`, a link's `tunn`, `by_index`. Packets take `table` for reading.

mod change;
mod link;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use gotatun::noise::errors::WireGuardError;
use gotatun::noise::handshake::parse_handshake_anon;
use gotatun::noise::index_table::IndexTable;
use gotatun::noise::{Tunn, TunnResult};
use gotatun::packet::{Packet, WgHandshakeInit, WgKind};
use parking_lot::RwLock;

use crate::packet::{Version, destination, source};
use crate::split::{Malformed, VnetHeader, split};

use link::LinkState;
use table::{PeerState, Table};

/// Something to send, in the order in which it came about.
pub type Datagram = (SocketAddr, BytesMut);

/// Longest message that is not data: a handshake initiation (white paper section 5.4.2).
const LONGEST_HANDSHAKE: usize = 148;
/// Header and tag of a data message without payload.
const SHORTEST_DATA: usize = 32;
/// Type of a data message and what is reserved behind it, which no tag covers.
const DATA: [u8; 4] = [4, 0, 0, 0];

#[derive(Default)]
struct Counters {
    no_peer: AtomicU64,
    strangers: AtomicU64,
    malformed: AtomicU64,
}

/// Packets dropped, by reason, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// To an address that no peer has.
    pub no_peer: u64,
    /// Datagrams that are no WireGuard message or belong to no link.
    pub strangers: u64,
    /// Packets whose headers contradict each other.
    pub malformed: u64,
}

pub struct Engine {
    table: RwLock<Table>,
    /// Sessions and handshakes by the index that the other side puts into its messages.
    by_index: RwLock<HashMap<u32, Arc<LinkState>>>,
    indexes: IndexTable,
    counters: Counters,
}

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine {
    pub fn new() -> Self {
        Self {
            table: RwLock::default(),
            by_index: RwLock::default(),
            indexes: IndexTable::from_os_rng(),
            counters: Counters::default(),
        }
    }

    pub fn dropped(&self) -> Dropped {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Dropped {
            no_peer: read(&self.counters.no_peer),
            strangers: read(&self.counters.strangers),
            malformed: read(&self.counters.malformed),
        }
    }

    /// Encrypts what the TUN device gave: a packet or a super-packet. What has no session yet waits in its link, and a
    /// handshake is added to `out` instead.
    pub fn seal(&self, vnet: VnetHeader, packet: &[u8], out: &mut Vec<Datagram>) {
        let Some(to) = destination(packet) else { return count(&self.counters.malformed) };
        let table = self.table.read();
        let Some(peer) = table.peer_of(to) else { return count(&self.counters.no_peer) };
        let link = peer.active();
        let endpoint = link.endpoint();
        // One lock for a whole super-packet: handing it to and fro costs more than the other side's wait.
        let mut tunn = link.tunn.lock();
        let split = split(vnet, packet, |segment| self.seal_one(&link, &mut tunn, endpoint, segment, out));
        if split == Err(Malformed) {
            count(&self.counters.malformed);
        }
    }

    fn seal_one(
        &self,
        link: &Arc<LinkState>,
        tunn: &mut Tunn,
        endpoint: SocketAddr,
        segment: BytesMut,
        out: &mut Vec<Datagram>,
    ) {
        let bytes = segment.len() as u64;
        match tunn.encapsulate_with_session(Packet::from_bytes(segment)) {
            Ok(sealed) => {
                link.sent(bytes);
                out.push((endpoint, into_bytes(WgKind::Data(sealed))));
            }
            Err(packet) => {
                if let Some(first) = tunn.handle_outgoing_packet(packet, None) {
                    self.emit(link, endpoint, first, out);
                }
            }
        }
    }

    /// Takes one datagram: [`Self::open_all`].
    pub fn open(&self, from: SocketAddr, datagram: &[u8], out: &mut Vec<Datagram>, inner: impl FnMut(BytesMut)) {
        self.open_all(from, [BytesMut::from(datagram)], out, inner);
    }

    /// Takes datagrams that came together, in their order. Packets that were inside are given to `inner`, without padding,
    /// after their source has been found to be the peer's; answers and what waited for a handshake are added to `out`.
    /// `inner` must not call the engine: locks are held.
    pub fn open_all(
        &self,
        from: SocketAddr,
        datagrams: impl IntoIterator<Item = BytesMut>,
        out: &mut Vec<Datagram>,
        mut inner: impl FnMut(BytesMut),
    ) {
        let table = self.table.read();
        let mut datagrams = datagrams.into_iter().peekable();
        while let Some(datagram) = datagrams.next() {
            if let Some(index) = session_index(&datagram) {
                let same = std::iter::from_fn(|| datagrams.next_if(|next| session_index(next) == Some(index)));
                self.open_session(&table, index, from, std::iter::once(datagram).chain(same), out, &mut inner);
            } else if datagram.len() <= LONGEST_HANDSHAKE && !datagram.starts_with(&DATA) {
                self.open_handshake(&table, from, &datagram, out);
            } else {
                count(&self.counters.strangers);
            }
        }
    }

    /// Data messages of one session.
    fn open_session(
        &self,
        table: &Table,
        index: u32,
        from: SocketAddr,
        datagrams: impl Iterator<Item = BytesMut>,
        out: &mut Vec<Datagram>,
        mut inner: impl FnMut(BytesMut),
    ) {
        let Some(link) = self.by_index.read().get(&index).cloned() else {
            return datagrams.for_each(|_| count(&self.counters.strangers));
        };
        let peer = table.peer_by_name(&link.peer);
        let mut heard = Heard::default();
        let mut tunn = link.tunn.lock();
        for datagram in datagrams {
            let Some(packet) = self.open_data(&link, &mut tunn, datagram) else { continue };
            if !heard.anything && link.confirm() {
                // What waited for the peer's first word.
                self.flush(&link, &mut tunn, from, out);
            }
            heard.anything = true;
            heard.bytes += packet.len() as u64;
            let admitted =
                peer.filter(|_| !packet.is_empty()).and_then(|peer| self.admit(table, peer, &mut heard, packet));
            admitted.into_iter().for_each(&mut inner);
        }
        drop(tunn);
        if heard.anything {
            link.heard_from(from);
            link.received(heard.bytes);
        }
    }

    /// What an authentic message carries, with its padding; empty for a keepalive.
    fn open_data(&self, link: &LinkState, tunn: &mut Tunn, datagram: BytesMut) -> Option<BytesMut> {
        let Ok(WgKind::Data(data)) = Packet::from_bytes(datagram).try_into_wg() else {
            count(&self.counters.strangers);
            return None;
        };
        match tunn.handle_incoming_packet(WgKind::Data(data)) {
            TunnResult::WriteToTunnel(mut packet) => Some(std::mem::take(packet.buf_mut())),
            TunnResult::Err(error) => {
                link.refused(&error);
                None
            }
            TunnResult::Done | TunnResult::WriteToNetwork(_) => None,
        }
    }

    /// Cryptokey routing: the source must be one of the peer's prefixes (white paper section 2).
    fn admit(&self, table: &Table, peer: &Arc<PeerState>, heard: &mut Heard, mut packet: BytesMut) -> Option<BytesMut> {
        let Some((version, source)) = Version::of(&packet).zip(source(&packet)) else {
            count(&self.counters.malformed);
            return None;
        };
        let total = version.total(&packet);
        if total < version.header() || total > packet.len() {
            count(&self.counters.malformed);
            return None;
        }
        if heard.source != Some(source) {
            if !table.peer_of(source).is_some_and(|owner| Arc::ptr_eq(owner, peer)) {
                peer.refuse_source();
                return None;
            }
            heard.source = Some(source);
        }
        packet.truncate(total);
        Some(packet)
    }

    fn open_handshake(&self, table: &Table, from: SocketAddr, datagram: &[u8], out: &mut Vec<Datagram>) {
        let Ok(kind) = Packet::copy_from(datagram).try_into_wg() else {
            return count(&self.counters.strangers);
        };
        match kind {
            WgKind::HandshakeInit(_) => self.open_initiation(table, from, datagram, out),
            WgKind::HandshakeResp(message) => {
                let index = message.receiver_idx.get();
                self.answer(from, index, datagram, out);
            }
            WgKind::CookieReply(message) => {
                let index = message.receiver_idx.get();
                self.answer(from, index, datagram, out);
            }
            WgKind::Data(_) => count(&self.counters.strangers),
        }
    }

    /// Which identity is meant is told by the first MAC, which is keyed by the receiver's public key.
    fn open_initiation(&self, table: &Table, from: SocketAddr, datagram: &[u8], out: &mut Vec<Datagram>) {
        for identity in table.identities() {
            match identity.limiter.verify_packet(from, Packet::copy_from(datagram)) {
                Ok(WgKind::HandshakeInit(message)) => {
                    let sender = remote_key(identity, &message);
                    let link = sender.and_then(|remote| table.link(identity.public, remote));
                    let Some(link) = link else { return count(&self.counters.strangers) };
                    return self.feed(&link, from, WgKind::HandshakeInit(message), out);
                }
                Err(TunnResult::WriteToNetwork(cookie)) => return out.push((from, into_bytes(cookie))),
                Ok(_) | Err(_) => {}
            }
        }
        count(&self.counters.strangers);
    }

    /// An answer to an initiation of ours.
    fn answer(&self, from: SocketAddr, index: u32, datagram: &[u8], out: &mut Vec<Datagram>) {
        let Some(link) = self.by_index.read().get(&index).cloned() else {
            return count(&self.counters.strangers);
        };
        match link.identity.limiter.verify_packet(from, Packet::copy_from(datagram)) {
            Ok(kind) => self.feed(&link, from, kind, out),
            Err(TunnResult::WriteToNetwork(cookie)) => out.push((from, into_bytes(cookie))),
            Err(_) => link.failed(),
        }
    }

    fn feed(&self, link: &Arc<LinkState>, from: SocketAddr, kind: WgKind, out: &mut Vec<Datagram>) {
        let answers_us = matches!(kind, WgKind::HandshakeResp(_));
        let mut tunn = link.tunn.lock();
        match tunn.handle_incoming_packet(kind) {
            TunnResult::WriteToNetwork(reply) => {
                link.handshake_done();
                // Of an initiation the peer may still await the answer, with an older session at another place.
                if answers_us || !link.is_confirmed() {
                    link.heard_from(from);
                }
                if answers_us {
                    link.confirm();
                }
                self.emit(link, from, reply, out);
                if answers_us {
                    self.flush(link, &mut tunn, from, out);
                }
            }
            TunnResult::Err(error) => link.refused(&error),
            TunnResult::Done | TunnResult::WriteToTunnel(_) => {}
        }
    }

    /// Timers of all links: retries, keepalives, new handshakes, expiry. To be called a few times a second.
    pub fn tick(&self, out: &mut Vec<Datagram>) {
        let table = self.table.read();
        for identity in table.identities() {
            identity.limiter.try_reset_count();
        }
        for peer in table.peers() {
            for link in peer.links() {
                let endpoint = link.endpoint();
                let mut tunn = link.tunn.lock();
                match tunn.update_timers() {
                    Ok(Some(kind)) => self.emit(&link, endpoint, kind, out),
                    Ok(None) => {}
                    Err(WireGuardError::ConnectionExpired) => {
                        link.expired();
                        // A link that nobody sends on yet must not be given up: it is being warmed.
                        if link.is_warming()
                            && let Some(first) = tunn.format_handshake_initiation(true)
                        {
                            self.emit(&link, endpoint, WgKind::HandshakeInit(first), out);
                        }
                    }
                    Err(_) => link.failed(),
                }
                link.observe(&tunn);
            }
        }
        self.by_index.write().retain(|index, _| self.indexes.in_use(*index));
    }

    /// Queues what waited for a session.
    fn flush(&self, link: &Arc<LinkState>, tunn: &mut Tunn, to: SocketAddr, out: &mut Vec<Datagram>) {
        for kind in link::queued(tunn) {
            if let WgKind::Data(sealed) = &kind {
                link.sent(sealed.encrypted_encapsulated_packet().len() as u64);
            }
            self.emit(link, to, kind, out);
        }
    }

    /// Queues a message and remembers the index by which it will be answered.
    fn emit(&self, link: &Arc<LinkState>, to: SocketAddr, kind: WgKind, out: &mut Vec<Datagram>) {
        let index = match &kind {
            WgKind::HandshakeInit(message) => Some(message.sender_idx.get()),
            WgKind::HandshakeResp(message) => Some(message.sender_idx.get()),
            WgKind::CookieReply(_) | WgKind::Data(_) => None,
        };
        if let Some(index) = index {
            self.by_index.write().insert(index, Arc::clone(link));
        }
        out.push((to, into_bytes(kind)));
    }
}

/// What a session's messages of one batch said.
#[derive(Default)]
struct Heard {
    /// At least one was authentic.
    anything: bool,
    bytes: u64,
    /// The last source that was found to be the peer's.
    source: Option<IpAddr>,
}

/// The receiver's index of a data message that is long enough to be one.
fn session_index(datagram: &[u8]) -> Option<u32> {
    let index = datagram.get(4..8).filter(|_| datagram.starts_with(&DATA) && datagram.len() >= SHORTEST_DATA)?;
    Some(u32::from_le_bytes([index[0], index[1], index[2], index[3]]))
}

/// The key of who sent an initiation, if it is meant for `identity`.
fn remote_key(identity: &link::Identity, message: &WgHandshakeInit) -> Option<causeway_encryption_plan::PublicKey> {
    let half = parse_handshake_anon(&identity.private, &identity.x25519, message).ok()?;
    causeway_encryption_plan::PublicKey::from_bytes(half.peer_static_public).ok()
}

fn into_bytes(kind: WgKind) -> BytesMut {
    let mut packet = Packet::<[u8]>::from(kind);
    std::mem::take(packet.buf_mut())
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
