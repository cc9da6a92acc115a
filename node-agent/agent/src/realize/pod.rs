//! A pod's interface: a veth from the node's namespace into the pod's, with addresses, routes and neighbours on both
//! ends.
//!
//! ```text
//!   pod                                   node
//!   eth0  10.1.2.7/32, fd00:1:2::7/128    lxc3f9a..   route 10.1.2.7/32 and fd00:1:2::7/128 dev lxc3f9a..
//!   default via 169.254.1.1 and fe80::1   programs from_pod (ingress) and to_pod (egress)
//!   neighbours 169.254.1.1, fe80::1       neighbours 10.1.2.7, fd00:1:2::7
//! ```
//!
//! The gateways exist nowhere: permanent neighbour entries lead to the other end of the veth, so that neither side ever
//! asks for a hardware address. Names and hardware addresses follow from the attachment, so that DEL finds what ADD
//! made even if nothing was written down. This module knows kernel objects only; `cni` drives it.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use causeway_api::cni::Attachment;
use ipnet::IpNet;

use super::netlink::{self, Mac, NetError, Netlink, Route, Veth, in_netns, sysctl};

/// Link-local and on no link: nothing else can have it.
pub(crate) const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
pub(crate) const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// The interface that an attachment shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) attachment: Attachment,
    /// Path of the pod's network namespace.
    pub(crate) netns: String,
    pub(crate) ipv4: Option<Ipv4Addr>,
    pub(crate) ipv6: Option<Ipv6Addr>,
    pub(crate) mtu: u32,
    /// The node's own addresses, from which it talks to its pods.
    pub(crate) node: Vec<IpAddr>,
}

/// The interface as it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) host_ifname: String,
    pub(crate) ifindex: u32,
    pub(crate) mac: Mac,
    pub(crate) host_mac: Mac,
    pub(crate) mtu: u32,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    /// The runtime's mistake, or the pod is gone already.
    #[error("cannot open the pod's network namespace {path}: {source}")]
    Netns { path: String, source: io::Error },
    /// Something else made an interface of that name in the pod.
    #[error(
        "the pod has an interface {ifname} already, which this plugin did not make; remove it, or choose another name"
    )]
    Exists { ifname: String },
    #[error(transparent)]
    Net(#[from] NetError),
}

type Result<T, E = PodError> = std::result::Result<T, E>;

impl Wish {
    fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.ipv4.map(IpAddr::from).into_iter().chain(self.ipv6.map(IpAddr::from))
    }
}

/// Name of the node's end: `lxc` and 12 hexadecimal digits, 15 bytes, as many as the kernel allows.
pub(crate) fn host_ifname(attachment: &Attachment) -> String {
    format!("lxc{:012x}", hash(attachment, 0) & 0xffff_ffff_ffff)
}

/// A locally administered unicast address. The pod's and the host's end differ by `end`.
fn mac(attachment: &Attachment, end: u8) -> Mac {
    let [.., b, c, d, e, f] = hash(attachment, end).to_be_bytes();
    [0x02 | (end << 2), b, c, d, e, f]
}

/// FNV-1a: short, and the same in every version of this program, which a hash of std does not promise.
fn hash(attachment: &Attachment, seed: u8) -> u64 {
    let bytes = attachment.container_id.bytes().chain([0]).chain(attachment.ifname.bytes()).chain([0, seed]);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Makes the interface and everything on it. A failure half-way leaves nothing behind.
pub(crate) fn connect(wish: &Wish) -> Result<Made> {
    let netns = open_netns(&wish.netns)?;
    let node = Netlink::open()?;
    let host_ifname = host_ifname(&wish.attachment);
    let ifname = &wish.attachment.ifname;
    let (pod_mac, host_mac) = (mac(&wish.attachment, 1), mac(&wish.attachment, 2));
    let veth = Veth {
        name: &host_ifname,
        mac: host_mac,
        peer_name: ifname,
        peer_mac: pod_mac,
        peer_netns: &netns,
        mtu: wish.mtu,
    };
    if let Some(stale) = node.link_by_name(&host_ifname)? {
        // The same attachment, from an ADD whose end nobody saw.
        node.delete_link(stale.index)?;
    }
    match node.add_veth(&veth) {
        Err(error) if error.errno() == Some(libc::EEXIST) => return Err(PodError::Exists { ifname: ifname.clone() }),
        other => other?,
    }
    let made = (|| {
        let link = node.link_by_name(&host_ifname)?.ok_or_else(|| vanished(&host_ifname))?;
        in_netns(&netns, || configure_pod(wish, host_mac))?;
        configure_node(&node, wish, link.index, &host_ifname, pod_mac)?;
        Ok(Made { host_ifname: host_ifname.clone(), ifindex: link.index, mac: pod_mac, host_mac, mtu: link.mtu })
    })();
    if made.is_err()
        && let Err(error) = disconnect(&host_ifname)
    {
        tracing::warn!(%error, host_ifname, "cannot undo a failed attachment");
    }
    made
}

fn vanished(name: &str) -> NetError {
    NetError::new(format!("looking for interface {name}"), io::Error::from_raw_os_error(libc::ENODEV))
}

fn open_netns(path: &str) -> Result<File> {
    File::open(path).map_err(|source| PodError::Netns { path: path.to_owned(), source })
}

/// The pod's end; runs in the pod's namespace.
fn configure_pod(wish: &Wish, host_mac: Mac) -> Result<(), NetError> {
    let pod = Netlink::open()?;
    let ifname = &wish.attachment.ifname;
    let link = pod.link_by_name(ifname)?.ok_or_else(|| vanished(ifname))?;
    if wish.ipv6.is_some() {
        sysctl(&format!("ipv6/conf/{ifname}/disable_ipv6"), "0")?;
        sysctl(&format!("ipv6/conf/{ifname}/accept_dad"), "0")?;
        // The pod's addresses and routes are ours to give.
        sysctl(&format!("ipv6/conf/{ifname}/accept_ra"), "0")?;
        sysctl("ipv6/conf/lo/disable_ipv6", "0")?;
    }
    if let Some(lo) = pod.link_by_name("lo")?.filter(|lo| !lo.up) {
        pod.set_up(lo.index)?;
    }
    for ip in wish.ips() {
        pod.set_address(link.index, IpNet::from(ip))?;
    }
    pod.set_up(link.index)?;
    for ip in wish.ips() {
        let gateway = gateway(ip);
        pod.set_neighbour(link.index, gateway, host_mac)?;
        pod.set_route(&Route { dst: default_route(ip), oif: link.index, gateway: Some(gateway), prefer: None })?;
    }
    Ok(())
}

pub(crate) fn gateway(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { GATEWAY_V4 } else { GATEWAY_V6 }
}

pub(crate) fn default_route(ip: IpAddr) -> IpNet {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    IpNet::new_assert(any, 0)
}

/// The node's end. Idempotent: also repairs it after a restart of the agent.
fn configure_node(node: &Netlink, wish: &Wish, index: u32, name: &str, pod_mac: Mac) -> Result<(), NetError> {
    if wish.ipv4.is_some() {
        sysctl(&format!("ipv4/conf/{name}/rp_filter"), "0")?;
        sysctl(&format!("ipv4/conf/{name}/forwarding"), "1")?;
    }
    if wish.ipv6.is_some() {
        sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), "0")?;
        sysctl(&format!("ipv6/conf/{name}/accept_dad"), "0")?;
        sysctl(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
        sysctl(&format!("ipv6/conf/{name}/forwarding"), "1")?;
    }
    node.set_up(index)?;
    for ip in wish.ips() {
        node.set_neighbour(index, ip, pod_mac)?;
        let prefer = wish.node.iter().copied().find(|own| own.is_ipv4() == ip.is_ipv4());
        let route = Route { dst: ip.into(), oif: index, gateway: None, prefer };
        match node.set_route(&route) {
            // The node does not have that address itself; its own choice of a source must do.
            Err(error) if prefer.is_some() && error.errno() == Some(libc::EINVAL) => {
                node.set_route(&Route { prefer: None, ..route })?;
            }
            other => other?,
        }
    }
    Ok(())
}

/// Removes the interface by its name in the node's namespace; answers whether it was there. Routes and neighbours go
/// with it, and the pod's end too, whether or not its namespace still has a name.
pub(crate) fn disconnect(host_ifname: &str) -> Result<bool> {
    let node = Netlink::open()?;
    match node.link_by_name(host_ifname)? {
        Some(link) => Ok(node.delete_link(link.index)?),
        None => Ok(false),
    }
}

/// Takes over an interface that an earlier process made: `None` when it is gone, else its index as it is now. The
/// node's end is written again, the pod's end is left alone.
pub(crate) fn adopt(wish: &Wish, made: &Made) -> Result<Option<u32>> {
    let node = Netlink::open()?;
    let Some(link) = node.link_by_name(&made.host_ifname)? else { return Ok(None) };
    configure_node(&node, wish, link.index, &made.host_ifname, made.mac)?;
    Ok(Some(link.index))
}

/// What differs from the wish, in words; empty when all is well.
pub(crate) fn verify(wish: &Wish, made: &Made) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let node = Netlink::open()?;
    let host = &made.host_ifname;
    match node.link_by_name(host)? {
        None => wrong.push(format!("interface {host} of the node is gone")),
        Some(link) => {
            if !link.up {
                wrong.push(format!("interface {host} of the node is down"));
            }
            for ip in wish.ips() {
                if !has_route(&node, ip.into(), link.index)? {
                    wrong.push(format!("the node has no route to {ip} by {host}"));
                }
            }
        }
    }
    let netns = open_netns(&wish.netns)?;
    wrong.extend(in_netns(&netns, || verify_pod(wish, made))?);
    Ok(wrong)
}

fn verify_pod(wish: &Wish, made: &Made) -> Result<Vec<String>, NetError> {
    let pod = Netlink::open()?;
    let ifname = &wish.attachment.ifname;
    let Some(link) = pod.link_by_name(ifname)? else {
        return Ok(vec![format!("interface {ifname} of the pod is gone")]);
    };
    let mut wrong = Vec::new();
    if !link.up {
        wrong.push(format!("interface {ifname} of the pod is down"));
    }
    if link.mac != made.mac {
        wrong.push(format!("interface {ifname} of the pod has another hardware address"));
    }
    let addresses = pod.addresses(link.index)?;
    for ip in wish.ips() {
        if !addresses.contains(&IpNet::from(ip)) {
            wrong.push(format!("interface {ifname} of the pod has lost its address {ip}"));
        }
        if !has_route(&pod, default_route(ip), link.index)? {
            wrong.push(format!("the pod has no default route {} by {ifname}", default_route(ip)));
        }
    }
    Ok(wrong)
}

fn has_route(netlink: &Netlink, dst: IpNet, oif: u32) -> Result<bool, NetError> {
    use netlink_packet_route::route::RouteAttribute::{Destination, Oif};
    let address = dst.addr().into();
    Ok(netlink.routes(dst.addr().is_ipv4())?.iter().any(|route| {
        let attributes = &route.attributes;
        route.header.destination_prefix_length == dst.prefix_len()
            && attributes.iter().any(|a| matches!(a, Oif(index) if *index == oif))
            && (dst.prefix_len() == 0 || attributes.iter().any(|a| matches!(a, Destination(d) if *d == address)))
    }))
}

/// Interfaces to the fabric: those named, or those with a default route.
pub(crate) fn uplinks(names: &[String]) -> Result<Vec<netlink::Link>> {
    let node = Netlink::open()?;
    if names.is_empty() {
        return Ok(node.default_route_links()?);
    }
    names.iter().map(|name| Ok(node.link_by_name(name)?.ok_or_else(|| vanished(name))?)).collect()
}

/// Refuses packets to addresses of this node's pod CIDRs that no pod has. Without that, the default route would send them
/// back to the fabric, which sends them here, until no hop is left. A pod's own route is longer and wins.
pub(crate) fn own_cidrs(cidrs: &[IpNet]) -> Result<()> {
    let node = Netlink::open()?;
    for cidr in cidrs {
        node.set_unreachable(cidr.trunc())?;
    }
    Ok(())
}

/// Prepares the node for forwarding between pods and uplinks. Idempotent.
pub(crate) fn prepare_node(ipv4: bool, ipv6: bool, uplinks: &[netlink::Link]) -> Result<()> {
    if ipv4 {
        sysctl("ipv4/ip_forward", "1")?;
        // Two uplinks: an answer may come by the one that the request did not take. "all" and the interface's own
        // value count, whichever is stricter.
        sysctl("ipv4/conf/all/rp_filter", "0")?;
        for link in uplinks {
            sysctl(&format!("ipv4/conf/{}/rp_filter", link.name), "0")?;
        }
    }
    if ipv6 {
        for link in uplinks {
            // A host that forwards ignores router advertisements; 2 means: not this one, its routes come from there.
            let accept_ra = format!("ipv6/conf/{}/accept_ra", link.name);
            if netlink::read_sysctl(&accept_ra).as_deref() == Some("1") {
                sysctl(&accept_ra, "2")?;
            }
        }
        sysctl("ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn attachment(container: &str, ifname: &str) -> Attachment {
        Attachment { container_id: container.into(), ifname: ifname.into() }
    }

    #[test]
    fn names_fit_the_kernel_and_differ() {
        let mut names = BTreeSet::new();
        for container in 0..1000 {
            for ifname in ["eth0", "net1"] {
                let a = attachment(&format!("c{container}"), ifname);
                assert_eq!(host_ifname(&a).len(), 15);
                assert!(names.insert(host_ifname(&a)));
            }
        }
        // Ids may not run into interface names.
        assert_ne!(host_ifname(&attachment("ab", "c")), host_ifname(&attachment("a", "bc")));
        // Known for all time: DEL after an upgrade must find it.
        assert_eq!(host_ifname(&attachment("0123456789abcdef", "eth0")), "lxcabd4e9257a8e");
    }

    #[test]
    fn hardware_addresses_are_local_unicast_and_differ_by_end() {
        let a = attachment("c", "eth0");
        assert_ne!(mac(&a, 1), mac(&a, 2));
        for end in [1, 2] {
            let [first, ..] = mac(&a, end);
            assert_eq!(first & 0b11, 0b10, "local and unicast");
        }
    }

    #[test]
    fn a_missing_namespace_is_named() {
        let wish = Wish {
            attachment: attachment("c", "eth0"),
            netns: "/nonexistent/netns".into(),
            ipv4: None,
            ipv6: None,
            mtu: 1500,
            node: vec![],
        };
        let error = connect(&wish).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/netns: No such file"), "{error}");
    }
}
