//! `to_pod`: tcx egress of a pod's host-side veth: what the host's stack sends to a pod.

use aya_ebpf::bindings::TC_ACT_OK;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

#[classifier]
pub fn to_pod(_ctx: TcContext) -> i32 {
    TC_ACT_OK
}
