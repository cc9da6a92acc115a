//! How long to wait before the next try: twice as long each time up to a limit, spread by chance so that many who
//! failed together do not come back together.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;

/// A growing delay. Counts the tries; the random numbers come from the caller.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    tries: u32,
}

impl Backoff {
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, tries: 0 }
    }

    /// Between half and all of `first * 2^tries`, at most `limit`.
    pub fn next(&mut self, rng: &mut StdRng) -> Duration {
        let wait = delay(self.first, self.limit, self.tries, rng);
        self.tries = self.tries.saturating_add(1);
        wait
    }

    /// It worked: begin small again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

/// The delay after `tries` failures before the present one.
pub(crate) fn delay(first: Duration, limit: Duration, tries: u32, rng: &mut StdRng) -> Duration {
    let full = first.saturating_mul(1 << tries.min(30)).min(limit);
    full.mul_f64(rng.random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn grows_to_its_limit_and_starts_again() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        for full_ms in [50u64, 100, 200, 400, 800, 1000, 1000] {
            let delay = backoff.next(&mut rng);
            let full = Duration::from_millis(full_ms);
            assert!(delay >= full / 2 && delay <= full, "{delay:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.next(&mut rng) <= Duration::from_millis(50));
    }

    #[test]
    fn two_hundred_readers_do_not_come_at_once() {
        let wait = Duration::from_secs(8);
        let mut slots = [0; 8];
        for seed in 0..200 {
            let wait = Backoff::new(wait, wait).next(&mut StdRng::seed_from_u64(seed));
            slots[usize::try_from((wait.as_millis() - 4000) / 501).unwrap()] += 1;
        }
        assert!(slots.iter().all(|n| (10..=45).contains(n)), "{slots:?}");
    }
}
