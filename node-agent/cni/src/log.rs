//! The optional log file: a line for each call, for those who search why a pod does not start.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::CniError;
use crate::request::Environment;

/// Appends one line. A log that cannot be written is no reason to refuse a pod.
pub(crate) fn call(file: Option<&Path>, environment: &Environment, took: Duration, error: Option<&CniError>) {
    let Some(file) = file else { return };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let Environment { command, container_id, ifname, netns, .. } = environment;
    let mut line = format!(
        "{}.{:03} {command} container={container_id} ifname={ifname} netns={netns} took={:.1}ms",
        now.as_secs(),
        now.subsec_millis(),
        took.as_secs_f64() * 1000.0,
    );
    if let Some(error) = error {
        // Writing to a String cannot fail.
        let _ = write!(line, " code={} error={:?} details={:?}", error.code, error.message, error.details);
    }
    line.push('\n');
    let opened = OpenOptions::new().append(true).create(true).open(file);
    let _ = opened.and_then(|mut file| file.write_all(line.as_bytes()));
}
