//! What the tests of the logic share: sending a packet through a program, and reading what came out.
#![allow(dead_code, reason = "each test file uses a part")]

use causeway_datapath_abi::{Counter, Tuple};
use causeway_datapath_logic::model::{MemoryNode, MemoryPacket, Spec, broken_sum};
use causeway_datapath_logic::{Scratch, Verdict, from_net, from_pod, from_wg, to_net, to_pod};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Program {
    FromPod,
    ToPod,
    FromNet,
    ToNet,
    FromWg,
}

/// What came out of a program.
#[derive(Clone, Debug)]
pub(crate) struct Out {
    pub(crate) verdict: Verdict,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn run(node: &mut MemoryNode, program: Program, ifindex: u32, bytes: Vec<u8>) -> Out {
    run_packet(node, program, MemoryPacket::new(bytes, ifindex))
}

pub(crate) fn run_packet(node: &mut MemoryNode, program: Program, mut pkt: MemoryPacket) -> Out {
    let mut scratch = Scratch::default();
    let verdict = match program {
        Program::FromPod => from_pod(&mut pkt, node, &mut scratch),
        Program::ToPod => to_pod(&mut pkt, node, &mut scratch),
        Program::FromNet => from_net(&mut pkt, node, &mut scratch),
        Program::ToNet => to_net(&mut pkt, node, &mut scratch),
        Program::FromWg => from_wg(&mut pkt, node, &mut scratch),
    };
    Out { verdict, bytes: pkt.bytes }
}

/// Sends a packet that must come out with right checksums.
pub(crate) fn send(node: &mut MemoryNode, program: Program, ifindex: u32, spec: &Spec) -> Out {
    let bytes = spec.build();
    assert_eq!(broken_sum(&bytes), None, "the test built a broken packet");
    let out = run(node, program, ifindex, bytes);
    assert_eq!(broken_sum(&out.bytes), None, "{program:?} broke a checksum of {spec:?}");
    out
}

impl Out {
    /// The tuple of the packet that came out.
    pub(crate) fn tuple(&self) -> Tuple {
        let mut node = MemoryNode::default();
        let mut scratch = Scratch::default();
        let mut pkt = MemoryPacket::new(self.bytes.clone(), 0);
        // Any entry parses; the empty node lets everything through untouched.
        let _ = to_pod(&mut pkt, &mut node, &mut scratch);
        scratch.headers.tuple
    }

    pub(crate) fn ttl(&self) -> u8 {
        if self.bytes[12] == 8 { self.bytes[22] } else { self.bytes[21] }
    }

    pub(crate) fn is_drop(&self, why: Counter) -> bool {
        self.verdict == Verdict::Drop(why)
    }
}
