//! The CNI verbs themselves: blocking, over the datapath, a [`Plumbing`] for interfaces and the store on disk. The
//! table of endpoints is written here and nowhere else.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use causeway_api::ErrorBody;
use causeway_api::cni::{Add, Address, Attached, Attachment, Check, Collected, Del, Done, Gc, Route};
use causeway_datapath_loader::{Datapath, Endpoint, Hook, IpcacheEntry};
use causeway_table::Shared;
use ipnet::IpNet;

use super::store::Store;
use crate::control::ipam::{Addresses, Ipam, IpamError};
use crate::intent::endpoint::{IDENTITY_INIT, LocalEndpoint};
use crate::realize::hurry::{Hurried, Hurry};
use crate::realize::pod::{self, Made, PodError, Wish};

/// Error codes of the CNI specification 1.1, section "Error", and our own from 100 on.
pub(crate) mod code {
    pub(crate) const UNKNOWN_CONTAINER: u32 = 3;
    pub(crate) const INVALID_ENVIRONMENT: u32 = 4;
    pub(crate) const DECODE: u32 = 6;
    pub(crate) const TRY_AGAIN: u32 = 11;
    pub(crate) const NOT_AVAILABLE: u32 = 50;
    /// The kernel refused an interface, a route or the like.
    pub(crate) const NETWORK: u32 = 100;
    /// The datapath refused.
    pub(crate) const DATAPATH: u32 = 101;
    /// The state directory cannot be used.
    pub(crate) const STATE: u32 = 102;
    /// CHECK found a difference.
    pub(crate) const DIFFERS: u32 = 103;
}

/// Makes and removes pods' interfaces: [`pod`] in the kernel, or a fake.
pub(crate) trait Plumbing: Send + Sync {
    fn connect(&self, wish: &Wish) -> Result<Made, PodError>;
    fn disconnect(&self, host_ifname: &str) -> Result<bool, PodError>;
    fn adopt(&self, wish: &Wish, made: &Made) -> Result<Option<u32>, PodError>;
    fn verify(&self, wish: &Wish, made: &Made) -> Result<Vec<String>, PodError>;
    /// Makes the kernel's waits short while the value lives.
    fn hurry(&self) -> Option<Hurried<'_>> {
        None
    }
}

/// The kernel's.
pub(crate) struct Veths {
    pub(crate) hurry: Hurry,
}

impl Plumbing for Veths {
    fn connect(&self, wish: &Wish) -> Result<Made, PodError> {
        pod::connect(wish)
    }

    fn disconnect(&self, host_ifname: &str) -> Result<bool, PodError> {
        pod::disconnect(host_ifname)
    }

    fn adopt(&self, wish: &Wish, made: &Made) -> Result<Option<u32>, PodError> {
        pod::adopt(wish, made)
    }

    fn verify(&self, wish: &Wish, made: &Made) -> Result<Vec<String>, PodError> {
        pod::verify(wish, made)
    }

    fn hurry(&self) -> Option<Hurried<'_>> {
        self.hurry.begin()
    }
}

/// See the module.
pub(crate) struct Verbs {
    datapath: Arc<dyn Datapath>,
    plumbing: Box<dyn Plumbing>,
    store: Store,
    endpoints: Shared<Attachment, LocalEndpoint>,
    /// MTU of pods' interfaces unless the network configuration says otherwise.
    mtu: u32,
    // Held for a whole verb: verbs take milliseconds and the kernel does one interface at a time anyway, while two
    // verbs for one attachment at the same time would undo each other.
    state: Mutex<State>,
}

struct State {
    ipam: Ipam,
    last_id: u16,
    /// The node's own addresses.
    node: Vec<IpAddr>,
}

impl Verbs {
    pub(crate) fn new(
        datapath: Arc<dyn Datapath>,
        plumbing: Box<dyn Plumbing>,
        store: Store,
        endpoints: Shared<Attachment, LocalEndpoint>,
        mtu: u32,
        ipam: Ipam,
    ) -> Verbs {
        let state = Mutex::new(State { ipam, last_id: 0, node: Vec::new() });
        Verbs { datapath, plumbing, store, endpoints, mtu, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A verb that panicked leaves what a killed agent leaves: remains that DEL or the next start removes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node's CIDRs and addresses as they are now; answers why pods cannot start, if so.
    pub(crate) fn set_node(&self, cidrs: &[IpNet], addresses: Vec<IpAddr>) -> Result<(), Vec<IpamError>> {
        let mut state = self.state();
        if state.node != addresses {
            state.node = addresses;
            // Routes to pods name the address from which the node itself talks to them.
            for endpoint in self.all() {
                let (wish, made) = (wish_of(&endpoint, &state, self.mtu), made_of(&endpoint, self.mtu));
                if let Err(error) = self.plumbing.adopt(&wish, &made) {
                    tracing::warn!(%error, interface = made.host_ifname, "cannot rewrite the routes of a pod");
                }
            }
        }
        let mut errors = state.ipam.set_cidrs(cidrs);
        errors.extend(state.ipam.ready().err());
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Takes over what an earlier process made: pods whose interface is still there keep it and their addresses, the
    /// rest is forgotten. Rows and links of nobody go.
    pub(crate) fn adopt(&self) -> Result<(), ErrorBody> {
        let mut state = self.state();
        for endpoint in self.store.endpoints().map_err(|e| store_error("adopting pods", &e))? {
            if let Err(error) = self.adopt_one(&mut state, endpoint.clone()) {
                let pod = format!("{}/{}", endpoint.pod.namespace, endpoint.pod.name);
                tracing::warn!(pod, id = endpoint.id, %error, "cannot adopt a pod; it is forgotten");
                self.remove(&mut state, &endpoint)?;
            }
        }
        self.prune().map_err(|e| datapath_error("pruning what dead pods left", &e))?;
        self.endpoints.mark_synced();
        Ok(())
    }

    fn adopt_one(&self, state: &mut State, mut endpoint: LocalEndpoint) -> Result<(), ErrorBody> {
        let what = format!("adopting pod {}/{}", endpoint.pod.namespace, endpoint.pod.name);
        let (wish, made) = (wish_of(&endpoint, state, self.mtu), made_of(&endpoint, self.mtu));
        // Only a vanished interface is a reason to forget a pod: a passing error must not cut a running one off.
        let found = self.plumbing.adopt(&wish, &made).unwrap_or_else(|error| {
            tracing::warn!(%error, what, "the pod's interface stays as it is");
            Some(endpoint.ifindex)
        });
        let Some(ifindex) = found else {
            return Err(ErrorBody::new(code::NETWORK, what, format!("interface {} is gone", endpoint.host_ifname)));
        };
        state.ipam.restore(addresses_of(&endpoint)).map_err(|e| ipam_error(&what, &e))?;
        state.last_id = state.last_id.max(endpoint.id);
        endpoint.ifindex = ifindex;
        if let Err(error) = self.install(&endpoint) {
            tracing::warn!(%error, what, "the pod goes on with what is in the kernel");
        }
        self.endpoints.set(endpoint.attachment.clone(), endpoint);
        Ok(())
    }

    fn prune(&self) -> causeway_datapath_loader::Result<()> {
        let ours: Vec<LocalEndpoint> = self.all();
        let ips: BTreeSet<IpAddr> = ours.iter().flat_map(ips_of).collect();
        for ip in self.datapath.endpoints()?.into_keys().filter(|ip| !ips.contains(ip)) {
            self.datapath.delete_endpoint(ip)?;
        }
        self.datapath.prune_links()?;
        let alive: BTreeSet<u32> = ours.iter().map(|endpoint| endpoint.ifindex).collect();
        for link in self.datapath.attached()? {
            if link.hook == Hook::FromPod && !alive.contains(&link.ifindex) {
                self.datapath.detach(link.ifindex)?;
            }
        }
        Ok(())
    }

    /// Does the deletions that the plugin queued while no agent answered.
    pub(crate) fn drain_deletions(&self) -> Result<usize, ErrorBody> {
        let queued = self.store.deletions().map_err(|e| store_error("reading queued deletions", &e))?;
        let mut done = 0;
        for (file, del) in queued {
            if let Err(error) = self.del(&del) {
                tracing::warn!(%error, "a queued deletion failed; the next start tries again");
                continue;
            }
            self.store.forget(file).map_err(|e| store_error("forgetting a queued deletion", &e))?;
            done += 1;
        }
        Ok(done)
    }

    pub(crate) fn add(&self, add: &Add) -> Result<Attached, ErrorBody> {
        let mut state = self.state();
        let _hurried = self.plumbing.hurry();
        let what = format!("attaching pod {}/{}", add.pod.namespace, add.pod.name);
        if let Some(endpoint) = self.endpoints.get(&add.attachment) {
            let (wish, made) = (wish_of(&endpoint, &state, self.mtu), made_of(&endpoint, self.mtu));
            let intact = endpoint.netns == add.netns && self.plumbing.verify(&wish, &made).is_ok_and(|w| w.is_empty());
            if intact {
                return Ok(attached(&endpoint, add.mtu.unwrap_or(self.mtu)));
            }
            self.remove(&mut state, &endpoint)?;
        }
        let addresses = state.ipam.allocate().map_err(|e| ipam_error(&what, &e))?;
        let Some(id) = self.fresh_id(&mut state) else {
            state.ipam.release(addresses);
            return Err(ErrorBody::new(code::TRY_AGAIN, what, "all 65535 endpoint ids are in use; delete pods"));
        };
        let Addresses { v4, v6 } = addresses;
        let wish = Wish {
            attachment: add.attachment.clone(),
            netns: add.netns.clone(),
            ipv4: v4,
            ipv6: v6,
            mtu: add.mtu.unwrap_or(self.mtu),
            node: state.node.clone(),
        };
        let made = match self.plumbing.connect(&wish) {
            Ok(made) => made,
            Err(error) => {
                state.ipam.release(addresses);
                return Err(pod_error(&what, &error));
            }
        };
        let endpoint = LocalEndpoint {
            id,
            attachment: add.attachment.clone(),
            pod: add.pod.clone(),
            netns: add.netns.clone(),
            ipv4: v4,
            ipv6: v6,
            host_ifname: made.host_ifname,
            ifindex: made.ifindex,
            mac: made.mac,
            host_mac: made.host_mac,
            identity: IDENTITY_INIT,
            labels: Vec::new(),
        };
        if let Err(error) = self.install(&endpoint) {
            if let Err(undo) = self.remove(&mut state, &endpoint) {
                tracing::warn!(%undo, "cannot undo a failed attachment; DEL will");
                self.endpoints.set(add.attachment.clone(), endpoint.clone());
            }
            return Err(error);
        }
        self.endpoints.set(add.attachment.clone(), endpoint.clone());
        Ok(attached(&endpoint, made.mtu))
    }

    /// The next id that no pod has; never 0.
    fn fresh_id(&self, state: &mut State) -> Option<u16> {
        let used: BTreeSet<u16> = self.all().iter().map(|endpoint| endpoint.id).collect();
        let behind = (state.last_id..=u16::MAX).skip(1);
        let id = behind.chain(1..=state.last_id).find(|id| !used.contains(id))?;
        state.last_id = id;
        Some(id)
    }

    /// Programs, rows and file of a pod whose interface is there. Idempotent.
    fn install(&self, endpoint: &LocalEndpoint) -> Result<(), ErrorBody> {
        let what = format!("programming the datapath for pod {}/{}", endpoint.pod.namespace, endpoint.pod.name);
        self.write_rows(endpoint).map_err(|e| datapath_error(&what, &e))?;
        self.datapath.attach_pod(endpoint.ifindex).map_err(|e| datapath_error(&what, &e))?;
        self.store.write(endpoint).map_err(|e| store_error(&what, &e))
    }

    fn write_rows(&self, endpoint: &LocalEndpoint) -> causeway_datapath_loader::Result<()> {
        let &LocalEndpoint { ifindex, identity, id, mac, host_mac, .. } = endpoint;
        for ip in ips_of(endpoint) {
            self.datapath.upsert_endpoint(ip, Endpoint { ifindex, identity, id, mac, host_mac })?;
            self.datapath.upsert_ipcache(ip.into(), IpcacheEntry { identity, in_cluster: true })?;
        }
        Ok(())
    }

    /// The opposite of everything, as far as it is there. What fails is tried again by the next DEL or GC.
    fn remove(&self, state: &mut State, endpoint: &LocalEndpoint) -> Result<(), ErrorBody> {
        let what = format!("removing pod {}/{}", endpoint.pod.namespace, endpoint.pod.name);
        let delete_rows = || {
            for ip in ips_of(endpoint) {
                self.datapath.delete_endpoint(ip)?;
                self.datapath.delete_ipcache(ip.into())?;
            }
            self.datapath.detach(endpoint.ifindex)
        };
        delete_rows().map_err(|e| datapath_error(&what, &e))?;
        self.plumbing.disconnect(&endpoint.host_ifname).map_err(|e| pod_error(&what, &e))?;
        self.store.remove(endpoint.id).map_err(|e| store_error(&what, &e))?;
        state.ipam.release(addresses_of(endpoint));
        self.endpoints.delete(&endpoint.attachment);
        Ok(())
    }

    pub(crate) fn del(&self, del: &Del) -> Result<Done, ErrorBody> {
        let mut state = self.state();
        let _hurried = self.plumbing.hurry();
        match self.endpoints.get(&del.attachment) {
            Some(endpoint) => self.remove(&mut state, &endpoint)?,
            None => {
                // Unknown, or an ADD that was cut short: its interface has a name that follows from the attachment.
                let name = pod::host_ifname(&del.attachment);
                self.plumbing.disconnect(&name).map_err(|e| pod_error("removing a pod's interface", &e))?;
            }
        }
        Ok(Done {})
    }

    pub(crate) fn check(&self, check: &Check) -> Result<Done, ErrorBody> {
        let state = self.state();
        let Some(endpoint) = self.endpoints.get(&check.attachment) else {
            let id = &check.attachment.container_id;
            let message = format!("container {id} has no interface {} of ours", check.attachment.ifname);
            return Err(ErrorBody::new(code::UNKNOWN_CONTAINER, message, "call ADD first"));
        };
        let what = format!("checking pod {}/{}", endpoint.pod.namespace, endpoint.pod.name);
        let mut wrong = Vec::new();
        if endpoint.netns != check.netns {
            wrong.push(format!("it was attached in namespace {}, not {}", endpoint.netns, check.netns));
        }
        let has: BTreeSet<IpAddr> = ips_of(&endpoint).collect();
        for ip in check.ips.iter().filter(|ip| !has.contains(&ip.addr())) {
            wrong.push(format!("address {ip} of the previous result is not the pod's"));
        }
        let (wish, made) = (wish_of(&endpoint, &state, self.mtu), made_of(&endpoint, self.mtu));
        wrong.extend(self.plumbing.verify(&wish, &made).map_err(|e| pod_error(&what, &e))?);
        wrong.extend(self.check_datapath(&endpoint).map_err(|e| datapath_error(&what, &e))?);
        if wrong.is_empty() {
            return Ok(Done {});
        }
        Err(ErrorBody::new(code::DIFFERS, format!("{what}: it is not as ADD left it"), wrong.join("; ")))
    }

    fn check_datapath(&self, endpoint: &LocalEndpoint) -> causeway_datapath_loader::Result<Vec<String>> {
        let mut wrong = Vec::new();
        let rows = self.datapath.endpoints()?;
        for ip in ips_of(endpoint).filter(|ip| rows.get(ip).is_none_or(|row| row.ifindex != endpoint.ifindex)) {
            wrong.push(format!("the datapath does not know {ip}"));
        }
        let links = self.datapath.attached()?;
        for hook in [Hook::FromPod, Hook::ToPod] {
            if !links.iter().any(|link| link.ifindex == endpoint.ifindex && link.hook == hook) {
                wrong.push(format!("program {hook} is not attached to {}", endpoint.host_ifname));
            }
        }
        Ok(wrong)
    }

    pub(crate) fn gc(&self, gc: &Gc) -> Result<Collected, ErrorBody> {
        let mut state = self.state();
        let valid: BTreeSet<&Attachment> = gc.valid.iter().collect();
        let mut removed = Vec::new();
        for endpoint in self.all().iter().filter(|endpoint| !valid.contains(&endpoint.attachment)) {
            tracing::info!(
                container = endpoint.attachment.container_id,
                "removing an attachment that the runtime has not"
            );
            self.remove(&mut state, endpoint)?;
            removed.push(endpoint.attachment.clone());
        }
        Ok(Collected { removed })
    }

    pub(crate) fn status(&self) -> Result<Done, ErrorBody> {
        match self.state().ipam.ready() {
            Ok(()) => Ok(Done {}),
            Err(error) => Err(ErrorBody::new(code::NOT_AVAILABLE, "pods cannot start on this node", error.to_string())),
        }
    }

    /// The pod's identity was found or changed.
    pub(crate) fn set_identity(
        &self,
        attachment: &Attachment,
        identity: u32,
        labels: Vec<String>,
    ) -> Result<(), ErrorBody> {
        let _state = self.state();
        let Some(old) = self.endpoints.get(attachment) else { return Ok(()) };
        let endpoint = LocalEndpoint { identity, labels, ..LocalEndpoint::clone(&old) };
        if *old == endpoint {
            return Ok(());
        }
        let what = format!("giving pod {}/{} its identity", endpoint.pod.namespace, endpoint.pod.name);
        self.write_rows(&endpoint).map_err(|e| datapath_error(&what, &e))?;
        self.store.write(&endpoint).map_err(|e| store_error(&what, &e))?;
        self.endpoints.set(attachment.clone(), endpoint);
        Ok(())
    }

    fn all(&self) -> Vec<LocalEndpoint> {
        self.endpoints.snapshot().values().map(|row| LocalEndpoint::clone(&row.value)).collect()
    }
}

fn addresses_of(endpoint: &LocalEndpoint) -> Addresses {
    Addresses { v4: endpoint.ipv4, v6: endpoint.ipv6 }
}

fn ips_of(endpoint: &LocalEndpoint) -> impl Iterator<Item = IpAddr> + use<> {
    endpoint.ipv4.map(IpAddr::from).into_iter().chain(endpoint.ipv6.map(IpAddr::from))
}

fn wish_of(endpoint: &LocalEndpoint, state: &State, mtu: u32) -> Wish {
    Wish {
        attachment: endpoint.attachment.clone(),
        netns: endpoint.netns.clone(),
        ipv4: endpoint.ipv4,
        ipv6: endpoint.ipv6,
        mtu,
        node: state.node.clone(),
    }
}

fn made_of(endpoint: &LocalEndpoint, mtu: u32) -> Made {
    let LocalEndpoint { host_ifname, ifindex, mac, host_mac, .. } = endpoint.clone();
    Made { host_ifname, ifindex, mac, host_mac, mtu }
}

fn attached(endpoint: &LocalEndpoint, mtu: u32) -> Attached {
    let ips: Vec<IpAddr> = ips_of(endpoint).collect();
    Attached {
        host_ifname: endpoint.host_ifname.clone(),
        host_mac: mac_text(endpoint.host_mac),
        mac: mac_text(endpoint.mac),
        mtu,
        ips: ips.iter().map(|ip| Address { address: (*ip).into(), gateway: Some(pod::gateway(*ip)) }).collect(),
        routes: ips.iter().map(|ip| Route { dst: pod::default_route(*ip), gw: Some(pod::gateway(*ip)) }).collect(),
        endpoint_id: endpoint.id,
    }
}

pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn pod_error(what: &str, error: &PodError) -> ErrorBody {
    match error {
        PodError::Netns { .. } => {
            let remedy = "CNI_NETNS must be a network namespace that the agent can open; is the agent in the host's mount namespace?";
            ErrorBody::new(code::INVALID_ENVIRONMENT, format!("{what}: CNI_NETNS: {error}"), remedy)
        }
        PodError::Exists { .. } => {
            ErrorBody::new(code::INVALID_ENVIRONMENT, format!("{what}: CNI_IFNAME: {error}"), "")
        }
        PodError::Net(_) => ErrorBody::new(code::NETWORK, format!("{what}: {error}"), ""),
    }
}

fn ipam_error(what: &str, error: &IpamError) -> ErrorBody {
    ErrorBody::new(code::TRY_AGAIN, what, error.to_string())
}

fn datapath_error(what: &str, error: &causeway_datapath_loader::Error) -> ErrorBody {
    ErrorBody::new(code::DATAPATH, what, error.to_string())
}

fn store_error(what: &str, error: &super::store::StoreError) -> ErrorBody {
    ErrorBody::new(code::STATE, what, error.to_string())
}

#[cfg(test)]
mod tests;
