//! `to_net`: tcx egress of an uplink: what the host's stack sends to the wire.

use aya_ebpf::bindings::TC_ACT_OK;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use super::MARK_DONE;

#[classifier]
pub fn to_net(ctx: TcContext) -> i32 {
    // SAFETY: the context is valid for the run of the program; the verifier checks the field's access.
    let mark = unsafe { (*ctx.skb.skb).mark };
    if mark == MARK_DONE {
        return TC_ACT_OK;
    }
    super::run(ctx, |skb, node, scratch| causeway_datapath_logic::to_net(skb, node, scratch))
}
