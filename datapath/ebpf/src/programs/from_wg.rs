//! `from_wg`: tcx ingress of the WireGuard device: decrypted packets. They come without a link-layer header and get one,
//! because a pod's interface wants it and the logic counts from it.
//!
//! The kernel takes the header off again in front of its own stack: the helper sets the length that it takes.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use causeway_datapath_abi::Counter;
use causeway_datapath_logic::{Node as _, Packet as _, Verdict};

#[classifier]
pub fn from_wg(ctx: TcContext) -> i32 {
    super::run(ctx, |skb, node, scratch| {
        if skb.add_ethernet().is_err() {
            node.count(Counter::WriteError, skb.size());
            return Verdict::Drop(Counter::WriteError);
        }
        causeway_datapath_logic::from_wg(skb, node, scratch)
    })
}
