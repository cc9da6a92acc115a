//! The Internet checksum (RFC 1071) over whole packets.

/// Sum of 16-bit words, not folded and not inverted. A trailing odd byte counts as the high half of a word. Pieces of even
/// length can be summed one after the other.
pub(crate) fn sum(bytes: &[u8], initial: u64) -> u64 {
    let mut lanes = [0u64; 4];
    let mut chunks = bytes.chunks_exact(16);
    for chunk in &mut chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.chunks_exact(4)) {
            // In the CPU's order: the folded sum of swapped words is the swapped sum (RFC 1071 section 2 B).
            *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let mut words = chunks.remainder().chunks_exact(4);
    for word in &mut words {
        total += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let mut word = [0u8; 4];
        word[..rest.len()].copy_from_slice(rest);
        total += u64::from(u32::from_ne_bytes(word));
    }
    initial + u64::from(u16::from_be_bytes(fold(total).to_ne_bytes()))
}

/// To 16 bits, with end-around carry.
#[allow(clippy::cast_possible_truncation, reason = "33, then 17, then 16 bits are left")]
pub(crate) const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// The pseudo-header of RFC 9293 section 3.1 and RFC 8200 section 8.1. `addresses` is source and destination, one after
/// the other.
pub(crate) fn pseudo(addresses: &[u8], protocol: u8, length: usize) -> u64 {
    sum(addresses, u64::from(protocol) + length as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 section 3.
    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0)), 0xddf2);
    }

    #[test]
    fn sums_fold_as_ones_complement_does() {
        let numbers = [0, 1, 0xfffe, 0xffff, 0x1_0000, 0x1_ffff, 0xffff_ffff, 0x1_0000_0000, u64::MAX - 1, u64::MAX];
        for sum in numbers {
            // Of a number that is not zero: what is left by 65,535, which stands for zero itself.
            let expected = if sum == 0 { 0 } else { (sum - 1) % 0xffff + 1 };
            assert_eq!(u64::from(fold(sum)), expected, "{sum:#x}");
        }
    }

    #[test]
    fn all_lengths_agree_with_the_definition() {
        let bytes: Vec<u8> = (0..100u8).map(|n| n.wrapping_mul(37)).collect();
        for length in 0..bytes.len() {
            let words = bytes[..length].chunks(2).map(|w| u64::from(w[0]) << 8 | w.get(1).map_or(0, |b| u64::from(*b)));
            assert_eq!(fold(sum(&bytes[..length], 0)), fold(words.sum()), "{length}");
        }
    }
}
