//! Options of encryption between nodes. Names are Cilium's where it has them.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::{ConfigError, Values};
use crate::control::encryption::{Mode, Modes};

/// Cilium's options for its strict mode. Ours is strict from the start, so that only the ranges say something new.
const STRICT_CIDRS: [&str; 2] = ["encryption-strict-mode-cidr", "encryption-strict-egress-cidr"];
const STRICT_SWITCHES: [&str; 5] = [
    "enable-encryption-strict-mode",
    "enable-encryption-strict-mode-egress",
    "enable-encryption-strict-mode-ingress",
    "encryption-strict-mode-allow-remote-node-identities",
    "encryption-strict-egress-allow-remote-node-identities",
];

/// The word for `off` that says what it means while other clusters are required.
const INTER_CLUSTER_ONLY: &str = "inter-cluster-only";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EncryptionConfig {
    pub(crate) enabled: bool,
    /// What nodes themselves send to each other too.
    pub(crate) encrypt_node: bool,
    pub(crate) keepalive_s: Option<u16>,
    /// Ranges that are guarded whoever has them.
    pub(crate) guarded: Vec<IpNet>,
    pub(crate) socket: PathBuf,
    pub(crate) port: u16,
    pub(crate) key_file: PathBuf,
    /// `None`: only by command.
    pub(crate) rotation: Option<Duration>,
    pub(crate) modes: Modes,
}

impl EncryptionConfig {
    pub(super) fn read(v: &Values) -> Result<EncryptionConfig, ConfigError> {
        let enabled: bool = v.parse("enable-wireguard", "is neither true nor false")?;
        let encrypt_node: bool = v.parse("encrypt-node", "is neither true nor false")?;
        v.read("encrypt-node", "needs --enable-wireguard", |_| (enabled || !encrypt_node).then_some(()))?;
        for name in STRICT_SWITCHES {
            v.parse::<bool>(name, "is neither true nor false")?;
        }
        let mut guarded = Vec::new();
        for name in STRICT_CIDRS {
            guarded.extend(v.read(name, "is no list of prefixes such as 10.0.0.0/8", cidrs)?);
        }
        let keepalive = duration(v, "wireguard-persistent-keepalive")?;
        let rotation = duration(v, "wireguard-rotation-interval")?;
        let own = v.read("encryption-own-cluster", "is none of required, off, inter-cluster-only", |text| {
            if text == INTER_CLUSTER_ONLY { Some(Mode::Off) } else { text.parse().ok() }
        })?;
        Ok(EncryptionConfig {
            enabled,
            encrypt_node,
            keepalive_s: v.read("wireguard-persistent-keepalive", "is longer than 65535s", |_| {
                let s = u16::try_from(keepalive.as_secs()).ok()?;
                Some((s > 0).then_some(s))
            })?,
            guarded,
            socket: v.required("wireguard-socket")?.into(),
            port: v.read("wireguard-port", "is no port", |text| text.parse().ok().filter(|port| *port != 0))?,
            key_file: v.required("wireguard-key-file")?.into(),
            rotation: v.read("wireguard-rotation-interval", "is less than 10m, and a rotation takes 3m", |_| {
                let long = rotation >= Duration::from_secs(600) || rotation.is_zero();
                long.then_some((!rotation.is_zero()).then_some(rotation))
            })?,
            modes: v.read("encryption-clusters", "is no list such as west=off,*=required", |text| {
                Modes::parse(own, text)
            })?,
        })
    }
}

fn cidrs(text: &str) -> Option<Vec<IpNet>> {
    let words = text.split([',', ' ']).filter(|word| !word.is_empty());
    words.map(|word| Some(word.parse::<IpNet>().ok()?.trunc())).collect()
}

fn duration(v: &Values, name: &str) -> Result<Duration, ConfigError> {
    v.read(name, "is no duration; write one such as 25s or 24h", causeway_api::duration::parse)
}

#[cfg(test)]
mod tests {
    use super::super::tests::resolve;
    use super::*;

    fn read(flags: &[&str]) -> Result<EncryptionConfig, String> {
        Ok(resolve("node-name = 'n1'", &[], flags)?.encryption)
    }

    #[test]
    fn off_unless_it_is_asked_for() {
        let config = read(&[]).unwrap();
        assert!(!config.enabled && !config.encrypt_node);
        assert_eq!((config.port, config.keepalive_s), (51_871, None));
        assert_eq!(config.rotation, Some(Duration::from_secs(86_400)));
        assert_eq!(config.modes, Modes::parse(Mode::Required, "*=required").unwrap());
    }

    #[test]
    fn what_users_of_cilium_write_is_understood() {
        let config = read(&[
            "--enable-wireguard",
            "true",
            "--encrypt-node",
            "true",
            "--enable-encryption-strict-mode",
            "true",
            "--encryption-strict-mode-cidr",
            "10.244.0.1/16, fd00::/48",
            "--wireguard-persistent-keepalive",
            "25s",
        ]);
        let config = config.unwrap();
        assert!(config.enabled && config.encrypt_node);
        assert_eq!(config.keepalive_s, Some(25));
        assert_eq!(config.guarded.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.244.0.0/16", "fd00::/48"]);
    }

    #[test]
    fn only_between_clusters() {
        let config = read(&["--encryption-own-cluster", "inter-cluster-only", "--wireguard-rotation-interval", "0"]);
        let config = config.unwrap();
        assert_eq!((config.modes.own, config.modes.others, config.rotation), (Mode::Off, Mode::Required, None));
    }

    #[test]
    fn mistakes_are_named() {
        let cases: &[(&[&str], &str)] = &[
            (&["--encrypt-node", "true"], "needs --enable-wireguard"),
            (&["--encryption-strict-mode-cidr", "10.0.0.0"], "is no list of prefixes"),
            (&["--wireguard-persistent-keepalive", "25"], "is no duration"),
            (&["--wireguard-persistent-keepalive", "24h"], "is longer than 65535s"),
            (&["--wireguard-rotation-interval", "10s"], "is less than 10m"),
            (&["--wireguard-port", "0"], "is no port"),
            (&["--encryption-clusters", "west"], "such as west=off"),
            (&["--encryption-own-cluster", "maybe"], "is none of required, off"),
            (&["--enable-encryption-strict-mode", "2"], "is neither true nor false"),
        ];
        for (flags, want) in cases {
            let got = read(flags).unwrap_err();
            assert!(got.contains(want), "{got}\nhas not\n{want}");
        }
    }
}
