//! Prometheus metrics and `/healthz` over HTTP. Names are Cilium's where it has them; ours begin with `causeway_`.
//!
//! Most values are read from their owners when they are asked for; only the histogram is kept here.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// A value with its labels, as read at scrape time.
pub(crate) struct Sample {
    pub(crate) labels: Vec<(&'static str, String)>,
    pub(crate) value: u64,
}

/// A metric family, as read at scrape time.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    /// Counters get the suffix `_total`.
    pub(crate) counter: bool,
    pub(crate) samples: Vec<Sample>,
}

/// Reads everything that is not kept here.
pub(crate) trait Source: Send + Sync + 'static {
    fn families(&self) -> Vec<Family>;
    /// `Err`: why not.
    fn healthy(&self) -> Result<(), String>;
}

/// The metrics that are kept here. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    slice_to_map: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        // 100 us to 26 s: a map write takes microseconds, a retry seconds.
        Metrics { slice_to_map: Histogram::new(exponential_buckets(0.0001, 4.0, 10)) }
    }

    /// An EndpointSlice arrived this long before its rows were in the map.
    pub(crate) fn slice_to_map(&self, took: Duration) {
        self.slice_to_map.observe(took.as_secs_f64());
    }
}

struct Scrape(Arc<dyn Source>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in self.0.families() {
            let kind = if family.counter {
                ConstCounter::new(0u64).metric_type()
            } else {
                ConstGauge::new(0u64).metric_type()
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for sample in family.samples {
                let one = metric.encode_family(&sample.labels)?;
                if family.counter {
                    ConstCounter::new(sample.value).encode(one)?;
                } else {
                    // Gauges are signed in the text format's library; no size comes near the limit.
                    ConstGauge::new(i64::try_from(sample.value).unwrap_or(i64::MAX)).encode(one)?;
                }
            }
        }
        Ok(())
    }
}

/// Serves until cancelled.
pub(crate) async fn serve(addr: SocketAddr, metrics: &Metrics, source: Arc<dyn Source>) -> std::io::Result<()> {
    let mut registry = Registry::default();
    registry.register(
        "causeway_endpointslice_to_map_seconds",
        "Time from the arrival of an EndpointSlice to its rows in the datapath's map",
        metrics.slice_to_map.clone(),
    );
    registry.register_collector(Box::new(Scrape(source.clone())));
    let app = Router::new()
        .route("/metrics", get(scrape))
        .with_state(Arc::new(registry))
        .route("/healthz", get(healthz).with_state(source));
    let listener = tokio::net::TcpListener::bind(addr).await?;
    axum::serve(listener, app).await
}

async fn scrape(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text)
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], error.to_string()),
    }
}

async fn healthz(State(source): State<Arc<dyn Source>>) -> impl IntoResponse {
    match source.healthy() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Source for Fixed {
        fn families(&self) -> Vec<Family> {
            let sample =
                Sample { labels: vec![("reason", "no-service".into()), ("direction", "ingress".into())], value: 7 };
            vec![Family { name: "cilium_drop_count", help: "Drops", counter: true, samples: vec![sample] }]
        }

        fn healthy(&self) -> Result<(), String> {
            Ok(())
        }
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape(Arc::new(Fixed))));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("# TYPE cilium_drop_count counter"), "{text}");
        assert!(text.contains(r#"cilium_drop_count_total{reason="no-service",direction="ingress"} 7"#), "{text}");
    }
}
