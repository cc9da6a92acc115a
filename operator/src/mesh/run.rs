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
    let directory = options.directory.clone();
    let mesh = Mesh::spawn(options, move |name| Box::new(listeners.listener(name.as_str())));
    let mut changes = mesh.changes();
    loop {
        if changes.changed().await.is_err() {
            // Its tasks have ended: nothing changes any more.
            return std::future::pending().await;
        }
        // A cluster with a good file has a listener, which says when it goes; a file that never was good has none. Asked of
        // the directory, since the mesh knows of a file that was just mended neither a problem nor a status. An absent
        // directory says nothing, as above.
        remotes.give_up(|name| directory.is_dir() && !directory.join(name).exists());
    }
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

    /// Names of the clusters whose exports are awaited, once they are as expected, or at last.
    async fn awaited(remotes: &Remotes, expected: &[&str]) -> Vec<String> {
        for _ in 0..500 {
            if remotes.said().awaited_exports().iter().eq(expected) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        remotes.said().awaited_exports().into_iter().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_file_that_never_was_good_is_awaited_until_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let good = "endpoints: [http://127.0.0.1:1]";
        for (name, text) in [("west", good), ("north", "endpoints: {"), ("south", "endpoints: {")] {
            std::fs::write(path(name), text).unwrap();
        }
        let options = Options::new(directory.path().to_owned(), ClusterName::parse("east").unwrap(), None);
        let remotes = Remotes::new(std::sync::Arc::new(options.settings.clone()));
        let test = async {
            assert_eq!(awaited(&remotes, &["north", "south", "west"]).await, ["north", "south", "west"]);
            std::fs::remove_file(path("north")).unwrap();
            assert_eq!(awaited(&remotes, &["south", "west"]).await, ["south", "west"]);
            // One that is mended has a listener from then on.
            std::fs::write(path("south"), good).unwrap();
            for _ in 0..500 {
                if remotes.said().unheard.is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(awaited(&remotes, &["south", "west"]).await, ["south", "west"]);
            std::fs::remove_file(path("south")).unwrap();
            assert_eq!(awaited(&remotes, &["west"]).await, ["west"]);
        };
        tokio::select! {
            _ = read(&remotes, options) => {}
            () = test => {}
        }
    }

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
