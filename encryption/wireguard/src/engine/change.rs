//! Carrying out changes.

use std::net::SocketAddr;
use std::sync::Arc;

use causeway_encryption_plan::{Actual, Change, Link, PeerName, PeerStats, Unfit};
use gotatun::packet::WgKind;
use ipnet::IpNet;

use super::link::{Identity, LinkState};
use super::table::{PeerState, Table, network};
use super::{Datagram, Engine};

impl Engine {
    /// Applies one change; messages that it brings about are added to `out`. A change that fails changes nothing.
    pub fn apply(&self, change: Change, out: &mut Vec<Datagram>) -> Result<(), Unfit> {
        let mut table = self.table.write();
        match change {
            Change::AddIdentity { private } => {
                let identity = Identity::new(&private);
                table.identities.entry(identity.public).or_insert_with(|| Arc::new(identity));
            }
            Change::RemoveIdentity { public } => {
                if table.links.keys().any(|link| link.own == public) {
                    return Err(Unfit::IdentityInUse(public));
                }
                table.identities.remove(&public);
            }
            Change::AddPeer { peer, endpoint, keepalive_s, link } => {
                if table.peers.contains_key(&peer) {
                    return Err(Unfit::PeerThere(peer));
                }
                let state = self.new_link(&table, &peer, endpoint, link, false)?;
                state.tunn.lock().set_persistent_keepalive(keepalive_s);
                table.links.insert(link, Arc::clone(&state));
                let added = PeerState::new(keepalive_s, state);
                table.peers.insert(peer, Arc::new(added));
            }
            Change::RemovePeer { peer } => remove_peer(&mut table, &peer)?,
            Change::SetEndpoint { peer, endpoint } => {
                let peer = known(&table, &peer)?;
                peer.told.write().endpoint = endpoint;
                peer.links().iter().for_each(|link| link.heard_from(endpoint));
            }
            Change::SetKeepalive { peer, keepalive_s } => {
                let peer = known(&table, &peer)?;
                peer.told.write().keepalive_s = keepalive_s;
                peer.active().tunn.lock().set_persistent_keepalive(keepalive_s);
            }
            Change::AddLink { peer, link } => self.add_link(&mut table, &peer, link, out)?,
            Change::RemoveLink { peer, link } => remove_link(&mut table, &peer, link)?,
            Change::Activate { peer: name, link } => {
                let peer = known(&table, &name)?;
                let told = peer.told.read();
                let state = told.links.get(&link).ok_or(Unfit::NoLink(name, link.remote))?;
                peer.active().tunn.lock().set_persistent_keepalive(None);
                state.tunn.lock().set_persistent_keepalive(told.keepalive_s);
                peer.activate(Arc::clone(state));
            }
            Change::AddPrefix { peer, prefix } => add_prefix(&mut table, &peer, prefix)?,
            Change::RemovePrefix { peer, prefix } => remove_prefix(&mut table, &peer, prefix)?,
        }
        Ok(())
    }

    /// What was told, and what was seen.
    pub fn look(&self) -> (Actual, std::collections::BTreeMap<PeerName, PeerStats>) {
        let table = self.table.read();
        (table.actual(), table.stats())
    }

    fn new_link(
        &self,
        table: &Table,
        peer: &PeerName,
        endpoint: SocketAddr,
        link: Link,
        warming: bool,
    ) -> Result<Arc<LinkState>, Unfit> {
        let identity = table.identities.get(&link.own).ok_or(Unfit::NoIdentity(link.own))?;
        if let Some(other) = table.links.get(&link) {
            return Err(Unfit::KeyTaken(link.remote, other.peer.clone()));
        }
        let (identity, indexes) = (Arc::clone(identity), self.indexes.clone());
        Ok(Arc::new(LinkState::new(link, peer.clone(), endpoint, identity, indexes, warming)))
    }

    fn add_link(&self, table: &mut Table, name: &PeerName, link: Link, out: &mut Vec<Datagram>) -> Result<(), Unfit> {
        let peer = Arc::clone(known(table, name)?);
        let there = peer.told.read().links.get(&link).cloned();
        let state = match there {
            Some(state) => state,
            None => self.new_link(table, name, peer.active().endpoint(), link, true)?,
        };
        {
            let mut tunn = state.tunn.lock();
            if tunn.time_since_last_handshake().is_none()
                && let Some(first) = tunn.format_handshake_initiation(false)
            {
                self.emit(&state, state.endpoint(), WgKind::HandshakeInit(first), out);
            }
        }
        table.links.insert(link, Arc::clone(&state));
        peer.told.write().links.insert(link, state);
        Ok(())
    }
}

fn known<'t>(table: &'t Table, name: &PeerName) -> Result<&'t Arc<PeerState>, Unfit> {
    table.peers.get(name).ok_or_else(|| Unfit::NoPeer(name.clone()))
}

fn remove_peer(table: &mut Table, name: &PeerName) -> Result<(), Unfit> {
    let peer = table.peers.remove(name).ok_or_else(|| Unfit::NoPeer(name.clone()))?;
    let told = peer.told.read();
    for prefix in told.prefixes.iter().filter_map(|prefix| network(*prefix)) {
        table.routes.remove(prefix);
    }
    for (link, state) in &told.links {
        table.links.remove(link);
        state.end();
    }
    Ok(())
}

fn remove_link(table: &mut Table, name: &PeerName, link: Link) -> Result<(), Unfit> {
    let peer = Arc::clone(known(table, name)?);
    if peer.active().link == link {
        return Err(Unfit::LinkActive(name.clone(), link.remote));
    }
    let state = peer.told.write().links.remove(&link);
    state.ok_or_else(|| Unfit::NoLink(name.clone(), link.remote))?.end();
    table.links.remove(&link);
    Ok(())
}

fn add_prefix(table: &mut Table, name: &PeerName, prefix: IpNet) -> Result<(), Unfit> {
    let peer = Arc::clone(known(table, name)?);
    let network = network(prefix).ok_or(Unfit::NoNetwork(prefix))?;
    let before = table.routes.insert(network, Arc::clone(&peer));
    if let Some(before) = before.filter(|before| !Arc::ptr_eq(before, &peer)) {
        before.told.write().prefixes.remove(&prefix);
    }
    peer.told.write().prefixes.insert(prefix);
    Ok(())
}

fn remove_prefix(table: &mut Table, name: &PeerName, prefix: IpNet) -> Result<(), Unfit> {
    let peer = Arc::clone(known(table, name)?);
    if peer.told.write().prefixes.remove(&prefix)
        && let Some(network) = network(prefix)
    {
        table.routes.remove(network);
    }
    Ok(())
}
