//! Which sessions to keep with a peer, and which of them to send on.

use crate::announce::Announcement;
use crate::device::Link;
use crate::key::PublicKey;

/// The keys of a peer, newest last; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteKeys(Vec<PublicKey>);

impl From<&Announcement> for RemoteKeys {
    fn from(announcement: &Announcement) -> Self {
        if announcement.knows_epochs() {
            Self(announcement.keys.iter().map(|known| known.key).collect())
        } else {
            Self(vec![announcement.current])
        }
    }
}

impl RemoteKeys {
    /// Oldest first.
    pub fn as_slice(&self) -> &[PublicKey] {
        &self.0
    }
}

/// All links between `own` identities (oldest first) and a peer's keys, the best first: newest remote key, then newest own.
pub fn links(own: &[PublicKey], remote: &RemoteKeys) -> Vec<Link> {
    let pairs = remote.0.iter().rev().flat_map(|remote| own.iter().rev().map(|own| (*own, *remote)));
    pairs.map(|(own, remote)| Link { own, remote }).collect()
}

/// The link to send on: the best one that is confirmed; while none is, the one in use if it still exists; else the link of
/// the two current keys, which both sides have known for longest.
///
/// `links` is what [`links()`] returned and is not empty; `fallback` is one of it.
pub fn active_link(links: &[Link], in_use: Option<Link>, fallback: Link, confirmed: impl Fn(&Link) -> bool) -> Link {
    let best = links.iter().copied().find(|link| confirmed(link));
    best.or_else(|| in_use.filter(|link| links.contains(link))).unwrap_or(fallback)
}

/// The links that are better than the active one and not confirmed: what still has to be warmed. A handshake that was given
/// up, or a session that ended before anybody took it, is not tried again by a device; the driver repeats
/// [`crate::Change::AddLink`] for these now and then.
///
/// `links` is what [`links()`] returned, `active` what [`active_link`] did.
pub fn cold_links(links: &[Link], active: Link) -> impl Iterator<Item = &Link> {
    links.iter().take_while(move |link| **link != active)
}
