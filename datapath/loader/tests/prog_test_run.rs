//! The programs in the kernel, by BPF_PROG_TEST_RUN: that the verifier takes them, what they do, and how big they are.
//!
//! What every case should give is said by the logic's own tests; here a few of each kind show that maps, helpers and
//! configuration are wired rightly. `differential.rs` compares the rest.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod programs;

use std::fmt::Write as _;
use std::path::Path;

use causeway_datapath_abi::{Counter, Tuple, config_flag};
use causeway_datapath_logic::model::world::*;
use causeway_datapath_logic::model::{Spec, broken_sum};
use programs::{Kernel, MAC, Program, enter_world};

/// Runs a built packet, and expects right checksums and this action; gives the packet.
fn run(kernel: &mut Kernel, program: Program, ifindex: u32, spec: &Spec, action: u32) -> Vec<u8> {
    let mut bytes = spec.build();
    bytes[..6].copy_from_slice(&MAC);
    let ran = kernel.run(program, ifindex, &bytes);
    assert_eq!(ran.action, action, "{program:?} {spec:?}");
    assert_eq!(broken_sum(&ran.bytes), None, "{program:?} {spec:?}");
    ran.bytes
}

/// The tuple of a packet as built by `Spec`, without options.
fn tuple(bytes: &[u8]) -> Tuple {
    let v6 = bytes[12] == 0x86;
    let (src, dst, l4, proto) = if v6 {
        let addr = |at: usize| causeway_datapath_abi::Addr(bytes[at..at + 16].try_into().unwrap());
        (addr(22), addr(38), 54, bytes[20])
    } else {
        let addr = |at: usize| causeway_datapath_abi::Addr::v4(bytes[at..at + 4].try_into().unwrap());
        (addr(26), addr(30), 34, bytes[23])
    };
    let port = |at: usize| bytes[at..at + 2].try_into().unwrap();
    Tuple { src, dst, sport: port(l4), dport: port(l4 + 2), proto, zero: [0; 3] }
}

/// The programs that have the guard in them.
const GUARDED: [Program; 2] = [Program::FromNet, Program::ToNet];

const REDIRECT: u32 = 7;
const DROP: u32 = 2;
const OK: u32 = 0;

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn services_masquerade_delivery_and_their_counters() {
    enter_world();
    let mut kernel = Kernel::new(&world());
    for f in BOTH {
        kernel.forget();
        let before = |kernel: &mut Kernel| {
            [Counter::ToEndpoint, Counter::ToNetwork, Counter::ServiceChosen, Counter::Masqueraded]
                .map(|counter| kernel.counted(counter).packets)
        };
        let counters = before(&mut kernel);
        let t = f.tuple(TCP, f.pod_a(), 40000, f.vip(VIP_LOCAL), 80);
        let out = run(&mut kernel, Program::FromPod, IF_A, &Spec::new(t), REDIRECT);
        let inside = f.tuple(TCP, f.pod_a(), 40000, f.pod_b(), 8080);
        assert_eq!(tuple(&out), inside);
        assert_eq!(&out[..12], &[2, 0, 0, 0, 0, 0xb, 6, 0, 0, 0, 0, 0xb]);
        let back = run(&mut kernel, Program::FromPod, IF_B, &Spec::new(inside.reversed()), REDIRECT);
        assert_eq!(tuple(&back), t.reversed());
        let t = f.tuple(UDP, f.pod_a(), 40000, f.outside(), 53);
        let outer = tuple(&run(&mut kernel, Program::FromPod, IF_A, &Spec::new(t), REDIRECT));
        assert_eq!(outer.src, f.node());
        let back = run(&mut kernel, Program::FromNet, IF_UPLINK, &Spec::new(outer.reversed()), REDIRECT);
        assert_eq!(tuple(&back), t.reversed());
        let after = before(&mut kernel);
        assert_eq!([0, 1, 2, 3].map(|n| after[n] - counters[n]), [3, 1, 1, 1]);
        assert_eq!(kernel.flows().len(), 4);
    }
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn refusals_are_counted_by_their_names() {
    enter_world();
    let mut kernel = Kernel::new(&world());
    for f in BOTH {
        for (program, ifindex, src, dst, port, why) in [
            (Program::FromPod, IF_B, f.pod_a(), f.outside(), 53, Counter::InvalidSourceIp),
            (Program::FromPod, IF_A, f.pod_a(), f.vip(VIP_LOCAL), 81, Counter::NoService),
            (Program::FromPod, IF_A, f.pod_a(), f.vip(VIP_EMPTY), 80, Counter::ServiceBackendNotFound),
            (Program::FromNet, IF_UPLINK, f.outside(), f.vip(VIP_INTERNAL), 80, Counter::NoService),
        ] {
            let before = kernel.counted(why);
            let spec = Spec::new(f.tuple(UDP, src, 40000, dst, port));
            run(&mut kernel, program, ifindex, &spec, DROP);
            let after = kernel.counted(why);
            assert_eq!(after.packets - before.packets, 1, "{why:?}");
            assert_eq!(after.bytes - before.bytes, spec.build().len() as u64, "{why:?}");
        }
    }
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn what_is_not_for_the_programs_passes_untouched() {
    enter_world();
    let mut kernel = Kernel::new(&world());
    for f in BOTH {
        let spec = Spec::new(f.tuple(TCP, f.outside(), 50000, f.node(), 22));
        run(&mut kernel, Program::FromNet, IF_UPLINK, &spec, OK);
        // A frame for another host, which a bridge has flooded.
        let mut bytes = Spec::new(f.tuple(TCP, f.outside(), 50000, f.vip(VIP_LOCAL), 80)).build();
        bytes[..6].copy_from_slice(&[2, 0, 0, 0, 0, 99]);
        let ran = kernel.run(Program::FromNet, IF_UPLINK, &bytes);
        assert_eq!((ran.action, ran.bytes), (OK, bytes));
    }
    assert!(kernel.flows().is_empty());
}

/// Writes `datapath/ebpf/SIZES.md`, or compares with it: the programs must not grow by more than a tenth unseen.
#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn sizes_are_as_committed() {
    let mut table = String::from(
        "# Sizes of the programs\n\nWritten by `prog_test_run` with `UPDATE_FIXTURES=1`; the test fails when a number grows by more than a tenth.\n\
         With encryption off the kernel leaves the guard out.\n\n\
         | program | verified instructions | translated bytes | JIT bytes (x86_64) |\n|---|---:|---:|---:|\n",
    );
    let mut now = Vec::new();
    let mut encrypting = world();
    encrypting.config.flags |= config_flag::ENCRYPT;
    let kernels =
        [("", Kernel::new(&world()), &Program::ALL[..]), (", encrypting", Kernel::new(&encrypting), &GUARDED)];
    for (with, mut kernel, programs) in kernels {
        for program in programs {
            let info = kernel.program(*program).info().unwrap();
            let row = [info.verified_instruction_count().unwrap(), info.size_translated().unwrap(), info.size_jitted()];
            let name = format!("{}{with}", program.name());
            writeln!(table, "| {name} | {} | {} | {} |", row[0], row[1], row[2]).unwrap();
            now.push((name, row));
        }
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("ebpf").join("SIZES.md");
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&file, table).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&file).unwrap();
    for (name, row) in now {
        let line = committed.lines().find(|line| line.starts_with(&format!("| {name} |"))).unwrap();
        let then: Vec<u32> = line.split('|').filter_map(|cell| cell.trim().parse().ok()).collect();
        for (now, then) in row.iter().zip(&then) {
            assert!(
                *now <= then + then / 10,
                "{name} grew from {then} to {now}; if that is meant, run with UPDATE_FIXTURES=1"
            );
        }
        assert_eq!(then.len(), row.len(), "{line}");
    }
}
