//! Packets that the host's stack sends to the wire: answers of service backends in the host's namespace, and the host's
//! own connections to services.
//!
//! The stack has already chosen an uplink by the service's address, which leads there by the default route; here the
//! packet gets its backend and the way to it. What the programs send out of the uplink, this one included, comes by here
//! too; it has the mark of that, and only the guard looks at it.

use causeway_datapath_abi::{Counter, mark};

use crate::deliver::{Job, Path, fit, is_plain, resolve, translate_all};
use crate::guard::Leave;
use crate::node::Node;
use crate::packet::Packet;
use crate::rewrite::{same_addr, set_macs};
use crate::service::From;
use crate::to_pod::recognise;
use crate::way::{self, Stop};
use crate::{Scratch, Verdict, counted, fragments, guard};

/// Decides about a packet on its way to the wire, rewrites it, and counts the outcome, unless the packet is one of those
/// that are known by their mark: these were counted when they were sent.
#[inline(always)]
pub fn to_net<P: Packet, N: Node>(pkt: &mut P, node: &mut N, s: &mut Scratch) -> Verdict {
    match guard::leaves(pkt, node, s) {
        Ok(Leave::Encrypted) => return Verdict::Stack,
        Ok(Leave::Plain) => {}
        Err(why) => return counted(node, pkt.size(), Verdict::Drop(why)),
    }
    if pkt.mark() == mark::DONE {
        return Verdict::Stack;
    }
    let verdict = match steps(pkt, node, s) {
        Ok(()) => s.verdict,
        Err(Stop::Stack) => Verdict::Stack,
        Err(Stop::Drop(why)) => Verdict::Drop(why),
    };
    counted(node, pkt.size(), verdict)
}

#[inline(always)]
fn steps<P: Packet, N: Node>(pkt: &mut P, node: &mut N, s: &mut Scratch) -> Result<(), Stop> {
    if !recognise(pkt, node, s) {
        return Err(Stop::Stack);
    }
    s.is_new = !way::find(pkt, node, s);
    if s.is_new {
        way::direct(node, s, From::Host)?;
        // An answer in the name of a service would have to turn round inside the host.
        if matches!(s.job, Job::Answer) {
            return Err(Stop::Drop(Counter::NoService));
        }
    } else if is_plain(s) {
        return Err(Stop::Stack);
    }
    s.verdict = Verdict::Stack;
    if !same_addr(&s.headers.tuple.dst, &s.to.dst) {
        resolve(pkt, node, s);
        aim(s)?;
    }
    if s.opening.wanted {
        way::open(pkt, node, s)?;
    }
    fragments::lend_ports(node, &s.headers, s.now_s);
    translate_all(pkt, s)?;
    match s.verdict {
        Verdict::Device { .. } => set_macs(pkt, &s.endpoint)?,
        Verdict::Neighbour { .. } => fit(pkt, s)?,
        Verdict::Stack | Verdict::Peer { .. } | Verdict::Drop(_) => {}
    }
    Ok(())
}

/// The way of a packet whose destination has changed. The host's packets lose no hop here.
#[inline(always)]
fn aim(s: &mut Scratch) -> Result<(), Stop> {
    s.verdict = match s.path {
        Path::Endpoint => Verdict::Device { ifindex: s.endpoint.ifindex },
        Path::Forward => Verdict::Neighbour { ifindex: s.next_hop.ifindex },
        // The host limits its packets to this hop.
        Path::Expired => return Err(Stop::Stack),
        // A backend in the host's own namespace: from here no way leads back into it.
        Path::Host => return Err(Stop::Drop(Counter::ServiceBackendNotFound)),
        Path::TooBig | Path::Unreachable | Path::Refused => return Err(Stop::Drop(Counter::FibLookupFailed)),
    };
    Ok(())
}
