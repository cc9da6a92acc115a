//! The cluster's configuration: waited for, checked, and looked at again.

use std::sync::Arc;
use std::time::Duration;

use causeway_mesh_kv::{Entry, FailureKind, Op, Outcome};
use causeway_mesh_schema::{ClusterConfig, ClusterName, Origin, Scale, cluster_config_key};

use super::desk::{Desk, single};
use super::open::{Open, Step, broken, failed};
use super::{Ending, Output, Remote, State, Verdict};
use crate::change::RemoteInfo;
use crate::settings::Settings;

/// Waits for a configuration that can be read.
#[derive(Debug)]
pub(crate) struct Asking {
    give_up: Duration,
    /// When it is asked again, unless an answer is awaited.
    again: Option<Duration>,
    wait: Duration,
    problem: Option<String>,
}

/// The wait after the first unreadable configuration; doubles up to [`Settings::config_retry`].
const FIRST_WAIT: Duration = Duration::from_secs(1);

impl Asking {
    /// It has been asked for.
    pub(crate) fn new(now: Duration, settings: &Settings) -> Asking {
        Asking { give_up: now.saturating_add(settings.config_wait), again: None, wait: FIRST_WAIT, problem: None }
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.again.map_or(self.give_up, |again| again.min(self.give_up))
    }

    fn wait(&mut self, now: Duration, longest: Duration, problem: String) {
        let wait = self.wait.min(longest);
        self.again = Some(now + wait);
        self.wait = wait * 2;
        self.problem = Some(problem);
    }
}

impl Remote {
    /// Asks again, or gives up.
    pub(super) fn config_due(&mut self, now: Duration) -> Verdict {
        let Remote { state: State::Open(open), out, ticket, name, .. } = self else { return Ok(()) };
        let Open { asked, config, step: Step::Asking { asking, .. }, .. } = &mut **open else { return Ok(()) };
        if asking.give_up <= now {
            let problem = asking.problem.take().unwrap_or_else(|| format!("{}: no answer", cluster_config_key(name)));
            return failed(problem);
        }
        if asking.again.is_some_and(|again| again <= now) {
            asking.again = None;
            *config = Some(Desk { now, asked, ticket, out }.submit(Op::Get { key: cluster_config_key(name) }));
        }
        Ok(())
    }

    pub(super) fn config_answer(&mut self, now: Duration, outcome: Outcome) -> Verdict {
        let State::Open(open) = &mut self.state else { return Ok(()) };
        let answer = match single(outcome) {
            Err(failure) if failure.kind == FailureKind::Unavailable => return Err(broken(failure)),
            Err(failure) => Err(failure.message),
            Ok(entry) => decode(&self.name, self.settings.scale, entry.as_ref()),
        };
        match (&mut open.step, answer) {
            (Step::Asking { .. }, Ok(info)) => self.reserve(now, Arc::new(info)),
            (Step::Asking { asking, .. }, Err(problem)) => {
                asking.wait(now, self.settings.config_retry, problem.clone());
                self.last_failure = Some((now, problem.into()));
                Ok(())
            }
            (Step::Reading(_), Ok(info)) if self.known.as_deref() != Some(&info) => Err(Ending::Changed),
            // One that cannot be read now does not make the old one wrong: a cluster that goes away removes its first.
            (Step::Reading(_), Err(problem)) => {
                self.last_failure = Some((now, problem.into()));
                Ok(())
            }
            (Step::Reading(_), Ok(_)) | (Step::Reserving { .. } | Step::Greeting, _) => Ok(()),
        }
    }

    /// Another number means another cluster: all that was said is void.
    fn reserve(&mut self, now: Duration, info: Arc<RemoteInfo>) -> Verdict {
        let id = info.origin.id;
        if self.reserved.is_some_and(|old| old != id) {
            self.forget();
        }
        let held = self.reserved.is_some();
        let State::Open(open) = &mut self.state else { return Ok(()) };
        let Step::Asking { revision, .. } = &open.step else { return Ok(()) };
        let revision = *revision;
        if held {
            return self.read(now, info, revision);
        }
        open.step = Step::Reserving { info, revision };
        self.out.push_back(Output::Reserve(id));
        Ok(())
    }
}

fn decode(name: &ClusterName, scale: Scale, entry: Option<&Entry>) -> Result<RemoteInfo, String> {
    let key = cluster_config_key(name);
    let missing = || format!("{key}: not written; does the file's name agree with that cluster's --cluster-name?");
    let config = ClusterConfig::decode(name, &entry.ok_or_else(missing)?.value).map_err(|error| error.to_string())?;
    let id = config.check(name, scale).map_err(|error| error.to_string())?;
    Ok(RemoteInfo { origin: Origin { name: name.clone(), id, scale }, config })
}
