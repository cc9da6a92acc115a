//! Reads the other clusters' etcd while we lead.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use causeway_mesh_remote::directory::Directory;
use causeway_mesh_remote::{Mesh, Options};

use super::Remotes;

/// Between attempts to read a directory that cannot be read. It is a mounted Secret or ConfigMap: a person puts it right.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Reads until dropped, into `remotes`.
pub(crate) async fn read(remotes: &Remotes, options: Options) -> Infallible {
    let names = configured(&options).await;
    // Before the readers start: a cluster that is configured and has said nothing yet is not one that is gone.
    names.iter().for_each(|name| remotes.expect(name));
    remotes.complete();
    tracing::info!(clusters = names.join(","), "reading the mesh");
    let listeners = remotes.clone();
    let _mesh = Mesh::spawn(options, move |name| Box::new(listeners.listener(name.as_str())));
    std::future::pending().await
}

/// Names of the clusters that have a file, be it good or bad.
async fn configured(options: &Options) -> Vec<String> {
    let mut directory = Directory::new(options.directory.clone(), options.name.clone());
    loop {
        // To the reader of the mesh an absent directory is an empty one; to us it says nothing about the clusters.
        let scanned = std::fs::read_dir(directory.path()).and_then(|_| directory.scan());
        match scanned {
            Ok(found) => {
                let good = found.iter().map(|difference| difference.name().to_string());
                let bad = directory.problems().iter();
                let bad = bad.filter_map(|problem| Some(Path::new(&problem.file).file_name()?.to_str()?.to_owned()));
                return good.chain(bad).collect();
            }
            Err(error) => {
                let path = directory.path().display();
                tracing::warn!(
                    "reading --clustermesh-config {path}: {error}; the mesh waits, and what stands in the API server \
                     stays; is the Secret mounted there?"
                );
                tokio::time::sleep(READ_AGAIN_AFTER).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_mesh_schema::ClusterName;

    use super::*;

    #[tokio::test]
    async fn a_cluster_with_a_bad_file_is_configured_and_our_own_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("west", "endpoints: [http://127.0.0.1:1]");
        write("north", "endpoints: {");
        write("east", "endpoints: [http://127.0.0.1:1]");
        write("west.etcd-client-ca.crt", "");
        let options = Options::new(directory.path().to_owned(), ClusterName::parse("east").unwrap(), None);
        let mut names = configured(&options).await;
        names.sort();
        assert_eq!(names, ["north", "west"]);
    }
}
