//! `enable`: this cluster's CA and certificates, and its clustermesh-apiserver.

use causeway_mesh_setup::{
    Authority, Install, Installation, Planned, SetupError, Side, Timestamp, Why, key, manifests, plan, secret, yaml,
};
use serde_json::Value;

use super::cluster::Cluster;
use super::{Enable, Outcome, Step, Trouble, files};

pub(super) struct Done {
    pub(super) steps: Vec<Step>,
    /// With `--print`: what was not applied, as YAML.
    pub(super) manifests: String,
}

pub(super) async fn run(flags: &Enable) -> Result<Done, Trouble> {
    let now = Timestamp::now();
    let here = &flags.here;
    let cluster = Cluster::here(here).await?;
    let side = cluster.side(here.cluster_name.as_deref(), here.cluster_id, here.max_connected_clusters).await?;
    let given = given(flags, now).await?;
    let existing =
        cluster.secrets_named(&[secret::CA, secret::SERVER, secret::ADMIN, secret::REMOTE, secret::LOCAL]).await?;
    let installation = Installation {
        cluster: side.name.clone(),
        namespace: here.namespace.clone(),
        server_names: flags.server_name.clone(),
        renew: flags.renew,
    };
    let planned = plan(&existing, given, &installation, now)?;
    let mut steps = Vec::new();
    for secret in &planned {
        steps.push(write(&cluster, &side, secret).await?);
    }
    if let Some(dir) = &flags.write_to {
        files::write(dir, &planned)?;
    }
    let objects = flags.image.as_ref().filter(|_| !flags.secrets_only).map(|image| {
        manifests(&Install {
            namespace: here.namespace.clone(),
            image: image.clone(),
            cluster: side.name.clone(),
            id: side.id,
            scale: side.scale,
            service_type: flags.service_type.into(),
            node_port: flags.node_port,
        })
    });
    let objects = objects.unwrap_or_default();
    if flags.print {
        return Ok(Done { steps, manifests: yaml(&objects) });
    }
    for object in &objects {
        cluster.apply(object).await?;
        steps.push(applied(&side, object));
    }
    Ok(Done { steps, manifests: String::new() })
}

/// The CA that the flags name.
async fn given(flags: &Enable, now: Timestamp) -> Result<Option<Authority>, Trouble> {
    if let Some(dir) = &flags.ca_from {
        return files::authority(dir, now).map(Some);
    }
    let Some(context) = &flags.inherit_ca else { return Ok(None) };
    let other = Cluster::open(flags.here.kubeconfig.as_deref(), Some(context), &flags.here.namespace).await?;
    let object = format!("Secret {} in context {context:?}", secret::CA);
    let missing =
        || SetupError::new(&object, "it has no ca.crt with ca.key", "run causeway clustermesh enable there first");
    let data = other.secret(secret::CA).await?.ok_or_else(missing)?;
    let (cert, ca_key) = (data.get(key::CA_CERT).ok_or_else(missing)?, data.get(key::CA_KEY).ok_or_else(missing)?);
    Ok(Some(Authority::load(&object, cert, ca_key, now)?))
}

async fn write(cluster: &Cluster, side: &Side, planned: &Planned) -> Result<Step, Trouble> {
    let (outcome, note) = match &planned.why {
        Why::Kept => (Outcome::Kept, String::new()),
        Why::New => (cluster.change_secret(planned.name, planned.kind, &planned.data, &[]).await?, String::new()),
        Why::Renewed(why) => {
            (cluster.change_secret(planned.name, planned.kind, &planned.data, &[]).await?, format!("renewed: {why}"))
        }
    };
    Ok(Step { cluster: side.name.to_string(), object: format!("Secret {}", planned.name), outcome, note })
}

fn applied(side: &Side, object: &Value) -> Step {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    Step {
        cluster: side.name.to_string(),
        object: format!("{} {}", text("/kind"), text("/metadata/name")),
        outcome: Outcome::Applied,
        note: String::new(),
    }
}
