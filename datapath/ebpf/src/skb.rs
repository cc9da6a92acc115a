//! The skb as the logic's [`Packet`]. All access goes through helpers, which check bounds, copy headers of shared
//! packets before a write, and reach data that is not linear.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::generated::{
    bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_change_head, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use causeway_datapath_logic::{L4Sum, Packet, Unwritable};

/// `BPF_F_IPV6` (include/uapi/linux/bpf.h, since Linux 6.16; older kernels refuse it).
const BPF_F_IPV6: u64 = 1 << 7;

/// `PACKET_HOST` and `PACKET_OTHERHOST` (include/uapi/linux/if_packet.h).
const PACKET_HOST: u32 = 0;
const PACKET_OTHERHOST: u32 = 3;
/// Bytes of an Ethernet header, and where its EtherType is (IEEE 802.3).
const ETHERNET_LEN: u32 = 14;
const ETHER_TYPE_AT: u32 = 12;

pub struct Skb {
    ctx: TcContext,
}

impl Skb {
    pub fn new(ctx: TcContext) -> Skb {
        Skb { ctx }
    }

    /// Puts an Ethernet header in front of a packet that has none. Its addresses stay zero: a pod's are written when the
    /// packet goes there, and nothing else that takes the packet looks at them.
    #[inline(always)]
    pub fn add_ethernet(&mut self) -> Result<(), Unwritable> {
        // SAFETY: the helper takes numbers only.
        check(unsafe { bpf_skb_change_head(self.ctx.skb.skb, ETHERNET_LEN, 0) })?;
        self.store(ETHER_TYPE_AT, &self.ether_type().to_be_bytes())
    }

    #[inline(always)]
    pub fn set_mark(&self, mark: u32) {
        self.ctx.set_mark(mark);
    }
}

fn check(ret: i64) -> Result<(), Unwritable> {
    if ret == 0 { Ok(()) } else { Err(Unwritable) }
}

impl Packet for Skb {
    #[inline(always)]
    fn size(&self) -> u32 {
        self.ctx.len()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid for the run of the program; the verifier checks the field's access.
        unsafe { (*self.ctx.skb.skb).ifindex }
    }

    #[inline(always)]
    fn ether_type(&self) -> u16 {
        // SAFETY: as above.
        let protocol = unsafe { (*self.ctx.skb.skb).protocol };
        u16::from_be((protocol & 0xffff) as u16)
    }

    #[inline(always)]
    fn is_for_host(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.ctx.skb.skb).pkt_type == PACKET_HOST }
    }

    #[inline(always)]
    fn is_for_other_host(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.ctx.skb.skb).pkt_type == PACKET_OTHERHOST }
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.ctx.skb.skb).mark }
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.ctx.skb.skb).gso_size }
    }

    #[inline(always)]
    fn load<const LEN: usize>(&self, offset: u32) -> Option<[u8; LEN]> {
        let mut bytes = MaybeUninit::<[u8; LEN]>::uninit();
        // SAFETY: the helper writes at most LEN bytes to memory of that size.
        let ret = unsafe { bpf_skb_load_bytes(self.ctx.skb.skb.cast(), offset, bytes.as_mut_ptr().cast(), LEN as u32) };
        if ret == 0 {
            // SAFETY: on success the helper has written all LEN bytes.
            Some(unsafe { bytes.assume_init() })
        } else {
            None
        }
    }

    #[inline(always)]
    fn store<const LEN: usize>(&mut self, offset: u32, bytes: &[u8; LEN]) -> Result<(), Unwritable> {
        // SAFETY: the helper reads LEN bytes of memory of that size, and checks the offset.
        check(unsafe { bpf_skb_store_bytes(self.ctx.skb.skb, offset, bytes.as_ptr().cast(), LEN as u32, 0) })
    }

    #[inline(always)]
    fn store_unsummed(&mut self, offset: u32, byte: u8) -> Result<(), Unwritable> {
        // SAFETY: the helper reads one byte, and checks the offset.
        check(unsafe {
            bpf_skb_store_bytes(self.ctx.skb.skb, offset, (&raw const byte).cast(), 1, BPF_F_RECOMPUTE_CSUM.into())
        })
    }

    #[inline(always)]
    fn add_ip_sum(&mut self, offset: u32, diff: u32) -> Result<(), Unwritable> {
        // SAFETY: the helper takes numbers only, and checks the offset.
        check(unsafe { bpf_l3_csum_replace(self.ctx.skb.skb, offset, 0, diff.into(), 0) })
    }

    #[inline(always)]
    fn add_l4_sum(&mut self, offset: u32, diff: u32, sum: L4Sum, zero_is_none: bool) -> Result<(), Unwritable> {
        let mangled = if zero_is_none { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let pseudo = if matches!(sum, L4Sum::Body) { 0 } else { u64::from(BPF_F_PSEUDO_HDR) };
        let family = if matches!(sum, L4Sum::PseudoV6) { BPF_F_IPV6 } else { 0 };
        // SAFETY: the helper takes numbers only, and checks the offset.
        let ret = unsafe { bpf_l4_csum_replace(self.ctx.skb.skb, offset, 0, diff.into(), mangled | pseudo | family) };
        if ret == 0 || family == 0 {
            return check(ret);
        }
        // A kernel that does not know the flag; it was added to repair a sum that only receiving hardware makes.
        // SAFETY: as above.
        check(unsafe { bpf_l4_csum_replace(self.ctx.skb.skb, offset, 0, diff.into(), mangled | pseudo) })
    }
}
