//! Elections against a Lease in memory, under a clock of our own.

use super::*;

const TIMING: Timing = Timing {
    lease_duration: Duration::from_secs(15),
    renew_deadline: Duration::from_secs(10),
    retry_period: Duration::from_secs(2),
};

/// The server's Lease.
#[derive(Default)]
struct Server {
    lease: Option<Seen>,
    version: u32,
    away: bool,
}

impl Server {
    fn write(&mut self, claim: &Claim, expected: Option<&str>) -> Result<Seen, String> {
        if self.away {
            return Err("away".into());
        }
        if self.lease.as_ref().map(|lease| lease.version.as_str()) != expected {
            return Err("conflict".into());
        }
        self.version += 1;
        let seen = Seen {
            holder: claim.holder.clone(),
            transitions: claim.transitions,
            duration_s: claim.duration_s,
            version: self.version.to_string(),
        };
        self.lease = Some(seen.clone());
        Ok(seen)
    }
}

/// An operator with what it last read, and what it has said.
struct Operator {
    election: Election,
    read: Option<String>,
    said: Vec<String>,
}

impl Operator {
    fn new(name: &str, now: Instant) -> Operator {
        Operator { election: Election::new(name.to_owned(), TIMING, now), read: None, said: Vec::new() }
    }

    fn leads(&self) -> bool {
        matches!(self.election.state, State::Leader { .. })
    }

    /// Hands in `input` and answers what follows from it.
    fn step(&mut self, now: Instant, server: &mut Server, input: Input) {
        self.election.handle(now, input);
        while let Some(output) = self.election.poll_output() {
            let input = match output {
                Output::Read if server.away => Input::Read(Err("away".into())),
                Output::Read => {
                    self.read = server.lease.as_ref().map(|lease| lease.version.clone());
                    Input::Read(Ok(server.lease.clone()))
                }
                Output::Write(claim) => {
                    let written = server.write(&claim, self.read.as_deref());
                    if let Ok(seen) = &written {
                        self.read = Some(seen.version.clone());
                    }
                    Input::Written(written)
                }
                Output::Elected => {
                    self.said.push("elected".into());
                    continue;
                }
                Output::Following(holder) => {
                    self.said.push(format!("following {holder}"));
                    continue;
                }
                Output::Lost(why) => {
                    self.said.push(format!("lost: {why}"));
                    continue;
                }
                Output::Done => {
                    self.said.push("done".into());
                    continue;
                }
            };
            self.election.handle(now, input);
        }
    }

    /// Lets time pass until `until`, in steps of the machine's own deadlines.
    fn run(&mut self, from: Instant, until: Instant, server: &mut Server) {
        let mut now = from;
        while now <= until && self.election.state != State::Out {
            self.step(now, server, Input::Timeout);
            now = self.election.deadline().max(now + Duration::from_millis(1));
        }
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_first_is_elected_and_renews_and_the_second_follows() {
    let (t0, mut server) = (Instant::now(), Server::default());
    let (mut a, mut b) = (Operator::new("a", t0), Operator::new("b", t0));
    a.step(t0, &mut server, Input::Timeout);
    b.step(t0, &mut server, Input::Timeout);
    assert_eq!((a.said.as_slice(), b.said.as_slice()), (&["elected".to_owned()][..], &["following a".to_owned()][..]));
    for second in (2..60).step_by(2) {
        a.step(t0 + seconds(second), &mut server, Input::Timeout);
        b.step(t0 + seconds(second), &mut server, Input::Timeout);
    }
    assert!(a.leads() && !b.leads());
    assert_eq!(server.lease.as_ref().unwrap().transitions, 0);
}

#[test]
fn a_dead_leader_is_replaced_after_its_lease_and_not_before() {
    let (t0, mut server) = (Instant::now(), Server::default());
    let (mut a, mut b) = (Operator::new("a", t0), Operator::new("b", t0));
    a.step(t0, &mut server, Input::Timeout);
    b.run(t0, t0 + seconds(14), &mut server);
    assert!(!b.leads());
    b.run(t0 + seconds(14), t0 + seconds(18), &mut server);
    assert!(b.leads());
    assert_eq!(server.lease.as_ref().unwrap().transitions, 1);
    a.step(t0 + seconds(18), &mut server, Input::Timeout);
    assert!(a.said[1].starts_with("lost"), "{:?}", a.said);
}

#[test]
fn a_leader_without_a_server_stops_before_others_may_begin() {
    let (t0, mut server) = (Instant::now(), Server::default());
    let mut a = Operator::new("a", t0);
    a.step(t0, &mut server, Input::Timeout);
    server.away = true;
    a.run(t0 + seconds(2), t0 + seconds(9), &mut server);
    assert!(a.leads(), "a short outage is nothing");
    a.run(t0 + seconds(9), t0 + seconds(12), &mut server);
    assert!(!a.leads());
    assert!(a.said[1].starts_with("lost"), "{:?}", a.said);
    server.away = false;
    a.run(t0 + seconds(13), t0 + seconds(15), &mut server);
    assert!(a.leads(), "the Lease is still ours, and the server is back");
}

#[test]
fn a_short_outage_is_survived() {
    let (t0, mut server) = (Instant::now(), Server::default());
    let mut a = Operator::new("a", t0);
    a.step(t0, &mut server, Input::Timeout);
    server.away = true;
    a.run(t0 + seconds(2), t0 + seconds(8), &mut server);
    server.away = false;
    a.run(t0 + seconds(9), t0 + seconds(30), &mut server);
    assert!(a.leads());
    assert_eq!(a.said, ["elected"]);
}

#[test]
fn stopping_gives_the_lease_back_and_the_next_takes_it_at_once() {
    let (t0, mut server) = (Instant::now(), Server::default());
    let (mut a, mut b) = (Operator::new("a", t0), Operator::new("b", t0));
    a.step(t0, &mut server, Input::Timeout);
    b.step(t0, &mut server, Input::Timeout);
    a.step(t0 + seconds(1), &mut server, Input::Stop);
    assert_eq!(a.said, ["elected", "done"]);
    assert_eq!(server.lease.as_ref().unwrap().holder, "");
    b.step(t0 + seconds(2), &mut server, Input::Timeout);
    assert!(b.leads());
}

#[test]
fn of_two_that_claim_at_once_one_wins() {
    let (t0, mut server) = (Instant::now(), Server::default());
    let (mut a, mut b) = (Operator::new("a", t0), Operator::new("b", t0));
    // Both read before either writes.
    for operator in [&mut a, &mut b] {
        operator.election.handle(t0, Input::Timeout);
        assert_eq!(operator.election.poll_output(), Some(Output::Read));
    }
    a.step(t0, &mut server, Input::Read(Ok(None)));
    b.step(t0, &mut server, Input::Read(Ok(None)));
    assert!(a.leads() && !b.leads());
}

#[test]
fn the_same_name_after_a_restart_leads_at_once() {
    let (t0, mut server) = (Instant::now(), Server::default());
    Operator::new("a", t0).step(t0, &mut server, Input::Timeout);
    let mut again = Operator::new("a", t0);
    again.step(t0 + seconds(1), &mut server, Input::Timeout);
    assert!(again.leads());
}

#[test]
fn never_two_leaders_whatever_happens() {
    // A fixed sequence of pseudo-random events (xorshift), so that a failure can be run again.
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let start = Instant::now();
    let mut server = Server::default();
    let mut operators: Vec<Operator> = ["a", "b", "c"].iter().map(|name| Operator::new(name, start)).collect();
    let mut elections = 0;
    for tick in 0..20_000_u64 {
        let now = start + Duration::from_millis(tick * 250);
        server.away = if next(40) == 0 { !server.away } else { server.away };
        for operator in &mut operators {
            match operator.election.state {
                State::Out => {
                    // A new process has a new name, as a pod has.
                    let base = operator.election.identity.split('-').next().unwrap_or_default();
                    *operator = Operator::new(&format!("{base}-{tick}"), now);
                }
                _ if next(400) == 0 => operator.step(now, &mut server, Input::Stop),
                // Dies without a word.
                _ if next(400) == 0 => operator.election.state = State::Out,
                _ if operator.election.deadline() <= now => operator.step(now, &mut server, Input::Timeout),
                _ => {}
            }
            elections += usize::from(operator.said.iter().any(|said| said == "elected"));
            operator.said.clear();
        }
        let leaders: Vec<&str> = operators.iter().filter(|o| o.leads()).map(|o| o.election.identity.as_str()).collect();
        assert!(leaders.len() <= 1, "{leaders:?} lead at tick {tick}");
    }
    assert!(elections > 20, "only {elections} elections");
}

#[test]
fn a_lease_that_was_read_too_late_is_not_renewed() {
    let (t0, mut server) = (Instant::now(), Server::default());
    let mut a = Operator::new("a", t0);
    a.step(t0, &mut server, Input::Timeout);
    let before = server.lease.clone();
    a.election.handle(t0 + seconds(8), Input::Timeout);
    assert_eq!(a.election.poll_output(), Some(Output::Read));
    assert_eq!(a.election.answer_by(t0 + seconds(8)), t0 + seconds(10), "no longer than we lead");
    a.step(t0 + seconds(10), &mut server, Input::Read(Ok(before.clone())));
    assert!(!a.leads() && a.said[1].starts_with("lost"), "{:?}", a.said);
    assert_eq!(server.lease, before);
}

#[test]
fn a_renewal_counts_from_before_it_was_sent() {
    let (t0, mut server) = (Instant::now(), Server::default());
    let mut a = Operator::new("a", t0);
    a.step(t0, &mut server, Input::Timeout);
    a.election.handle(t0 + seconds(2), Input::Timeout);
    assert_eq!(a.election.poll_output(), Some(Output::Read));
    a.election.handle(t0 + seconds(2), Input::Read(Ok(server.lease.clone())));
    let Some(Output::Write(claim)) = a.election.poll_output() else { panic!("it renews") };
    let written = server.write(&claim, a.read.as_deref());
    a.election.handle(t0 + seconds(9), Input::Written(written));
    assert!(a.leads());
    server.away = true;
    a.step(t0 + seconds(12), &mut server, Input::Timeout);
    assert!(!a.leads(), "others may have seen the Lease change at 2 s");
}

#[test]
fn an_election_whose_answer_was_lost_for_long_is_none() {
    let (t0, mut server) = (Instant::now(), Server::default());
    let mut a = Operator::new("a", t0);
    a.election.handle(t0, Input::Timeout);
    a.election.poll_output();
    a.election.handle(t0, Input::Read(Ok(None)));
    let Some(Output::Write(claim)) = a.election.poll_output() else { panic!("it claims") };
    let written = server.write(&claim, None);
    a.election.handle(t0 + seconds(10), Input::Written(written));
    assert!(!a.leads());
    a.step(t0 + seconds(11), &mut server, Input::Timeout);
    assert!(a.leads(), "it is ours to claim again");
}

/// A request on its way: done by the server at one time, answered at another.
struct Request {
    output: Output,
    done_at: Instant,
    answer_at: Instant,
    /// The driver gives up then.
    by: Instant,
    read: Option<String>,
    answer: Option<Input>,
}

impl Request {
    fn serve(&mut self, now: Instant, server: &mut Server) {
        if self.answer.is_some() || now < self.done_at {
            return;
        }
        self.answer = Some(match &self.output {
            Output::Read => Input::Read(Ok(server.lease.clone())),
            Output::Write(claim) => Input::Written(server.write(claim, self.read.as_deref())),
            other => panic!("{other:?} is no request"),
        });
    }
}

#[test]
fn never_two_leaders_however_slow_the_server_is() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let start = Instant::now();
    let mut server = Server::default();
    let mut operators: Vec<(Operator, Option<Request>)> =
        ["a", "b", "c"].iter().map(|name| (Operator::new(name, start), None)).collect();
    // Given up by whoever sent them; the server does them all the same.
    let mut adrift: Vec<Request> = Vec::new();
    let mut elections = 0;
    for tick in 0..100_000_u64 {
        let now = start + Duration::from_millis(tick * 250);
        adrift.iter_mut().for_each(|request| request.serve(now, &mut server));
        adrift.retain(|request| request.answer.is_none());
        for (operator, waiting) in &mut operators {
            let input = match waiting.take() {
                None if operator.election.deadline() <= now => Input::Timeout,
                None => continue,
                Some(mut request) => {
                    request.serve(now, &mut server);
                    if now >= request.by {
                        let late = Err("no answer".to_owned());
                        let input = match request.output {
                            Output::Read => Input::Read(late.map(|()| None)),
                            _ => Input::Written(late.map(|()| unreachable!())),
                        };
                        adrift.push(request);
                        input
                    } else if now < request.answer_at {
                        *waiting = Some(request);
                        continue;
                    } else {
                        request.answer.expect("done before it is answered")
                    }
                }
            };
            match &input {
                Input::Read(Ok(lease)) => operator.read = lease.as_ref().map(|lease| lease.version.clone()),
                Input::Written(Ok(seen)) => operator.read = Some(seen.version.clone()),
                _ => {}
            }
            operator.election.handle(now, input);
            while let Some(output) = operator.election.poll_output() {
                elections += usize::from(output == Output::Elected);
                if matches!(output, Output::Read | Output::Write(_)) {
                    // Mostly quick, now and then slower than anybody waits.
                    let slow = |n: u64| if n == 0 { 60 } else { 3 };
                    let (to, fro) = (slow(next(8)), slow(next(8)));
                    let done_at = now + Duration::from_millis(next(to) * 250);
                    let answer_at = done_at + Duration::from_millis(next(fro) * 250);
                    let by = operator.election.answer_by(now);
                    let read = operator.read.clone();
                    *waiting = Some(Request { output, done_at, answer_at, by, read, answer: None });
                }
            }
        }
        let leaders: Vec<&str> =
            operators.iter().filter(|(o, _)| o.leads()).map(|(o, _)| o.election.identity.as_str()).collect();
        assert!(leaders.len() <= 1, "{leaders:?} lead at tick {tick}");
    }
    assert!(elections > 20, "only {elections} elections");
}
