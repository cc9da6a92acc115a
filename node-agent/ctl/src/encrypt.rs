//! `causeway encrypt`: encryption between nodes.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use causeway_api::encryption::{EncryptionStatus, Peer, RotateParams, Rotated};
use causeway_api::{self as api, Client, NoParams};

use crate::args::{Encrypt, Output};
use crate::show::duration;
use crate::table::Table;
use crate::{Failure, print, print_json};

/// All nodes of a cluster are asked by as many writes to Kubernetes.
const ROTATE_TIMEOUT: Duration = Duration::from_secs(300);

pub(crate) fn run(client: Client, out: Output, command: &Encrypt) -> Result<(), Failure> {
    match command {
        Encrypt::Status => print(&client, api::EncryptionRead, &NoParams {}, out, status),
        Encrypt::RotateKey { node, all } => {
            let client = client.with_timeout(ROTATE_TIMEOUT);
            let reply = client.call(api::EncryptionRotate, &RotateParams { node: node.clone(), all: *all })?;
            match out {
                Output::Json | Output::CiliumJson => print_json(&reply)?,
                Output::Table => io::stdout().write_all(rotated(&reply).as_bytes())?,
            }
            if reply.iter().all(|node| node.error.is_empty()) { Ok(()) } else { Err(Failure::NotOk) }
        }
    }
}

fn rotated(nodes: &[Rotated]) -> String {
    let line = |node: &Rotated| match node.error.as_str() {
        "" => format!("{}: a new key is on its way; `causeway encrypt status` there shows it\n", node.node),
        error => format!("{}: no new key: {error}\n", node.node),
    };
    nodes.iter().map(line).collect()
}

fn status(s: &EncryptionStatus) -> String {
    if !s.enabled {
        return "Encryption: Disabled\n".into();
    }
    let mut text = String::new();
    let _ = writeln!(text, "Encryption:      Wireguard, {}", s.backend);
    let _ = writeln!(text, "NodeEncryption:  {}", if s.node_encryption { "Enabled" } else { "Disabled" });
    let ready = if s.ready { "yes".to_owned() } else { format!("NO: {}", s.not_ready) };
    let _ = writeln!(text, "Ready:           {ready}");
    let d = &s.device;
    let gone = if d.gone.is_empty() { String::new() } else { format!("; GONE: {}", d.gone) };
    let _ =
        writeln!(text, "Device:          {} (index {}, UDP port {}, MTU {}){gone}", d.name, d.ifindex, d.port, d.mtu);
    for key in &s.keys {
        let age = duration(key.age_s);
        let _ = writeln!(text, "Key:             {} (epoch {}, {}, {age} old)", key.public_key, key.epoch, key.role);
    }
    let lagging = if s.lagging.is_empty() { String::new() } else { format!(", waiting for {}", s.lagging.join(", ")) };
    let _ = writeln!(text, "Rotation:        {}{lagging}", s.phase);
    let g = &s.guard;
    let links = if g.links.is_empty() { "NO INTERFACE".to_owned() } else { g.links.join(", ") };
    let _ = writeln!(
        text,
        "Guard:           {} ranges on {links}; refused: {} unencrypted-traffic, {} plaintext-refused",
        g.rows, g.unencrypted_traffic, g.plaintext_refused
    );
    let r = &s.refused;
    let _ = writeln!(
        text,
        "Device refused:  {} to nobody, {} of strangers, {} malformed, {} unsent",
        r.no_peer, r.strangers, r.malformed, r.unsent
    );
    for problem in &s.problems {
        let _ = writeln!(text, "Problem:         {problem}");
    }
    let encrypted = s.peers.iter().filter(|p| p.verdict == api::encryption::Verdict::Encrypted).count();
    let _ = writeln!(text, "Peers:           {encrypted} of {} with a session\n", s.peers.len());
    text + &peers(&s.peers)
}

fn peers(peers: &[Peer]) -> String {
    let mut t = Table::new(&[
        "Peer",
        "Verdict",
        "Endpoint",
        "Epochs",
        "Handshake",
        "Received",
        "Sent",
        "Rekeys",
        "Failures",
        "Replays",
        "",
    ]);
    let number = |epoch: Option<u32>| epoch.map_or("-".to_owned(), |epoch| epoch.to_string());
    for p in peers {
        let mut why = vec![p.reason.clone()];
        if p.source_refused > 0 {
            why.push(format!("{} packets with a foreign source", p.source_refused));
        }
        why.retain(|text| !text.is_empty());
        t.row([
            p.name.clone(),
            p.verdict.words().to_owned(),
            p.endpoint.map_or("-".to_owned(), |endpoint| endpoint.to_string()),
            format!("{}/{}", number(p.own_epoch), number(p.epoch)),
            handshake(p),
            p.rx_bytes.to_string(),
            p.tx_bytes.to_string(),
            p.rekeys.to_string(),
            p.failures.to_string(),
            p.replays.to_string(),
            why.join("; "),
        ]);
    }
    t.render() + "Epochs: of our key and of theirs, that packets are sent with\n"
}

fn handshake(p: &Peer) -> String {
    match p.handshake_age_s {
        Some(s) => format!("{} ago", duration(s)),
        None if p.handshakes > 0 => "over".to_owned(),
        None => "never".to_owned(),
    }
}

/// The line of `status` that users of Cilium's tools look for.
pub(crate) fn line(message: &str) -> String {
    format!("\nEncryption: {message}\n")
}

#[cfg(test)]
mod tests {
    use causeway_api::encryption::{Device, Guard, Key, Verdict};

    use super::*;

    fn example() -> EncryptionStatus {
        EncryptionStatus {
            node: "n1".into(),
            enabled: true,
            ready: true,
            backend: "embedded (the kernel has no WireGuard (EOPNOTSUPP))".into(),
            device: Device { name: "cilium_wg0".into(), ifindex: 3, port: 51_871, mtu: 1408, gone: String::new() },
            keys: vec![Key { epoch: 2, public_key: "K=".into(), role: "current".into(), age_s: 61 }],
            phase: "steady".into(),
            guard: Guard { rows: 9, links: vec!["eth0".into()], unencrypted_traffic: 4, plaintext_refused: 0 },
            peers: vec![Peer {
                name: "east/n2".into(),
                verdict: Verdict::Refused,
                reason: "duplicate key".into(),
                endpoint: Some("10.0.0.2:51871".parse().unwrap()),
                public_key: String::new(),
                epoch: None,
                own_epoch: Some(2),
                links: 0,
                handshake_age_s: None,
                rx_bytes: 0,
                tx_bytes: 0,
                handshakes: 1,
                rekeys: 0,
                failures: 1,
                replays: 0,
                source_refused: 2,
                prefixes: vec![],
            }],
            ..EncryptionStatus::default()
        }
    }

    #[test]
    fn status_says_what_becomes_of_each_peer_and_why() {
        let text = status(&example());
        for line in [
            "Encryption:      Wireguard, embedded (the kernel has no WireGuard (EOPNOTSUPP))",
            "Device:          cilium_wg0 (index 3, UDP port 51871, MTU 1408)",
            "Key:             K= (epoch 2, current, 1m1s old)",
            "Guard:           9 ranges on eth0; refused: 4 unencrypted-traffic, 0 plaintext-refused",
            "Peers:           0 of 1 with a session",
            "duplicate key; 2 packets with a foreign source",
        ] {
            assert!(text.contains(line), "{text}\nhas not\n{line}");
        }
        assert_eq!(status(&EncryptionStatus::default()), "Encryption: Disabled\n");
    }

    #[test]
    fn json_has_the_names_that_scripts_use() {
        let json = serde_json::to_value(example()).unwrap();
        assert_eq!(json["peers"][0]["verdict"], "refused");
        assert_eq!(json["guard"]["unencryptedTraffic"], 4);
        assert_eq!(json["keys"][0]["publicKey"], "K=");
        let back: EncryptionStatus = serde_json::from_value(json).unwrap();
        assert_eq!(back, example());
    }

    #[test]
    fn a_wish_that_failed_is_named() {
        let nodes = ["", "gone"].map(|error| Rotated { node: "n2".into(), error: error.into() });
        assert!(rotated(&nodes).ends_with("n2: no new key: gone\n"));
        assert!(line("Disabled").contains("Encryption: Disabled"));
    }
}
