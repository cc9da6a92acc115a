//! Shorter waits for the kernel's grace periods, for the milliseconds of a CNI verb.
//!
//! Attaching a program waits for all CPUs to leave RCU's read sides: 8 to 16 ms each at 250 Hz, two for each pod, most of
//! the time of an ADD. With `/sys/kernel/rcu_expedited` set the kernel asks the CPUs by interrupt and waits for
//! microseconds. Interrupting every CPU is no way to live, so it is set while a verb runs and not a moment longer.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The kernel's switch (Documentation/RCU/checklist.rst).
const SWITCH: &str = "/sys/kernel/rcu_expedited";

/// Knows the switch, and a file that remembers that it was us who set it.
#[derive(Debug, Clone)]
pub(crate) struct Hurry {
    switch: PathBuf,
    note: PathBuf,
    allowed: bool,
    busy: Arc<AtomicBool>,
}

/// While it lives, grace periods are short.
#[derive(Debug)]
pub(crate) struct Hurried<'a>(&'a Hurry);

impl Hurry {
    /// Switches back what a process that was killed left on. Unless `allowed`, it never switches anything on.
    pub(crate) fn new(state_dir: &Path, allowed: bool) -> Hurry {
        Hurry::with(Path::new(SWITCH), state_dir, allowed)
    }

    fn with(switch: &Path, state_dir: &Path, allowed: bool) -> Hurry {
        let note = state_dir.join("rcu_expedited");
        let hurry = Hurry { switch: switch.into(), note, allowed, busy: Arc::default() };
        if hurry.note.exists() {
            hurry.off();
        }
        hurry
    }

    /// Begins to hurry. `None` where somebody does already, or nobody may: then things take their time, no more.
    pub(crate) fn begin(&self) -> Option<Hurried<'_>> {
        if !self.allowed || self.busy.swap(true, Ordering::AcqRel) {
            return None;
        }
        let off = fs::read_to_string(&self.switch).is_ok_and(|text| text.trim() == "0");
        let done = off && fs::write(&self.note, "").is_ok() && fs::write(&self.switch, "1").is_ok();
        if !done {
            self.busy.store(false, Ordering::Release);
            return None;
        }
        Some(Hurried(self))
    }

    fn off(&self) {
        match fs::write(&self.switch, "0") {
            Ok(()) => {
                // Already gone is gone.
                let _ = fs::remove_file(&self.note);
            }
            Err(error) => {
                tracing::warn!(%error, switch = %self.switch.display(), "cannot switch short grace periods off");
            }
        }
    }
}

impl Drop for Hurried<'_> {
    fn drop(&mut self) {
        self.0.off();
        self.0.busy.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let switch = dir.path().join("switch");
        fs::write(&switch, "0\n").unwrap();
        (dir, switch)
    }

    #[test]
    fn the_switch_is_on_only_meanwhile() {
        let (dir, switch) = room();
        let hurry = Hurry::with(&switch, dir.path(), true);
        let read = || fs::read_to_string(&switch).unwrap();
        let hurried = hurry.begin();
        assert_eq!(read(), "1");
        assert!(hurried.is_some() && hurry.begin().is_none(), "one at a time");
        drop(hurried);
        assert_eq!(read(), "0");
        assert!(hurry.begin().is_some());
        drop(hurry);
        assert!(Hurry::with(&switch, dir.path(), false).begin().is_none(), "not allowed");
        assert_eq!(read(), "0");
    }

    #[test]
    fn what_a_killed_process_left_is_switched_off_and_what_others_set_is_left() {
        let (dir, switch) = room();
        let first = Hurry::with(&switch, dir.path(), true);
        std::mem::forget(first.begin());
        assert_eq!(fs::read_to_string(&switch).unwrap(), "1");
        Hurry::with(&switch, dir.path(), true);
        assert_eq!(fs::read_to_string(&switch).unwrap(), "0");

        fs::write(&switch, "1").unwrap();
        let second = Hurry::with(&switch, dir.path(), true);
        assert!(second.begin().is_none());
        assert_eq!(fs::read_to_string(&switch).unwrap(), "1");
        assert!(Hurry::with(Path::new("/nonexistent/switch"), dir.path(), true).begin().is_none());
    }
}
