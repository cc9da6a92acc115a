//! Results in the form of each version.

use causeway_api::cni::Attached;
use serde_json::{Value, json};

use crate::version::Version;

/// Index of the pod's interface among the result's.
const POD: usize = 1;

/// The result of ADD.
pub(crate) fn added(attached: &Attached, ifname: &str, netns: &str, version: Version) -> Value {
    let mut node = json!({"name": attached.host_ifname, "mac": attached.host_mac});
    let mut pod = json!({"name": ifname, "mac": attached.mac, "sandbox": netns});
    if version >= Version::V1_1_0 {
        node["mtu"] = attached.mtu.into();
        pod["mtu"] = attached.mtu.into();
    }
    let ip = |ip: &causeway_api::cni::Address| {
        let mut value = json!({"address": ip.address.to_string(), "interface": POD});
        if let Some(gateway) = ip.gateway {
            value["gateway"] = gateway.to_string().into();
        }
        if version < Version::V1_0_0 {
            value["version"] = if ip.address.addr().is_ipv4() { "4" } else { "6" }.into();
        }
        value
    };
    let route = |route: &causeway_api::cni::Route| match route.gw {
        Some(gw) => json!({"dst": route.dst.to_string(), "gw": gw.to_string()}),
        None => json!({"dst": route.dst.to_string()}),
    };
    json!({
        "cniVersion": version.text(),
        "interfaces": [node, pod],
        "ips": attached.ips.iter().map(ip).collect::<Vec<_>>(),
        "routes": attached.routes.iter().map(route).collect::<Vec<_>>(),
        "dns": {},
    })
}

/// The answer to VERSION.
pub(crate) fn versions(asked: Option<Version>) -> Value {
    json!({
        "cniVersion": asked.unwrap_or(Version::NEWEST).text(),
        "supportedVersions": Version::ALL.map(Version::text),
    })
}
