//! `disconnect`: each cluster loses its entry for the other. A cluster that does not answer cannot keep us connected: then
//! our side alone is cleared, and the report says so.

use causeway_mesh_setup::{ClusterName, SetupError, entry_keys, secret};

use super::cluster::Cluster;
use super::{Disconnect, Outcome, Step, There, Trouble};

pub(super) async fn run(flags: &Disconnect) -> Result<Vec<Step>, Trouble> {
    let here = &flags.here;
    let ours = Cluster::here(here).await?;
    let (theirs, peer) = other(flags, &ours).await?;
    let mut steps = forget(&ours, &label(here.cluster_name.as_deref(), &ours), &peer).await?;
    let silent = match theirs {
        Ok(theirs) => match their_side(&ours, &theirs, flags, &peer).await {
            Ok(done) => {
                steps.extend(done);
                return Ok(steps);
            }
            Err(trouble) => trouble.to_string(),
        },
        Err(why) => why,
    };
    let note = format!("its own entry for this cluster stands until disconnect is run there: {silent}");
    steps.push(Step { cluster: peer.to_string(), object: "both Secrets".to_owned(), outcome: Outcome::Left, note });
    Ok(steps)
}

/// The other cluster, or why it cannot be asked, and its name.
async fn other(flags: &Disconnect, ours: &Cluster) -> Result<(Result<Cluster, String>, ClusterName), Trouble> {
    let there = &flags.there;
    let cluster = if there.is_named() {
        there.open(&flags.here).await.map_err(|trouble| trouble.to_string())
    } else {
        Err("no --destination-context was given".to_owned())
    };
    let asked = match &cluster {
        Ok(cluster) => cluster.side(None, there.destination_id, None).await.map_err(|trouble| trouble.to_string()),
        Err(why) => Err(why.clone()),
    };
    match (&there.destination_name, asked) {
        (None, Ok(side)) => Ok((cluster, side.name)),
        (None, Err(why)) => Err(unnamed(ours, &why).await?.into()),
        (Some(given), asked) => {
            let name = ClusterName::parse(given).map_err(|error| Trouble(format!("--destination-name: {error}")))?;
            same(&name, asked.ok().map(|side| side.name))?;
            Ok((cluster, name))
        }
    }
}

/// A name that was mistyped would clear one side only.
fn same(given: &ClusterName, own: Option<ClusterName>) -> Result<(), SetupError> {
    match own {
        Some(own) if own != *given => Err(SetupError::new(
            "--destination-name",
            format!("it says {given}, but the cluster calls itself {own}"),
            "leave the flag away, or name the context of that cluster",
        )),
        _ => Ok(()),
    }
}

/// Nothing says the other cluster's name, so the ones that can be meant are named.
async fn unnamed(ours: &Cluster, why: &str) -> Result<SetupError, Trouble> {
    let names: Vec<String> = ours.peers(secret::AGENTS).await?.iter().map(ToString::to_string).collect();
    let known =
        if names.is_empty() { "connected to none".to_owned() } else { format!("connected to {}", names.join(", ")) };
    let remedy = format!("give --destination-name (this cluster is {known})");
    Ok(SetupError::new("the other cluster", format!("its name is not known: {why}"), remedy))
}

async fn their_side(
    ours: &Cluster,
    theirs: &Cluster,
    flags: &Disconnect,
    peer: &ClusterName,
) -> Result<Vec<Step>, Trouble> {
    let name = match &flags.here.cluster_name {
        Some(name) => ClusterName::parse(name).map_err(|error| Trouble(format!("--cluster-name: {error}")))?,
        None => ours.side(None, flags.here.cluster_id, flags.here.max_connected_clusters).await?.name,
    };
    forget(theirs, peer.as_str(), &name).await
}

async fn forget(cluster: &Cluster, called: &str, peer: &ClusterName) -> Result<Vec<Step>, Trouble> {
    let mut steps = Vec::new();
    // Agents first: they are not to see the copies vanish.
    for secret in [secret::AGENTS, secret::KVSTOREMESH] {
        let outcome = cluster.change_secret(secret, "Opaque", &Default::default(), &entry_keys(peer)).await?;
        let note = match outcome {
            Outcome::Kept => format!("it had no entry of {peer}"),
            _ => format!("entry of {peer}"),
        };
        steps.push(Step { cluster: called.to_owned(), object: format!("Secret {secret}"), outcome, note });
    }
    Ok(steps)
}

fn label(name: Option<&str>, cluster: &Cluster) -> String {
    name.map_or_else(|| cluster.called.clone(), str::to_owned)
}

impl There {
    /// Whether the flags say which cluster it is.
    pub(super) fn is_named(&self) -> bool {
        self.destination_context.is_some() || self.destination_kubeconfig.is_some()
    }

    pub(super) async fn open(&self, here: &super::Here) -> Result<Cluster, Trouble> {
        let kubeconfig = self.destination_kubeconfig.as_deref().or(here.kubeconfig.as_deref());
        Cluster::open(kubeconfig, self.destination_context.as_deref(), &here.namespace).await
    }
}
