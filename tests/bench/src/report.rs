//! Collects rows, prints them as a table, writes them as Markdown.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Rows of (what was measured, whose, figure, ratio or remark).
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<[String; 4]>,
}

const TITLE: &str = "# Benchmark results\n\nWritten by `make bench`, a section for each part. Shared machines are noisy: ratios of one run mean more than absolute figures.\n";

const HEAD: [&str; 4] = ["measured", "of", "figure", "beside"];

impl Table {
    pub(crate) fn row(&mut self, what: &str, whose: &str, figure: &str, beside: &str) {
        self.rows.push([what.to_owned(), whose.to_owned(), figure.to_owned(), beside.to_owned()]);
        println!("{what:<44} {whose:<18} {figure:<26} {beside}");
    }

    /// Puts the rows into the section `part` of the Markdown file, with the machine and the versions that they come from.
    /// Other sections stay.
    pub(crate) fn write(&self, path: &Path, part: &str, versions: &[(String, String)]) -> Result<()> {
        let mut section = format!("## {part}\n\n");
        for (name, version) in versions {
            let _ = writeln!(section, "- {name}: {version}");
        }
        let _ = writeln!(section, "\n| {} |\n|{}", HEAD.join(" | "), "---|".repeat(HEAD.len()));
        for row in &self.rows {
            let _ = writeln!(section, "| {} |", row.join(" | "));
        }
        let before = std::fs::read_to_string(path).unwrap_or_else(|_| TITLE.to_owned());
        std::fs::write(path, replaced(&before, part, &section)).with_context(|| format!("write {}", path.display()))
    }
}

/// `text` with the section `part` replaced, or added at the end.
fn replaced(text: &str, part: &str, section: &str) -> String {
    let mut pieces: Vec<&str> = text.split("\n## ").collect();
    let named = |piece: &&str| piece.split('\n').next() == Some(part);
    let body = section.trim_start_matches("## ").trim_end();
    match pieces.iter().skip(1).position(named) {
        Some(at) => pieces[at + 1] = body,
        None => pieces.push(body),
    }
    let pieces: Vec<&str> = pieces.iter().map(|piece| piece.trim_end()).collect();
    pieces.join("\n\n## ") + "\n"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_replaces_its_own() {
        let one = replaced("# Title\n", "a", "## a\n\n1\n");
        assert_eq!(one, "# Title\n\n## a\n\n1\n");
        let two = replaced(&one, "b", "## b\n\n2\n");
        assert_eq!(two, "# Title\n\n## a\n\n1\n\n## b\n\n2\n");
        assert_eq!(replaced(&two, "a", "## a\n\n3\n"), "# Title\n\n## a\n\n3\n\n## b\n\n2\n");
    }
}
