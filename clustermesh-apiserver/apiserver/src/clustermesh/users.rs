//! Keeps etcd's users for other clusters as a file says (`--cluster-users-config-path`), so that a peer can be let in,
//! and shut out, one by one. Only users named `remote-...` are ours to make and to delete.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use causeway_mesh_kv::Connect;
use causeway_mesh_kv::admin::Admin;
use causeway_mesh_schema::ClusterName;
use notify::{RecursiveMode, Watcher};
use serde::Deserialize;
use tokio::sync::mpsc;

/// The one prefix of names that we manage.
const OURS: &str = "remote-";
/// After a failure, and now and then in case a change of the file was not told.
const AGAIN: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    users: Vec<User>,
}

#[derive(Deserialize)]
struct User {
    name: String,
    role: String,
}

/// What to change. In order: who is let in, then who is shut out.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Add(String),
    Grant(String, String),
    Revoke(String, String),
    Delete(String),
}

/// Never ends.
pub(super) async fn keep(path: PathBuf, home: ClusterName, connect: Connect) {
    let (told, mut changed) = mpsc::channel(1);
    // Held for as long as we run: dropped, it watches no more.
    let _watcher = watch(&path, told);
    loop {
        match reconcile(&path, &home, &connect).await {
            Ok(0) => {}
            Ok(number) => tracing::info!(file = %path.display(), changes = number, "users of other clusters"),
            Err(error) => tracing::warn!(file = %path.display(), "keeping the users of other clusters: {error:#}"),
        }
        tokio::select! {
            Some(()) = changed.recv() => {}
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// The directory, since a file that is replaced is another one.
fn watch(path: &Path, told: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let directory = path.parent()?;
    let tell = move |event: notify::Result<notify::Event>| {
        // Reading the file is an event too, and would make us read it again, for ever.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // A full channel says the same already.
            _ = told.try_send(());
        }
    };
    let watcher = notify::recommended_watcher(tell).and_then(|mut watcher| {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watcher
        .inspect_err(|error| tracing::warn!(directory = %directory.display(), %error, "cannot be watched; it is read every 30 s"))
        .ok()
}

async fn reconcile(path: &Path, home: &ClusterName, connect: &Connect) -> anyhow::Result<usize> {
    let text = tokio::fs::read_to_string(path).await.context("reading the file")?;
    let wanted = parse(&text, home)?;
    let mut admin = Admin::connect(connect).await?;
    let mut actual = BTreeMap::new();
    for user in admin.users().await?.into_iter().filter(|user| user.starts_with(OURS)) {
        let roles = admin.roles_of(&user).await?;
        actual.insert(user, roles);
    }
    let changes = plan(&wanted, &actual);
    for change in &changes {
        match change {
            Change::Add(user) => admin.add_user(user).await?,
            Change::Grant(user, role) => admin.grant_role(user, role).await?,
            Change::Revoke(user, role) => admin.revoke_role(user, role).await?,
            Change::Delete(user) => admin.delete_user(user).await?,
        }
    }
    Ok(changes.len())
}

/// User to role.
fn parse(text: &str, home: &ClusterName) -> anyhow::Result<BTreeMap<String, String>> {
    let file: File = serde_yaml_ng::from_str(text).context("write it as users: [{name: remote-west, role: remote}]")?;
    let mut users = BTreeMap::new();
    for User { name, role } in file.users {
        let Some(cluster) = name.strip_prefix(OURS) else {
            anyhow::bail!("user {name}: only names that begin with {OURS} can be managed; the others are etcdinit's");
        };
        if role == "root" {
            anyhow::bail!("user {name}: role root may write; give it role remote");
        }
        if cluster != home.as_str() {
            users.insert(name, role);
        }
    }
    Ok(users)
}

fn plan(wanted: &BTreeMap<String, String>, actual: &BTreeMap<String, BTreeSet<String>>) -> Vec<Change> {
    let mut changes = Vec::new();
    for (user, role) in wanted {
        let roles = actual.get(user);
        if roles.is_none() {
            changes.push(Change::Add(user.clone()));
        }
        if !roles.is_some_and(|roles| roles.contains(role)) {
            changes.push(Change::Grant(user.clone(), role.clone()));
        }
        let others = roles.into_iter().flatten().filter(|other| *other != role);
        changes.extend(others.map(|other| Change::Revoke(user.clone(), other.clone())));
    }
    let gone = actual.keys().filter(|user| !wanted.contains_key(*user));
    changes.extend(gone.cloned().map(Change::Delete));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> ClusterName {
        ClusterName::parse("east").unwrap()
    }

    #[test]
    fn a_file_is_checked() {
        let users =
            parse("users: [{name: remote-west, role: remote}, {name: remote-east, role: remote}]", &home()).unwrap();
        assert_eq!(users, BTreeMap::from([("remote-west".to_owned(), "remote".to_owned())]), "not our own");
        assert!(parse("{}", &home()).unwrap().is_empty());
        for (text, word) in [
            ("users: [{name: root, role: remote}]", "begin with remote-"),
            ("users: [{name: admin-east, role: remote}]", "begin with remote-"),
            ("users: [{name: remote-west, role: root}]", "may write"),
            ("users: [{name: remote-west}]", "users: [{name"),
            ("[", "users: [{name"),
        ] {
            let error = format!("{:#}", parse(text, &home()).unwrap_err());
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn reading_the_file_wakes_nobody_and_writing_does() {
        const WHILE: Duration = Duration::from_millis(200);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users.yaml");
        std::fs::write(&path, "users: []").unwrap();
        let (told, mut changed) = mpsc::channel(1);
        let _watcher = watch(&path, told).unwrap();
        std::fs::read_to_string(&path).unwrap();
        assert!(tokio::time::timeout(WHILE, changed.recv()).await.is_err(), "it was only read");
        std::fs::write(&path, "users: [{name: remote-west, role: remote}]").unwrap();
        assert_eq!(tokio::time::timeout(WHILE * 50, changed.recv()).await.unwrap(), Some(()));
    }

    #[test]
    fn plans() {
        let wanted = |users: &[(&str, &str)]| users.iter().map(|(u, r)| ((*u).to_owned(), (*r).to_owned())).collect();
        let actual = |users: &[(&str, &[&str])]| {
            let roles = |roles: &[&str]| roles.iter().map(|role| (*role).to_owned()).collect();
            users.iter().map(|(user, of)| ((*user).to_owned(), roles(of))).collect::<BTreeMap<_, _>>()
        };
        let shown = |changes: &[Change]| changes.iter().map(|change| format!("{change:?}")).collect::<Vec<_>>();
        let table: [(_, _, &[&str]); 5] = [
            (wanted(&[]), actual(&[]), &[]),
            (wanted(&[("remote-a", "remote")]), actual(&[]), &[r#"Add("remote-a")"#, r#"Grant("remote-a", "remote")"#]),
            (wanted(&[("remote-a", "remote")]), actual(&[("remote-a", &["remote"])]), &[]),
            (
                wanted(&[("remote-a", "remote")]),
                actual(&[("remote-a", &["local"])]),
                &[r#"Grant("remote-a", "remote")"#, r#"Revoke("remote-a", "local")"#],
            ),
            (wanted(&[]), actual(&[("remote-a", &["remote"])]), &[r#"Delete("remote-a")"#]),
        ];
        for (wanted, actual, expected) in table {
            assert_eq!(shown(&plan(&wanted, &actual)), expected);
        }
    }
}
