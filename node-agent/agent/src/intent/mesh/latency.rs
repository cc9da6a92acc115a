//! How long something takes, in 1 kB: a histogram whose buckets grow by an eighth, and which forgets.

use std::time::Duration;

/// Buckets per doubling: a value is told to within an eighth.
const STEPS: u32 = 8;
/// 30 doublings, from a microsecond to 18 minutes.
const BUCKETS: usize = 8 * 30;

/// When so many have been counted, all counts are halved: the newest few thousand decide.
const FORGET_AT: u32 = 8192;

#[derive(Debug, Clone)]
pub(crate) struct Latency {
    buckets: Box<[u16; BUCKETS]>,
    /// Sum of the buckets.
    weight: u32,
    count: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Latency { buckets: Box::new([0; BUCKETS]), weight: 0, count: 0 }
    }
}

impl Latency {
    pub(crate) fn observe(&mut self, took: Duration) {
        if self.weight >= FORGET_AT {
            self.buckets.iter_mut().for_each(|n| *n /= 2);
            self.weight = self.buckets.iter().map(|n| u32::from(*n)).sum();
        }
        let index = bucket(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        self.buckets[index] = self.buckets[index].saturating_add(1);
        self.weight += 1;
        self.count += 1;
    }

    /// How many were observed since the start.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Microseconds that so many of a thousand do not exceed; 0 without any.
    pub(crate) fn quantile_us(&self, per_mille: u32) -> u64 {
        let wanted = (u64::from(self.weight) * u64::from(per_mille)).div_ceil(1000);
        let mut seen = 0;
        for (index, n) in self.buckets.iter().enumerate() {
            seen += u64::from(*n);
            if seen >= wanted && seen > 0 {
                return upper(index);
            }
        }
        0
    }
}

/// The place of a value: its highest bit, and the three below it.
fn bucket(us: u64) -> usize {
    let us = us.max(1);
    let high = us.ilog2();
    let step = if high >= 3 { us >> (high - 3) } else { us << (3 - high) } & 7;
    usize::try_from(u64::from(high * STEPS) + step).map_or(BUCKETS - 1, |index| index.min(BUCKETS - 1))
}

/// The greatest value of a bucket.
fn upper(index: usize) -> u64 {
    let (high, step) = (index / 8, index as u64 % 8);
    ((9 + step) << high).div_ceil(8) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_to_within_an_eighth() {
        for us in [1, 2, 3, 7, 8, 9, 100, 999, 12_345, 1_000_000, 600_000_000] {
            let told = upper(bucket(us));
            assert!(told >= us && told <= us + us / 8 + 1, "{us} told as {told}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_follow_what_happens_now() {
        let mut l = Latency::default();
        assert_eq!(l.quantile_us(500), 0);
        for ms in 1..=100 {
            l.observe(Duration::from_millis(ms));
        }
        let near = |told: u64, us: u64| told >= us && told <= us + us / 7;
        assert!(near(l.quantile_us(500), 50_000), "{}", l.quantile_us(500));
        assert!(near(l.quantile_us(990), 99_000), "{}", l.quantile_us(990));
        for _ in 0..20_000 {
            l.observe(Duration::from_micros(200));
        }
        assert!(near(l.quantile_us(990), 200), "{}", l.quantile_us(990));
        assert_eq!(l.count(), 20_100);
    }
}
