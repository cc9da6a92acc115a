//! Pauses: doubling and jitter. The randomness is a seeded generator, so that a run can be repeated.
use std::time::Duration;

/// SplitMix64: small, seedable, and good enough to keep peers from marching in step.
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1), in steps of 1/1024.
    fn fraction(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 54).unwrap_or(0)) / 1024.0
    }

    /// In [`pause`, 2 `pause`).
    pub(crate) fn up_to_twice(&mut self, pause: Duration) -> Duration {
        pause + pause.mul_f64(self.fraction())
    }

    /// In (3/4 `interval`, `interval`], as RFC 4271 section 10 asks for keepalives.
    pub(crate) fn down_to_three_quarters(&mut self, interval: Duration) -> Duration {
        interval - interval.mul_f64(self.fraction() / 4.0)
    }
}

/// `first` for the first failure, twice as much for each further one, at most `max`.
pub(crate) fn doubled(first: Duration, failures: u32, max: Duration) -> Duration {
    let steps = failures.saturating_sub(1).min(20);
    first.saturating_mul(1 << steps).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit() {
        let second = Duration::from_secs(1);
        let pauses: Vec<u64> = (1..=6).map(|n| doubled(second, n, second * 10).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
        assert_eq!(doubled(second, u32::MAX, second * 60), second * 60);
    }

    #[test]
    fn jitter_stays_in_its_range() {
        let mut jitter = Jitter::new(7);
        let x = Duration::from_secs(8);
        for _ in 0..10_000 {
            let up = jitter.up_to_twice(x);
            assert!(up >= x && up < 2 * x);
            let down = jitter.down_to_three_quarters(x);
            assert!(down > x * 3 / 4 && down <= x);
        }
    }
}
