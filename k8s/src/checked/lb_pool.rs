//! Checked form of `CiliumLoadBalancerIPPool`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use kube::ResourceExt;

use super::value::ip_address;
use crate::cilium::lb_pool::{CiliumLoadBalancerIPPool, IpBlock};
use crate::rejected::{Fault, Rejected};
use crate::selector::Selector;

/// Checked `CiliumLoadBalancerIPPool`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    pub name: String,
    /// Over the Service's labels, and `io.kubernetes.service.{name,namespace}`; absent matches all.
    pub service_selector: Selector,
    /// In the order written; never overlapping within the pool.
    pub ranges: Vec<Range>,
    /// Nothing new is given out.
    pub disabled: bool,
}

/// Addresses from `first` to `last`, both of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    first: IpAddr,
    last: IpAddr,
    /// The first and last address are kept free.
    reserve_ends: bool,
}

impl Range {
    /// The range from `first` to `last`; None when they are of different families or in the wrong order.
    #[must_use]
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Range> {
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Range { first, last, reserve_ends: false })
    }

    /// The lowest address, given out or not.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address, given out or not.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        self.last
    }

    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    /// Whether `address` lies between the ends, both included.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last
    }

    /// Whether `address` may be given out to a new Service.
    #[must_use]
    pub fn is_allocatable(&self, address: IpAddr) -> bool {
        self.contains(address) && !(self.reserves_ends() && (address == self.first || address == self.last))
    }

    /// Whether two ranges have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Range) -> bool {
        self.is_ipv4() == other.is_ipv4() && self.first <= other.last && other.first <= self.last
    }

    /// Number of addresses that may be given out; saturates at `u128::MAX`, which only ::/0 exceeds.
    #[must_use]
    pub fn size(&self) -> u128 {
        let all = (bits(self.last) - bits(self.first)).saturating_add(1);
        if self.reserves_ends() { all - 2 } else { all }
    }

    /// The lowest address, from `from` upwards if given, that may be given out and is not `taken`.
    ///
    /// Walks from the low end: Services get neighbouring addresses, and the walk is as long as the run of taken ones.
    pub fn lowest_free(&self, from: Option<IpAddr>, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let reserve = u128::from(self.reserves_ends());
        let mut candidate = (bits(self.first) + reserve).max(from.map_or(0, bits));
        let last = bits(self.last) - reserve;
        while candidate <= last {
            let address = address(candidate, self.is_ipv4());
            if !taken(address) {
                return Some(address);
            }
            candidate = candidate.checked_add(1)?;
        }
        None
    }

    /// Reserving both ends of one or two addresses would leave none.
    fn reserves_ends(&self) -> bool {
        self.reserve_ends && bits(self.last) - bits(self.first) > 1
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} - {}", self.first, self.last)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(bits: u128, ipv4: bool) -> IpAddr {
    match u32::try_from(bits) {
        Ok(bits) if ipv4 => Ipv4Addr::from_bits(bits).into(),
        _ => Ipv6Addr::from_bits(bits).into(),
    }
}

impl TryFrom<&CiliumLoadBalancerIPPool> for Pool {
    type Error = Rejected;

    fn try_from(object: &CiliumLoadBalancerIPPool) -> Result<Self, Rejected> {
        pool(object).map_err(|fault| fault.of(object))
    }
}

fn pool(object: &CiliumLoadBalancerIPPool) -> Result<Pool, Fault> {
    let spec = &object.spec;
    let reserve_ends = match spec.allow_first_last_ips.as_deref() {
        None | Some("Yes" | "") => false,
        Some("No") => true,
        Some(other) => {
            return Err(Fault::new(
                "spec.allowFirstLastIPs",
                format!("{other:?} is unknown"),
                "write \"Yes\" or \"No\"",
            ));
        }
    };
    let mut ranges: Vec<Range> = Vec::with_capacity(spec.blocks.len());
    for (index, block) in spec.blocks.iter().enumerate() {
        let field = format!("spec.blocks[{index}]");
        let range = range(block, reserve_ends, &field)?;
        if let Some(other) = ranges.iter().position(|other| other.overlaps(&range)) {
            return Err(Fault::new(
                field,
                format!("{range} overlaps spec.blocks[{other}], {}", ranges[other]),
                "make the blocks of a pool disjoint",
            ));
        }
        ranges.push(range);
    }
    Ok(Pool {
        name: object.name_any(),
        service_selector: Selector::or_everything(spec.service_selector.as_ref(), "spec.serviceSelector")?,
        ranges,
        disabled: spec.disabled,
    })
}

fn range(block: &IpBlock, reserve_ends: bool, field: &str) -> Result<Range, Fault> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    match (given(&block.cidr), given(&block.start), given(&block.stop)) {
        (Some(cidr), None, None) => {
            let net = IpNet::from_str(cidr.trim()).map_err(|_| {
                Fault::new(format!("{field}.cidr"), format!("{cidr:?} is not a CIDR"), "write one as 192.0.2.0/24")
            })?;
            Ok(Range { first: net.network(), last: last_of(net), reserve_ends })
        }
        (None, Some(start), stop) => {
            let first = ip_address(&start, &format!("{field}.start"))?;
            let last = stop.map_or(Ok(first), |stop| ip_address(&stop, &format!("{field}.stop")))?;
            Range::new(first, last).ok_or_else(|| {
                Fault::new(
                    format!("{field}.stop"),
                    format!("{last} is not after start {first}"),
                    "write an address of the same family, at or after start",
                )
            })
        }
        (None, None, _) => {
            Err(Fault::new(field, "has neither cidr nor start", "write cidr, or start with an optional stop"))
        }
        (Some(_), ..) => Err(Fault::new(field, "has cidr and start or stop", "write cidr alone, or start and stop")),
    }
}

/// `IpNet::broadcast` is the highest address in both families.
fn last_of(net: IpNet) -> IpAddr {
    net.broadcast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(spec: &str) -> Result<Pool, Rejected> {
        let text =
            format!("apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {{name: p}}\nspec:\n{spec}");
        Pool::try_from(&serde_yaml_ng::from_str::<CiliumLoadBalancerIPPool>(&text).unwrap())
    }

    #[test]
    fn sizes_and_first_addresses() {
        let table = [
            ("  blocks: [{cidr: 192.0.2.0/24}]", 256, "192.0.2.0"),
            ("  blocks: [{cidr: 192.0.2.77/24}]", 256, "192.0.2.0"),
            ("  allowFirstLastIPs: 'No'\n  blocks: [{cidr: 192.0.2.0/24}]", 254, "192.0.2.1"),
            ("  allowFirstLastIPs: 'No'\n  blocks: [{cidr: 192.0.2.0/31}]", 2, "192.0.2.0"),
            ("  allowFirstLastIPs: 'No'\n  blocks: [{cidr: 192.0.2.9/32}]", 1, "192.0.2.9"),
            ("  allowFirstLastIPs: 'No'\n  blocks: [{cidr: '2001:db8::/126'}]", 2, "2001:db8::1"),
            ("  allowFirstLastIPs: 'No'\n  blocks: [{start: 192.0.2.10, stop: 192.0.2.12}]", 3, "192.0.2.10"),
            ("  blocks: [{start: 192.0.2.10}]", 1, "192.0.2.10"),
            ("  blocks: [{cidr: '2001:db8:2::/112'}]", 65536, "2001:db8:2::"),
        ];
        for (spec, size, first) in table {
            let range = pool(spec).unwrap().ranges[0];
            assert_eq!(range.size(), size, "{spec}");
            assert_eq!(range.lowest_free(None, |_| false), Some(first.parse().unwrap()), "{spec}");
        }
    }

    #[test]
    fn a_full_range_has_no_free_address() {
        let range = Range::new("255.255.255.254".parse().unwrap(), "255.255.255.255".parse().unwrap()).unwrap();
        assert_eq!(range.lowest_free(None, |_| true), None);
        let end = Range::new("ffff::ffff".parse().unwrap(), IpAddr::V6(Ipv6Addr::from_bits(u128::MAX))).unwrap();
        assert_eq!(end.lowest_free(None, |a| a != end.last() && end.first() == a).map(|a| end.contains(a)), Some(true));
    }

    #[test]
    fn a_bad_pool_names_its_field() {
        let table = [
            ("  blocks: [{cidr: 192.0.2.0/33}]", "spec.blocks[0].cidr"),
            ("  blocks: [{cidr: 192.0.2.0/24}, {start: 192.0.2.9}]", "spec.blocks[1]"),
            ("  blocks: [{}]", "spec.blocks[0]"),
            ("  blocks: [{cidr: 192.0.2.0/24, stop: 192.0.2.9}]", "spec.blocks[0]"),
            ("  blocks: [{start: 192.0.2.9, stop: 192.0.2.8}]", "spec.blocks[0].stop"),
            ("  blocks: [{start: 192.0.2.9, stop: '2001:db8::1'}]", "spec.blocks[0].stop"),
            ("  blocks: [{start: nowhere}]", "spec.blocks[0].start"),
            ("  allowFirstLastIPs: Perhaps", "spec.allowFirstLastIPs"),
        ];
        for (spec, field) in table {
            assert_eq!(pool(spec).unwrap_err().field, field, "{spec}");
        }
    }
}
