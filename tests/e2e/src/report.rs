//! One line for each thing shown, with its figure; a failure names what was expected and what was seen.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Counts what was shown.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
}

impl Report {
    /// Runs one check and prints its line: the figure that it returns, or why it failed.
    pub(crate) fn show(&mut self, what: &str, check: impl FnOnce() -> Result<String>) {
        match check() {
            Ok(figure) => {
                self.passed += 1;
                println!("shown   {what}: {figure}");
            }
            Err(error) => {
                self.failed += 1;
                println!("FAILED  {what}: {error:#}");
            }
        }
    }
}

/// Name and body of a scenario.
pub(crate) type Scenario = (&'static str, fn(&mut Report) -> Result<()>);

/// Runs the scenarios whose name contains `only`. One that breaks off is a failure of its own.
pub(crate) fn run_scenarios(report: &mut Report, scenarios: &[Scenario], only: Option<&str>) {
    for (name, scenario) in scenarios {
        if only.is_some_and(|only| !name.contains(only)) {
            continue;
        }
        println!("-- {name}");
        if let Err(error) = scenario(report) {
            report.show(&format!("scenario {name} ran to its end"), || Err(error));
        }
    }
}

/// As the lab's: how many times longer than usual everything may take.
pub(crate) fn patience() -> u32 {
    let given = std::env::var("LAB_PATIENCE").ok().and_then(|text| text.parse().ok());
    given.unwrap_or(1).clamp(1, 1000)
}

/// Asks `probe` again and again until it is satisfied, and returns its answer and the time it took. The probe's last
/// complaint is the error when `limit` has passed. The pause bounds the load; no outcome depends on its length.
pub(crate) fn until<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Result<T>) -> Result<(T, Duration)> {
    let (started, limit) = (Instant::now(), limit * patience());
    loop {
        match probe() {
            Ok(answer) => return Ok((answer, started.elapsed())),
            Err(error) if started.elapsed() > limit => bail!("{what}: not within {limit:?}: {error:#}"),
            Err(_) => std::thread::park_timeout(Duration::from_millis(20)),
        }
    }
}
