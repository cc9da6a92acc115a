//! Netlink without async: a request is one system call and its answer is there at once.
//!
//! What happens in another network namespace happens on a thread made for it ([`in_netns`]), which ends with the work:
//! a thread that changed its namespace must never serve anything else.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// A netlink or namespace call that failed, and what it was for.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {source}")]
pub(crate) struct NetError {
    pub(crate) doing: String,
    pub(crate) source: io::Error,
}

impl NetError {
    pub(crate) fn new(doing: impl Into<String>, source: io::Error) -> NetError {
        NetError { doing: doing.into(), source }
    }

    pub(crate) fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

type Result<T, E = NetError> = std::result::Result<T, E>;

pub(crate) type Mac = [u8; 6];

/// What we ask of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Mac,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
}

/// A veth whose other end is born in another namespace.
#[derive(Debug)]
pub(crate) struct Veth<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: Mac,
    pub(crate) peer_name: &'a str,
    pub(crate) peer_mac: Mac,
    pub(crate) peer_netns: &'a File,
    pub(crate) mtu: u32,
}

/// A route to write; replaces the one that is there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    pub(crate) dst: IpNet,
    pub(crate) oif: u32,
    pub(crate) gateway: Option<IpAddr>,
    /// Source address for what this host itself sends there.
    pub(crate) prefer: Option<IpAddr>,
}

/// Marks rules and routes as ours (`rtm_protocol`, `FRA_PROTOCOL`): a number that nobody has in `rt_protos`.
pub(crate) const OUR_PROTOCOL: RouteProtocol = RouteProtocol::Other(202);

/// A route of a table that is ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TableRoute {
    pub(crate) table: u8,
    pub(crate) dst: IpNet,
    /// `None`: the table says nothing about it, the next rule shall (`throw`).
    pub(crate) oif: Option<u32>,
    /// Source address for what this host itself sends there.
    pub(crate) prefer: Option<IpAddr>,
}

impl TableRoute {
    fn message(&self) -> RouteMessage {
        let (dst, oif, prefer) = (self.dst, self.oif.unwrap_or_default(), self.prefer);
        let mut message = route_message(&Route { dst, oif, gateway: None, prefer });
        message.header.table = self.table;
        message.header.protocol = OUR_PROTOCOL;
        if self.oif.is_none() {
            message.header.kind = RouteType::Throw;
            message.header.scope = RouteScope::Universe;
            message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Oif(_)));
        }
        message
    }

    /// `None`: it is not ours.
    fn read(message: &RouteMessage) -> Option<TableRoute> {
        let header = &message.header;
        if header.protocol != OUR_PROTOCOL {
            return None;
        }
        let (mut dst, mut oif, mut prefer) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(ip)) => dst = Some(IpAddr::from(*ip)),
                RouteAttribute::Destination(RouteAddress::Inet6(ip)) => dst = Some(IpAddr::from(*ip)),
                RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => prefer = Some(IpAddr::from(*ip)),
                RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => prefer = Some(IpAddr::from(*ip)),
                RouteAttribute::Oif(index) => oif = Some(*index),
                _ => {}
            }
        }
        let dst = IpNet::new(dst?, header.destination_prefix_length).ok()?;
        // A throw route of IPv6 names the loopback interface.
        let oif = oif.filter(|_| header.kind == RouteType::Unicast);
        Some(TableRoute { table: header.table, dst, oif, prefer })
    }
}

/// A routing rule that is ours: leads to a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    pub(crate) priority: u32,
    pub(crate) table: u8,
    pub(crate) v4: bool,
    /// Not for packets with this mark, of which these bits count.
    pub(crate) unless_mark: Option<(u32, u32)>,
    pub(crate) from: Option<IpNet>,
}

impl Rule {
    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = if self.v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.table = self.table;
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![RuleAttribute::Priority(self.priority), RuleAttribute::Protocol(OUR_PROTOCOL)];
        if let Some((mark, mask)) = self.unless_mark {
            message.header.flags = RuleFlags::Invert;
            message.attributes.extend([RuleAttribute::FwMark(mark), RuleAttribute::FwMask(mask)]);
        }
        if let Some(from) = self.from {
            message.header.src_len = from.prefix_len();
            message.attributes.push(RuleAttribute::Source(from.addr()));
        }
        message
    }

    /// `None`: it is not ours.
    fn read(message: &RuleMessage) -> Option<Rule> {
        let (mut priority, mut mark, mut mask, mut from, mut ours) = (0, None, None, None, false);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(number) => priority = *number,
                RuleAttribute::FwMark(number) => mark = Some(*number),
                RuleAttribute::FwMask(number) => mask = Some(*number),
                RuleAttribute::Source(ip) => from = IpNet::new(*ip, message.header.src_len).ok(),
                RuleAttribute::Protocol(protocol) => ours = *protocol == OUR_PROTOCOL,
                _ => {}
            }
        }
        let rule = Rule {
            priority,
            table: message.header.table,
            v4: message.header.family == AddressFamily::Inet,
            unless_mark: mark.zip(mask),
            from,
        };
        ours.then_some(rule)
    }
}

/// A socket in the network namespace of the thread that opened it.
pub(crate) struct Netlink {
    socket: Socket,
}

impl Netlink {
    pub(crate) fn open() -> Result<Netlink> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        open().map(|socket| Netlink { socket }).map_err(|e| NetError::new("opening a netlink socket", e))
    }

    /// Sends one request and returns what the kernel answers; its refusal is an error.
    fn request(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = NLM_F_REQUEST | flags;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = &datagram[..];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                // Messages are aligned to four bytes.
                let length =
                    usize::try_from(answer.header.length).map_err(io::Error::other)?.max(1).next_multiple_of(4);
                match answer.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    _ => {}
                }
                rest = rest.get(length..).unwrap_or_default();
            }
            if !dump && flags & NLM_F_ACK == 0 && !answers.is_empty() {
                return Ok(answers);
            }
        }
    }

    pub(crate) fn link_by_name(&self, name: &str) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.link(message, || format!("looking for interface {name}"))
    }

    pub(crate) fn link_by_index(&self, index: u32) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.link(message, || format!("looking for interface {index}"))
    }

    fn link(&self, message: LinkMessage, doing: impl Fn() -> String) -> Result<Option<Link>> {
        match self.request(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(read_link(&link)),
                _ => None,
            })),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(NetError::new(doing(), error)),
        }
    }

    /// Makes both ends, down. Fails with EEXIST when either name is taken.
    pub(crate) fn add_veth(&self, veth: &Veth<'_>) -> Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(veth.peer_name.to_owned()),
            LinkAttribute::Address(veth.peer_mac.to_vec()),
            LinkAttribute::Mtu(veth.mtu),
            LinkAttribute::NetNsFd(veth.peer_netns.as_raw_fd()),
        ];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(veth.name.to_owned()),
            LinkAttribute::Address(veth.mac.to_vec()),
            LinkAttribute::Mtu(veth.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
            .map(drop)
            .map_err(|e| NetError::new(format!("making the veth {} - {}", veth.name, veth.peer_name), e))
    }

    pub(crate) fn set_up(&self, index: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(message), NLM_F_ACK)
            .map(drop)
            .map_err(|e| NetError::new(format!("setting interface {index} up"), e))
    }

    /// Deletes an interface, with a veth its other end too; answers whether it was there.
    pub(crate) fn delete_link(&self, index: u32) -> Result<bool> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.request(RouteNetlinkMessage::DelLink(message), NLM_F_ACK) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
            Err(error) => Err(NetError::new(format!("deleting interface {index}"), error)),
        }
    }

    /// Adds an address without duplicate detection: addresses of pods are unique by allocation.
    pub(crate) fn set_address(&self, index: u32, address: IpNet) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.scope = AddressScope::Universe;
        message.header.index = index;
        message.attributes = vec![
            AddressAttribute::Local(address.addr()),
            AddressAttribute::Address(address.addr()),
            AddressAttribute::Flags(AddressFlags::Nodad),
        ];
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
            .map(drop)
            .map_err(|e| NetError::new(format!("adding address {address} to interface {index}"), e))
    }

    pub(crate) fn addresses(&self, index: u32) -> Result<Vec<IpNet>> {
        let answers = self
            .request(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)
            .map_err(|e| NetError::new("listing addresses", e))?;
        let address = |message: &AddressMessage| {
            let ip = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            })?;
            IpNet::new(ip, message.header.prefix_len).ok()
        };
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) if message.header.index == index => address(message),
                _ => None,
            })
            .collect())
    }

    pub(crate) fn set_route(&self, route: &Route) -> Result<()> {
        self.request(RouteNetlinkMessage::NewRoute(route_message(route)), NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
            .map(drop)
            .map_err(|e| NetError::new(format!("writing the route to {}", route.dst), e))
    }

    /// Makes the kernel refuse what has no better route, with an ICMP error to the sender.
    pub(crate) fn set_unreachable(&self, dst: IpNet) -> Result<()> {
        let mut message = route_message(&Route { dst, oif: 0, gateway: None, prefer: None });
        message.header.kind = RouteType::Unreachable;
        message.header.scope = RouteScope::Universe;
        // The kernel takes none here.
        message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Oif(_)));
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
            .map(drop)
            .map_err(|e| NetError::new(format!("writing the unreachable route to {dst}"), e))
    }

    /// Routes of the main table.
    pub(crate) fn routes(&self, v4: bool) -> Result<Vec<RouteMessage>> {
        let mut message = RouteMessage::default();
        message.header.address_family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let answers = self
            .request(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)
            .map_err(|e| NetError::new("listing routes", e))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(route) if route.header.table == RouteHeader::RT_TABLE_MAIN => Some(route),
                _ => None,
            })
            .collect())
    }

    /// Writes a route of a table of our own; replaces the one that is there.
    pub(crate) fn set_table_route(&self, route: &TableRoute) -> Result<()> {
        self.request(RouteNetlinkMessage::NewRoute(route.message()), NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
            .map(drop)
            .map_err(|e| NetError::new(format!("writing the route to {} in table {}", route.dst, route.table), e))
    }

    /// Deletes a route of a table of our own; its being gone is success.
    pub(crate) fn delete_table_route(&self, route: &TableRoute) -> Result<()> {
        match self.request(RouteNetlinkMessage::DelRoute(route.message()), NLM_F_ACK) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                Err(NetError::new(format!("deleting the route to {} in table {}", route.dst, route.table), error))
            }
            _ => Ok(()),
        }
    }

    /// Our own routes of these tables, of a family.
    pub(crate) fn table_routes(&self, tables: &[u8], v4: bool) -> Result<Vec<TableRoute>> {
        let mut message = RouteMessage::default();
        message.header.address_family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let answers = self
            .request(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)
            .map_err(|e| NetError::new("listing routes", e))?;
        let routes = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) if tables.contains(&route.header.table) => TableRoute::read(&route),
            _ => None,
        });
        Ok(routes.collect())
    }

    /// Writes a rule; its being there is success.
    pub(crate) fn add_rule(&self, rule: &Rule) -> Result<()> {
        match self.request(RouteNetlinkMessage::NewRule(rule.message()), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
                Err(NetError::new(format!("writing the routing rule {rule:?}"), error))
            }
            _ => Ok(()),
        }
    }

    /// Deletes a rule; its being gone is success.
    pub(crate) fn delete_rule(&self, rule: &Rule) -> Result<()> {
        match self.request(RouteNetlinkMessage::DelRule(rule.message()), NLM_F_ACK) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                Err(NetError::new(format!("deleting the routing rule {rule:?}"), error))
            }
            _ => Ok(()),
        }
    }

    /// Our own rules of a family.
    pub(crate) fn rules(&self, v4: bool) -> Result<Vec<Rule>> {
        let mut message = RuleMessage::default();
        message.header.family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let answers = self
            .request(RouteNetlinkMessage::GetRule(message), NLM_F_DUMP)
            .map_err(|e| NetError::new("listing routing rules", e))?;
        let rules = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRule(rule) => Rule::read(&rule),
            _ => None,
        });
        Ok(rules.collect())
    }

    /// Asks the kernel for a WireGuard interface, to learn whether it knows that kind, and takes it away again.
    pub(crate) fn has_wireguard(&self) -> Result<bool> {
        const PROBE: &str = "causeway_probe";
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(PROBE.to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]),
        ];
        match self.request(RouteNetlinkMessage::NewLink(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(false),
            Err(error) => return Err(NetError::new("asking the kernel for a WireGuard interface", error)),
        }
        if let Some(link) = self.link_by_name(PROBE)? {
            self.delete_link(link.index)?;
        }
        Ok(true)
    }

    /// A neighbour that needs no ARP or neighbour discovery and never expires.
    pub(crate) fn set_neighbour(&self, index: u32, ip: IpAddr, mac: Mac) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(ip);
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unicast;
        message.attributes =
            vec![NeighbourAttribute::Destination(ip.into()), NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
        self.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
            .map(drop)
            .map_err(|e| NetError::new(format!("writing the neighbour {ip} of interface {index}"), e))
    }

    /// Interfaces with a default route in either family, by name.
    pub(crate) fn default_route_links(&self) -> Result<Vec<Link>> {
        let mut indices = Vec::new();
        for route in [self.routes(true)?, self.routes(false)?].concat() {
            if route.header.destination_prefix_length == 0 && route.header.kind == RouteType::Unicast {
                for attribute in &route.attributes {
                    match attribute {
                        RouteAttribute::Oif(index) => indices.push(*index),
                        RouteAttribute::MultiPath(hops) => indices.extend(hops.iter().map(|hop| hop.interface_index)),
                        _ => {}
                    }
                }
            }
        }
        indices.sort_unstable();
        indices.dedup();
        let mut links = Vec::new();
        for index in indices {
            links.extend(self.link_by_index(index)?);
        }
        links.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(links)
    }
}

/// Calls whenever an interface or a route comes, changes or goes in the namespace of the thread, and when events were
/// lost; from a thread of its own, for ever.
pub(crate) fn follow(changed: impl Fn() + Send + 'static) -> Result<()> {
    // linux/rtnetlink.h: RTMGRP_LINK, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE.
    const GROUPS: u32 = 0x1 | 0x40 | 0x400;
    let open = || {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        Ok(socket)
    };
    let socket = open().map_err(|e| NetError::new("listening for changes of interfaces", e))?;
    let run = move || loop {
        if let Err(error) = socket.recv_from_full() {
            tracing::debug!(%error, "events of interfaces were lost");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        changed();
    };
    let thread = std::thread::Builder::new().name("links".into()).spawn(run);
    thread.map(drop).map_err(|e| NetError::new("starting a thread that listens for changes of interfaces", e))
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.dst.addr());
    message.header.destination_prefix_length = route.dst.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = if route.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
    message.header.kind = RouteType::Unicast;
    if route.dst.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(route.dst.addr().into()));
    }
    if let Some(gateway) = route.gateway {
        // No route leads to the gateway: it is on the link because we say so.
        message.header.flags = RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
    }
    if let Some(prefer) = route.prefer {
        message.attributes.push(RouteAttribute::PrefSource(prefer.into()));
    }
    message.attributes.push(RouteAttribute::Oif(route.oif));
    message
}

fn read_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: Mac::default(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().unwrap_or_default(),
            _ => {}
        }
    }
    link
}

/// Runs `work` on a thread of its own inside a network namespace, and waits for it.
pub(crate) fn in_netns<R: Send>(netns: &File, work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
            nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)
                .map_err(|e| NetError::new("entering the pod's network namespace", e.into()))?;
            work()
        });
        let thread = thread.map_err(|e| NetError::new("starting a thread for the pod's network namespace", e))?;
        thread.join().unwrap_or_else(|_| {
            Err(NetError::new("working in the pod's network namespace", io::Error::other("the thread panicked")))
        })
    })
}

/// Writes `net.<key>` of the calling thread's network namespace, unless it has the value already. `key` is a path below
/// `/proc/sys/net`, because interface names may contain dots.
pub(crate) fn sysctl(key: &str, value: &str) -> Result<()> {
    let path = sysctl_path(key);
    let doing = || format!("setting {} to {value}", path.display());
    let now = fs::read_to_string(&path).map_err(|e| NetError::new(doing(), e))?;
    if now.trim() == value {
        return Ok(());
    }
    fs::write(&path, value).map_err(|e| NetError::new(doing(), e))
}

pub(crate) fn read_sysctl(key: &str) -> Option<String> {
    fs::read_to_string(sysctl_path(key)).ok().map(|text| text.trim().to_owned())
}

fn sysctl_path(key: &str) -> PathBuf {
    // The thread's own view: /proc/sys/net shows the namespace of whoever looks.
    Path::new("/proc/sys/net").join(key)
}
