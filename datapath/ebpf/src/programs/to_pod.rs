//! `to_pod`: tcx egress of a pod's host-side veth: what the host's stack sends to a pod.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    super::run(ctx, |skb, node, scratch| causeway_datapath_logic::to_pod(skb, node, scratch))
}
