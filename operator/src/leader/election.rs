//! Leader election as a state machine: no clock, no network. It says what to read and write, and is told how it went.
//!
//! The rules are those of Kubernetes' own components. Whether another's Lease has expired is judged by our own clock
//! alone: it has when we have not seen it change for its duration. A leader that could not renew within the renew
//! deadline stops leading before the others may begin, since the deadline is shorter than the duration. The deadline
//! counts from before the write was sent, because others may have seen it long before its answer came back; an answer
//! that comes after `answer_by` comes too late and is to be handed in as an error.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Times of the election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    /// How long others wait after our last sign of life.
    pub(crate) lease_duration: Duration,
    /// How long we lead without being able to renew. Shorter than `lease_duration`.
    pub(crate) renew_deadline: Duration,
    /// Time between attempts.
    pub(crate) retry_period: Duration,
}

/// A Lease as the server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Empty: nobody holds it.
    pub(crate) holder: String,
    pub(crate) transitions: i32,
    pub(crate) duration_s: i32,
    /// Changes with every write.
    pub(crate) version: String,
}

/// What to write into the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Empty: we give it back.
    pub(crate) holder: String,
    pub(crate) duration_s: i32,
    pub(crate) transitions: i32,
    /// The holder changes with this write.
    pub(crate) is_new: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// `deadline()` has come.
    Timeout,
    /// Answer to `Output::Read`; None: there is no Lease.
    Read(Result<Option<Seen>, String>),
    /// Answer to `Output::Write`; an error may be a conflict with another's write.
    Written(Result<Seen, String>),
    /// The program ends.
    Stop,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Read,
    /// Write, under the condition that the Lease is as it was last read.
    Write(Claim),
    Elected,
    /// We follow this holder, newly.
    Following(String),
    Lost(String),
    /// Nothing more will come.
    Done,
}

#[derive(Clone, Debug)]
pub(crate) struct Election {
    identity: String,
    timing: Timing,
    state: State,
    /// The Lease as last seen, and since when it has been like that.
    seen: Option<(Seen, Instant)>,
    /// The last claim was sent then, or later.
    claimed: Instant,
    deadline: Instant,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Another leads, or nobody yet.
    Follower,
    Leader {
        renewed: Instant,
    },
    /// Waiting for the write that gives the Lease back.
    Releasing,
    /// Done: says nothing more.
    Out,
}

impl Election {
    pub(crate) fn new(identity: String, timing: Timing, now: Instant) -> Election {
        let outputs = VecDeque::new();
        Election { identity, timing, state: State::Follower, seen: None, claimed: now, deadline: now, outputs }
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to hand in `Input::Timeout`.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// How long the answer to a request that is sent now is worth waiting for: as long as we lead, and else for the same
    /// time, so that no request hangs.
    pub(crate) fn answer_by(&self, now: Instant) -> Instant {
        match self.state {
            State::Leader { renewed } => renewed + self.timing.renew_deadline,
            State::Follower | State::Releasing | State::Out => now + self.timing.renew_deadline,
        }
    }

    pub(crate) fn handle(&mut self, now: Instant, input: Input) {
        match (self.state.clone(), input) {
            (State::Out, _) => {}
            (State::Follower | State::Leader { .. }, Input::Timeout) => self.try_again(now),
            (State::Leader { renewed }, Input::Read(Ok(_))) if self.left_since(renewed, now).is_none() => {
                self.lose("the Lease was read too late to be renewed in time".to_owned());
            }
            (State::Follower | State::Leader { .. }, Input::Read(Ok(lease))) => self.read(now, lease),
            (State::Follower, Input::Written(Ok(seen))) => {
                self.observe(now, seen);
                // Else it is ours and may expire at any moment: the next read finds it and claims it again.
                if self.left_since(self.claimed, now).is_some() {
                    self.state = State::Leader { renewed: self.claimed };
                    self.outputs.push_back(Output::Elected);
                }
            }
            (State::Leader { .. }, Input::Written(Ok(seen))) => {
                self.observe(now, seen);
                self.state = State::Leader { renewed: self.claimed };
            }
            // A follower simply tries again later: another was faster, or the server is away.
            (State::Follower, Input::Read(Err(_)) | Input::Written(Err(_))) => {}
            (State::Leader { renewed }, Input::Read(Err(why)) | Input::Written(Err(why))) => {
                if self.left_since(renewed, now).is_none() {
                    self.lose(why);
                }
            }
            (State::Follower, Input::Stop) => self.finish(),
            (State::Leader { .. }, Input::Stop) => {
                self.state = State::Releasing;
                let transitions = self.seen.as_ref().map_or(0, |(seen, _)| seen.transitions);
                // One second, because 0 is not valid and others should not wait.
                let claim = Claim { holder: String::new(), duration_s: 1, transitions, is_new: false };
                self.outputs.push_back(Output::Write(claim));
            }
            // Whether or not giving back worked; if not, the Lease expires.
            (State::Releasing, _) => self.finish(),
        }
    }

    fn try_again(&mut self, now: Instant) {
        self.deadline = now + self.timing.retry_period;
        if let State::Leader { renewed } = self.state {
            let Some(left) = self.left_since(renewed, now) else {
                return self.lose("the Lease could not be renewed in time".to_owned());
            };
            self.deadline = now + self.timing.retry_period.min(left);
        }
        self.outputs.push_back(Output::Read);
    }

    /// How long we may lead yet, by a renewal at `renewed`.
    fn left_since(&self, renewed: Instant, now: Instant) -> Option<Duration> {
        let left = (renewed + self.timing.renew_deadline).saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    fn read(&mut self, now: Instant, lease: Option<Seen>) {
        let Some(seen) = lease else {
            // Somebody deleted it while we lead: we make it anew.
            return self.claim(now, 0, self.state == State::Follower);
        };
        let transitions = seen.transitions;
        let ours = seen.holder == self.identity;
        let free = seen.holder.is_empty();
        let expired = self.observe(now, seen);
        match (&self.state, ours) {
            (State::Leader { .. }, true) => self.claim(now, transitions, false),
            (State::Leader { .. }, false) => {
                let holder = self.seen.as_ref().map_or("nobody", |(seen, _)| seen.holder.as_str());
                self.lose(format!("{holder:?} has taken the Lease"));
            }
            // Ours from before a restart under the same name: taken up at once.
            (_, true) => self.claim(now, transitions, false),
            (_, false) if free || expired => self.claim(now, transitions.saturating_add(1), true),
            _ => {}
        }
    }

    /// Remembers the Lease; says whether it has expired.
    fn observe(&mut self, now: Instant, seen: Seen) -> bool {
        match &self.seen {
            Some((held, since)) if *held == seen => {
                let duration = Duration::from_secs(u64::try_from(seen.duration_s).unwrap_or(0));
                now.saturating_duration_since(*since) >= duration
            }
            held => {
                let new_holder = held.as_ref().is_none_or(|(held, _)| held.holder != seen.holder);
                if new_holder && !seen.holder.is_empty() && seen.holder != self.identity {
                    self.outputs.push_back(Output::Following(seen.holder.clone()));
                }
                self.seen = Some((seen, now));
                false
            }
        }
    }

    fn claim(&mut self, now: Instant, transitions: i32, is_new: bool) {
        self.claimed = now;
        let duration_s = i32::try_from(self.timing.lease_duration.as_secs()).unwrap_or(i32::MAX);
        self.outputs.push_back(Output::Write(Claim { holder: self.identity.clone(), duration_s, transitions, is_new }));
    }

    /// From now on a follower like any other, which may be elected again.
    fn lose(&mut self, why: String) {
        self.state = State::Follower;
        self.outputs.clear();
        self.outputs.push_back(Output::Lost(why));
    }

    fn finish(&mut self) {
        self.state = State::Out;
        self.outputs.push_back(Output::Done);
    }
}

#[cfg(test)]
mod tests;
