//! What time it is, as an argument, and as the text that canaries and heartbeats carry. Reads no clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// The same moment on two clocks: one to count durations with, one to write down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub at: Instant,
    pub wall: SystemTime,
}

/// RFC 3339 in UTC with nanoseconds: `2026-11-21T15:00:00.000000001Z`. A time before 1970 is written as 1970, one that
/// no calendar has as the last one.
pub fn rfc3339(time: SystemTime) -> String {
    let time = Timestamp::try_from(time.max(UNIX_EPOCH)).unwrap_or(Timestamp::MAX);
    format!("{time:.9}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn text_of_times() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, 5, "2000-02-28T23:59:59.000000005Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000000Z"),
            (951_868_800, 0, "2000-03-01T00:00:00.000000000Z"),
            (1_795_273_384, 999_999_999, "2026-11-21T15:03:04.999999999Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z"),
            (4_107_456_000, 0, "2100-02-28T00:00:00.000000000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::new(seconds, nanos)), text);
        }
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000000000Z");
        assert!(rfc3339(UNIX_EPOCH + Duration::from_secs(1 << 40)).starts_with("9999-12-30T"));
    }
}
