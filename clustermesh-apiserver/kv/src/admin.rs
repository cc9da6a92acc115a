//! Users and roles of an etcd: the few words that preparing one and keeping its users needs. Not for data.
//!
//! Nobody has a password: a user is the CN of a client certificate (`--client-cert-auth`).

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, Permission, TlsOptions, UserAddOptions};

use crate::session::{Connect, TlsFiles};

/// A connection for administration. Certificates are read when it is made; make a new one for each piece of work.
pub struct Admin {
    client: Client,
}

/// What could not be done.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {problem}")]
pub struct AdminError {
    /// What was being done, to what: `adding user remote`.
    pub step: String,
    pub problem: String,
}

/// Keys that a role may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRange {
    Key(String),
    /// Everything that begins with it.
    Prefix(String),
}

impl Admin {
    /// # Errors
    /// The certificates cannot be read, or no endpoint answers.
    pub async fn connect(connect: &Connect) -> Result<Admin, AdminError> {
        let step = || format!("connecting to {}", connect.endpoints.join(", "));
        let mut options =
            ConnectOptions::new().with_timeout(connect.request_timeout).with_connect_timeout(connect.request_timeout);
        if let Some(files) = &connect.tls {
            options = options.with_tls(tls(files).await.map_err(|problem| AdminError { step: step(), problem })?);
        }
        let client =
            Client::connect(&connect.endpoints, Some(options)).await.map_err(|error| failed(step(), &error))?;
        Ok(Admin { client })
    }

    /// Whether the store answers requests, which it does when it has a leader.
    ///
    /// # Errors
    /// It does not.
    pub async fn status(&mut self) -> Result<(), AdminError> {
        let asked = self.client.status().await.map_err(|error| failed("asking for the status".to_owned(), &error))?;
        if asked.leader() == 0 {
            return Err(AdminError {
                step: "asking for the status".to_owned(),
                problem: "there is no leader yet".to_owned(),
            });
        }
        Ok(())
    }

    /// # Errors
    /// The user exists, or etcd refused.
    pub async fn add_user(&mut self, user: &str) -> Result<(), AdminError> {
        let options = UserAddOptions::new().with_no_pwd();
        let done = self.client.user_add(user, "", Some(options)).await;
        done.map(drop).map_err(|error| failed(format!("adding user {user}"), &error))
    }

    /// # Errors
    /// The user does not exist, or etcd refused.
    pub async fn delete_user(&mut self, user: &str) -> Result<(), AdminError> {
        let done = self.client.user_delete(user).await;
        done.map(drop).map_err(|error| failed(format!("deleting user {user}"), &error))
    }

    /// # Errors
    /// The role exists, or etcd refused.
    pub async fn add_role(&mut self, role: &str) -> Result<(), AdminError> {
        let done = self.client.role_add(role).await;
        done.map(drop).map_err(|error| failed(format!("adding role {role}"), &error))
    }

    /// # Errors
    /// One of them does not exist, or etcd refused.
    pub async fn grant_role(&mut self, user: &str, role: &str) -> Result<(), AdminError> {
        let done = self.client.user_grant_role(user, role).await;
        done.map(drop).map_err(|error| failed(format!("granting role {role} to user {user}"), &error))
    }

    /// # Errors
    /// The user does not have the role, or etcd refused.
    pub async fn revoke_role(&mut self, user: &str, role: &str) -> Result<(), AdminError> {
        let done = self.client.user_revoke_role(user, role).await;
        done.map(drop).map_err(|error| failed(format!("revoking role {role} from user {user}"), &error))
    }

    /// # Errors
    /// The role does not exist, or etcd refused.
    pub async fn grant_read(&mut self, role: &str, range: &KeyRange) -> Result<(), AdminError> {
        let (key, permission) = match range {
            KeyRange::Key(key) => (key, Permission::read(key.as_str())),
            KeyRange::Prefix(prefix) => (prefix, Permission::read(prefix.as_str()).with_prefix()),
        };
        let done = self.client.role_grant_permission(role, permission).await;
        done.map(drop).map_err(|error| failed(format!("granting role {role} to read {key}"), &error))
    }

    /// Names of all users.
    ///
    /// # Errors
    /// etcd refused.
    pub async fn users(&mut self) -> Result<BTreeSet<String>, AdminError> {
        let listed = self.client.user_list().await.map_err(|error| failed("listing users".to_owned(), &error))?;
        Ok(listed.users().iter().cloned().collect())
    }

    /// # Errors
    /// The user does not exist, or etcd refused.
    pub async fn roles_of(&mut self, user: &str) -> Result<BTreeSet<String>, AdminError> {
        let got = self.client.user_get(user).await.map_err(|error| failed(format!("reading user {user}"), &error))?;
        Ok(got.roles().iter().cloned().collect())
    }

    /// From here on only certificates of users are let in.
    ///
    /// # Errors
    /// There is no user `root` with role `root`, or etcd refused.
    pub async fn enable_auth(&mut self) -> Result<(), AdminError> {
        let done = self.client.auth_enable().await;
        done.map(drop).map_err(|error| failed("enabling authentication".to_owned(), &error))
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

async fn tls(files: &TlsFiles) -> Result<TlsOptions, String> {
    let ca = read(&files.ca).await?;
    let identity = Identity::from_pem(read(&files.cert).await?, read(&files.key).await?);
    Ok(TlsOptions::new().ca_certificate(Certificate::from_pem(ca)).identity(identity).timeout(Duration::from_secs(5)))
}

async fn read(path: &Path) -> Result<Vec<u8>, String> {
    tokio::fs::read(path).await.map_err(|error| format!("{}: {error}", path.display()))
}

fn failed(step: String, error: &etcd_client::Error) -> AdminError {
    let mut problem = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let part = error.to_string();
        if !problem.contains(&part) {
            problem = format!("{problem}: {part}");
        }
        cause = error.source();
    }
    AdminError { step, problem }
}
