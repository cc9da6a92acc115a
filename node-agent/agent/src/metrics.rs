//! Prometheus metrics. (being written)
