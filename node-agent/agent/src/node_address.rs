//! Which addresses this node has: they are compiled into the datapath's configuration, so that they must be known before
//! anything else. Found once and remembered in the state directory, so that a restart needs no API server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{Api, Client};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::intent::{Key, Read as _, node};
use crate::realize::kube_api;

const RETRY: Duration = Duration::from_secs(1);

/// How long an API server that hangs is waited for when the addresses of the last time are there: the peers wait too.
const PATIENCE: Duration = Duration::from_secs(2);

/// This node's own addresses; at least one is present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeIps {
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
}

impl NodeIps {
    /// IPv4 first.
    pub(crate) fn all(&self) -> Vec<IpAddr> {
        self.v4.map(IpAddr::from).into_iter().chain(self.v6.map(IpAddr::from)).collect()
    }

    fn or(self, other: NodeIps) -> NodeIps {
        NodeIps { v4: self.v4.or(other.v4), v6: self.v6.or(other.v6) }
    }

    /// Has an address of each family that is served.
    fn enough(&self, config: &Config) -> bool {
        (!config.enable_ipv4 || self.v4.is_some()) && (!config.enable_ipv6 || self.v6.is_some())
    }
}

/// The configured addresses; else those of the Node object; else, while the API server is away, those of the last time.
/// Waits as long as none of these says anything.
pub(crate) async fn find(config: &Config, client: &Client, waiting: impl Fn(String)) -> NodeIps {
    let configured = NodeIps { v4: config.node_ipv4, v6: config.node_ipv6 };
    if configured.enough(config) {
        return configured;
    }
    let file = config.state_dir.join("node-addresses.json");
    loop {
        let remembered = recall(&file);
        let asked = ask(client, &config.node_name);
        let answer = match remembered {
            None => asked.await,
            Some(_) => {
                let late = |_| Err("the API server does not answer".to_owned());
                tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(late)
            }
        };
        let why = match answer {
            Ok(ips) if ips != NodeIps::default() => {
                remember(&file, ips);
                return configured.or(ips);
            }
            Ok(_) => format!("Node {} has no InternalIP yet", config.node_name),
            Err(why) => match remembered {
                Some(ips) => {
                    tracing::warn!(why, "going on with the addresses of the last time");
                    return configured.or(ips);
                }
                None => why,
            },
        };
        waiting(format!("waiting for this node's addresses: {why}"));
        tokio::time::sleep(RETRY).await;
    }
}

async fn ask(client: &Client, name: &str) -> Result<NodeIps, String> {
    let api: Api<NodeObject> = Api::all(client.clone());
    let object = kube_api::limited(api.get(name)).await.map_err(|e| format!("asking for Node {name}: {e}"))?;
    let reader = node::Reader { node: name.to_owned() };
    let row = reader.read(&Key::new("", name), object).map_err(|r| r.to_string())?;
    Ok(row.map(|(_, node)| NodeIps { v4: node.internal_v4(), v6: node.internal_v6() }).unwrap_or_default())
}

fn remember(file: &Path, ips: NodeIps) {
    let result = serde_json::to_vec(&ips).map_err(std::io::Error::from).and_then(|text| std::fs::write(file, text));
    if let Err(error) = result {
        tracing::warn!(%error, file = %file.display(), "a restart without API server will wait for it");
    }
}

fn recall(file: &Path) -> Option<NodeIps> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok().filter(|ips| *ips != NodeIps::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_remembered() {
        let file = std::env::temp_dir().join(format!("causeway-node-{}.json", std::process::id()));
        assert_eq!(recall(&file), None);
        let ips = NodeIps { v4: Some(Ipv4Addr::new(10, 0, 0, 11)), v6: None };
        remember(&file, ips);
        assert_eq!(recall(&file), Some(ips));
        std::fs::write(&file, "{").unwrap();
        assert_eq!(recall(&file), None, "half a file is no answer");
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn each_family_that_is_served_needs_one() {
        let mut config = Config::for_tests();
        let v4 = NodeIps { v4: Some(Ipv4Addr::LOCALHOST), v6: None };
        assert!(!v4.enough(&config));
        config.enable_ipv6 = false;
        assert!(v4.enough(&config));
    }
}
