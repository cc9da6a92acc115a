//! Which address a pod gets: the next free one of the node's pod CIDRs.
//!
//! Pure: [`Ipam`] knows CIDRs and addresses in use, and neither pods nor interfaces; `cni` drives it and remembers who
//! has what. Addresses are given out round-robin, so that one that was released is used again as late as possible:
//! until then, others may still hold connections, ipcache rows or DNS answers with it.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Addresses of one pod, one per enabled family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Addresses {
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IpamError {
    /// Will pass: the operator allocates CIDRs to new nodes.
    #[error(
        "this node has no {family} pod CIDR yet; it comes with Node.spec.podCIDRs, which the operator fills (kubectl get node -o yaml)"
    )]
    NoCidr { family: &'static str },
    /// Passes when a pod goes, or never.
    #[error(
        "all {total} addresses of {family} pod CIDR {cidrs} are in use; delete pods of this node, or give the cluster a larger mask for nodes"
    )]
    Exhausted { family: &'static str, cidrs: String, total: u128 },
    #[error("pod CIDR {cidr} is too small to hold a pod: {why}")]
    TooSmall { cidr: IpNet, why: &'static str },
    /// Two pods on disk claim it; one of the files is wrong.
    #[error("address {address} belongs to another pod already")]
    Taken { address: IpAddr },
}

/// An address family: how its addresses count, and which of a CIDR's are no pod's.
trait Family {
    type Addr: Copy + Ord + fmt::Display + Into<IpAddr>;
    const NAME: &'static str;
    fn from_number(n: u128) -> Option<Self::Addr>;
    fn number(addr: Self::Addr) -> u128;
}

#[derive(Debug)]
struct V4;
#[derive(Debug)]
struct V6;

impl Family for V4 {
    type Addr = Ipv4Addr;
    const NAME: &'static str = "IPv4";

    fn from_number(n: u128) -> Option<Ipv4Addr> {
        u32::try_from(n).ok().map(Ipv4Addr::from)
    }

    fn number(addr: Ipv4Addr) -> u128 {
        u32::from(addr).into()
    }
}

impl Family for V6 {
    type Addr = Ipv6Addr;
    const NAME: &'static str = "IPv6";

    fn from_number(n: u128) -> Option<Ipv6Addr> {
        Some(n.into())
    }

    fn number(addr: Ipv6Addr) -> u128 {
        addr.into()
    }
}

/// Addresses that pods may have, `first..=last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    cidr: IpNet,
    first: u128,
    last: u128,
}

/// Without the network address (in IPv6 the subnet-router anycast address), the first host address, which people take
/// for a gateway, and in IPv4 the broadcast address. The reserved anycast addresses at the end of an IPv6 subnet
/// (RFC 2526) are out of round-robin's reach in a /64 and are handed out in smaller subnets.
fn usable(cidr: IpNet) -> Result<Range, IpamError> {
    let too_small = |why| IpamError::TooSmall { cidr, why };
    let (network, last) = match cidr {
        IpNet::V4(net) => {
            if net.prefix_len() > 29 {
                return Err(too_small("give a /29 or a shorter prefix"));
            }
            (V4::number(net.network()), V4::number(net.broadcast()) - 1)
        }
        IpNet::V6(net) => {
            if net.prefix_len() > 125 {
                return Err(too_small("give a /125 or a shorter prefix"));
            }
            (V6::number(net.network()), V6::number(net.broadcast()))
        }
    };
    Ok(Range { cidr, first: network + 2, last })
}

#[derive(Debug)]
struct Pool<F> {
    ranges: Vec<Range>,
    in_use: BTreeSet<u128>,
    /// The address given out last.
    last: u128,
    family: PhantomData<F>,
}

impl<F: Family> Pool<F> {
    fn new() -> Pool<F> {
        Pool { ranges: Vec::new(), in_use: BTreeSet::new(), last: 0, family: PhantomData }
    }

    fn allocate(&mut self) -> Result<F::Addr, IpamError> {
        if self.ranges.is_empty() {
            return Err(IpamError::NoCidr { family: F::NAME });
        }
        let found = self.candidates_after(self.last).or_else(|| self.candidates_after(0));
        let Some((number, addr)) = found.and_then(|n| F::from_number(n).map(|addr| (n, addr))) else {
            let cidrs: Vec<String> = self.ranges.iter().map(|r| r.cidr.to_string()).collect();
            let total = self.ranges.iter().map(|r| r.last - r.first + 1).fold(0, u128::saturating_add);
            return Err(IpamError::Exhausted { family: F::NAME, cidrs: cidrs.join(", "), total });
        };
        self.in_use.insert(number);
        self.last = number;
        Ok(addr)
    }

    /// The first free address behind `after`. Walks the addresses in use, not the range: a /64 has many addresses.
    fn candidates_after(&self, after: u128) -> Option<u128> {
        self.ranges.iter().filter(|r| r.last > after).find_map(|range| {
            let mut candidate = range.first.max(after + 1);
            for used in self.in_use.range(candidate..=range.last) {
                if *used != candidate {
                    break;
                }
                candidate = used.checked_add(1)?;
            }
            (candidate <= range.last).then_some(candidate)
        })
    }

    fn restore(&mut self, addr: F::Addr) -> Result<(), IpamError> {
        let number = F::number(addr);
        if !self.in_use.insert(number) {
            return Err(IpamError::Taken { address: addr.into() });
        }
        self.last = self.last.max(number);
        Ok(())
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Ipam {
    v4: Option<Pool<V4>>,
    v6: Option<Pool<V6>>,
}

impl Ipam {
    /// An allocator for the enabled families, which has nothing to give until [`Ipam::set_cidrs`].
    pub(crate) fn new(ipv4: bool, ipv6: bool) -> Ipam {
        Ipam { v4: ipv4.then(Pool::new), v6: ipv6.then(Pool::new) }
    }

    /// The node's CIDRs as they are now. Addresses in use stay in use, also outside the new CIDRs. A CIDR that is too
    /// small is reported and the others are used.
    pub(crate) fn set_cidrs(&mut self, cidrs: &[IpNet]) -> Vec<IpamError> {
        let (mut v4, mut v6, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for cidr in cidrs {
            match usable(cidr.trunc()) {
                Ok(range) if range.cidr.addr().is_ipv4() => v4.push(range),
                Ok(range) => v6.push(range),
                Err(error) => errors.push(error),
            }
        }
        // In the order of addresses, because round-robin goes upwards.
        v4.sort_unstable_by_key(|r| r.first);
        v6.sort_unstable_by_key(|r| r.first);
        if let Some(pool) = &mut self.v4 {
            pool.ranges = v4;
        }
        if let Some(pool) = &mut self.v6 {
            pool.ranges = v6;
        }
        errors
    }

    /// Whether every enabled family has a CIDR.
    pub(crate) fn ready(&self) -> Result<(), IpamError> {
        match self {
            Ipam { v4: None, v6: None } => Err(IpamError::NoCidr { family: "IPv4 or IPv6" }),
            Ipam { v4: Some(p), .. } if p.ranges.is_empty() => Err(IpamError::NoCidr { family: V4::NAME }),
            Ipam { v6: Some(p), .. } if p.ranges.is_empty() => Err(IpamError::NoCidr { family: V6::NAME }),
            Ipam { .. } => Ok(()),
        }
    }

    /// One address of every enabled family, or none at all.
    pub(crate) fn allocate(&mut self) -> Result<Addresses, IpamError> {
        self.ready()?;
        let v4 = self.v4.as_mut().map(Pool::allocate).transpose()?;
        let v6 = match self.v6.as_mut().map(Pool::allocate).transpose() {
            Ok(v6) => v6,
            Err(error) => {
                self.release(Addresses { v4, v6: None });
                return Err(error);
            }
        };
        Ok(Addresses { v4, v6 })
    }

    /// Takes addresses that an adopted pod has, whatever the CIDRs say now.
    pub(crate) fn restore(&mut self, addresses: Addresses) -> Result<(), IpamError> {
        let Addresses { v4, v6 } = addresses;
        if let (Some(pool), Some(addr)) = (&mut self.v4, v4) {
            pool.restore(addr)?;
        }
        if let (Some(pool), Some(addr)) = (&mut self.v6, v6)
            && let Err(error) = pool.restore(addr)
        {
            self.release(Addresses { v4, v6: None });
            return Err(error);
        }
        Ok(())
    }

    /// Gives addresses back; those that are free already stay so.
    pub(crate) fn release(&mut self, addresses: Addresses) {
        if let (Some(pool), Some(addr)) = (&mut self.v4, addresses.v4) {
            pool.in_use.remove(&V4::number(addr));
        }
        if let (Some(pool), Some(addr)) = (&mut self.v6, addresses.v6) {
            pool.in_use.remove(&V6::number(addr));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    fn ipam(cidrs: &[&str]) -> Ipam {
        let nets = nets(cidrs);
        let has = |v4: bool| nets.iter().any(|n| n.addr().is_ipv4() == v4);
        let mut ipam = Ipam::new(has(true), has(false));
        assert_eq!(ipam.set_cidrs(&nets), []);
        ipam
    }

    fn v4(text: &str) -> Addresses {
        Addresses { v4: Some(text.parse().unwrap()), v6: None }
    }

    #[test]
    fn both_families_start_behind_the_gateway() {
        let got = ipam(&["10.1.2.0/24", "fd00:1:2::/64"]).allocate().unwrap();
        assert_eq!(got, Addresses { v4: Some([10, 1, 2, 2].into()), v6: Some("fd00:1:2::2".parse().unwrap()) });
    }

    #[test]
    fn every_address_is_given_once_and_broadcast_never() {
        let mut ipam = ipam(&["10.1.2.0/29"]);
        let got: Vec<String> = (0..5).map(|_| ipam.allocate().unwrap().v4.unwrap().to_string()).collect();
        assert_eq!(got, ["10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.5", "10.1.2.6"]);
        let error = ipam.allocate().unwrap_err();
        assert_eq!(error, IpamError::Exhausted { family: "IPv4", cidrs: "10.1.2.0/29".into(), total: 5 });
        assert!(error.to_string().contains("all 5 addresses of IPv4 pod CIDR 10.1.2.0/29 are in use"), "{error}");
        ipam.release(v4("10.1.2.4"));
        assert_eq!(ipam.allocate().unwrap(), v4("10.1.2.4"));
    }

    #[test]
    fn a_released_address_comes_back_last() {
        let mut ipam = ipam(&["10.1.2.0/29"]);
        let first = ipam.allocate().unwrap();
        ipam.release(first);
        let rest: Vec<Addresses> = (0..4).map(|_| ipam.allocate().unwrap()).collect();
        assert!(!rest.contains(&first), "{rest:?}");
        assert_eq!(ipam.allocate().unwrap(), first);
    }

    #[test]
    fn restored_addresses_are_skipped_and_stay_when_cidrs_change() {
        let mut ipam = Ipam::new(true, false);
        ipam.restore(v4("10.1.2.3")).unwrap();
        assert_eq!(ipam.restore(v4("10.1.2.3")), Err(IpamError::Taken { address: [10, 1, 2, 3].into() }));
        ipam.set_cidrs(&nets(&["10.1.2.0/29"]));
        let given: Vec<Addresses> = std::iter::from_fn(|| ipam.allocate().ok()).collect();
        assert_eq!(given.len(), 4);
        assert!(!given.contains(&v4("10.1.2.3")));
        ipam.set_cidrs(&nets(&["10.9.0.0/24"]));
        assert_eq!(ipam.allocate().unwrap(), v4("10.9.0.2"));
        ipam.set_cidrs(&nets(&["10.1.2.0/29"]));
        assert!(matches!(ipam.allocate(), Err(IpamError::Exhausted { .. })));
    }

    #[test]
    fn a_second_cidr_is_used_when_the_first_is_full() {
        let mut ipam = ipam(&["10.1.3.0/29", "10.1.2.0/29"]);
        let got: BTreeSet<Ipv4Addr> = (0..10).map(|_| ipam.allocate().unwrap().v4.unwrap()).collect();
        assert_eq!(got.len(), 10);
        assert!(matches!(ipam.allocate(), Err(IpamError::Exhausted { total: 10, .. })));
    }

    #[test]
    fn exhaustion_of_one_family_takes_nothing_of_the_other() {
        let mut ipam = ipam(&["10.1.2.0/24", "fd00::/125"]);
        for _ in 0..6 {
            ipam.allocate().unwrap();
        }
        assert!(matches!(ipam.allocate(), Err(IpamError::Exhausted { family: "IPv6", total: 6, .. })));
        assert_eq!(ipam.v4.as_ref().unwrap().in_use.len(), 6);
    }

    #[test]
    fn the_last_addresses_of_all_do_not_overflow() {
        let mut top = ipam(&["255.255.255.248/29"]);
        assert_eq!(std::iter::from_fn(|| top.allocate().ok()).count(), 5);
        let mut top = ipam(&["ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff8/125"]);
        assert_eq!(std::iter::from_fn(|| top.allocate().ok()).count(), 6);
    }

    #[test]
    fn missing_and_tiny_cidrs_are_named() {
        assert_eq!(Ipam::new(true, true).allocate(), Err(IpamError::NoCidr { family: "IPv4" }));
        assert!(Ipam::new(false, false).ready().is_err());
        let mut ipam = Ipam::new(true, true);
        let errors = ipam.set_cidrs(&nets(&["10.0.0.0/31", "10.1.2.0/24"]));
        assert!(errors[0].to_string().contains("10.0.0.0/31 is too small"), "{errors:?}");
        assert_eq!(ipam.ready(), Err(IpamError::NoCidr { family: "IPv6" }));
    }
}
