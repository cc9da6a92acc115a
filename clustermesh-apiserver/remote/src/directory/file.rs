//! One file: etcd's client configuration in YAML, as Cilium writes it, made into a [`Connect`].

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use causeway_mesh_kv::{Connect, HostAlias, TlsFiles};
use serde::{Deserialize, Serialize};

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{file}: {}{problem}; {remedy}", if field.is_empty() { String::new() } else { format!("{field}: ") })]
pub struct FileProblem {
    pub file: String,
    /// Empty where the whole file is meant.
    pub field: String,
    pub problem: String,
    pub remedy: String,
}

impl FileProblem {
    pub(crate) fn new(file: &Path, field: &str, problem: String, remedy: &str) -> FileProblem {
        let (file, field, remedy) = (file.display().to_string(), field.to_owned(), remedy.to_owned());
        FileProblem { file, field, problem, remedy }
    }
}

/// The fields that count; etcd's others (`auto-sync-interval` and the like) are ignored, as Cilium's readers do with
/// those that mean nothing to them.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Raw {
    #[serde(default)]
    endpoints: Vec<String>,
    #[serde(default)]
    trusted_ca_file: Option<PathBuf>,
    #[serde(default)]
    cert_file: Option<PathBuf>,
    #[serde(default)]
    key_file: Option<PathBuf>,
    #[serde(default)]
    cilium_host_aliases: Vec<RawAlias>,
}

#[derive(Debug, Deserialize)]
struct RawAlias {
    hostname: String,
    #[serde(default)]
    ips: Vec<String>,
}

/// Keys and certificates stand in the same directory: only a file with this word is a configuration.
pub(crate) fn is_meant(content: &[u8]) -> bool {
    const WORD: &[u8] = b"endpoints:";
    content.windows(WORD.len()).any(|window| window == WORD)
}

/// Reads a configuration; relative names of files are of the directory that it stands in.
///
/// # Errors
/// Not such a file; the field is named.
pub fn parse(file: &Path, content: &[u8]) -> Result<Connect, FileProblem> {
    let bad = |field: &str, problem: String, remedy: &str| FileProblem::new(file, field, problem, remedy);
    let raw: Raw = serde_yaml_ng::from_slice(content).map_err(|error| {
        bad("", format!("not the YAML that is expected: {error}"), "write it as etcd's client config")
    })?;
    if raw.endpoints.is_empty() {
        return Err(bad("endpoints", "there are none".into(), "name at least one, as https://name:2379"));
    }
    for endpoint in &raw.endpoints {
        check_endpoint(endpoint).map_err(|problem| bad("endpoints", problem, "write it as https://name:2379"))?;
    }
    let mut connect = Connect::new(raw.endpoints);
    let directory = file.parent().unwrap_or(Path::new(""));
    connect.tls = tls(directory, raw.trusted_ca_file, raw.cert_file, raw.key_file).map_err(|field| {
        bad(field, "missing".into(), "a client needs a CA, a certificate and its key: name all three")
    })?;
    if connect.tls.is_none() && connect.endpoints.iter().any(|endpoint| endpoint.starts_with("https:")) {
        return Err(bad(
            "trusted-ca-file",
            "missing".into(),
            "an https endpoint needs a CA, a certificate and its key",
        ));
    }
    for alias in raw.cilium_host_aliases {
        let ips: Result<Vec<IpAddr>, _> = alias.ips.iter().map(|ip| ip.parse()).collect();
        let ips = ips.map_err(|_| {
            let problem = format!("{}: {:?} are not all IP addresses", alias.hostname, alias.ips);
            bad("cilium-host-aliases", problem, "write addresses, without prefix lengths")
        })?;
        connect.aliases.push(HostAlias { hostname: alias.hostname, ips });
    }
    Ok(connect)
}

fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    let authority = rest.ok_or_else(|| format!("{endpoint:?} is no http or https address"))?.trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':').ok_or_else(|| format!("{endpoint:?} has no port"))?;
    if host.is_empty() || authority.contains('/') {
        return Err(format!("{endpoint:?} has no host, or more than a host and a port"));
    }
    port.parse::<u16>().map(drop).map_err(|_| format!("{port:?} is no port"))
}

/// All three files or none; the field that is missing otherwise.
fn tls(
    directory: &Path,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<TlsFiles>, &'static str> {
    if ca.is_none() && cert.is_none() && key.is_none() {
        return Ok(None);
    }
    let file = |name: Option<PathBuf>, field| name.map(|name| directory.join(name)).ok_or(field);
    Ok(Some(TlsFiles { ca: file(ca, "trusted-ca-file")?, cert: file(cert, "cert-file")?, key: file(key, "key-file")? }))
}
