//! The status of a remote cluster, for people and programs: everything that is known on this side, with its age.

use std::time::{Duration, SystemTime};

use causeway_mesh_kv::certificate_expiry;
use causeway_mesh_schema::{ClusterConfig, ClusterId, ClusterName, Kind};
use serde::{Deserialize, Serialize};

use super::board::Snapshot;
use crate::change::Stage;
use crate::core::{KindStats, Phase};
use crate::tally::Checksum;

/// A remote cluster. Times are RFC 3339 in UTC; ages and lengths are seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RemoteStatus {
    pub name: ClusterName,
    pub phase: Phase,
    pub connected: bool,
    pub connected_since: Option<String>,
    /// Every kind that it offers and we want has been listed and is being followed.
    pub ready: bool,
    pub stage: Stage,
    /// How long it has been silent; absent while it speaks.
    pub silent_for_s: Option<f64>,
    pub failures: u64,
    pub last_failure: Option<FailureStatus>,
    /// How long ago its writer last showed that it lives: no entry here can be older news than this.
    pub heartbeat_age_s: Option<f64>,
    /// How long ago the newest entry came or went.
    pub newest_data_age_s: Option<f64>,
    pub id: Option<ClusterId>,
    /// As read; absent until then.
    pub config: Option<ClusterConfig>,
    /// etcd's number of the data set, in hexadecimal; absent before the first answer.
    pub store: Option<String>,
    /// The present or last one.
    pub endpoint: Option<String>,
    pub endpoints: Vec<String>,
    /// Connections made in the present session.
    pub connects: u64,
    /// Why the connection does not stand, while it does not.
    pub link_error: Option<String>,
    /// Absent without TLS.
    pub certificate: Option<CertificateStatus>,
    pub kinds: Vec<KindStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureStatus {
    pub at: String,
    pub message: String,
}

/// Our client certificate for that cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CertificateStatus {
    pub file: String,
    pub expires: Option<String>,
    /// Negative when it has expired.
    pub expires_in_s: Option<f64>,
    /// Why it cannot be read.
    pub problem: Option<String>,
}

/// One kind of its entries. The checksum is that of [`Checksum`]: the same on the writer's side if nothing is missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KindStatus {
    pub kind: Kind,
    pub offered: bool,
    pub synced: bool,
    pub entries: usize,
    pub checksum: Checksum,
    pub revision: i64,
    /// Keys that are no names.
    pub unreadable: u64,
    pub newest_age_s: Option<f64>,
    /// How long the last complete listing took.
    pub last_list_ms: Option<u64>,
    /// Complete listings since the start.
    pub listings: u64,
    pub problem: Option<String>,
}

/// `now` is the machines' time, `wall` the same moment on the wall.
pub(crate) fn describe(name: &ClusterName, snapshot: &Snapshot, now: Duration, wall: SystemTime) -> RemoteStatus {
    let Snapshot { stats, session, connect } = snapshot;
    let age = |at: Duration| now.saturating_sub(at).as_secs_f64();
    let time = |at: Duration| rfc3339(wall.checked_sub(now.saturating_sub(at)).unwrap_or(wall));
    let kinds = stats.kinds.iter().map(|kind| kind_status(kind, now));
    let newest = stats.kinds.iter().filter_map(|kind| kind.last_change).max();
    RemoteStatus {
        name: name.clone(),
        phase: stats.phase,
        connected: stats.connected.is_some(),
        connected_since: stats.connected.map(time),
        ready: stats.phase == Phase::Ready,
        stage: stats.stage,
        silent_for_s: stats.silent_since.map(age),
        failures: stats.failures,
        last_failure: stats
            .last_failure
            .as_ref()
            .map(|(at, message)| FailureStatus { at: time(*at), message: message.to_string() }),
        heartbeat_age_s: stats.last_heartbeat.map(age),
        newest_data_age_s: newest.map(age),
        id: stats.info.as_ref().map(|info| info.origin.id),
        config: stats.info.as_ref().map(|info| info.config.clone()),
        store: (stats.store != 0).then(|| format!("{:x}", stats.store)),
        endpoint: session.as_ref().and_then(|session| session.endpoint.clone()),
        endpoints: connect.endpoints.clone(),
        connects: session.as_ref().map_or(0, |session| session.connects),
        link_error: session.as_ref().and_then(|session| session.last_error.clone()),
        certificate: connect.tls.as_ref().map(|files| certificate(files, wall)),
        kinds: kinds.collect(),
    }
}

fn kind_status(kind: &KindStats, now: Duration) -> KindStatus {
    KindStatus {
        kind: kind.kind,
        offered: kind.offered,
        synced: kind.synced,
        entries: kind.entries,
        checksum: kind.checksum,
        revision: kind.revision,
        unreadable: kind.unreadable,
        newest_age_s: kind.last_change.map(|at| now.saturating_sub(at).as_secs_f64()),
        last_list_ms: kind.last_list.and_then(|took| u64::try_from(took.as_millis()).ok()),
        listings: kind.listings,
        problem: kind.problem.clone(),
    }
}

fn certificate(files: &causeway_mesh_kv::TlsFiles, wall: SystemTime) -> CertificateStatus {
    let file = files.cert.display().to_string();
    match certificate_expiry(files) {
        Ok(expiry) => {
            let left = match expiry.duration_since(wall) {
                Ok(left) => left.as_secs_f64(),
                Err(past) => -past.duration().as_secs_f64(),
            };
            CertificateStatus { file, expires: Some(rfc3339(expiry)), expires_in_s: Some(left), problem: None }
        }
        Err(error) => CertificateStatus { file, expires: None, expires_in_s: None, problem: Some(error.to_string()) },
    }
}

/// Empty for a time that no calendar has.
fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|time| time.to_string()).unwrap_or_default()
}
