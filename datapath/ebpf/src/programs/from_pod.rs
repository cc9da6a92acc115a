//! `from_pod`: tcx ingress of a pod's host-side veth: what a pod sends.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    super::run(ctx, |skb, node, scratch| causeway_datapath_logic::from_pod(skb, node, scratch))
}
