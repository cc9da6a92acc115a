//! What is made of a peer's counters from look to look: whether a session stands, and whether its handshakes go unanswered.
//! Pure; `now` is time since some moment that does not move, `wall` is since the Unix epoch.

use std::time::Duration;

use causeway_encryption_plan::LinkStats;

use crate::decode::ObservedPeer;

/// WireGuard's Reject-After-Time (white paper section 6.1).
const REJECT_AFTER: Duration = Duration::from_secs(180);

/// WireGuard's Rekey-Timeout: the kernel repeats a handshake no sooner, so an attempt needs that long to fail.
const TRY_FOR: Duration = Duration::from_secs(5);

/// Longer than what a connection that is in use pauses for, and than an agent's passes are apart.
pub(crate) const AT_REST: Duration = Duration::from_secs(2);

/// One peer of one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Watch {
    seen: Option<Seen>,
    /// Handshakes that were tried in vain since the last session, one for each address that was tried.
    pub(crate) tries: u32,
    /// When an endpoint was last told, by the wall clock.
    told: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// The kernel's word, by its wall clock; only its changes count, for that clock may jump.
    last_handshake: Option<Duration>,
    /// How long ago it was when it was first seen, and when that was.
    handshake: Option<(Duration, Duration)>,
    handshakes: u64,
    rx_bytes: u64,
    received: Option<Duration>,
    tx_bytes: u64,
    looked: Duration,
    /// Since then nothing was sent or received, as far as was looked.
    still: Duration,
    /// What had been sent and received when the present try began, and when that was.
    try_from: (u64, u64, Duration),
    /// The last handshake was before an endpoint was told that knew nothing of it: nothing arrives until something has
    /// come, more than this had.
    doubt: Option<u64>,
}

impl Watch {
    pub(crate) fn look(&mut self, now: Duration, wall: Duration, peer: &ObservedPeer) {
        let by_wall = |last: Duration| wall.saturating_sub(last);
        let next = match self.seen.take() {
            None => Seen {
                last_handshake: peer.last_handshake,
                handshake: peer.last_handshake.map(|last| (by_wall(last), now)),
                handshakes: u64::from(peer.last_handshake.is_some()),
                rx_bytes: peer.rx_bytes,
                received: None,
                tx_bytes: peer.tx_bytes,
                looked: now,
                still: now,
                try_from: (peer.tx_bytes, peer.rx_bytes, now),
                doubt: None,
            },
            Some(old) => {
                let since = now.saturating_sub(old.looked);
                let renewed = peer.last_handshake.is_some() && peer.last_handshake != old.last_handshake;
                let moved = (peer.rx_bytes, peer.tx_bytes) != (old.rx_bytes, old.tx_bytes);
                let age = peer.last_handshake.map_or(since, by_wall).min(since);
                Seen {
                    last_handshake: peer.last_handshake,
                    handshake: if renewed { Some((age, now)) } else { old.handshake },
                    handshakes: old.handshakes + u64::from(renewed),
                    rx_bytes: peer.rx_bytes,
                    received: if peer.rx_bytes > old.rx_bytes { Some(now) } else { old.received },
                    tx_bytes: peer.tx_bytes,
                    looked: now,
                    still: if moved { now } else { old.still },
                    try_from: old.try_from,
                    doubt: match (renewed, self.told) {
                        (true, Some(told)) if peer.last_handshake.is_some_and(|last| last <= told) => {
                            Some(peer.rx_bytes)
                        }
                        (true, _) => None,
                        (false, _) => old.doubt.filter(|had| peer.rx_bytes <= *had),
                    },
                }
            }
        };
        let seen = self.seen.insert(next);
        if seen.confirmed(now) {
            self.tries = 0;
            // Later handshakes are beyond doubt, also when the wall clock goes back.
            self.told = None;
            seen.try_from = (peer.tx_bytes, peer.rx_bytes, now);
        }
    }

    /// Another endpoint has just been told, by the wall clock. What came between the look and this moment is not known yet.
    pub(crate) fn told(&mut self, wall: Duration) {
        self.told = Some(wall);
    }

    /// A session stands: the kernel counts a handshake only when the other side has proven that it has the keys.
    pub(crate) fn confirmed(&self, now: Duration) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.confirmed(now))
    }

    /// Nobody would miss the session for a moment: there is none, or nothing goes by it.
    pub(crate) fn at_rest(&self, now: Duration) -> bool {
        let rests = |seen: &Seen| !seen.confirmed(now) || seen.looked >= seen.still.saturating_add(AT_REST);
        self.seen.as_ref().is_none_or(rests)
    }

    /// Whether the address that is tried has had its time: without a session something was sent, which can only have been
    /// a handshake, and nothing came of it. If so, the next try begins.
    pub(crate) fn in_vain(&mut self, now: Duration) -> bool {
        let Some(seen) = self.seen.as_mut().filter(|seen| !seen.confirmed(now)) else { return false };
        let (sent, received, since) = seen.try_from;
        if seen.tx_bytes <= sent || now < since.saturating_add(TRY_FOR) {
            return false;
        }
        seen.try_from = (seen.tx_bytes, seen.rx_bytes, now);
        // Of a peer that was heard, the kernel has the endpoint; its handshake may be under way.
        let failed = seen.rx_bytes <= received;
        if failed {
            self.tries = self.tries.saturating_add(1);
        }
        failed
    }

    pub(crate) fn stats(&self, now: Duration) -> LinkStats {
        let Some(seen) = &self.seen else { return LinkStats::default() };
        let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        LinkStats {
            handshake_age_ms: seen.handshake_age(now).map(millis),
            confirmed: seen.confirmed(now),
            handshakes: seen.handshakes,
            failures: u64::from(self.tries),
            replays: 0,
            rx_bytes: seen.rx_bytes,
            tx_bytes: seen.tx_bytes,
            received_age_ms: seen.received.map(|at| millis(now.saturating_sub(at))),
        }
    }
}

impl Seen {
    fn handshake_age(&self, now: Duration) -> Option<Duration> {
        self.handshake.map(|(age, at)| age.saturating_add(now.saturating_sub(at)))
    }

    fn confirmed(&self, now: Duration) -> bool {
        self.doubt.is_none() && self.handshake_age(now).is_some_and(|age| age < REJECT_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn counted(last_handshake: Option<u64>, rx_bytes: u64, tx_bytes: u64) -> ObservedPeer {
        ObservedPeer { last_handshake: last_handshake.map(s), rx_bytes, tx_bytes, ..ObservedPeer::default() }
    }

    #[test]
    fn a_session_stands_for_180_seconds() {
        let mut watch = Watch::default();
        watch.look(s(10), s(1000), &counted(None, 0, 0));
        assert!(!watch.confirmed(s(10)));
        watch.look(s(12), s(1002), &counted(Some(1001), 92, 148));
        let stats = watch.stats(s(12));
        assert_eq!((stats.confirmed, stats.handshakes, stats.handshake_age_ms), (true, 1, Some(1000)));
        assert_eq!(stats.received_age_ms, Some(0));
        assert!(watch.confirmed(s(190)));
        assert!(!watch.confirmed(s(191)));
    }

    #[test]
    fn one_of_an_earlier_process_is_as_old_as_the_wall_clock_says() {
        for (at, confirmed) in [(821, true), (820, false), (1, false), (2000, true)] {
            let mut watch = Watch::default();
            watch.look(s(0), s(1000), &counted(Some(at), 92, 148));
            assert_eq!(watch.confirmed(s(0)), confirmed, "{at}");
        }
    }

    #[test]
    fn a_jump_of_the_wall_clock_changes_nothing() {
        let mut watch = Watch::default();
        watch.look(s(10), s(1000), &counted(Some(999), 1, 1));
        watch.look(s(11), s(90_000), &counted(Some(999), 1, 1));
        assert!(watch.confirmed(s(11)));
        watch.look(s(12), s(5), &counted(Some(90_000), 1, 1));
        assert_eq!(watch.stats(s(12)).handshake_age_ms, Some(0));
        watch.look(s(13), s(100_000), &counted(Some(6), 1, 1));
        assert_eq!(watch.stats(s(13)).handshake_age_ms, Some(1000), "it came after the last look");
    }

    #[test]
    fn a_session_is_at_rest_when_nothing_was_counted_for_a_while() {
        let mut watch = Watch::default();
        assert!(watch.at_rest(s(0)), "it is not there");
        watch.look(s(10), s(10), &counted(None, 0, 148));
        assert!(watch.at_rest(s(10)), "there is no session");
        watch.look(s(11), s(11), &counted(Some(11), 92, 148));
        assert!(!watch.at_rest(s(11)));
        assert!(!watch.at_rest(s(20)), "nobody looked since");
        watch.look(s(12), s(12), &counted(Some(11), 92, 148));
        assert!(!watch.at_rest(s(12)));
        watch.look(s(13), s(13), &counted(Some(11), 92, 148));
        assert!(watch.at_rest(s(13)));
        watch.look(s(14), s(14), &counted(Some(11), 192, 148));
        assert!(!watch.at_rest(s(14)));
    }

    /// Between a look and what is told because of it, the peer may be heard from where it is.
    #[test]
    fn a_session_whose_endpoint_was_overwritten_does_not_stand_until_the_peer_is_heard() {
        for (handshake, stands) in [(16, false), (17, false), (18, true)] {
            let mut watch = Watch::default();
            watch.look(s(10), s(10), &counted(None, 0, 0));
            watch.look(s(16), s(16), &counted(None, 0, 148));
            assert!(watch.in_vain(s(16)));
            watch.told(s(17));
            watch.look(s(18), s(18), &counted(Some(handshake), 92, 148));
            assert_eq!(watch.confirmed(s(18)), stands, "{handshake}");
            watch.look(s(19), s(19), &counted(Some(handshake), 124, 148));
            assert!(watch.confirmed(s(19)));
        }
    }

    #[test]
    fn a_peer_that_is_heard_is_not_looked_for_elsewhere() {
        let mut watch = Watch::default();
        watch.look(s(0), s(0), &counted(None, 0, 0));
        watch.look(s(10), s(10), &counted(None, 148, 92));
        assert!(!watch.in_vain(s(10)), "it was answered a moment ago");
        watch.look(s(16), s(16), &counted(None, 148, 240));
        assert!(watch.in_vain(s(16)));
    }

    #[test]
    fn handshakes_that_nobody_answers_are_noticed() {
        let mut watch = Watch::default();
        watch.look(s(0), s(0), &counted(None, 0, 0));
        watch.look(s(9), s(9), &counted(None, 0, 0));
        assert!(!watch.in_vain(s(9)), "nothing was sent");
        watch.look(s(10), s(10), &counted(None, 0, 148));
        assert!(watch.in_vain(s(10)));
        assert!(!watch.in_vain(s(10)));
        watch.look(s(14), s(14), &counted(None, 0, 296));
        assert!(!watch.in_vain(s(14)), "too soon");
        watch.look(s(15), s(15), &counted(None, 0, 296));
        assert!(watch.in_vain(s(15)));
        assert_eq!(watch.tries, 2);
        watch.look(s(16), s(16), &counted(Some(16), 92, 444));
        assert!(!watch.in_vain(s(100)));
        assert_eq!(watch.tries, 0);
    }
}
