//! What the runtime says: `CNI_*` variables and the network configuration on stdin. Pure: nothing here does I/O but
//! [`Environment::from_process`].

use std::path::PathBuf;

use causeway_api::cni::{Attachment, PodRef};
use causeway_api::nearest::nearest;
use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::error::{CniError, code};
use crate::version::Version;

/// Interface names: IFNAMSIZ less the terminating zero.
const MAX_IFNAME_BYTES: usize = 15;

/// The variables that matter here. A variable that is set to nothing counts as not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) command: String,
    pub(crate) container_id: String,
    pub(crate) netns: String,
    pub(crate) ifname: String,
    pub(crate) args: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Environment {
    pub(crate) fn from_process() -> Environment {
        // Bytes that are no text make names that the checks below refuse.
        let var = |name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned()).unwrap_or_default();
        Environment {
            command: var("CNI_COMMAND"),
            container_id: var("CNI_CONTAINERID"),
            netns: var("CNI_NETNS"),
            ifname: var("CNI_IFNAME"),
            args: var("CNI_ARGS"),
        }
    }

    pub(crate) fn command(&self) -> Result<Command, CniError> {
        match self.command.as_str() {
            "ADD" => Ok(Command::Add),
            "DEL" => Ok(Command::Del),
            "CHECK" => Ok(Command::Check),
            "GC" => Ok(Command::Gc),
            "STATUS" => Ok(Command::Status),
            "VERSION" => Ok(Command::Version),
            "" => Err(CniError::environment(
                "CNI_COMMAND",
                "is not set",
                "this program is a CNI plugin, which a container runtime calls; by hand: CNI_COMMAND=VERSION causeway-cni < /dev/null",
            )),
            other => Err(CniError::environment(
                "CNI_COMMAND",
                &format!("{other:?} is unknown"),
                "it is one of ADD, DEL, CHECK, GC, STATUS, VERSION",
            )),
        }
    }

    pub(crate) fn attachment(&self) -> Result<Attachment, CniError> {
        let (id, ifname) = (&self.container_id, &self.ifname);
        if id.is_empty() {
            return Err(missing("CNI_CONTAINERID"));
        }
        if !is_name(id) {
            let problem = format!("{id:?} is not a container id");
            let remedy = "it starts with a letter or digit and goes on with letters, digits, '_', '.' and '-'";
            return Err(CniError::environment("CNI_CONTAINERID", &problem, remedy));
        }
        if ifname.is_empty() {
            return Err(missing("CNI_IFNAME"));
        }
        let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if ifname.len() > MAX_IFNAME_BYTES || ifname == "." || ifname == ".." || ifname.contains(odd) {
            let problem = format!("{ifname:?} is not an interface name");
            let remedy = "it has at most 15 bytes, no '/', ':' or blanks, and is neither \".\" nor \"..\"";
            return Err(CniError::environment("CNI_IFNAME", &problem, remedy));
        }
        Ok(Attachment { container_id: id.clone(), ifname: ifname.clone() })
    }

    pub(crate) fn netns(&self) -> Result<String, CniError> {
        self.optional_netns().ok_or_else(|| missing("CNI_NETNS"))
    }

    pub(crate) fn optional_netns(&self) -> Option<String> {
        Some(self.netns.clone()).filter(|netns| !netns.is_empty())
    }

    /// The pod's names; empty where a runtime other than Kubernetes' gives none. Other arguments are not ours.
    pub(crate) fn pod(&self) -> Result<PodRef, CniError> {
        let mut pod = PodRef::default();
        for pair in self.args.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                let problem = format!("has {pair:?} without \"=\"");
                return Err(CniError::environment("CNI_ARGS", &problem, "write KEY=VALUE;KEY=VALUE"));
            };
            match key {
                "K8S_POD_NAMESPACE" => pod.namespace = value.to_owned(),
                "K8S_POD_NAME" => pod.name = value.to_owned(),
                "K8S_POD_UID" => pod.uid = Some(value.to_owned()).filter(|uid| !uid.is_empty()),
                _ => {}
            }
        }
        if pod.name.is_empty() != pod.namespace.is_empty() {
            let problem = "has one of K8S_POD_NAMESPACE and K8S_POD_NAME without the other";
            return Err(CniError::environment("CNI_ARGS", problem, "give both or neither"));
        }
        Ok(pod)
    }
}

fn missing(name: &str) -> CniError {
    CniError::environment(name, "is not set", "the runtime must set it for this CNI_COMMAND")
}

/// What the specification allows in container ids and network names.
fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// The network configuration of this plugin.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    pub(crate) version: Version,
    pub(crate) agent_socket: PathBuf,
    /// Where deletions wait for an agent that does not answer.
    pub(crate) deletion_queue: PathBuf,
    pub(crate) log_file: Option<PathBuf>,
    pub(crate) mtu: Option<u32>,
    pub(crate) prev_result: Option<Value>,
    pub(crate) valid_attachments: Option<Vec<Attachment>>,
}

/// Fields that are ours.
const OWN: &[&str] = &["agentSocket", "deletionQueue", "logFile", "mtu"];
/// Fields of the specification, which mean nothing to this plugin or are read elsewhere.
const COMMON: &[&str] = &[
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "args",
    "capabilities",
    "runtimeConfig",
    "ipMasq",
    "ipam",
    "dns",
    "prevResult",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
];
const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";

impl Config {
    pub(crate) fn parse(stdin: &[u8]) -> Result<Config, CniError> {
        let value: Value = serde_json::from_slice(stdin).map_err(|e| {
            let remedy = "the runtime writes it there from a file of its CNI configuration directory";
            CniError::new(code::DECODE, format!("the network configuration on stdin is not JSON: {e}"), remedy)
        })?;
        let Value::Object(fields) = value else {
            return Err(CniError::new(code::DECODE, "the network configuration on stdin is not a JSON object", ""));
        };
        let version = version_of(&fields)?;
        let name =
            text(&fields, "name")?.ok_or_else(|| CniError::config("name", "is missing", "give the network a name"))?;
        if !is_name(&name) {
            let remedy = "it starts with a letter or digit and goes on with letters, digits, '_', '.' and '-'";
            return Err(CniError::config("name", &format!("{name:?} is not a network's name"), remedy));
        }
        refuse_unknown(&fields)?;
        let agent_socket = path(&fields, "agentSocket")?.unwrap_or_else(|| causeway_api::DEFAULT_SOCKET.into());
        let beside = || agent_socket.parent().unwrap_or(&agent_socket).join("deletions");
        Ok(Config {
            version,
            deletion_queue: path(&fields, "deletionQueue")?.unwrap_or_else(beside),
            log_file: path(&fields, "logFile")?,
            mtu: mtu(&fields)?,
            prev_result: fields.get("prevResult").filter(|v| !v.is_null()).cloned(),
            valid_attachments: valid_attachments(&fields)?,
            agent_socket,
        })
    }

    /// Refuses a command that the configuration's version has not.
    pub(crate) fn since(&self, version: Version, command: &str) -> Result<(), CniError> {
        if self.version >= version {
            return Ok(());
        }
        let message = format!("{command} is not in CNI {}; it came with {version}", self.version);
        let remedy = format!("write \"cniVersion\": \"{version}\" or later, up to {}", Version::NEWEST);
        Err(CniError::new(code::INCOMPATIBLE_VERSION, message, remedy))
    }

    /// Addresses of the previous result, which CHECK compares.
    pub(crate) fn prev_ips(&self) -> Result<Vec<IpNet>, CniError> {
        let Some(result) = &self.prev_result else {
            return Err(CniError::config("prevResult", "is missing", "CHECK needs what ADD answered"));
        };
        let wrong = |i: usize, what: &str| {
            CniError::config(&format!("prevResult.ips[{i}].address"), what, "it is an address with its prefix length")
        };
        let ips = match result.get("ips") {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(ips)) => ips,
            Some(_) => return Err(CniError::config("prevResult.ips", "is not a list", "pass on what ADD answered")),
        };
        ips.iter()
            .enumerate()
            .map(|(i, ip)| {
                let text = ip.get("address").and_then(Value::as_str).ok_or_else(|| wrong(i, "is missing"))?;
                text.parse().map_err(|_| wrong(i, &format!("{text:?} is not an address")))
            })
            .collect()
    }
}

fn version_of(fields: &Map<String, Value>) -> Result<Version, CniError> {
    let remedy = format!("this plugin speaks {}", Version::list());
    match text(fields, "cniVersion")? {
        // Before the field existed, its absence meant 0.1.0.
        None => Err(CniError::new(
            code::INCOMPATIBLE_VERSION,
            "network configuration: \"cniVersion\" is missing, which means 0.1.0",
            remedy,
        )),
        Some(asked) => Version::parse(&asked).ok_or_else(|| {
            let message = format!("network configuration: \"cniVersion\" {asked:?} is not supported");
            CniError::new(code::INCOMPATIBLE_VERSION, message, remedy)
        }),
    }
}

fn text(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, CniError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(CniError::config(name, &format!("is {other}, not a string"), "write it in quotes")),
    }
}

fn path(fields: &Map<String, Value>, name: &str) -> Result<Option<PathBuf>, CniError> {
    match text(fields, name)? {
        Some(path) if !path.starts_with('/') => {
            let problem = format!("{path:?} is a relative path");
            Err(CniError::config(name, &problem, "write it from / on; runtimes start plugins anywhere"))
        }
        path => Ok(path.map(PathBuf::from)),
    }
}

/// IPv6 needs 1280 bytes (RFC 8200 section 5), and an IP packet has at most 65535.
fn mtu(fields: &Map<String, Value>) -> Result<Option<u32>, CniError> {
    match fields.get("mtu") {
        None | Some(Value::Null) => Ok(None),
        // 0 is a common way to say: choose yourself.
        Some(value) => match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(0) => Ok(None),
            Some(mtu @ 1280..=65535) => Ok(Some(mtu)),
            _ => Err(CniError::config(
                "mtu",
                &format!("is {value}"),
                "give a number from 1280 to 65535, or leave it out",
            )),
        },
    }
}

fn valid_attachments(fields: &Map<String, Value>) -> Result<Option<Vec<Attachment>>, CniError> {
    let list = match fields.get(VALID_ATTACHMENTS) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(CniError::config(VALID_ATTACHMENTS, "is not a list", "the runtime fills it in")),
    };
    let part = |i: usize, entry: &Value, name: &str| {
        let field = format!("{VALID_ATTACHMENTS}[{i}].{name}");
        let text = entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        text.map(str::to_owned).ok_or_else(|| CniError::config(&field, "is missing", "the runtime fills it in"))
    };
    let attachment = |(i, entry): (usize, &Value)| {
        Ok(Attachment { container_id: part(i, entry, "containerID")?, ifname: part(i, entry, "ifname")? })
    };
    list.iter().enumerate().map(attachment).collect::<Result<_, _>>().map(Some)
}

/// Runtimes and chains may add fields of their own, so that only misspellings of ours are refused, and `ipam`, whose
/// writer expects addresses that we would not give.
fn refuse_unknown(fields: &Map<String, Value>) -> Result<(), CniError> {
    for (name, value) in fields {
        if name == "ipam" && value.as_object().is_some_and(|ipam| !ipam.is_empty()) {
            let message = format!("network configuration: field \"ipam\": {value} is not supported");
            let remedy = "remove it; addresses come from the node's pod CIDRs";
            return Err(CniError::new(code::UNSUPPORTED_FIELD, message, remedy));
        }
        if OWN.contains(&name.as_str()) || COMMON.contains(&name.as_str()) || name.contains('/') {
            continue;
        }
        // Three letters are near to every other three letters.
        let near = if name.len() > 4 { nearest(name, OWN.iter().copied()) } else { None };
        if let Some(near) = near.or_else(|| OWN.iter().copied().find(|own| own.eq_ignore_ascii_case(name))) {
            return Err(CniError::config(name, "is unknown", &format!("did you mean {near:?}?")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
