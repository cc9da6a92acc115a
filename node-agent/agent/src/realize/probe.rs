//! The prober's shell: connects to remote backends from the host's namespace and tells the core what came of it.
//!
//! One task; every wait in it is cancel-safe. A probe is a TCP handshake that is reset as soon as it stands, so that no
//! port lingers in TIME_WAIT at either end: at 500 probes a second these would use up the host's ports.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use causeway_table::{Changes, Shared};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpSocket;
use tokio::sync::watch;

use crate::control::probe::{Answer, Counts, Input, Output, Probe, Prober as Core, Settings, Watched};
use crate::intent::mesh::{Health, Target};

/// Probes what the services controller wants watched, and publishes what it finds.
#[derive(Debug)]
pub(crate) struct Prober {
    targets: Shared<Target, Watched>,
    health: Shared<Target, Health>,
    timeout: Duration,
    core: Core,
    counts: watch::Sender<Counts>,
}

impl Prober {
    /// `targets` is [`Controller::targets`](crate::control::services::Controller::targets).
    pub(crate) fn new(
        targets: &Shared<Target, Watched>,
        health: &Shared<Target, Health>,
        settings: Settings,
    ) -> Prober {
        Prober {
            targets: targets.clone(),
            health: health.clone(),
            timeout: settings.timeout,
            core: Core::new(settings),
            counts: watch::Sender::default(),
        }
    }

    /// The counts as they are at each moment, for metrics and status.
    pub(crate) fn counts(&self) -> watch::Receiver<Counts> {
        self.counts.subscribe()
    }

    /// Runs until cancelled.
    pub(crate) async fn run(mut self) {
        let mut targets = self.targets.reader();
        // At most as many as the budget starts within the timeout; the core sees to it.
        let mut running = FuturesUnordered::new();
        loop {
            self.follow(targets.changes());
            self.core.handle(Instant::now(), Input::Tick);
            for probe in self.drain() {
                running.push(ask(probe, self.timeout));
            }
            self.counts.send_replace(self.core.counts());
            let deadline = self.core.deadline();
            tokio::select! {
                () = targets.changed() => {}
                Some((probe, answer)) = running.next() => {
                    self.core.handle(Instant::now(), Input::Answered(probe, answer));
                }
                () = wait_until(deadline) => {}
            }
        }
    }

    /// Tells the core which targets came, changed or went.
    fn follow(&mut self, changes: Changes<Target>) {
        let now = Instant::now();
        let keys = match changes {
            Changes::Keys(keys) => keys,
            Changes::Reset => {
                let wanted = self.targets.snapshot();
                let known: Vec<Target> = self.core.targets().collect();
                wanted.keys().copied().chain(known.into_iter().filter(|t| !wanted.contains_key(t))).collect()
            }
        };
        for target in keys {
            let input = match self.targets.get(&target) {
                Some(watched) => Input::Watch(target, *watched),
                None => Input::Forget(target),
            };
            self.core.handle(now, input);
        }
    }

    /// Publishes in one write, so that a Service with many backends is looked at once. Gives the probes to begin.
    fn drain(&mut self) -> Vec<Probe> {
        let mut probes = Vec::new();
        let mut rows = Vec::new();
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Start(probe) => probes.push(probe),
                Output::Publish(target, health) => rows.push((target, health)),
            }
        }
        if !rows.is_empty() {
            self.health.write(|t| {
                for (target, health) in rows {
                    tell(&target, health.as_ref());
                    match health {
                        Some(health) => t.set(target, health),
                        None => t.delete(&target),
                    };
                }
            });
        }
        probes
    }
}

fn tell(target: &Target, health: Option<&Health>) {
    let Target { addr, proto } = target;
    match health {
        Some(Health { alive: false, reason }) => {
            tracing::info!(backend = %addr, %proto, %reason, "remote backend is dead");
        }
        Some(Health { alive: true, .. }) => tracing::debug!(backend = %addr, %proto, "remote backend answers"),
        None => tracing::debug!(backend = %addr, %proto, "remote backend is not dead, or not used"),
    }
}

async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn ask(probe: Probe, timeout: Duration) -> (Probe, Answer) {
    let answer = match tokio::time::timeout(timeout, connect(probe.target.addr)).await {
        Err(_) => Answer::Silence,
        Ok(Ok(())) => Answer::Accepted,
        Ok(Err(error)) => meaning(&error),
    };
    (probe, answer)
}

async fn connect(addr: SocketAddr) -> io::Result<()> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_zero_linger()?;
    socket.connect(addr).await.map(drop)
}

fn meaning(error: &io::Error) -> Answer {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Answer::Refused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Answer::Unreachable,
        io::ErrorKind::TimedOut => Answer::Silence,
        // No file, no port, no memory, a rule of this host: none of it is the target's fault.
        _ => {
            tracing::debug!(%error, "a probe could not be sent");
            Answer::Unsent
        }
    }
}

#[cfg(test)]
mod tests;
