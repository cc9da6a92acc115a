//! Service rule sets in the shapes that kube-proxy programs, to stand beside our maps.
//!
//! Shapes: for iptables the chains KUBE-SERVICES -> KUBE-SVC-* -> KUBE-SEP-*; for nftables (KEP-3866) one verdict map
//! keyed by address, protocol and port, and a chain per service and per endpoint. Each service has one endpoint.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// The address of service `n` (0-based): 10.100.0.0/14 in order.
pub(crate) fn service_addr(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 100, 0, 1)) + n)
}

/// The port of every service.
pub(crate) const SERVICE_PORT: u16 = 80;

/// Input for `iptables-legacy-restore`.
pub(crate) fn iptables(services: u32, backend: Ipv4Addr, backend_port: u16) -> String {
    let mut out = String::from("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n");
    for n in 0..services {
        let _ = writeln!(out, ":KUBE-SVC-{n:08} - [0:0]\n:KUBE-SEP-{n:08} - [0:0]");
    }
    out.push_str("-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n");
    out.push_str("-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n");
    out.push_str("-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n");
    out.push_str("-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n");
    out.push_str("-A KUBE-POSTROUTING -j MASQUERADE --random-fully\n");
    for n in 0..services {
        let vip = service_addr(n);
        let _ = writeln!(
            out,
            "-A KUBE-SERVICES -d {vip}/32 -p tcp -m comment --comment \"ns/svc-{n}:http cluster IP\" -m tcp \
             --dport {SERVICE_PORT} -j KUBE-SVC-{n:08}\n\
             -A KUBE-SVC-{n:08} -m comment --comment \"ns/svc-{n}:http\" -j KUBE-SEP-{n:08}\n\
             -A KUBE-SEP-{n:08} -s {backend}/32 -m comment --comment \"ns/svc-{n}:http\" -j KUBE-MARK-MASQ\n\
             -A KUBE-SEP-{n:08} -p tcp -m comment --comment \"ns/svc-{n}:http\" -m tcp -j DNAT --to-destination \
             {backend}:{backend_port}"
        );
    }
    out.push_str("COMMIT\n");
    out
}

/// Input for `nft -f -`.
pub(crate) fn nftables(services: u32, backend: Ipv4Addr, backend_port: u16) -> String {
    let mut out = String::from(
        "table ip kube-proxy {\n map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
         chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }\n\
         chain nat-prerouting { type nat hook prerouting priority dstnat; policy accept; jump services; }\n\
         chain masquerading { meta mark & 0x4000 == 0 return; masquerade fully-random; }\n\
         chain nat-postrouting { type nat hook postrouting priority srcnat; policy accept; jump masquerading; }\n\
         chain mark-for-masquerade { meta mark set meta mark or 0x4000; }\n",
    );
    for n in 0..services {
        let _ = writeln!(
            out,
            "chain endpoint-{n} {{ ip saddr {backend} jump mark-for-masquerade; meta l4proto tcp dnat to \
             {backend}:{backend_port}; }}\nchain service-{n} {{ numgen random mod 1 vmap {{ 0 : goto endpoint-{n} }}; }}"
        );
    }
    out.push_str("}\n");
    for n in 0..services {
        let vip = service_addr(n);
        let _ = writeln!(
            out,
            "add element ip kube-proxy service-ips {{ {vip} . tcp . {SERVICE_PORT} : goto service-{n} }}"
        );
    }
    out
}
