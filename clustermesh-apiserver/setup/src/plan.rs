//! The certificates of one cluster: what there is, what is missing or has to be renewed.

use std::collections::BTreeMap;
use std::fmt;

use causeway_mesh_schema::ClusterName;
use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::{Authority, Leaf, SetupError, key, secret};

/// What a Secret holds, not encoded. Wiped when dropped.
pub type Data = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// Which cluster it is for.
#[derive(Debug, Clone)]
pub struct Installation {
    pub cluster: ClusterName,
    pub namespace: String,
    /// More names or addresses of etcd's certificate.
    pub server_names: Vec<String>,
    /// New certificates, even where the old ones are good. The CA stays.
    pub renew: bool,
}

/// One Secret as it should be.
pub struct Planned {
    pub name: &'static str,
    /// The Secret's type.
    pub kind: &'static str,
    pub data: Data,
    pub why: Why,
}

/// Why a Secret is as it is planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It is as it should be; nothing is to be written.
    Kept,
    /// There was none.
    New,
    /// There is one; the text says why it is written anew.
    Renewed(String),
}

/// Never what it holds.
impl fmt::Debug for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Planned").field("name", &self.name).field("why", &self.why).finish_non_exhaustive()
    }
}

/// The CA's Secret and those of the four certificates, in this order. `existing` are the Secrets that there are, by name;
/// `given` is the CA that it has to be, otherwise the one that there is counts, and without it one is made.
///
/// # Errors
/// A CA that cannot be used: incomplete, about to expire, or another one than was given.
pub fn plan(
    existing: &BTreeMap<String, Data>,
    given: Option<Authority>,
    installation: &Installation,
    now: Timestamp,
) -> Result<Vec<Planned>, SetupError> {
    let (authority, why) = authority(existing.get(secret::CA), given, now)?;
    let cluster = &installation.cluster;
    let leaves = [
        Leaf::server(&installation.namespace, &installation.server_names),
        Leaf::admin(cluster),
        Leaf::remote(),
        Leaf::local(cluster),
    ];
    let mut planned = vec![Planned {
        name: secret::CA,
        kind: "Opaque",
        data: Data::from([
            (key::CA_CERT.to_owned(), Zeroizing::new(authority.cert_pem().to_vec())),
            (key::CA_KEY.to_owned(), authority.key_pem().clone()),
        ]),
        why,
    }];
    for leaf in leaves {
        planned.push(certificate(&authority, &leaf, existing.get(leaf.secret), installation.renew, now)?);
    }
    Ok(planned)
}

fn authority(
    existing: Option<&Data>,
    given: Option<Authority>,
    now: Timestamp,
) -> Result<(Authority, Why), SetupError> {
    let object = "Secret cilium-ca";
    let found = match existing {
        None => None,
        Some(data) => match (data.get(key::CA_CERT), data.get(key::CA_KEY)) {
            (Some(cert), Some(ca_key)) => Some(Authority::load(object, cert, ca_key, now)?),
            _ => None,
        },
    };
    match (found, given, existing) {
        (Some(found), None, _) => Ok((found, Why::Kept)),
        (Some(found), Some(given), _) if found.is(&given) => Ok((found, Why::Kept)),
        (Some(_), Some(_), _) => Err(SetupError::new(
            object,
            "the cluster has another CA than the one given",
            "leave the flag away, or delete the Secret and connect to every other cluster again afterwards",
        )),
        (None, Some(given), None) => Ok((given, Why::New)),
        (None, Some(given), Some(_)) => Ok((given, Why::Renewed("it had no certificate with key".to_owned()))),
        (None, None, None) => Ok((Authority::make(now)?, Why::New)),
        (None, None, Some(_)) => Err(SetupError::new(
            object,
            "it has no ca.crt with ca.key, so nothing can be signed",
            "give the CA with --ca-from, or delete the Secret to have a new one made",
        )),
    }
}

fn certificate(
    authority: &Authority,
    leaf: &Leaf,
    existing: Option<&Data>,
    renew: bool,
    now: Timestamp,
) -> Result<Planned, SetupError> {
    let why = match existing {
        None => Why::New,
        Some(data) => match good(authority, leaf, data, now) {
            Err(reason) => Why::Renewed(reason),
            Ok(()) if renew => Why::Renewed("asked for".to_owned()),
            Ok(()) => Why::Kept,
        },
    };
    let data = match (&why, existing) {
        (Why::Kept, Some(data)) => data.clone(),
        _ => {
            let issued = authority.issue(leaf, now)?;
            Data::from([
                (key::CA_CERT.to_owned(), Zeroizing::new(authority.cert_pem().to_vec())),
                (key::CERT.to_owned(), Zeroizing::new(issued.cert_pem)),
                (key::KEY.to_owned(), issued.key_pem),
            ])
        }
    };
    Ok(Planned { name: leaf.secret, kind: "kubernetes.io/tls", data, why })
}

fn good(authority: &Authority, leaf: &Leaf, data: &Data, now: Timestamp) -> Result<(), String> {
    let (Some(cert), Some(leaf_key), Some(ca)) = (data.get(key::CERT), data.get(key::KEY), data.get(key::CA_CERT))
    else {
        return Err("it is incomplete".to_owned());
    };
    if ca.as_slice() != authority.cert_pem() {
        return Err("its ca.crt is another CA's".to_owned());
    }
    authority.vouches(leaf, cert, leaf_key, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan;

    fn installation(renew: bool, more: &[&str]) -> Installation {
        Installation {
            cluster: ClusterName::parse("east").unwrap(),
            namespace: "kube-system".to_owned(),
            server_names: more.iter().map(|name| (*name).to_owned()).collect(),
            renew,
        }
    }

    fn now() -> Timestamp {
        "2026-05-01T00:00:00Z".parse().unwrap()
    }

    fn days(n: i64) -> Timestamp {
        now() + (24 * n).hours()
    }

    fn apply(planned: Vec<Planned>) -> BTreeMap<String, Data> {
        planned.into_iter().map(|p| (p.name.to_owned(), p.data)).collect()
    }

    fn fresh() -> BTreeMap<String, Data> {
        apply(plan(&BTreeMap::new(), None, &installation(false, &[]), now()).unwrap())
    }

    /// Which of CA, server, admin, remote, local are written.
    fn written(existing: &BTreeMap<String, Data>, installation: &Installation, at: Timestamp) -> [bool; 5] {
        let planned = plan(existing, None, installation, at).unwrap();
        let written: Vec<bool> = planned.iter().map(|p| p.why != Why::Kept).collect();
        written.try_into().unwrap()
    }

    #[test]
    fn made_once_and_kept() {
        let existing = fresh();
        assert_eq!(existing.len(), 5);
        assert_eq!(written(&existing, &installation(false, &[]), now()), [false; 5]);
        assert_eq!(written(&existing, &installation(false, &[]), days(334)), [false; 5]);
    }

    #[test]
    fn renewed_when_due_or_asked_for() {
        let leaves = [false, true, true, true, true];
        assert_eq!(written(&fresh(), &installation(true, &[]), now()), leaves);
        assert_eq!(written(&fresh(), &installation(false, &[]), days(336)), leaves);
        assert_eq!(
            written(&fresh(), &installation(false, &["etcd.example"]), now()),
            [false, true, false, false, false]
        );
        let west = Installation { cluster: ClusterName::parse("west").unwrap(), ..installation(false, &[]) };
        assert_eq!(written(&fresh(), &west, now()), [false, false, true, false, true]);
    }

    #[test]
    fn damage_is_repaired() {
        let mut existing = fresh();
        existing.get_mut(secret::ADMIN).unwrap().remove(key::KEY);
        let others_key = existing[secret::REMOTE][key::KEY].clone();
        existing.get_mut(secret::LOCAL).unwrap().insert(key::KEY.to_owned(), others_key);
        existing.get_mut(secret::SERVER).unwrap().insert(key::CERT.to_owned(), Zeroizing::new(b"junk".to_vec()));
        assert_eq!(written(&existing, &installation(false, &[]), now()), [false, true, true, false, true]);
    }

    #[test]
    fn another_ca_signs_everything_again() {
        let mut existing = fresh();
        existing.remove(secret::CA);
        assert_eq!(written(&existing, &installation(false, &[]), now()), [true; 5]);
    }

    #[test]
    fn cas_that_are_refused() {
        let refused = |existing: &BTreeMap<String, Data>, given, at| {
            plan(existing, given, &installation(false, &[]), at).unwrap_err().to_string()
        };
        let other = || Some(Authority::make(now()).unwrap());
        assert!(refused(&fresh(), other(), now()).contains("another CA"));
        assert!(refused(&fresh(), None, days(3 * 365 - 29)).contains("expires"));
        let mut keyless = fresh();
        keyless.get_mut(secret::CA).unwrap().remove(key::CA_KEY);
        assert!(refused(&keyless, None, now()).contains("nothing can be signed"));
        assert!(plan(&keyless, other(), &installation(false, &[]), now()).is_ok());
        let mut swapped = fresh();
        let key_of_another = Authority::make(now()).unwrap().key_pem().clone();
        swapped.get_mut(secret::CA).unwrap().insert(key::CA_KEY.to_owned(), key_of_another);
        assert!(refused(&swapped, None, now()).contains("does not belong"));
        let mut leaf = fresh();
        let (cert, leaf_key) = (leaf[secret::ADMIN][key::CERT].clone(), leaf[secret::ADMIN][key::KEY].clone());
        let ca = Data::from([(key::CA_CERT.to_owned(), cert), (key::CA_KEY.to_owned(), leaf_key)]);
        leaf.insert(secret::CA.to_owned(), ca);
        assert!(refused(&leaf, None, now()).contains("no CA"));
    }

    #[test]
    fn nothing_that_is_shown_holds_a_key() {
        let authority = Authority::make(now()).unwrap();
        let issued = authority.issue(&Leaf::remote(), now()).unwrap();
        let planned = plan(&BTreeMap::new(), None, &installation(false, &[]), now()).unwrap();
        let shown = format!("{authority:?} {issued:?} {planned:?}");
        assert!(!shown.contains("PRIVATE") && shown.len() < 2_000, "{shown}");
    }
}
