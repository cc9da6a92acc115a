//! `from_net`: tcx ingress of an uplink: what comes from the wire.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

#[classifier]
pub fn from_net(ctx: TcContext) -> i32 {
    super::run(ctx, |skb, node, scratch| causeway_datapath_logic::from_net(skb, node, scratch))
}
