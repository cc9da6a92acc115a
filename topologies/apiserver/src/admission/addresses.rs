//! Cluster IPs and node ports: each belongs to at most one Service.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard};

use ipnet::IpNet;
use serde_json::Value;

/// `--service-node-port-range` of the real API server.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;
/// A range larger than this (any IPv6 one) is used only so far.
const MAX_RANGE: u128 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "IPv4" => Some(Self::V4),
            "IPv6" => Some(Self::V6),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Used {
    ips: HashSet<IpAddr>,
    ports: HashSet<(u16, String)>,
    /// Where the search for the next free one begins, so that a freed address rests for a while.
    next_ip: [u128; 2],
    next_port: u16,
}

/// The ranges, and what of them is in use.
pub struct Addresses {
    ranges: Vec<IpNet>,
    used: Mutex<Used>,
}

impl Addresses {
    /// At most one range per family; the first is the cluster's primary one.
    pub fn new(ranges: Vec<IpNet>) -> Self {
        Self { ranges, used: Mutex::default() }
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn families(&self) -> Vec<Family> {
        self.ranges.iter().map(|net| Family::of(&net.addr())).collect()
    }

    fn range(&self, family: Family) -> Option<&IpNet> {
        self.ranges.iter().find(|net| Family::of(&net.addr()) == family)
    }

    /// The first address of each range belongs to the `kubernetes` Service.
    pub fn first(&self) -> Vec<IpAddr> {
        self.ranges.iter().map(|net| nth(net, 1)).collect()
    }

    fn take_free_ip(&self, family: Family) -> Result<IpAddr, String> {
        let Some(net) = self.range(family) else {
            return Err(format!("this cluster has no {} service range", family.name()));
        };
        let host_bits = u32::from(net.max_prefix_len() - net.prefix_len());
        let size = if host_bits >= 20 { MAX_RANGE } else { 1 << host_bits };
        let mut used = self.used();
        let slot = usize::from(family == Family::V6);
        for step in 0..size {
            // 0 is the network, 1 is reserved, the last is an IPv4 broadcast address.
            let offset = 2 + (used.next_ip[slot] + step) % size.saturating_sub(3).max(1);
            let address = nth(net, offset);
            if net.contains(&address) && used.ips.insert(address) {
                used.next_ip[slot] = offset - 1;
                return Ok(address);
            }
        }
        Err(format!("range {net} is full"))
    }

    fn take_ip(&self, address: IpAddr) -> Result<(), String> {
        let range = self.range(Family::of(&address)).filter(|net| net.contains(&address));
        let Some(_) = range else {
            let ranges: Vec<String> = self.ranges.iter().map(ToString::to_string).collect();
            return Err(format!(
                "failed to allocate IP {address}: the provided IP is not in the valid range. The range of valid IPs is {}",
                ranges.join(",")
            ));
        };
        if self.used().ips.insert(address) {
            Ok(())
        } else {
            Err(format!("failed to allocate IP {address}: provided IP is already allocated"))
        }
    }

    fn take_free_port(&self, protocol: &str) -> Result<u16, String> {
        let mut used = self.used();
        let count = NODE_PORTS.end() - NODE_PORTS.start() + 1;
        for step in 0..count {
            let port = NODE_PORTS.start() + (used.next_port + step) % count;
            // A port that another protocol uses is given only when asked for.
            if !used.ports.iter().any(|(taken, _)| *taken == port) {
                used.ports.insert((port, protocol.to_owned()));
                used.next_port = port - NODE_PORTS.start() + 1;
                return Ok(port);
            }
        }
        Err("range is full".to_owned())
    }

    fn take_port(&self, port: u16, protocol: &str) -> Result<(), String> {
        if !NODE_PORTS.contains(&port) {
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                NODE_PORTS.start(),
                NODE_PORTS.end()
            ));
        }
        if self.used().ports.insert((port, protocol.to_owned())) {
            Ok(())
        } else {
            Err("provided port is already allocated".to_owned())
        }
    }

    pub fn release_service(&self, service: &Value) {
        self.release(&ips_of(service), &ports_of(service));
    }

    fn release(&self, ips: &[IpAddr], ports: &[(u16, String)]) {
        let mut used = self.used();
        for ip in ips {
            used.ips.remove(ip);
        }
        for port in ports {
            used.ports.remove(port);
        }
    }
}

fn nth(net: &IpNet, offset: u128) -> IpAddr {
    match net.network() {
        IpAddr::V4(base) => {
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            Ipv4Addr::from(u32::from(base).wrapping_add(offset)).into()
        }
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base).wrapping_add(offset)).into(),
    }
}

pub(super) fn ips_of(service: &Value) -> Vec<IpAddr> {
    let all = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    all.filter_map(|ip| ip.as_str()?.parse().ok()).collect()
}

pub(super) fn ports_of(service: &Value) -> Vec<(u16, String)> {
    let port = |value: &Value| value.as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0);
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let health = port(&service["spec"]["healthCheckNodePort"]).map(|p| (p, "TCP".to_owned()));
    ports
        .filter_map(|p| Some((port(&p["nodePort"])?, p["protocol"].as_str().unwrap_or("TCP").to_owned())))
        .chain(health)
        .collect()
}

/// What a write has taken and what it will leave; undone on drop unless kept.
pub struct Claim<'a> {
    addresses: &'a Addresses,
    taken: (Vec<IpAddr>, Vec<(u16, String)>),
    left: (Vec<IpAddr>, Vec<(u16, String)>),
}

impl<'a> Claim<'a> {
    pub fn nothing(addresses: &'a Addresses) -> Self {
        Self { addresses, taken: Default::default(), left: Default::default() }
    }

    pub(super) fn free_ip(&mut self, family: Family) -> Result<IpAddr, String> {
        let ip = self.addresses.take_free_ip(family)?;
        self.taken.0.push(ip);
        Ok(ip)
    }

    pub(super) fn ip(&mut self, ip: IpAddr) -> Result<(), String> {
        self.addresses.take_ip(ip)?;
        self.taken.0.push(ip);
        Ok(())
    }

    pub(super) fn free_port(&mut self, protocol: &str) -> Result<u16, String> {
        let port = self.addresses.take_free_port(protocol)?;
        self.taken.1.push((port, protocol.to_owned()));
        Ok(port)
    }

    pub(super) fn port(&mut self, port: u16, protocol: &str) -> Result<(), String> {
        self.addresses.take_port(port, protocol)?;
        self.taken.1.push((port, protocol.to_owned()));
        Ok(())
    }

    pub(super) fn leave(&mut self, ips: Vec<IpAddr>, ports: Vec<(u16, String)>) {
        self.left = (ips, ports);
    }

    /// The write succeeded.
    pub fn keep(mut self) {
        self.taken = std::mem::take(&mut self.left);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.addresses.release(&self.taken.0, &self.taken.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unique_and_come_back() {
        let addresses = Addresses::new(vec!["10.96.0.0/29".parse().expect("a range")]);
        let mut claim = Claim::nothing(&addresses);
        let mut seen = HashSet::new();
        for _ in 0..5 {
            assert!(seen.insert(claim.free_ip(Family::V4).expect("five are free")));
        }
        assert!(claim.free_ip(Family::V4).is_err());
        assert!(claim.free_ip(Family::V6).is_err());
        drop(claim);
        let mut again = Claim::nothing(&addresses);
        assert!(again.ip("10.96.0.3".parse().expect("an address")).is_ok());
        assert!(again.ip("10.96.0.3".parse().expect("an address")).is_err());
        assert!(again.ip("10.97.0.3".parse().expect("an address")).is_err());
        again.keep();
        assert!(Claim::nothing(&addresses).ip("10.96.0.3".parse().expect("an address")).is_err());
    }
}
