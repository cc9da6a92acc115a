//! Desired rows into the datapath's maps, and what must be done to the maps now and then.
//!
//! The calls into the datapath are system calls of microseconds, so that they are made where they stand, without a
//! thread of their own; only those that walk the flow table take longer and get one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_datapath_loader::{Datapath, FlowRow, Frontend, Proto, boot_time_s};
use causeway_table::{Action, Apply, Backoff, Driver, Policy};
use ipnet::IpNet;

use super::mesh_ips;
use crate::control::ipcache::IpcacheRow;
use crate::control::ipcache::prefix::Prefix;
use crate::control::services::LbRow;
use crate::intent::mesh::intake::Intake;
use crate::intent::mesh::progress::Progress;
use crate::metrics::Metrics;

/// How long a frontend stays programmed after it is no longer wanted: its withdrawal reaches the fabric first.
pub(crate) const DRAIN: Duration = Duration::from_secs(1);

/// How often expired flows are collected.
const FLOW_GC_INTERVAL: Duration = Duration::from_secs(30);

/// A reconciler of frontends that starts with the rows the maps hold.
pub(crate) fn lb_driver(
    desired: &causeway_table::Shared<Frontend, LbRow>,
    datapath: &dyn Datapath,
) -> Result<Driver<Frontend, LbRow>, causeway_datapath_loader::Error> {
    let mut driver = Driver::new(desired, Policy { backoff: Backoff::default(), delete_delay: DRAIN });
    // Whose rows they are is not in the maps: each is written once more, which costs nothing where it is right.
    driver.adopt(datapath.services()?.into_keys().map(|frontend| (frontend, None)));
    Ok(driver)
}

/// A reconciler of this cluster's own rows of the ipcache. What an earlier process left in the map is not its business:
/// the store of remote addresses keeps it until somebody claims it, and drops the rest.
pub(crate) fn ipcache_driver(desired: &causeway_table::Shared<IpNet, IpcacheRow>) -> Driver<IpNet, IpcacheRow> {
    Driver::new(desired, Policy::default())
}

/// Frontends into the datapath.
pub(crate) struct LbApply {
    datapath: Arc<dyn Datapath>,
    /// Backends of each UDP frontend, as last written.
    udp: HashMap<Frontend, BTreeSet<SocketAddr>>,
}

impl LbApply {
    /// Starts from what an earlier process wrote.
    pub(crate) fn new(datapath: Arc<dyn Datapath>) -> LbApply {
        let rows = datapath.services().unwrap_or_else(|error| {
            tracing::warn!(%error, "flows to backends that went while no agent ran stay until they expire");
            BTreeMap::new()
        });
        let udp = rows.into_iter().filter(|(key, _)| key.proto == Proto::Udp);
        let udp = udp.map(|(key, lb)| (key, lb.backends.iter().map(|backend| backend.addr).collect())).collect();
        LbApply { datapath, udp }
    }

    /// Forgets the UDP flows to backends that are gone. A UDP client that keeps its port and goes on sending would
    /// keep its flow alive for ever and never get another backend. TCP flows stay: their pods may be draining. Only a
    /// frontend that lost a backend costs a walk over the flows, and a failed walk is no reason to withdraw it.
    async fn forget(&mut self, key: Frontend, now: BTreeSet<SocketAddr>) {
        if key.proto != Proto::Udp {
            return;
        }
        let kept = self.udp.get(&key).is_none_or(|before| before.is_subset(&now));
        if !kept {
            let (datapath, now) = (self.datapath.clone(), now.clone());
            let walk = move || datapath.delete_flows(&|flow| is_orphan(flow, key, &now));
            let swept = tokio::task::spawn_blocking(walk).await;
            let error = match swept {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = error {
                tracing::warn!(frontend = %key, error, "flows to removed backends stay until they expire");
            }
        }
        if now.is_empty() {
            self.udp.remove(&key)
        } else {
            self.udp.insert(key, now)
        };
    }
}

/// A flow through the frontend to a backend that it no longer has.
fn is_orphan(flow: &FlowRow, key: Frontend, backends: &BTreeSet<SocketAddr>) -> bool {
    let (frontend, backend) = if flow.is_reply() { (flow.to.src, flow.from.src) } else { (flow.from.dst, flow.to.dst) };
    flow.service_id != 0
        && flow.from.proto == key.proto.number()
        && frontend == SocketAddr::new(key.addr, key.port)
        && !backends.contains(&backend)
}

impl Apply<Frontend, LbRow> for LbApply {
    async fn upsert(&mut self, key: &Frontend, row: &LbRow) -> Result<(), String> {
        self.datapath.upsert_service(*key, &row.lb).map_err(|e| e.to_string())?;
        self.forget(*key, row.lb.backends.iter().map(|backend| backend.addr).collect()).await;
        Ok(())
    }

    async fn delete(&mut self, key: &Frontend) -> Result<(), String> {
        self.datapath.delete_service(*key).map_err(|e| e.to_string())?;
        self.forget(*key, BTreeSet::new()).await;
        Ok(())
    }
}

/// This cluster's own prefixes into the ipcache. They come before what other clusters say of the same prefixes, which is
/// programmed again when ours go.
pub(crate) struct IpcacheApply {
    pub(crate) datapath: Arc<dyn Datapath>,
    pub(crate) intake: Intake,
}

impl Apply<IpNet, IpcacheRow> for IpcacheApply {
    async fn upsert(&mut self, key: &IpNet, row: &IpcacheRow) -> Result<(), String> {
        // Held over the write, so that no remote row overtakes it.
        let mut ips = self.intake.ips();
        ips.local_set(Prefix::from(*key));
        self.datapath.upsert_ipcache(*key, row.entry).map(drop).map_err(|e| e.to_string())
    }

    async fn delete(&mut self, key: &IpNet) -> Result<(), String> {
        let prefix = Prefix::from(*key);
        let mut ips = self.intake.ips();
        let Some(identity) = ips.local_gone(prefix) else {
            return self.datapath.delete_ipcache(*key).map(drop).map_err(|e| e.to_string());
        };
        self.datapath.upsert_ipcache(*key, mesh_ips::entry(identity)).map_err(|e| e.to_string())?;
        ips.wrote(prefix);
        Ok(())
    }
}

/// Measures from the arrival of an EndpointSlice to its rows in the map.
#[derive(Debug, Default)]
pub(crate) struct SliceLatency {
    /// The newest slice seen per frontend: a change of the Service alone is not measured again.
    measured: HashMap<Frontend, Instant>,
}

impl SliceLatency {
    pub(crate) fn observe(
        &mut self,
        metrics: &Metrics,
        progress: &Progress,
        action: &Action<Frontend, LbRow>,
        result: &Result<(), String>,
    ) {
        match (action, result) {
            (Action::Upsert { key, value }, Ok(())) => {
                let Some(seen) = value.seen else { return };
                progress.service_written(&value.service, seen.0);
                if self.measured.insert(*key, seen.0) != Some(seen.0) {
                    metrics.slice_to_map(seen.0.elapsed());
                }
            }
            (Action::Delete { key }, Ok(())) => {
                self.measured.remove(key);
            }
            (Action::Upsert { key, .. } | Action::Delete { key }, Err(error)) => {
                tracing::warn!(frontend = %key, error, "service row not programmed, trying again");
            }
        }
    }
}

/// Collects expired flows for ever.
pub(crate) async fn collect_flows(datapath: Arc<dyn Datapath>) {
    let mut interval = tokio::time::interval(FLOW_GC_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let datapath = datapath.clone();
        let swept = tokio::task::spawn_blocking(move || datapath.collect_flows(boot_time_s())).await;
        match swept {
            Ok(Ok(stats)) => tracing::debug!(seen = stats.seen, deleted = stats.deleted, "flows collected"),
            Ok(Err(error)) => tracing::warn!(%error, "collecting expired flows failed"),
            Err(error) => tracing::error!(%error, "collecting expired flows ended abnormally"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ipcache::remote::Entry;
    use crate::control::services::{AddressKind, LbRow};
    use crate::intent::Key;
    use crate::tables::Tables;
    use causeway_datapath_loader::{Backend, Fake, LbService};
    use causeway_table::{RowStatus, Shared};

    fn frontend(n: u8) -> Frontend {
        Frontend { addr: std::net::Ipv4Addr::new(192, 0, 2, n).into(), port: 80, proto: Proto::Tcp }
    }

    fn row(backend: &str) -> LbRow {
        LbRow {
            service: Key::new("d", "web"),
            port_name: "".into(),
            kind: AddressKind::LoadBalancer,
            lb: LbService {
                backends: vec![Backend { addr: backend.parse().unwrap(), local: true }],
                external: true,
                ..LbService::default()
            },
            local_ready: true,
            remote: None,
            seen: None,
        }
    }

    #[tokio::test]
    async fn a_restarted_agent_prunes_after_sync_and_drains_before() {
        let fake = Arc::new(Fake::new());
        fake.upsert_service(frontend(1), &row("10.1.1.2:80").lb).unwrap();
        fake.upsert_service(frontend(9), &row("10.1.1.9:80").lb).unwrap();
        let before = fake.writes();
        let desired = Shared::default();
        let driver = lb_driver(&desired, fake.as_ref()).unwrap();
        let realised = driver.realised();
        let task = tokio::spawn(driver.run(LbApply::new(fake.clone()), |_, _, _| {}));
        desired.set(frontend(1), row("10.1.1.2:80"));
        let mut reader = realised.reader();
        while realised.get(&frontend(1)).is_none_or(|r| r.status != RowStatus::Done) {
            reader.changed().await;
            reader.changes();
        }
        assert_eq!(fake.writes(), before, "an adopted row that is right is not written");
        assert_eq!(fake.services().unwrap().len(), 2, "nothing goes before the inputs are complete");
        let synced = Instant::now();
        desired.mark_synced();
        while realised.get(&frontend(9)).is_some() {
            reader.changed().await;
            reader.changes();
        }
        assert!(synced.elapsed() >= DRAIN);
        assert_eq!(fake.services().unwrap().len(), 1);
        task.abort();
    }

    #[tokio::test]
    async fn udp_flows_to_backends_that_are_gone_are_forgotten() {
        let fake = Arc::new(Fake::new());
        let udp = Frontend { proto: Proto::Udp, ..frontend(1) };
        let tuple = |src: &str, dst: &str| causeway_datapath_loader::Tuple {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            proto: Proto::Udp.number(),
        };
        for backend in ["10.1.1.2:80", "10.1.1.3:80"] {
            let (from, to) = (tuple("192.0.2.99:5000", "192.0.2.1:80"), tuple("192.0.2.99:5000", backend));
            fake.add_flow(FlowRow { from, to, expires_s: 9, service_id: 1, flags: 0 });
        }
        let mut apply = LbApply::new(fake.clone());
        let backends = || fake.flows(9).unwrap().iter().map(|f| f.to.dst.to_string()).collect::<Vec<_>>();
        let mut both = row("10.1.1.2:80");
        both.lb.backends.push(Backend { addr: "10.1.1.3:80".parse().unwrap(), local: false });
        apply.upsert(&udp, &both).await.unwrap();
        assert_eq!(backends().len(), 2);
        apply.upsert(&udp, &row("10.1.1.3:80")).await.unwrap();
        assert_eq!(backends(), ["10.1.1.3:80"]);
        apply.delete(&udp).await.unwrap();
        assert_eq!(backends(), [] as [&str; 0]);
    }

    #[tokio::test]
    async fn local_rows_come_first_and_remote_ones_come_back() {
        let fake = Arc::new(Fake::new());
        let tables = Tables::default();
        let intake = Intake::new(&tables, []);
        let net: IpNet = "10.2.0.1/32".parse().unwrap();
        let mut apply = IpcacheApply { datapath: fake.clone(), intake: intake.clone() };
        let row = |identity| IpcacheRow {
            entry: causeway_datapath_loader::IpcacheEntry { identity, in_cluster: true },
            source: crate::control::ipcache::Source::World,
        };
        let identity = || fake.ipcache().unwrap().get(&net).map(|e| e.identity);
        apply.upsert(&net, &row(300)).await.unwrap();
        let entry = Entry { identity: 131_072, host: None, revision: 1 };
        intake.ips().put(2, net.into(), entry, None);
        assert_eq!((identity(), intake.ips().waiting()), (Some(300), 0));
        apply.delete(&net).await.unwrap();
        assert_eq!(identity(), Some(131_072));
        apply.upsert(&net, &row(301)).await.unwrap();
        intake.ips().delete(2, net.into(), 2, None);
        apply.delete(&net).await.unwrap();
        assert_eq!((identity(), intake.ips().len()), (None, 0));
    }

    #[tokio::test]
    async fn a_refused_row_is_tried_again_and_then_done() {
        let fake = Arc::new(Fake::new());
        fake.fail_with(Some("map full"));
        let desired = Shared::default();
        let driver = lb_driver(&desired, fake.as_ref()).unwrap();
        let realised = driver.realised();
        let task = tokio::spawn(driver.run(LbApply::new(fake.clone()), |_, _, _| {}));
        desired.set(frontend(1), row("10.1.1.2:80"));
        let mut reader = realised.reader();
        while !realised.get(&frontend(1)).is_some_and(|r| matches!(r.status, RowStatus::Failed { .. })) {
            reader.changed().await;
            reader.changes();
        }
        assert_eq!(realised.get(&frontend(1)).unwrap().actual, None, "nothing to announce");
        fake.fail_with(None);
        while realised.get(&frontend(1)).is_none_or(|r| r.status != RowStatus::Done) {
            reader.changed().await;
            reader.changes();
        }
        task.abort();
    }
}
