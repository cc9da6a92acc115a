//! `openssl` as the other party: it verifies what is signed here, and its CAs, with keys in the forms that Helm and cfssl
//! write, sign here. Where it is not installed, the tests say so and rest.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use causeway_mesh_schema::ClusterName;
use causeway_mesh_setup::{Authority, Installation, key, plan, secret};
use jiff::{Timestamp, ToSpan};

/// What it prints; `None` where there is no `openssl`.
fn openssl(dir: &Path, args: &str) -> Option<String> {
    let output = match Command::new("openssl").current_dir(dir).args(args.split_whitespace()).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("not run: there is no openssl command here");
            return None;
        }
        output => output.unwrap(),
    };
    assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// openssl looks at its own clock, so the certificates are for now.
fn now() -> Timestamp {
    Timestamp::now()
}

fn installation() -> Installation {
    Installation {
        cluster: ClusterName::parse("east").unwrap(),
        namespace: "kube-system".to_owned(),
        server_names: vec!["192.0.2.7".to_owned(), "etcd.example".to_owned()],
        renew: false,
    }
}

/// Signs the four certificates and lets openssl verify them.
fn verified_by_openssl(dir: &Path, given: Option<Authority>) -> Option<()> {
    let planned = plan(&BTreeMap::new(), given, &installation(), now()).unwrap();
    for secret in &planned {
        for (name, bytes) in &secret.data {
            fs::write(dir.join(format!("{}.{name}", secret.name)), bytes.as_slice()).unwrap();
        }
    }
    let ca = format!("{}.{}", secret::CA, key::CA_CERT);
    let server = format!("{}.tls.crt", secret::SERVER);
    for host in ["west.mesh.cilium.io", "clustermesh-apiserver.kube-system.svc", "etcd.example"] {
        openssl(dir, &format!("verify -x509_strict -CAfile {ca} -purpose sslserver -verify_hostname {host} {server}"))?;
    }
    for ip in ["127.0.0.1", "::1", "192.0.2.7"] {
        openssl(dir, &format!("verify -x509_strict -CAfile {ca} -purpose sslserver -verify_ip {ip} {server}"))?;
    }
    for (name, cn) in [(secret::ADMIN, "admin-east"), (secret::REMOTE, "remote"), (secret::LOCAL, "local-east")] {
        openssl(dir, &format!("verify -x509_strict -CAfile {ca} -purpose sslclient {name}.tls.crt"))?;
        let subject = openssl(dir, &format!("x509 -noout -subject -nameopt multiline -in {name}.tls.crt"))?;
        assert!(subject.trim_end().ends_with(&format!("= {cn}")), "{subject}");
        let public = openssl(dir, &format!("x509 -noout -pubkey -in {name}.tls.crt"))?;
        assert_eq!(openssl(dir, &format!("pkey -pubout -in {name}.tls.key"))?, public);
    }
    Some(())
}

#[test]
fn our_ca_and_its_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let _ = verified_by_openssl(dir.path(), None);
}

#[test]
fn cas_of_other_tools() {
    for make in [
        "genrsa -traditional -out ca.key 2048",
        "genrsa -out ca.key 2048",
        "ecparam -name prime256v1 -genkey -noout -out ca.key",
        "genpkey -algorithm ec -pkeyopt ec_paramgen_curve:P-384 -out ca.key",
        "genpkey -algorithm ed25519 -out ca.key",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        if openssl(path, make).is_none() {
            return;
        }
        openssl(path, "req -x509 -new -key ca.key -subj /O=Example/CN=Some-CA -days 1095 -addext keyUsage=critical,keyCertSign -out ca.crt").unwrap();
        let (cert, ca_key) = (fs::read(path.join("ca.crt")).unwrap(), fs::read(path.join("ca.key")).unwrap());
        let given = Authority::load("ca", &cert, &ca_key, now()).unwrap();
        verified_by_openssl(path, Some(given)).unwrap();
        let late = Authority::load("ca", &cert, &ca_key, now() + (24 * 1066).hours()).unwrap_err();
        assert!(late.to_string().contains("expires"), "{make}: {late}");
    }
}
