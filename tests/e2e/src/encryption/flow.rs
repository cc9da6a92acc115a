//! Echo requests at a steady rate, and a TCP connection that never ends: what is lost, and for how long.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::capture::{icmp_socket, would_block};
use super::place::Place;
use super::talk::{PORT, echo_reply, echo_request};
use crate::report::patience;

/// 200 a second; on a slow machine as many fewer as everything takes longer.
pub(crate) const PACE: Duration = Duration::from_millis(5);
/// How long an answer may take to come.
const LAST: Duration = Duration::from_millis(1500);
/// How long a stream waits for its own bytes: TCP sends again, so that a gap is not yet the end.
const STREAM_LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone, Copy)]
struct Echo {
    sent: Instant,
    answered: Option<Instant>,
}

struct State {
    stop: AtomicBool,
    sent: AtomicU64,
    answered: AtomicU64,
    all: Mutex<Vec<Echo>>,
}

impl State {
    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Echo>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pings at [`PACE`], until finished.
pub(crate) struct Pings {
    state: Arc<State>,
    threads: Vec<JoinHandle<Result<()>>>,
    what: String,
}

/// What pings saw.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    /// From a request to the next answer to it or any later one: what a sender that is held up itself does not count.
    pub(crate) gap: Duration,
}

impl Pings {
    pub(crate) fn start(place: &Place, to: IpAddr) -> Result<Pings> {
        static IDENT: AtomicU16 = AtomicU16::new(0x2000);
        let ident = IDENT.fetch_add(1, Ordering::Relaxed);
        let socket = Arc::new(place.inside(move || icmp_socket(to))?);
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let state = Arc::new(State {
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            all: Mutex::default(),
        });
        let (sender, own) = (socket.clone(), state.clone());
        let send = std::thread::spawn(move || {
            let mut due = Instant::now();
            while !own.stop.load(Ordering::Relaxed) {
                let number = {
                    let mut all = own.all();
                    all.push(Echo { sent: Instant::now(), answered: None });
                    u32::try_from(all.len() - 1)?
                };
                own.sent.fetch_add(1, Ordering::Relaxed);
                let [.., high, low] = number.to_be_bytes();
                let payload = [&number.to_be_bytes()[..], &[0; 52]].concat();
                // What the kernel refuses is lost too.
                let _ = sender.send_to(&echo_request(to, ident, u16::from_be_bytes([high, low]), &payload), (to, 0));
                // A sender that was held up goes on from where it is, it does not catch up.
                due = (due + PACE * patience()).max(Instant::now());
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            Ok(())
        });
        let own = state.clone();
        let receive = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            let mut until: Option<Instant> = None;
            loop {
                if own.stop.load(Ordering::Relaxed) {
                    let until = *until.get_or_insert_with(|| Instant::now() + LAST * patience());
                    let none_left = own.sent.load(Ordering::Relaxed) == own.answered.load(Ordering::Relaxed);
                    if none_left || Instant::now() > until {
                        return Ok(());
                    }
                }
                let length = match socket.recv_from(&mut buffer) {
                    Ok((length, _)) => length,
                    Err(error) if would_block(&error) => continue,
                    Err(error) => return Err(error).context("reading echo replies"),
                };
                let number = echo_reply(to, ident, &buffer[..length])
                    .and_then(|(_, rest)| Some(u32::from_be_bytes(rest.get(..4)?.try_into().ok()?)));
                let now = Instant::now();
                if let Some(number) = number
                    && let Some(echo) = own.all().get_mut(usize::try_from(number)?)
                    && echo.answered.is_none()
                {
                    echo.answered = Some(now);
                    own.answered.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Pings { state, threads: vec![send, receive], what: format!("{} to {to}", place.name) })
    }

    /// When the first answer to a request that was sent after `moment` came.
    pub(crate) fn first_after(&self, moment: Instant) -> Option<Instant> {
        self.state.all().iter().filter(|echo| echo.sent >= moment).filter_map(|echo| echo.answered).min()
    }

    pub(crate) fn finish(mut self) -> Result<Seen> {
        self.end()?;
        let all = self.state.all();
        ensure!(!all.is_empty(), "{}: nothing was sent", self.what);
        let end = Instant::now();
        let (mut gap, mut next) = (Duration::ZERO, None::<Instant>);
        for echo in all.iter().rev() {
            next = [echo.answered, next].into_iter().flatten().min();
            gap = gap.max(next.unwrap_or(end).saturating_duration_since(echo.sent));
        }
        let lost = all.iter().filter(|echo| echo.answered.is_none()).count();
        Ok(Seen { sent: u64::try_from(all.len())?, lost: u64::try_from(lost)?, gap })
    }

    fn end(&mut self) -> Result<()> {
        self.state.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap_or_else(|_| bail!("a thread of the pings panicked"))?;
        }
        Ok(())
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl Seen {
    pub(crate) fn and(self, other: Seen) -> Seen {
        Seen { sent: self.sent + other.sent, lost: self.lost + other.lost, gap: self.gap.max(other.gap) }
    }
}

/// One TCP connection: 200 bytes there and back every 20 ms.
pub(crate) struct Stream {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u64>>>,
}

impl Stream {
    pub(crate) fn start(place: &Place, to: IpAddr) -> Result<Stream> {
        let mut stream = place.inside(move || {
            TcpStream::connect_timeout(&(to, PORT).into(), Duration::from_secs(5))
                .with_context(|| format!("connect to {to}"))
        })?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STREAM_LIMIT * patience()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let what = format!("the stream from {} to {to}", place.name);
        let thread = std::thread::spawn(move || {
            let (mut count, mut buffer) = (0u64, [0; 200]);
            while !ended.load(Ordering::Relaxed) {
                let bytes = count.to_be_bytes().repeat(25);
                stream.write_all(&bytes).with_context(|| what.clone())?;
                stream.read_exact(&mut buffer).with_context(|| what.clone())?;
                ensure!(buffer[..] == bytes[..], "{what} brought other bytes back");
                count += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(count)
        });
        Ok(Stream { stop, thread: Some(thread) })
    }

    /// How often the bytes came back; an error if the connection did not live.
    pub(crate) fn finish(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().context("finished twice")?.join().unwrap_or_else(|_| bail!("a stream panicked"))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
