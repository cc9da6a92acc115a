//! Services: which backend a new connection gets.

use causeway_datapath_abi::{Service, ServiceKey, SlotKey, service_flag};

use crate::Scratch;
use crate::flows::{hash, scale};
use crate::node::Node;
use crate::parse::{Frag, L4};

/// Where the connection comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum From {
    Pod,
    Wire,
    /// The host itself.
    Host,
}

/// What the service table says of a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// It is no service's address.
    Nothing,
    /// A backend; it is in `Scratch::slot`.
    Backend,
    /// An echo request to a service's address, to be answered in its name.
    Echo,
    /// The address is a service's, but not this port, or not for this side.
    NoService,
    /// The service has no backend.
    NoBackend,
}

/// Looks the destination up: the port's row first, the address's catch-all row then.
#[inline(never)]
pub(crate) fn find<N: Node>(node: &mut N, s: &mut Scratch, from: From) -> Found {
    let h = &s.headers;
    let mut key = ServiceKey { addr: h.tuple.dst, port: h.tuple.dport, proto: h.tuple.proto, zero: 0 };
    if matches!(h.kind, L4::Tcp | L4::Udp)
        && let Some(service) = node.service(&key)
    {
        if pick(node, s, &service, from) {
            return Found::Backend;
        }
        if !may(&service, from) {
            return Found::NoService;
        }
        // The slot is gone: user space replaced the generation between the two lookups. The new row is there by now.
        return match node.service(&key) {
            Some(again) if pick(node, s, &again, from) => Found::Backend,
            _ => Found::NoBackend,
        };
    }
    key.port = [0; 2];
    key.proto = 0;
    let Some(all) = node.service(&key) else {
        return Found::Nothing;
    };
    if may(&all, from) && matches!(h.kind, L4::Echo) && h.is_request && matches!(h.frag, Frag::Whole) {
        return Found::Echo;
    }
    Found::NoService
}

/// Whether the service is open to that side.
#[inline(always)]
const fn may(service: &Service, from: From) -> bool {
    matches!(from, From::Pod | From::Host) || service.flags & service_flag::EXTERNAL != 0
}

/// Chooses a backend; `false` if there is none, or its slot does not exist.
#[inline(always)]
fn pick<N: Node>(node: &mut N, s: &mut Scratch, service: &Service, from: From) -> bool {
    let local = match from {
        From::Pod | From::Host => service.flags & service_flag::INTERNAL_LOCAL != 0,
        From::Wire => service.flags & service_flag::EXTERNAL_LOCAL != 0,
    };
    let count = if local { service.local_count } else { service.count };
    if count == 0 || !may(service, from) {
        return false;
    }
    let slot = (scale(hash(&s.headers.tuple, node.seed()), u32::from(count)) & 0xffff) as u16;
    let key = SlotKey { service_id: service.id, generation: service.generation, slot };
    s.service_id = service.id;
    match node.slot(&key) {
        Some(slot) => {
            s.slot = slot;
            true
        }
        None => false,
    }
}
