//! `connect`: each cluster gets an entry for the other. Everything is read and checked before anything is written.

use causeway_mesh_setup::{Client, Data, Endpoint, Reach, SetupError, Side, check_pair, entry, entry_keys, secret};

use super::cluster::Cluster;
use super::{Connect, Mode, Outcome, Step, There, Trouble, endpoints};

/// What one cluster brings along.
struct End {
    cluster: Cluster,
    side: Side,
    /// With which others read it, and with which its own agents do.
    remote: Data,
    local: Data,
    outside: Vec<Endpoint>,
    inside: Vec<Endpoint>,
}

pub(super) async fn run(flags: &Connect) -> Result<Vec<Step>, Trouble> {
    let here = &flags.here;
    let ours = Cluster::here(here).await?;
    let our_side = ours.side(here.cluster_name.as_deref(), here.cluster_id, here.max_connected_clusters).await?;
    let theirs = destination(&flags.there, flags).await?;
    let (name, id) = (flags.there.destination_name.as_deref(), flags.there.destination_id);
    let their_side = theirs.side(name, id, here.max_connected_clusters).await?;
    check_pair(&our_side, &their_side)?;
    let ours = End::read(ours, our_side, &flags.source_endpoint, "--source-endpoint").await?;
    let theirs = End::read(theirs, their_side, &flags.endpoint, "--endpoint").await?;
    let mut steps = theirs.meet(&ours, flags).await?;
    steps.extend(ours.meet(&theirs, flags).await?);
    Ok(steps)
}

async fn destination(there: &There, flags: &Connect) -> Result<Cluster, Trouble> {
    if !there.is_named() {
        let remedy = "name it with --destination-context or --destination-kubeconfig";
        return Err(SetupError::new("the other cluster", "nothing says which one it is", remedy).into());
    }
    there.open(&flags.here).await
}

impl End {
    async fn read(cluster: Cluster, side: Side, given: &[Endpoint], flag: &str) -> Result<End, Trouble> {
        let outside = endpoints::outside(&cluster, given, flag).await?;
        let inside = endpoints::inside(&cluster, &outside).await?;
        let mut of = cluster.secrets_named(&[secret::REMOTE, secret::LOCAL]).await?;
        let (remote, local) = (of.remove(secret::REMOTE), of.remove(secret::LOCAL));
        let (remote, local) = (remote.unwrap_or_default(), local.unwrap_or_default());
        let end = End { cluster, side, remote, local, outside, inside };
        end.client(secret::REMOTE, &end.remote)?;
        end.client(secret::LOCAL, &end.local)?;
        Ok(end)
    }

    fn client<'a>(&self, name: &str, data: &'a Data) -> Result<Client<'a>, Trouble> {
        let object = format!("Secret {name} in context {:?}", self.cluster.called);
        Ok(Client::of(&object, data)?)
    }

    /// Writes the entry for `peer` into this cluster's Secrets.
    async fn meet(&self, peer: &End, flags: &Connect) -> Result<Vec<Step>, Trouble> {
        let name = &peer.side.name;
        let under = flags.paths_under.as_deref();
        let remote = Reach::remote(name, peer.outside.clone());
        let far = entry(name, &remote, &peer.client(secret::REMOTE, &peer.remote)?, under);
        let (agents, kvstoremesh) = match flags.mode {
            Mode::Direct => (far, Data::new()),
            Mode::Cached => {
                let local = Reach::local(&self.cluster.namespace, self.inside.clone());
                (entry(name, &local, &self.client(secret::LOCAL, &self.local)?, under), far)
            }
        };
        let mut steps = Vec::new();
        // The copies first: whoever reads them then waits less.
        for (secret, data) in [(secret::KVSTOREMESH, kvstoremesh), (secret::AGENTS, agents)] {
            let remove = if data.is_empty() { entry_keys(name).to_vec() } else { Vec::new() };
            let outcome = self.cluster.change_secret(secret, "Opaque", &data, &remove).await?;
            let nothing = data.is_empty() && outcome == Outcome::Kept;
            let note = if nothing { "no copies in direct mode".to_owned() } else { format!("entry of {name}") };
            steps.push(Step { cluster: self.side.name.to_string(), object: format!("Secret {secret}"), outcome, note });
        }
        Ok(steps)
    }
}
