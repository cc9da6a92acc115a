//! What goes wrong.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Of one reader.
    Break,
    /// The connection looks alive to the reader, and nothing arrives.
    Deafen,
    Cut,
    Slow,
    RemoveFile,
    AddFile,
    Redirect,
    /// Of one cluster.
    Compact,
    LoseLease,
    Wipe,
    Renumber,
    DelayCanaries,
    Reconfigure,
    Sleep,
}

const ALL: [(Fault, u32); 14] = [
    (Fault::Break, 10),
    (Fault::Deafen, 6),
    (Fault::Cut, 6),
    (Fault::Slow, 5),
    (Fault::RemoveFile, 3),
    (Fault::AddFile, 8),
    (Fault::Redirect, 2),
    (Fault::Compact, 8),
    (Fault::LoseLease, 4),
    (Fault::Wipe, 3),
    (Fault::Renumber, 3),
    (Fault::DelayCanaries, 5),
    (Fault::Reconfigure, 3),
    (Fault::Sleep, 3),
];

impl Fault {
    pub(crate) fn any(rng: &mut StdRng) -> Fault {
        let total: u32 = ALL.iter().map(|(_, weight)| weight).sum();
        let mut left = rng.random_range(0..total);
        for (fault, weight) in ALL {
            if left < weight {
                return fault;
            }
            left -= weight;
        }
        Fault::Break
    }

    pub(crate) fn all() -> impl Iterator<Item = Fault> {
        ALL.into_iter().map(|(fault, _)| fault)
    }
}

/// Short more often than long: from `shortest` to `longest`, evenly by order of magnitude.
pub(crate) fn span(rng: &mut StdRng, shortest: Duration, longest: Duration) -> Duration {
    let ratio = longest.as_secs_f64() / shortest.as_secs_f64();
    shortest.mul_f64(ratio.powf(rng.random_range(0.0..1.0)))
}
