//! One module per program, and what they share: running the logic on an skb and carrying out its verdict.

mod from_net;
mod from_pod;
mod from_wg;
mod to_net;
mod to_pod;

use core::mem::size_of;

use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_SHOT};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer};
use aya_ebpf::programs::TcContext;
use causeway_datapath_abi::{Addr, mark};
use causeway_datapath_logic::{Scratch, Verdict};

use crate::kernel::{AF_INET, AF_INET6, Kernel};
use crate::maps::SCRATCH;
use crate::skb::Skb;

/// `struct bpf_redir_neigh` (include/uapi/linux/bpf.h).
#[repr(C)]
struct RedirNeigh {
    family: u32,
    addr: Addr,
}

/// Runs one entry of the logic.
#[inline(always)]
fn run(ctx: TcContext, entry: impl FnOnce(&mut Skb, &mut Kernel, &mut Scratch) -> Verdict) -> i32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return TC_ACT_SHOT;
    };
    // SAFETY: the row is this CPU's, programs on one CPU do not interrupt each other, and every bit pattern that we
    // leave in it, as well as the zeros it starts with, is a valid `Scratch`.
    let scratch = unsafe { &mut *scratch };
    let mut kernel = Kernel::new(&ctx);
    let mut skb = Skb::new(ctx);
    let action = match entry(&mut skb, &mut kernel, scratch) {
        Verdict::Stack => i64::from(TC_ACT_OK),
        Verdict::Drop(_) => i64::from(TC_ACT_SHOT),
        // SAFETY: the helper takes numbers only; the kernel checks the interface when it redirects.
        Verdict::Peer { ifindex } => unsafe { bpf_redirect_peer(ifindex, 0) },
        // SAFETY: as above.
        Verdict::Device { ifindex } => unsafe { bpf_redirect(ifindex, 0) },
        Verdict::Neighbour { ifindex } => {
            skb.set_mark(mark::DONE);
            neighbour(ifindex, &scratch.next_hop.addr)
        }
    };
    action as i32
}

#[inline(always)]
fn neighbour(ifindex: u32, next_hop: &Addr) -> i64 {
    let mut params = match next_hop.as_v4() {
        Some(v4) => {
            let mut addr = Addr::ZERO;
            [addr.0[0], addr.0[1], addr.0[2], addr.0[3]] = v4;
            RedirNeigh { family: AF_INET.into(), addr }
        }
        None => RedirNeigh { family: AF_INET6.into(), addr: *next_hop },
    };
    // SAFETY: the helper reads the struct, whose size is given.
    unsafe { bpf_redirect_neigh(ifindex, (&raw mut params).cast(), size_of::<RedirNeigh>() as i32, 0) }
}
