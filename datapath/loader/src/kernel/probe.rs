//! Finds out what the running kernel offers, so that status can say it and nobody has to guess from a failure.

use aya::programs::{ProgramError, ProgramType, SchedClassifier, TcAttachType};
use aya::sys::{BpfHelper, is_helper_supported, is_program_supported};

use crate::Feature;
use crate::error::chain;

/// Costs a few milliseconds.
pub(super) fn features() -> Vec<Feature> {
    vec![
        feature("tcx", SchedClassifier::query_tcx("lo", TcAttachType::Ingress).map(|_| true), "programs on interfaces"),
        helper("redirect-peer", BpfHelper::BPF_FUNC_redirect_peer, "delivery into a pod without the host's backlog"),
        helper("redirect-neigh", BpfHelper::BPF_FUNC_redirect_neigh, "delivery to the wire without the host's stack"),
        helper("fib-lookup", BpfHelper::BPF_FUNC_fib_lookup, "routes of the kernel"),
        feature("trampoline", is_program_supported(ProgramType::Tracing), "fentry and fexit, for observation"),
        feature("btf", Ok(std::path::Path::new("/sys/kernel/btf/vmlinux").exists()), "types of the running kernel"),
        feature("xdp", is_program_supported(ProgramType::Xdp), "earlier drops"),
        feature("sock-addr", is_program_supported(ProgramType::CgroupSockAddr), "service choice at connect"),
        feature("sk-lookup", is_program_supported(ProgramType::SkLookup), "listening sockets by rule"),
    ]
}

fn helper(name: &'static str, helper: BpfHelper, purpose: &str) -> Feature {
    feature(name, is_helper_supported(ProgramType::SchedClassifier, helper), purpose)
}

fn feature(name: &'static str, probed: Result<bool, ProgramError>, purpose: &str) -> Feature {
    match probed {
        Ok(true) => Feature { name, available: true, detail: purpose.to_owned() },
        Ok(false) => Feature { name, available: false, detail: format!("{purpose}: this kernel has it not") },
        Err(error) => Feature { name, available: false, detail: format!("{purpose}: {}", chain(&error)) },
    }
}
