//! Collects rows, prints them as a table, writes them as Markdown.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Rows of (what was measured, whose, figure, ratio or remark).
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<[String; 4]>,
}

const HEAD: [&str; 4] = ["measured", "of", "figure", "beside"];

impl Table {
    pub(crate) fn row(&mut self, what: &str, whose: &str, figure: &str, beside: &str) {
        self.rows.push([what.to_owned(), whose.to_owned(), figure.to_owned(), beside.to_owned()]);
        println!("{what:<44} {whose:<18} {figure:<26} {beside}");
    }

    /// Markdown with the machine and the versions that the figures come from.
    pub(crate) fn write(&self, path: &Path, versions: &[(String, String)]) -> Result<()> {
        let mut out = String::from(
            "# Benchmark results\n\nWritten by `make bench`. Shared machines are noisy: ratios of one run mean more than absolute figures.\n\n",
        );
        for (name, version) in versions {
            let _ = writeln!(out, "- {name}: {version}");
        }
        let _ = writeln!(out, "\n| {} |\n|{}", HEAD.join(" | "), "---|".repeat(HEAD.len()));
        for row in &self.rows {
            let _ = writeln!(out, "| {} |", row.join(" | "));
        }
        std::fs::write(path, out).with_context(|| format!("write {}", path.display()))
    }
}

/// `sorted` must be sorted and not empty; `p` in percent.
pub(crate) fn percentile(sorted: &[f64], p: f64) -> f64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a small array"
    )]
    let index = ((sorted.len() - 1) as f64 * p / 100.0).round() as usize;
    sorted[index.min(sorted.len() - 1)]
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    percentile(values, 50.0)
}
