//! The runtime's side of the Container Network Interface (specification 1.1): finds the network configuration, runs its
//! chain of plugins, and reads what they say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// The pod's interface.
pub(crate) const INTERFACE: &str = "eth0";
/// A plugin that has not answered by then is ended.
const PLUGIN_LIMIT: Duration = Duration::from_secs(30);
/// Versions with CHECK, and with GC and STATUS.
const CHECK_SINCE: (u32, u32) = (0, 4);
const STATUS_SINCE: (u32, u32) = (1, 1);

/// Versions that this runtime speaks.
const KNOWN_VERSIONS: &[&str] = &["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Where configuration and plugins are.
pub(crate) struct Cni {
    conf_dir: PathBuf,
    bin_dir: PathBuf,
}

/// A pod's attachment, as CNI names it.
pub(crate) struct Attachment<'a> {
    pub(crate) sandbox: &'a str,
    pub(crate) netns: &'a Path,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
}

/// A network configuration list.
#[derive(Debug, Deserialize)]
struct ConfList {
    #[serde(default = "oldest", rename = "cniVersion")]
    cni_version: String,
    /// Since 1.1: what the network can be run with; `cniVersion` is for runtimes that do not look here.
    #[serde(default, rename = "cniVersions")]
    cni_versions: Vec<String>,
    name: String,
    #[serde(default, rename = "disableCheck")]
    disable_check: bool,
    plugins: Vec<Map<String, Value>>,
}

fn oldest() -> String {
    "0.1.0".into()
}

impl ConfList {
    fn since(&self, version: (u32, u32)) -> bool {
        let (major, minor, _) = numbers(&self.cni_version);
        (major, minor) >= version
    }
}

fn numbers(version: &str) -> (u32, u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

impl Cni {
    pub(crate) fn new(conf_dir: &Path, bin_dir: &Path) -> Self {
        Self { conf_dir: conf_dir.into(), bin_dir: bin_dir.into() }
    }

    /// ADD through the chain. Returns the last plugin's result.
    pub(crate) async fn add(&self, attachment: &Attachment<'_>) -> Result<Value> {
        let (conf, file) = self.load()?;
        let mut result = None;
        for plugin in &conf.plugins {
            let stdin = config(&conf, plugin, result.as_ref(), None);
            let said = self.run("ADD", plugin, &stdin, Some(attachment)).await;
            let said = said.with_context(|| format!("CNI ADD by {}", file.display()))?;
            result = Some(said.context("CNI ADD: the plugin printed no result")?);
        }
        result.with_context(|| format!("{}: \"plugins\" is empty; name at least one", file.display()))
    }

    /// DEL through the chain, backwards.
    pub(crate) async fn del(&self, attachment: &Attachment<'_>, result: Option<&Value>) -> Result<()> {
        let (conf, _) = self.load()?;
        for plugin in conf.plugins.iter().rev() {
            self.run("DEL", plugin, &config(&conf, plugin, result, None), Some(attachment)).await.context("CNI DEL")?;
        }
        Ok(())
    }

    /// CHECK through the chain, where configuration and version have it.
    pub(crate) async fn check(&self, attachment: &Attachment<'_>, result: &Value) -> Result<()> {
        let (conf, _) = self.load()?;
        if conf.disable_check || !conf.since(CHECK_SINCE) {
            return Ok(());
        }
        for plugin in &conf.plugins {
            let stdin = config(&conf, plugin, Some(result), None);
            self.run("CHECK", plugin, &stdin, Some(attachment)).await.context("CNI CHECK")?;
        }
        Ok(())
    }

    /// Whether pods can be attached now; the error says why not.
    pub(crate) async fn status(&self) -> Result<()> {
        let (conf, _) = self.load()?;
        for plugin in &conf.plugins {
            self.find(plugin)?;
            if conf.since(STATUS_SINCE) {
                self.run("STATUS", plugin, &config(&conf, plugin, None, None), None).await.context("CNI STATUS")?;
            }
        }
        Ok(())
    }

    /// Tells the plugins the sandboxes that are in use.
    pub(crate) async fn gc(&self, sandboxes: &[&str]) -> Result<()> {
        let (conf, _) = self.load()?;
        if !conf.since(STATUS_SINCE) {
            return Ok(());
        }
        let valid = sandboxes.iter().map(|id| json!({"containerID": id, "ifname": INTERFACE})).collect();
        for plugin in &conf.plugins {
            let stdin = config(&conf, plugin, None, Some(Value::Array(Clone::clone(&valid))));
            self.run("GC", plugin, &stdin, None).await.context("CNI GC")?;
        }
        Ok(())
    }

    /// The first configuration in the directory by name, as every runtime chooses.
    fn load(&self) -> Result<(ConfList, PathBuf)> {
        let dir = self.conf_dir.display();
        let entries =
            std::fs::read_dir(&self.conf_dir).with_context(|| format!("CNI configuration directory {dir}"))?;
        let mut files: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "conflist" || e == "conf" || e == "json"))
            .collect();
        files.sort();
        let file =
            files.into_iter().next().ok_or_else(|| anyhow!("no CNI configuration in {dir}; is the agent ready?"))?;
        let text = std::fs::read_to_string(&file).with_context(|| format!("CNI configuration {}", file.display()))?;
        let conf = parse(&text).with_context(|| format!("CNI configuration {}", file.display()))?;
        Ok((conf, file))
    }

    fn find(&self, plugin: &Map<String, Value>) -> Result<PathBuf> {
        let kind = plugin.get("type").and_then(Value::as_str).context("a plugin has no \"type\"; add its name")?;
        if kind.contains('/') {
            bail!("plugin type \"{kind}\" is a path; write the file's name alone");
        }
        let path = self.bin_dir.join(kind);
        if !path.is_file() {
            bail!("CNI plugin \"{kind}\" is not in {}; correct \"type\", or install it", self.bin_dir.display());
        }
        Ok(path)
    }

    async fn run(
        &self,
        verb: &str,
        plugin: &Map<String, Value>,
        stdin: &Value,
        attachment: Option<&Attachment<'_>>,
    ) -> Result<Option<Value>> {
        let path = self.find(plugin)?;
        let mut command = Command::new(&path);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", &self.bin_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(attachment) = attachment {
            command.envs(variables(attachment));
        }
        let mut child = command.spawn().with_context(|| format!("cannot run {}", path.display()))?;
        if let Some(mut pipe) = child.stdin.take() {
            // A plugin that does not read has failed, and says why on stdout.
            let _ = pipe.write_all(stdin.to_string().as_bytes()).await;
        }
        let output = tokio::time::timeout(PLUGIN_LIMIT, child.wait_with_output())
            .await
            .map_err(|_| anyhow!("no answer from {} in {} s", path.display(), PLUGIN_LIMIT.as_secs()))??;
        let said: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        if output.status.success() {
            return Ok(said);
        }
        let words = match &said {
            Some(said) => {
                let part = |name: &str| said.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
                let code = said.get("code").and_then(Value::as_u64).unwrap_or(0);
                format!("{} (code {code}) {}", part("msg"), part("details"))
            }
            None => String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        bail!("{}: {}", path.display(), words.trim());
    }
}

/// `CNI_*` variables of one attachment.
fn variables(attachment: &Attachment<'_>) -> BTreeMap<&'static str, String> {
    let arguments = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        attachment.namespace, attachment.name, attachment.sandbox, attachment.uid
    );
    BTreeMap::from([
        ("CNI_CONTAINERID", attachment.sandbox.to_owned()),
        ("CNI_NETNS", attachment.netns.display().to_string()),
        ("CNI_IFNAME", INTERFACE.to_owned()),
        ("CNI_ARGS", arguments),
    ])
}

/// A plugin's own configuration, with what the runtime adds.
fn config(conf: &ConfList, plugin: &Map<String, Value>, prev: Option<&Value>, valid: Option<Value>) -> Value {
    let mut config = plugin.clone();
    config.insert("name".into(), conf.name.clone().into());
    config.insert("cniVersion".into(), conf.cni_version.clone().into());
    if let Some(prev) = prev {
        config.insert("prevResult".into(), prev.clone());
    }
    if let Some(valid) = valid {
        config.insert("cni.dev/valid-attachments".into(), valid);
    }
    Value::Object(config)
}

/// A list, or a single plugin's configuration as the old format has it.
fn parse(text: &str) -> Result<ConfList> {
    let value: Value = serde_json::from_str(text).context("not JSON; correct it or delete the file")?;
    if value.get("plugins").is_some() {
        let mut conf: ConfList = serde_json::from_value(value).context("correct this field")?;
        // The newest that both sides know, where the list offers a choice.
        let known = conf.cni_versions.iter().filter(|version| KNOWN_VERSIONS.contains(&version.as_str()));
        let newest = known.chain([&conf.cni_version]).max_by_key(|version| numbers(version)).cloned();
        conf.cni_version = newest.unwrap_or_else(oldest);
        return Ok(conf);
    }
    let plugin = value.as_object().context("not a JSON object")?.clone();
    let word = |name: &str| plugin.get(name).and_then(Value::as_str).map(str::to_owned);
    Ok(ConfList {
        cni_version: word("cniVersion").unwrap_or_else(oldest),
        cni_versions: Vec::new(),
        name: word("name").context("\"name\" is missing; add the network's name")?,
        disable_check: false,
        plugins: vec![plugin],
    })
}

/// The addresses in an ADD result.
pub(crate) fn addresses(result: &Value) -> Vec<std::net::IpAddr> {
    let ips = result.get("ips").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    ips.iter().filter_map(|ip| ip.get("address")?.as_str()?.split('/').next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_single_configurations_are_read() {
        let list = parse(r#"{"cniVersion":"1.1.0","name":"x","plugins":[{"type":"a"},{"type":"b"}]}"#).unwrap();
        assert_eq!(list.plugins.len(), 2);
        assert!(list.since(STATUS_SINCE));
        let offered = parse(
            r#"{"cniVersion":"1.0.0","cniVersions":["0.3.1","1.1.0","9.0.0"],"name":"x","plugins":[{"type":"a"}]}"#,
        );
        assert_eq!(offered.unwrap().cni_version, "1.1.0");
        let single = parse(r#"{"cniVersion":"0.3.1","name":"x","type":"a"}"#).unwrap();
        assert_eq!(single.plugins.len(), 1);
        assert!(!single.since(CHECK_SINCE));
        assert!(format!("{:#}", parse("{").unwrap_err()).contains("not JSON"));
        assert!(format!("{:#}", parse(r#"{"plugins":[]}"#).unwrap_err()).contains("name"));
    }

    #[test]
    fn a_plugin_gets_name_version_and_the_result_before_it() {
        let list = parse(r#"{"cniVersion":"1.1.0","name":"x","plugins":[{"type":"a","mtu":9000}]}"#).unwrap();
        let said = config(&list, &list.plugins[0], Some(&json!({"ips": []})), None);
        let wanted = json!({"type":"a","mtu":9000,"name":"x","cniVersion":"1.1.0","prevResult":{"ips":[]}});
        assert_eq!(said, wanted);
    }

    #[test]
    fn addresses_of_a_result() {
        let result = json!({"ips": [{"address": "10.1.1.2/32"}, {"address": "fd00:1:1::2/128"}]});
        let wanted: Vec<std::net::IpAddr> = vec!["10.1.1.2".parse().unwrap(), "fd00:1:1::2".parse().unwrap()];
        assert_eq!(addresses(&result), wanted);
    }
}
