//! What packets from pods and from the wire have in common: recognise, find or open the connection, send.
//!
//! The steps talk through [`Scratch`] and not through locals. For the verifier this joins the branches of one step
//! before the next one: it follows each step once, and not once per way through the steps before it.

use causeway_datapath_abi::{Counter, config_flag, flow_flag, ipcache_flag, slot_flag};

use crate::deliver::{Job, Path, is_local_scope, is_v4_link_local, resolve, send};
use crate::flows::{self, Opening};
use crate::node::Node;
use crate::packet::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet};
use crate::parse::{self, Frag, L4};
use crate::rewrite::same_addr;
use crate::service::{self, Found, From};
use crate::{Scratch, Verdict, fragments, icmp};

/// Why the common way ends early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// The packet is none of ours.
    Stack,
    Drop(Counter),
}

impl core::convert::From<Counter> for Stop {
    fn from(why: Counter) -> Stop {
        Stop::Drop(why)
    }
}

/// The whole way of a packet.
#[inline(always)]
pub(crate) fn walk<P: Packet, N: Node>(pkt: &mut P, node: &mut N, s: &mut Scratch, from: From) -> Verdict {
    match steps(pkt, node, s, from) {
        Ok(()) => s.verdict,
        Err(Stop::Stack) => Verdict::Stack,
        Err(Stop::Drop(why)) => Verdict::Drop(why),
    }
}

#[inline(always)]
fn steps<P: Packet, N: Node>(pkt: &mut P, node: &mut N, s: &mut Scratch, from: From) -> Result<(), Stop> {
    recognise(pkt, node, s, from)?;
    s.is_new = !find(pkt, node, s);
    if s.is_muted {
        return Err(Stop::Drop(Counter::BackendUnreachable));
    }
    if s.is_new {
        direct(node, s, from)?;
    }
    resolve(pkt, node, s);
    if s.is_new {
        approve(node, s, from)?;
    }
    if s.opening.wanted {
        open(pkt, node, s)?;
    }
    fragments::lend_ports(node, &s.headers, s.now_s);
    send(pkt, node, s)?;
    Ok(())
}

/// Parses the packet, and turns away what is not for the programs.
#[inline(never)]
fn recognise<P: Packet, N: Node>(pkt: &P, node: &mut N, s: &mut Scratch, from: From) -> Result<(), Stop> {
    let is_v6 = match pkt.ether_type() {
        ETHERTYPE_IPV4 => false,
        ETHERTYPE_IPV6 => true,
        _ => return Err(Stop::Stack),
    };
    // From pods multicast and broadcast: the stack answers what is meant for it and forwards none. From the wire also
    // frames for other hosts, which a bridge floods.
    if !pkt.is_for_host() {
        return Err(Stop::Stack);
    }
    parse::outer(pkt, ETHERNET_LEN, is_v6, &mut s.headers)?;
    let t = &s.headers.tuple;
    if matches!(s.headers.kind, L4::Discovery)
        || is_local_scope(&t.dst, is_v6)
        || (is_v6 && is_local_scope(&t.src, true))
    {
        return Err(Stop::Stack);
    }
    if matches!(from, From::Pod) && (!node.endpoint(&t.src, &mut s.endpoint) || s.endpoint.ifindex != pkt.ifindex()) {
        return Err(Stop::Drop(Counter::InvalidSourceIp));
    }
    s.now_s = node.now_s();
    fragments::borrow_ports(node, &mut s.headers, s.now_s);
    Ok(())
}

/// Finds the connection. If it is known, `s.to` is what the tuple becomes.
#[inline(always)]
pub(crate) fn find<P: Packet, N: Node>(pkt: &P, node: &mut N, s: &mut Scratch) -> bool {
    s.opening.wanted = false;
    s.job = Job::Outer;
    s.is_muted = false;
    match s.headers.kind {
        L4::Error => {
            let known = icmp::find(pkt, node, s);
            if known {
                s.job = Job::Inside;
            }
            known
        }
        L4::Opaque | L4::Discovery => false,
        L4::Tcp | L4::Udp | L4::Echo | L4::Fixed | L4::Later => flows::find(node, s),
    }
}

/// Directs an unknown packet: to a backend if its destination is a service, else where it wants to go.
#[inline(never)]
pub(crate) fn direct<N: Node>(node: &mut N, s: &mut Scratch, from: From) -> Result<(), Stop> {
    let found = service::find(node, s, from);
    s.to = s.headers.tuple;
    s.opening = Opening::default();
    match found {
        Found::Backend => {
            s.to.dst = s.slot.addr;
            s.to.dport = s.slot.port;
            s.opening.service_id = s.service_id;
            s.opening.wanted = true;
        }
        Found::Echo => {
            s.to.src = s.headers.tuple.dst;
            s.to.dst = s.headers.tuple.src;
            s.job = Job::Answer;
        }
        Found::Nothing if matches!(from, From::Pod) => {
            let is_v6 = s.headers.is_v6;
            if is_v4_link_local(&s.to.dst, is_v6) || same_addr(&s.to.dst, &node.node_addr(is_v6)) {
                return Err(Stop::Stack);
            }
        }
        Found::Nothing if matches!(from, From::Host) => return Err(Stop::Stack),
        Found::Nothing => {
            if !node.endpoint(&s.to.dst, &mut s.endpoint) {
                return Err(Stop::Stack);
            }
        }
        // Of a later fragment only the address is known.
        Found::NoService if matches!(s.headers.frag, Frag::Later) => {
            return Err(Stop::Drop(Counter::FragmentNotFound));
        }
        Found::NoService => return Err(Stop::Drop(Counter::NoService)),
        Found::NoBackend => return Err(Stop::Drop(Counter::ServiceBackendNotFound)),
    }
    Ok(())
}

/// Decides whether an unknown packet may go its way, whether it opens a connection, and under which source address.
#[inline(never)]
fn approve<N: Node>(node: &mut N, s: &mut Scratch, from: From) -> Result<(), Stop> {
    let is_service = s.opening.wanted;
    match s.path {
        Path::Endpoint | Path::Forward | Path::TooBig => {}
        Path::Expired => {
            s.opening.wanted = false;
            return Ok(());
        }
        Path::Refused => return Err(Stop::Drop(Counter::FibLookupFailed)),
        Path::Host | Path::Unreachable if matches!(s.job, Job::Answer) => return Err(Stop::Drop(Counter::NoService)),
        Path::Unreachable if is_service => return Err(Stop::Drop(Counter::FibLookupFailed)),
        // Whatever is not a service's goes to the host as it is, and its answers come through `to_pod`.
        Path::Host | Path::Unreachable => return Ok(()),
    }
    if matches!(s.job, Job::Answer) {
        return Ok(());
    }
    if matches!(s.path, Path::Endpoint) {
        let to_itself = is_service && same_addr(&s.to.dst, &s.headers.tuple.src);
        return if to_itself { take_hairpin_source(node, s) } else { track(s, false) };
    }
    let leaves = match from {
        From::Pod => leaves_cluster(node, s),
        // The pod is gone and its row is not yet.
        From::Wire if s.slot.flags & slot_flag::LOCAL != 0 => {
            return Err(Stop::Drop(Counter::ServiceBackendNotFound));
        }
        // A backend elsewhere has to answer through this node, so it sees this node's address.
        From::Wire => true,
        // Not asked by `to_net`: its source is the node's already.
        From::Host => false,
    };
    track(s, leaves)?;
    if leaves {
        take_node_source(node, s)?;
    }
    Ok(())
}

/// Has a connection opened if the packet is of a kind that can have one; others pass as they are, or not at all.
#[inline(always)]
fn track(s: &mut Scratch, translated: bool) -> Result<(), Stop> {
    match s.headers.kind {
        L4::Tcp | L4::Udp | L4::Echo | L4::Fixed => {
            s.opening.wanted = true;
            Ok(())
        }
        _ if !translated => Ok(()),
        _ if matches!(s.headers.frag, Frag::Later) => Err(Stop::Drop(Counter::FragmentNotFound)),
        _ => Err(Stop::Drop(Counter::NoMappingForNat)),
    }
}

/// A pod reaches itself through a service: it would see its own address as the source and answer untranslated.
#[inline(always)]
fn take_hairpin_source<N: Node>(node: &N, s: &mut Scratch) -> Result<(), Stop> {
    s.to.src = node.hairpin_addr(s.headers.is_v6);
    if same_addr(&s.to.src, &causeway_datapath_abi::Addr::ZERO) {
        return Err(Stop::Drop(Counter::NoMappingForNat));
    }
    Ok(())
}

#[inline(always)]
fn take_node_source<N: Node>(node: &N, s: &mut Scratch) -> Result<(), Stop> {
    s.to.src = node.node_addr(s.headers.is_v6);
    s.opening.flags = flow_flag::SNAT;
    s.opening.in_range = true;
    if same_addr(&s.to.src, &causeway_datapath_abi::Addr::ZERO) {
        return Err(Stop::Drop(Counter::NoMappingForNat));
    }
    Ok(())
}

/// Whether connections from pods to this address get a source address of the node.
#[inline(always)]
fn leaves_cluster<N: Node>(node: &N, s: &Scratch) -> bool {
    let family = if s.headers.is_v6 { config_flag::MASQUERADE_V6 } else { config_flag::MASQUERADE_V4 };
    node.flags() & family != 0 && node.ipcache_flags(&s.to.dst) & ipcache_flag::IN_CLUSTER == 0
}

#[inline(always)]
pub(crate) fn open<P: Packet, N: Node>(pkt: &P, node: &mut N, s: &mut Scratch) -> Result<(), Stop> {
    flows::open(node, s)?;
    if s.opening.service_id != 0 {
        node.count(Counter::ServiceChosen, pkt.size());
    }
    if s.opening.in_range {
        node.count(Counter::Masqueraded, pkt.size());
    }
    Ok(())
}
