//! How long to wait before the next connection: longer each time, and never in step with others.

use std::time::Duration;

use crate::settings::BackoffBounds;

/// Doubles from `first` to `longest`; each wait is a random part of it, at least half.
#[derive(Debug)]
pub(crate) struct Backoff {
    bounds: BackoffBounds,
    /// The next wait, before chance has its say.
    next: Duration,
    random: u64,
}

impl Backoff {
    pub(crate) fn new(bounds: BackoffBounds, seed: u64) -> Backoff {
        Backoff { bounds, next: bounds.first, random: seed }
    }

    /// The last attempt was good.
    pub(crate) fn reset(&mut self) {
        self.next = self.bounds.first;
    }

    pub(crate) fn wait(&mut self) -> Duration {
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.bounds.longest);
        whole / 2 + whole.mul_f64(self.chance() / 2.0)
    }

    /// From 0 to 1, by SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
    fn chance(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // 32 of its bits are exact in a double, and enough.
        f64::from(u32::try_from(z >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_start_again() {
        let bounds = BackoffBounds { first: Duration::from_millis(50), longest: Duration::from_secs(60) };
        let mut backoff = Backoff::new(bounds, 7);
        let mut whole = bounds.first;
        for _ in 0..20 {
            let wait = backoff.wait();
            assert!(whole / 2 <= wait && wait <= whole, "{wait:?} of {whole:?}");
            whole = (whole * 2).min(bounds.longest);
        }
        assert_eq!(whole, bounds.longest);
        backoff.reset();
        assert!(backoff.wait() <= bounds.first);
    }

    #[test]
    fn two_hundred_readers_do_not_come_at_once() {
        let bounds = BackoffBounds { first: Duration::from_secs(8), longest: Duration::from_secs(8) };
        let mut slots = [0; 8];
        for seed in 0..200 {
            let wait = Backoff::new(bounds, seed).wait();
            slots[usize::try_from((wait.as_millis() - 4000) / 501).unwrap()] += 1;
        }
        assert!(slots.iter().all(|n| (10..=45).contains(n)), "{slots:?}");
    }
}
