//! One cluster's entry in the Secrets `cilium-clustermesh` and `cilium-kvstoremesh`: the configuration file `<name>`, as
//! Cilium's agents and ours read it, and the three files that it names.

use causeway_mesh_schema::ClusterName;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::plan::Data;
use crate::reach::{HostAlias, Reach};
use crate::{SetupError, key};

/// With what an etcd is approached.
pub struct Client<'a> {
    pub ca: &'a [u8],
    pub cert: &'a [u8],
    pub key: &'a [u8],
}

impl<'a> Client<'a> {
    /// From a Secret of a certificate.
    ///
    /// # Errors
    /// One of the three parts is missing.
    pub fn of(object: &str, data: &'a Data) -> Result<Client<'a>, SetupError> {
        let part = |name: &str| {
            data.get(name).map(|bytes| bytes.as_slice()).ok_or_else(|| {
                SetupError::new(object, format!("it has no {name}"), "run causeway clustermesh enable in that cluster")
            })
        };
        Ok(Client { ca: part(key::CA_CERT)?, cert: part(key::CERT)?, key: part(key::KEY)? })
    }
}

/// etcd's client configuration in Cilium's form.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Config {
    endpoints: Vec<String>,
    trusted_ca_file: String,
    key_file: String,
    cert_file: String,
    #[serde(rename = "cilium-host-aliases", skip_serializing_if = "Vec::is_empty")]
    host_aliases: Vec<HostAlias>,
}

/// The names of an entry's keys, the configuration first.
#[must_use]
pub fn entry_keys(peer: &ClusterName) -> [String; 4] {
    let file = |end: &str| format!("{peer}.etcd-client{end}");
    [peer.to_string(), file("-ca.crt"), file(".key"), file(".crt")]
}

/// The entry by which `peer` is read at `reach`. The configuration names the other three files relative to itself, or
/// under `paths_under` (Cilium's agents want `/var/lib/cilium/clustermesh`).
#[must_use]
pub fn entry(peer: &ClusterName, reach: &Reach, client: &Client<'_>, paths_under: Option<&str>) -> Data {
    let [name, ca, key, cert] = entry_keys(peer);
    let path = |file: &str| match paths_under {
        Some(dir) => format!("{}/{file}", dir.trim_end_matches('/')),
        None => file.to_owned(),
    };
    let config = Config {
        endpoints: reach.urls(),
        trusted_ca_file: path(&ca),
        key_file: path(&key),
        cert_file: path(&cert),
        host_aliases: reach.aliases(),
    };
    let text = serde_yaml_ng::to_string(&config).expect("texts and lists of texts are YAML");
    let files = [(name, text.as_bytes()), (ca, client.ca), (key, client.key), (cert, client.cert)];
    files.into_iter().map(|(name, bytes)| (name, Zeroizing::new(bytes.to_vec()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_ciliums() {
        let west = ClusterName::parse("west").unwrap();
        let reach = Reach::remote(&west, vec!["192.0.2.9:2379".parse().unwrap()]);
        let client = Client { ca: b"CA", cert: b"CERT", key: b"KEY" };
        let data = entry(&west, &reach, &client, None);
        let text = |name: &str| String::from_utf8(data[name].to_vec()).unwrap();
        assert_eq!(
            text("west"),
            "endpoints:\n- https://west.mesh.cilium.io:2379\ntrusted-ca-file: west.etcd-client-ca.crt\n\
             key-file: west.etcd-client.key\ncert-file: west.etcd-client.crt\ncilium-host-aliases:\n\
             - hostname: west.mesh.cilium.io\n  ips:\n  - 192.0.2.9\n"
        );
        assert_eq!(text("west.etcd-client-ca.crt"), "CA");
        assert_eq!(text("west.etcd-client.key"), "KEY");
        assert_eq!(text("west.etcd-client.crt"), "CERT");
        assert!(entry_keys(&west).iter().all(|key| data.contains_key(key)) && data.len() == 4);

        let absolute = entry(&west, &reach, &client, Some("/var/lib/cilium/clustermesh/"));
        let config = String::from_utf8(absolute["west"].to_vec()).unwrap();
        assert!(config.contains("key-file: /var/lib/cilium/clustermesh/west.etcd-client.key\n"), "{config}");
    }
}
