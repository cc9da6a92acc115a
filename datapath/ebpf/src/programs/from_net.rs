//! `from_net`: tcx ingress of an uplink: what comes from the wire.

use aya_ebpf::bindings::TC_ACT_OK;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

#[classifier]
pub fn from_net(_ctx: TcContext) -> i32 {
    TC_ACT_OK
}
