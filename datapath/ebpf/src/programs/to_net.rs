//! `to_net`: tcx egress of an uplink: what leaves for the wire.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

#[classifier]
pub fn to_net(ctx: TcContext) -> i32 {
    super::run(ctx, |skb, node, scratch| causeway_datapath_logic::to_net(skb, node, scratch))
}
