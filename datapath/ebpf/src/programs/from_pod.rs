//! `from_pod`: tcx ingress of a pod's host-side veth: what a pod sends.

use aya_ebpf::bindings::TC_ACT_OK;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

#[classifier]
pub fn from_pod(_ctx: TcContext) -> i32 {
    TC_ACT_OK
}
