//! Differences of Internet checksums (RFC 1071, RFC 1624): what must be added to a sum when bytes are replaced.
//!
//! A difference is a one's complement number made of 16-bit words as they lie in memory, which is what the kernel's
//! `bpf_l4_csum_replace` takes. It is exact for any even-aligned change, in any order. Sums are kept in 64 bits and
//! folded once, so that there is no branch per carry: the verifier would follow both ways of each.

use causeway_datapath_abi::Addr;

/// A difference being summed up.
#[derive(Clone, Copy, Default)]
pub(crate) struct Diff(u64);

impl Diff {
    pub(crate) const NONE: Diff = Diff(0);

    /// Adds the replacement of the word `old` by `new`.
    #[inline(always)]
    pub(crate) const fn replace4(self, old: [u8; 4], new: [u8; 4]) -> Diff {
        Diff(self.0 + !u32::from_ne_bytes(old) as u64 + u32::from_ne_bytes(new) as u64)
    }

    /// Adds the replacement of a half word at an even offset.
    #[inline(always)]
    pub(crate) const fn replace2(self, old: [u8; 2], new: [u8; 2]) -> Diff {
        self.replace4([old[0], old[1], 0, 0], [new[0], new[1], 0, 0])
    }

    /// Adds the replacement of an address. The mapped prefix of IPv4 addresses cancels out.
    #[inline(always)]
    pub(crate) fn replace_addr(self, old: &Addr, new: &Addr) -> Diff {
        self.replace4(quarter(old, 0), quarter(new, 0))
            .replace4(quarter(old, 1), quarter(new, 1))
            .replace4(quarter(old, 2), quarter(new, 2))
            .replace4(quarter(old, 3), quarter(new, 3))
    }

    /// Adds another difference.
    #[inline(always)]
    pub(crate) const fn and(self, other: Diff) -> Diff {
        Diff(self.0 + other.folded() as u64)
    }

    /// The difference in 32 bits.
    #[inline(always)]
    pub(crate) const fn folded(self) -> u32 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        (sum & 0xffff_ffff) as u32
    }
}

/// The `n`th four bytes of an address.
#[inline(always)]
pub(crate) const fn quarter(addr: &Addr, n: usize) -> [u8; 4] {
    let o = (n & 3) * 4;
    [addr.0[o], addr.0[o + 1], addr.0[o + 2], addr.0[o + 3]]
}

/// Folds a 32-bit sum to 16 bits without complementing it.
#[inline(always)]
pub(crate) const fn fold16(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) as u16
}

/// The checksum field after a difference.
#[inline(always)]
pub(crate) const fn apply(field: [u8; 2], diff: u32) -> [u8; 2] {
    let complement = !(u16::from_ne_bytes(field)) as u64 & 0xffff;
    (!fold16(Diff(diff as u64 + complement).folded())).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full(bytes: &[u8]) -> u16 {
        let words = bytes.chunks_exact(2).map(|c| u64::from(u16::from_ne_bytes([c[0], c[1]])));
        !fold16(Diff(words.sum()).folded())
    }

    proptest! {
        #[test]
        fn a_difference_equals_a_new_sum(mut bytes in proptest::collection::vec(any::<u8>(), 40), new: [u8; 4], word in 0usize..9) {
            // The sum of nothing but zeros has two forms; a real header never is all zero.
            bytes[38] |= 1;
            let before = full(&bytes);
            let at = word * 4;
            let old = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            bytes[at..at + 4].copy_from_slice(&new);
            let after = apply(before.to_ne_bytes(), Diff::NONE.replace4(old, new).folded());
            prop_assert_eq!(u16::from_ne_bytes(after), full(&bytes));
        }

        #[test]
        fn there_and_back_is_nothing(old: [u8; 16], new: [u8; 16], field: [u8; 2]) {
            // 0xffff is the other form of zero, which no sum of a real header is.
            prop_assume!(field != [0xff, 0xff]);
            let there = Diff::NONE.replace_addr(&Addr(old), &Addr(new));
            let back = there.replace_addr(&Addr(new), &Addr(old));
            prop_assert_eq!(apply(field, back.folded()), field);
        }
    }
}
