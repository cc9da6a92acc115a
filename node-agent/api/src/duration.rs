//! Durations as Go's programs write them on the command line: `750ms`, `30s`, `2m5s`, `1h30m`, `0`.

use std::time::Duration;

/// Units, longest word first, so that `ms` is not read as minutes.
const UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a sum of whole numbers with units; `0` needs none. `None`: it is no duration, or longer than 500 years.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total_ns) = (text, 0_u64);
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, ns) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total_ns = total_ns.checked_add(number.checked_mul(*ns)?)?;
    }
    (!text.is_empty()).then_some(Duration::from_nanos(total_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [("0", 0), ("0s", 0), ("750ms", 750), ("30s", 30_000), ("2m5s", 125_000), ("1h", 3_600_000)] {
            assert_eq!(parse(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1.5s", "1 s", "1d", "99999999999999999999s", "9999999999h", "1sx"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
