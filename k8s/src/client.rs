//! The client of the API server, as every program here finds it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// How long the server may take to accept a connection. Far more than it needs; kube's default of 30 s would hold up
/// whoever tries another server next.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use kubeconfig {}: {error}", path.display())]
    Kubeconfig { path: PathBuf, error: kube::config::KubeconfigError },
    #[error("cannot find the API server: {error}; give {flag}, set KUBECONFIG, or run in a pod")]
    Nowhere { flag: &'static str, error: kube::config::InferConfigError },
    #[error("cannot make a client of {server}: {error}")]
    Client { server: String, error: kube::Error },
}

/// Where the API server is and how to speak with it: from the file, or else from `$KUBECONFIG`, `~/.kube/config` or the
/// pod's service account. `flag` is what names the file, for the message.
///
/// # Errors
/// The file cannot be used, or there is nothing to go by.
pub async fn config(kubeconfig: Option<&Path>, flag: &'static str) -> Result<Config, Error> {
    let mut config = match kubeconfig {
        Some(path) => {
            let unusable = |error| Error::Kubeconfig { path: path.to_owned(), error };
            let file = Kubeconfig::read_from(path).map_err(unusable)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(unusable)?
        }
        None => Config::infer().await.map_err(|error| Error::Nowhere { flag, error })?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Ok(config)
}

/// A client by what [`config`] found. Sends no packet. A TLS provider must be installed.
///
/// # Errors
/// The configuration cannot be used.
pub fn connect(config: Config) -> Result<Client, Error> {
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(|error| Error::Client { server: server.clone(), error })?;
    tracing::info!(server, "API server");
    Ok(client)
}

/// Both in one.
///
/// # Errors
/// As [`config`] and [`connect`].
pub async fn open(kubeconfig: Option<&Path>, flag: &'static str) -> Result<Client, Error> {
    connect(config(kubeconfig, flag).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_not_there_is_named() {
        let error = open(Some(Path::new("/nowhere/kubeconfig")), "--kubeconfig").await.map(drop).unwrap_err();
        assert!(error.to_string().starts_with("cannot use kubeconfig /nowhere/kubeconfig: "), "{error}");
    }
}
