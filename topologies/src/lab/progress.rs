//! Lines that say what is going on, with the time since the start.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks at a condition: short against what is waited for, long against the cost of a look.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Prints progress to stderr; stdout is left to results.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    start: Instant,
}

impl Progress {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn say(&self, what: impl Display) {
        eprintln!("[{:6.2}s] {what}", self.start.elapsed().as_secs_f32());
    }
}

/// How many times longer than usual everything may take, from the variable `LAB_PATIENCE`: an emulated machine is
/// slow. 1 without it.
pub(crate) fn patience() -> u32 {
    let given = std::env::var("LAB_PATIENCE").ok().and_then(|text| text.parse().ok());
    given.unwrap_or(1).clamp(1, 1000)
}

/// Looks at a condition until it holds. `look` returns the value, or the reason why it is not there yet.
pub(crate) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<std::result::Result<T, String>>,
) -> Result<T> {
    let (start, limit) = (Instant::now(), limit * patience());
    loop {
        match look()? {
            Ok(value) => return Ok(value),
            Err(reason) if start.elapsed() > limit => {
                bail!("waited {} s for {what}, and still: {reason}", limit.as_secs());
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}
