//! What can be seen of the operator from outside: `/healthz`, `/readyz`, `/metrics` (Prometheus; Cilium's names where
//! Cilium has one) and `/rejected` (JSON: objects that are not used, with field and remedy).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use causeway_k8s::Rejected;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::apply::Outcome;
use crate::plan::identity_gc;
use crate::plan::lb_status::Figures;
use crate::world::Trade;

/// A cheap handle; clones share everything.
#[derive(Clone)]
pub(crate) struct Telemetry {
    shared: Arc<Shared>,
}

struct Shared {
    registry: Registry,
    metrics: Metrics,
    leading: AtomicBool,
    /// Behind a mutex because the HTTP tasks read what the loop writes; held for a copy only.
    rejected: Mutex<Vec<Rejected>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabel {
    pool: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TradeLabel {
    trade: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

#[derive(Default)]
struct Metrics {
    leading: Gauge<i64, AtomicI64>,
    conflicting_pools: Gauge,
    services_matching: Gauge,
    services_unsatisfied: Gauge,
    /// Real numbers, because an IPv6 pool has more addresses than an integer counts.
    ips_available: Family<PoolLabel, Gauge<f64, AtomicU64>>,
    ips_used: Family<PoolLabel, Gauge<f64, AtomicU64>>,
    identity_entries: Family<StatusLabel, Gauge>,
    rejected: Family<KindLabel, Gauge>,
    changes: Family<TradeLabel, Counter>,
}

impl Metrics {
    fn register(&self, registry: &mut Registry) {
        let cilium = registry.sub_registry_with_prefix("cilium_operator");
        let mut add = |name, help, metric: Gauge| cilium.register(name, help, metric);
        add("lbipam_conflicting_pools", "Pools that overlap an older pool", self.conflicting_pools.clone());
        add("lbipam_services_matching", "Services that LB IPAM serves", self.services_matching.clone());
        let help = "Services that lack an address that they ask for";
        add("lbipam_services_unsatisfied", help, self.services_unsatisfied.clone());
        cilium.register("lbipam_ips_available", "Free addresses of a pool", self.ips_available.clone());
        cilium.register("lbipam_ips_used", "Addresses of a pool in use", self.ips_used.clone());
        let help = "CiliumIdentities at the last garbage collection";
        cilium.register("identity_gc_entries", help, self.identity_entries.clone());
        let own = registry.sub_registry_with_prefix("causeway_operator");
        own.register("leading", "1 when this operator leads", self.leading.clone());
        own.register("rejected_objects", "Objects that are not used because of a bad field", self.rejected.clone());
        own.register("changes", "Changes made in the API server", self.changes.clone());
    }
}

impl Telemetry {
    pub(crate) fn new() -> Telemetry {
        let mut registry = Registry::default();
        let metrics = Metrics::default();
        metrics.register(&mut registry);
        let shared = Shared { registry, metrics, leading: AtomicBool::new(false), rejected: Mutex::new(Vec::new()) };
        Telemetry { shared: Arc::new(shared) }
    }

    pub(crate) fn leading(&self, leading: bool) {
        self.shared.leading.store(leading, std::sync::atomic::Ordering::Relaxed);
        self.shared.metrics.leading.set(i64::from(leading));
    }

    pub(crate) fn lb(&self, figures: &Figures) {
        let metrics = &self.shared.metrics;
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        metrics.services_matching.set(count(figures.matching));
        metrics.services_unsatisfied.set(count(figures.unsatisfied));
        metrics.conflicting_pools.set(count(figures.pools.values().filter(|pool| pool.conflict.is_some()).count()));
        metrics.ips_available.clear();
        metrics.ips_used.clear();
        for (name, pool) in &figures.pools {
            let label = PoolLabel { pool: name.clone() };
            metrics.ips_available.get_or_create(&label).set(real(pool.available()));
            metrics.ips_used.get_or_create(&label).set(real(pool.used));
        }
    }

    pub(crate) fn identities(&self, plan: &identity_gc::Plan) {
        let set = |status, number: usize| {
            let gauge = self.shared.metrics.identity_entries.get_or_create(&StatusLabel { status });
            gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
        };
        let deleted = plan.changes.iter().filter(|change| matches!(change, identity_gc::Change::Delete { .. })).count();
        set("alive", plan.alive);
        set("deleted", deleted);
    }

    pub(crate) fn ran(&self, trade: Trade, outcome: &Outcome) {
        for (outcome, number) in [("done", outcome.done), ("again", outcome.again)] {
            let label = TradeLabel { trade: trade.name(), outcome };
            self.shared.metrics.changes.get_or_create(&label).inc_by(number as u64);
        }
    }

    pub(crate) fn rejected(&self, rejected: Vec<Rejected>) {
        let mut by_kind: BTreeMap<&str, i64> = BTreeMap::new();
        for object in &rejected {
            *by_kind.entry(&object.kind).or_default() += 1;
        }
        self.shared.metrics.rejected.clear();
        for (kind, number) in by_kind {
            self.shared.metrics.rejected.get_or_create(&KindLabel { kind: kind.to_owned() }).set(number);
        }
        *self.held() = rejected;
    }

    fn held(&self) -> MutexGuard<'_, Vec<Rejected>> {
        // A list that was being replaced when a task panicked is still a list.
        self.shared.rejected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn encode(&self) -> String {
        let mut body = String::new();
        text::encode(&mut body, &self.shared.registry).expect("writing to a String does not fail");
        body
    }

    /// Serves until dropped.
    pub(crate) async fn serve(self, address: SocketAddr) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::bind(address).await?;
        axum::serve(listener, self.router()).await
    }

    fn router(self) -> Router {
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/rejected", get(|State(this): State<Telemetry>| async move { Json(this.held().clone()) }))
            .with_state(self)
    }
}

/// Precise below 2^53, which no one counts beyond.
#[expect(clippy::cast_precision_loss, reason = "a metric of so many addresses need not be exact")]
fn real(number: u128) -> f64 {
    number as f64
}

/// Ready whether leading or waiting: a waiting operator does its duty.
async fn readyz(State(this): State<Telemetry>) -> impl IntoResponse {
    let leading = this.shared.leading.load(std::sync::atomic::Ordering::Relaxed);
    (StatusCode::OK, if leading { "leading\n" } else { "waiting for the lease\n" })
}

async fn metrics(State(this): State<Telemetry>) -> impl IntoResponse {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], this.encode())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::lb_ipam::PoolUse;

    #[test]
    fn metrics_have_ciliums_names_and_forget_pools_that_are_gone() {
        let telemetry = Telemetry::new();
        let pool = PoolUse { conflict: None, total: 256, used: 3 };
        let figures = Figures { matching: 3, unsatisfied: 1, pools: BTreeMap::from([("rack".to_owned(), pool)]) };
        telemetry.lb(&figures);
        let text = telemetry.encode();
        for line in [
            "cilium_operator_lbipam_services_matching 3",
            "cilium_operator_lbipam_services_unsatisfied 1",
            "cilium_operator_lbipam_ips_used{pool=\"rack\"} 3",
            "cilium_operator_lbipam_ips_available{pool=\"rack\"} 253",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        telemetry.lb(&Figures::default());
        assert!(!telemetry.encode().contains("rack"));
    }
}
