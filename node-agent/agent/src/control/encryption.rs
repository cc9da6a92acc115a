//! From what all nodes say of themselves to what encryption shall be: peers, guarded ranges, and which way packets take.
//! Pure. `realize::encryption` drives it and makes it real.
//!
//! Closed is the default: a range is guarded as soon as its node or CIDR is known, whether or not the node has told a key.
//! What cannot be used (no key, a bad annotation, a key or prefix that another node has) is named, and its packets are
//! refused rather than sent in the clear.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use causeway_datapath_loader::EncryptEntry;
use causeway_encryption_plan::{Actual, Announcement, PeerName, PublicKey};
use ipnet::IpNet;

/// Whether a cluster's traffic with this node is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Required,
    Off,
}

impl FromStr for Mode {
    type Err = ();

    fn from_str(text: &str) -> Result<Mode, ()> {
        match text {
            "required" => Ok(Mode::Required),
            "off" => Ok(Mode::Off),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Required => "required",
            Mode::Off => "off",
        })
    }
}

/// The mode of each cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Modes {
    pub(crate) own: Mode,
    pub(crate) named: BTreeMap<String, Mode>,
    pub(crate) others: Mode,
}

impl Modes {
    /// Reads `west=off,*=required`; clusters that are not named are `required`. `own`: this cluster's own.
    pub(crate) fn parse(own: Mode, text: &str) -> Option<Modes> {
        let mut modes = Modes { own, named: BTreeMap::new(), others: Mode::Required };
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let (cluster, mode) = word.split_once('=')?;
            let mode = mode.parse().ok()?;
            if cluster == "*" {
                modes.others = mode;
            } else {
                modes.named.insert(cluster.to_owned(), mode);
            }
        }
        Some(modes)
    }

    fn of(&self, node: &NodeWords) -> Mode {
        if node.own_cluster { self.own } else { self.of_other(&node.cluster) }
    }

    /// That of another cluster, by its name.
    pub(crate) fn of_other(&self, cluster: &str) -> Mode {
        self.named.get(cluster).copied().unwrap_or(self.others)
    }
}

/// What the operator of the agent has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) modes: Modes,
    /// Traffic of the nodes themselves too.
    pub(crate) encrypt_node: bool,
    /// Ranges that are guarded whoever has them.
    pub(crate) guarded: Vec<IpNet>,
    /// UDP port of all nodes.
    pub(crate) port: u16,
    pub(crate) keepalive_s: Option<u16>,
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
}

/// This node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// Public halves of all its keys.
    pub(crate) keys: Vec<PublicKey>,
}

/// Another node, as it or Kubernetes says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeWords {
    pub(crate) name: PeerName,
    pub(crate) cluster: String,
    pub(crate) own_cluster: bool,
    /// Internal ones.
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) pod_cidrs: BTreeSet<IpNet>,
    /// Its current public key, in base64; empty without one.
    pub(crate) key: String,
    /// All its keys, as its annotation says; empty without it.
    pub(crate) keys: String,
}

/// Everything that is decided from.
#[derive(Debug)]
pub(crate) struct Inputs<'a> {
    pub(crate) own: &'a Own,
    pub(crate) nodes: &'a [NodeWords],
    pub(crate) policy: &'a Policy,
    /// Where API servers listen.
    pub(crate) api_servers: &'a BTreeSet<IpAddr>,
    /// What the device holds: who came first.
    pub(crate) held: &'a Actual,
}

/// A peer that the device shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedPeer {
    pub(crate) endpoint: SocketAddr,
    pub(crate) keepalive_s: Option<u16>,
    pub(crate) prefixes: BTreeSet<IpNet>,
    pub(crate) keys: Announcement,
}

/// What becomes of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    Peer,
    /// Its mode is off.
    Off,
    /// It is guarded, and there is no tunnel to it: why, in words.
    Refused(String),
    /// It is guarded, and has told no key yet.
    NoKey,
}

/// Something that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) node: PeerName,
    pub(crate) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.node, self.message)
    }
}

/// What shall be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) peers: BTreeMap<PeerName, WantedPeer>,
    /// Every other node that is known.
    pub(crate) standing: BTreeMap<PeerName, Standing>,
    /// EncryptEntry ranges, and whose they are.
    guard: BTreeMap<IpNet, (EncryptEntry, Option<PeerName>)>,
    /// Ranges of other nodes' pods: by the device, whoever sends.
    pub(crate) pods: BTreeSet<IpNet>,
    /// Other nodes' addresses: by the device, if a pod sends, or with node encryption.
    nodes: BTreeMap<IpNet, PeerName>,
    /// Ranges of nodes whose mode is off.
    pub(crate) released: BTreeSet<IpNet>,
    /// Nodes that must be reached before there is a tunnel, since keys are told through their API server.
    bootstrap: BTreeSet<PeerName>,
    pub(crate) problems: Vec<Problem>,
}

impl Wanted {
    /// Nodes that are spoken to in the clear by this node itself (never by its pods) as long as no session with them stands.
    pub(crate) fn exempt(&self, confirmed: &BTreeSet<PeerName>) -> BTreeSet<PeerName> {
        self.bootstrap.difference(confirmed).cloned().collect()
    }

    /// Rows of the guard, while these nodes are exempt.
    pub(crate) fn guard(&self, exempt: &BTreeSet<PeerName>) -> BTreeMap<IpNet, EncryptEntry> {
        let row = |(prefix, (class, owner)): (&IpNet, &(EncryptEntry, Option<PeerName>))| {
            let class = match class {
                EncryptEntry::RemoteNode { hosts_too } => {
                    let exempt = owner.as_ref().is_some_and(|owner| exempt.contains(owner));
                    EncryptEntry::RemoteNode { hosts_too: *hosts_too && !exempt }
                }
                class => *class,
            };
            (*prefix, class)
        };
        self.guard.iter().map(row).collect()
    }

    /// Other nodes' addresses that lead by the device, while these nodes are exempt.
    pub(crate) fn nodes(&self, exempt: &BTreeSet<PeerName>) -> BTreeSet<IpNet> {
        self.nodes.iter().filter(|(_, owner)| !exempt.contains(owner)).map(|(prefix, _)| *prefix).collect()
    }
}

/// Decides all of it anew. Linear in nodes, but for logarithms.
pub(crate) fn wanted(inputs: &Inputs<'_>) -> Wanted {
    let mut wanted = Wanted::default();
    guard_own(inputs, &mut wanted);
    let mut candidates = BTreeMap::new();
    for node in inputs.nodes {
        if inputs.policy.modes.of(node) == Mode::Off {
            wanted.standing.insert(node.name.clone(), Standing::Off);
            continue;
        }
        guard_node(inputs, node, &mut wanted);
        let standing = match candidate(inputs, node, &mut wanted.problems) {
            Ok(peer) => {
                candidates.insert(node.name.clone(), peer);
                Standing::Peer
            }
            Err(standing) => standing,
        };
        wanted.standing.insert(node.name.clone(), standing);
    }
    refuse_keys(inputs, &mut candidates, &mut wanted);
    refuse_prefixes(inputs, &mut candidates, &mut wanted);
    wanted.peers = candidates;
    exempt_plain(inputs, &mut wanted);
    wanted
}

fn guard_own(inputs: &Inputs<'_>, wanted: &mut Wanted) {
    for range in &inputs.policy.guarded {
        wanted.guard.insert(range.trunc(), (EncryptEntry::RemotePods, None));
    }
    for cidr in &inputs.own.pod_cidrs {
        wanted.guard.insert(cidr.trunc(), (EncryptEntry::LocalPods, None));
    }
}

/// Rows and ways of a node whose traffic must be encrypted.
fn guard_node(inputs: &Inputs<'_>, node: &NodeWords, wanted: &mut Wanted) {
    let policy = inputs.policy;
    let (own, api) = (&inputs.own.addresses, inputs.api_servers);
    if policy.encrypt_node && (own.iter().any(|ip| api.contains(ip)) || !node.addresses.is_disjoint(api)) {
        wanted.bootstrap.insert(node.name.clone());
    }
    for cidr in &node.pod_cidrs {
        if let Some(why) = takes_from_own(inputs.own, cidr) {
            wanted.problems.push(Problem { node: node.name.clone(), message: format!("pod CIDR {cidr} {why}") });
            continue;
        }
        wanted.guard.entry(*cidr).or_insert_with(|| (EncryptEntry::RemotePods, Some(node.name.clone())));
        if routed(policy, cidr) {
            wanted.pods.insert(*cidr);
        }
    }
    for ip in &node.addresses {
        let prefix = IpNet::from(*ip);
        if let Some(why) = takes_from_own(inputs.own, &prefix) {
            wanted.problems.push(Problem { node: node.name.clone(), message: format!("address {ip} {why}") });
            continue;
        }
        let class = EncryptEntry::RemoteNode { hosts_too: policy.encrypt_node };
        wanted.guard.entry(prefix).or_insert_with(|| (class, Some(node.name.clone())));
        if routed(policy, &prefix) {
            wanted.nodes.entry(prefix).or_insert_with(|| node.name.clone());
        }
    }
}

fn routed(policy: &Policy, prefix: &IpNet) -> bool {
    if prefix.addr().is_ipv4() { policy.ipv4 } else { policy.ipv6 }
}

/// Why nobody else may have the prefix, if so. A wider one is harmless: the own one is longer.
fn takes_from_own(own: &Own, prefix: &IpNet) -> Option<String> {
    if let Some(ip) =
        own.addresses.iter().find(|ip| **ip == prefix.addr() && prefix.prefix_len() == prefix.max_prefix_len())
    {
        return Some(format!("is this node's own {ip}; one of the two is wrong"));
    }
    let cidr = own.pod_cidrs.iter().find(|cidr| cidr.contains(prefix))?;
    Some(format!("lies in this node's own pod CIDR {cidr}; one of the two is wrong"))
}

/// The peer that the node would be, if nobody else has its keys and prefixes.
fn candidate(inputs: &Inputs<'_>, node: &NodeWords, problems: &mut Vec<Problem>) -> Result<WantedPeer, Standing> {
    let mut named = |message: String| problems.push(Problem { node: node.name.clone(), message });
    if node.key.is_empty() {
        return Err(Standing::NoKey);
    }
    let all = Some(node.keys.as_str()).filter(|text| !text.is_empty());
    let keys = match (Announcement::parse(&node.key, all), all) {
        (Ok(keys), _) => keys,
        (Err(error), None) => {
            named(error.to_string());
            return Err(Standing::Refused(error.to_string()));
        }
        // The current key alone will do.
        (Err(error), Some(_)) => {
            named(error.to_string());
            Announcement::parse(&node.key, None).map_err(|error| Standing::Refused(error.to_string()))?
        }
    };
    let own = |v4: bool| inputs.own.addresses.iter().any(|ip| ip.is_ipv4() == v4);
    // IPv4 comes first, by order of addresses.
    let Some(ip) = node.addresses.iter().find(|ip| own(ip.is_ipv4())) else {
        let message = "it has no InternalIP of a family that this node has".to_owned();
        named(message.clone());
        return Err(Standing::Refused(message));
    };
    let prefixes = node.pod_cidrs.iter().copied().chain(node.addresses.iter().map(|ip| IpNet::from(*ip)));
    Ok(WantedPeer {
        endpoint: SocketAddr::new(*ip, inputs.policy.port),
        keepalive_s: inputs.policy.keepalive_s,
        prefixes: prefixes.filter(|prefix| takes_from_own(inputs.own, prefix).is_none()).collect(),
        keys,
    })
}

/// All keys that a node says it has.
fn keys_of(peer: &WantedPeer) -> impl Iterator<Item = PublicKey> + '_ {
    std::iter::once(peer.keys.current).chain(peer.keys.keys.iter().map(|known| known.key))
}

/// Who came first has it: a node that the device holds with it, else the first by name. The other one, whose traffic would
/// go to the first, is refused.
fn refuse_keys(inputs: &Inputs<'_>, candidates: &mut BTreeMap<PeerName, WantedPeer>, wanted: &mut Wanted) {
    let mut owners: BTreeMap<PublicKey, PeerName> = BTreeMap::new();
    for (name, peer) in &inputs.held.peers {
        let claims: BTreeSet<PublicKey> = candidates.get(name).into_iter().flat_map(keys_of).collect();
        owners.extend(peer.links.iter().filter(|l| claims.contains(&l.remote)).map(|l| (l.remote, name.clone())));
    }
    for (name, peer) in candidates.iter() {
        for key in keys_of(peer) {
            owners.entry(key).or_insert_with(|| name.clone());
        }
    }
    candidates.retain(|name, peer| {
        let taken = keys_of(peer).find_map(|key| {
            if inputs.own.keys.contains(&key) {
                return Some(format!("duplicate key {key}: it is this node's own"));
            }
            let owner = owners.get(&key).filter(|owner| *owner != name)?;
            Some(format!("duplicate key {key}: node {owner} has it; let one of the two make a new one"))
        });
        if let Some(message) = &taken {
            wanted.problems.push(Problem { node: name.clone(), message: message.clone() });
            wanted.standing.insert(name.clone(), Standing::Refused(message.clone()));
        }
        taken.is_none()
    });
}

/// As with keys, but the second one loses only the prefix.
fn refuse_prefixes(inputs: &Inputs<'_>, candidates: &mut BTreeMap<PeerName, WantedPeer>, wanted: &mut Wanted) {
    let mut owners: BTreeMap<IpNet, PeerName> = BTreeMap::new();
    for (name, peer) in &inputs.held.peers {
        let Some(candidate) = candidates.get(name) else { continue };
        owners.extend(peer.prefixes.intersection(&candidate.prefixes).map(|prefix| (*prefix, name.clone())));
    }
    for (name, peer) in candidates.iter() {
        for prefix in &peer.prefixes {
            owners.entry(*prefix).or_insert_with(|| name.clone());
        }
    }
    for (name, peer) in candidates {
        peer.prefixes.retain(|prefix| match owners.get(prefix) {
            Some(owner) if owner != name => {
                let message = format!("{prefix} is node {owner}'s; one of the two is wrong");
                wanted.problems.push(Problem { node: name.clone(), message });
                false
            }
            _ => true,
        });
    }
}

/// What a guarded range catches and must not: nodes of clusters that are off. This node's own addresses may lie in one: the
/// guard asks nothing of what this node itself sends to where no row is.
fn exempt_plain(inputs: &Inputs<'_>, wanted: &mut Wanted) {
    let off = inputs.nodes.iter().filter(|node| inputs.policy.modes.of(node) == Mode::Off);
    wanted.released = off
        .flat_map(|node| node.pod_cidrs.iter().copied().chain(node.addresses.iter().map(|ip| (*ip).into())))
        .collect();
    for prefix in &wanted.released {
        if !wanted.guard.contains_key(prefix) && is_within(&wanted.guard, *prefix) {
            wanted.guard.insert(*prefix, (EncryptEntry::Plain, None));
        }
    }
}

fn is_within<V>(rows: &BTreeMap<IpNet, V>, prefix: IpNet) -> bool {
    let wider = |length| IpNet::new(prefix.addr(), length).is_ok_and(|wider| rows.contains_key(&wider.trunc()));
    (0..prefix.prefix_len()).any(wider)
}

#[cfg(test)]
mod tests;
