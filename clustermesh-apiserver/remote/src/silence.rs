//! The clock of a cluster's silence: since when, and which stage that is.

use std::time::Duration;

use crate::change::Stage;
use crate::settings::StageAfter;

#[derive(Debug)]
pub(crate) struct Silence {
    after: StageAfter,
    since: Option<Duration>,
}

impl Silence {
    /// A cluster that has not spoken yet is silent since `now`.
    pub(crate) fn new(after: StageAfter, now: Duration) -> Silence {
        Silence { after, since: Some(now) }
    }

    /// Silent since then; an older silence goes on.
    pub(crate) fn begin(&mut self, since: Duration) {
        self.since.get_or_insert(since);
    }

    pub(crate) fn end(&mut self) {
        self.since = None;
    }

    pub(crate) fn since(&self) -> Option<Duration> {
        self.since
    }

    pub(crate) fn stage(&self, now: Duration) -> Stage {
        let Some(since) = self.since else { return Stage::Fresh };
        let length = now.saturating_sub(since);
        let StageAfter { de_preferred, probed, revoked } = self.after;
        match length {
            l if l >= revoked => Stage::Revoked,
            l if l >= probed => Stage::Probed,
            l if l >= de_preferred => Stage::DePreferred,
            _ => Stage::Silent,
        }
    }

    /// When the stage becomes another by itself.
    pub(crate) fn deadline(&self, now: Duration) -> Option<Duration> {
        let since = self.since?;
        let StageAfter { de_preferred, probed, revoked } = self.after;
        let ends = [de_preferred, probed, revoked].into_iter().filter_map(|after| since.checked_add(after));
        ends.filter(|end| *end > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_follow_each_other() {
        let s = Duration::from_secs;
        let mut silence = Silence::new(StageAfter::default(), s(1000));
        let table = [
            (1000, Stage::Silent, Some(1030)),
            (1029, Stage::Silent, Some(1030)),
            (1030, Stage::DePreferred, Some(1120)),
            (1120, Stage::Probed, Some(1600)),
            (1600, Stage::Revoked, None),
            (9999, Stage::Revoked, None),
        ];
        for (now, stage, deadline) in table {
            assert_eq!(silence.stage(s(now)), stage, "at {now}");
            assert_eq!(silence.deadline(s(now)), deadline.map(s), "at {now}");
        }
        silence.begin(s(1500));
        assert_eq!(silence.since(), Some(s(1000)), "an older silence goes on");
        silence.end();
        assert_eq!((silence.stage(s(9999)), silence.deadline(s(0))), (Stage::Fresh, None));
    }

    #[test]
    fn never_is_never() {
        let after = StageAfter { de_preferred: Duration::MAX, probed: Duration::MAX, revoked: Duration::MAX };
        let silence = Silence::new(after, Duration::from_secs(5));
        assert_eq!(silence.stage(Duration::from_secs(1 << 40)), Stage::Silent);
        assert_eq!(silence.deadline(Duration::ZERO), None);
    }
}
