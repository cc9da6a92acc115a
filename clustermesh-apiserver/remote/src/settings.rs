//! What a reader of remote clusters is told once: which kinds it wants, and after how long it does what.

use std::collections::BTreeSet;
use std::time::Duration;

use causeway_mesh_schema::{Capabilities, ExportMode, Kind, Scale};

/// The same for every remote cluster of a process. Times are lengths; [`Duration::MAX`] means never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Our own `--max-connected-clusters`; others must have the same.
    pub scale: Scale,
    /// Read if the cluster has them. Of `services` and `endpointslices` [`Settings::services`] chooses.
    pub kinds: BTreeSet<Kind>,
    pub services: ServiceMode,
    /// Entries in a page of a list.
    pub page: usize,
    pub stages: StageAfter,
    /// No heartbeat for so long is silence, even when the connection lives. Cilium's writers beat once a minute.
    pub heartbeat: Duration,
    /// `--clustermesh-cache-ttl`: after so much silence Services, slices and exports are forgotten.
    pub cache_ttl: Duration,
    /// How long a cluster may go without a configuration that can be read, before the connection is given up.
    pub config_wait: Duration,
    /// Longest wait before the configuration is asked for again while it cannot be read.
    pub config_retry: Duration,
    /// How often a configuration that has been read is looked at again. It is asked for by its exact key, since that is all that
    /// Cilium's role `remote` may read, and a watch needs a range.
    pub config_poll: Duration,
    /// A session in which something is asked and nothing at all is answered for so long is given up.
    pub patience: Duration,
    pub backoff: BackoffBounds,
}

/// The back-off between two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffBounds {
    pub first: Duration,
    pub longest: Duration,
}

/// How much silence leads to which [`Stage`](crate::Stage).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageAfter {
    pub de_preferred: Duration,
    pub probed: Duration,
    pub revoked: Duration,
}

/// Which of the two formats of backends is read (`--clustermesh-service-v2`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServiceMode {
    /// `services/v1` unless the cluster has EndpointSlices only.
    #[default]
    PreferLegacy,
    /// `endpointslices/v1` if the cluster has them.
    PreferEndpointSlice,
    /// `endpointslices/v1` or nothing.
    OnlyEndpointSlice,
    /// Whatever the cluster has: a copy is no choice (kvstoremesh).
    Both,
}

/// A word that is no [`ServiceMode`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no service mode; use prefer-legacy, prefer-endpointslice or only-endpointslice")]
pub struct BadMode(pub String);

impl std::str::FromStr for ServiceMode {
    type Err = BadMode;

    fn from_str(text: &str) -> Result<ServiceMode, BadMode> {
        match text {
            "prefer-legacy" => Ok(ServiceMode::PreferLegacy),
            "prefer-endpointslice" => Ok(ServiceMode::PreferEndpointSlice),
            "only-endpointslice" => Ok(ServiceMode::OnlyEndpointSlice),
            other => Err(BadMode(other.to_owned())),
        }
    }
}

impl Default for StageAfter {
    fn default() -> StageAfter {
        StageAfter {
            de_preferred: Duration::from_secs(30),
            probed: Duration::from_secs(2 * 60),
            revoked: Duration::from_secs(10 * 60),
        }
    }
}

impl Default for BackoffBounds {
    fn default() -> BackoffBounds {
        BackoffBounds { first: Duration::from_millis(50), longest: Duration::from_secs(15) }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            scale: Scale::default(),
            kinds: Kind::ALL.into(),
            services: ServiceMode::default(),
            page: 4000,
            stages: StageAfter::default(),
            heartbeat: Duration::from_secs(2 * 60 + 5),
            cache_ttl: Duration::MAX,
            config_wait: Duration::from_secs(3 * 60),
            config_retry: Duration::from_secs(30),
            config_poll: Duration::from_secs(15),
            patience: Duration::from_secs(30),
            backoff: BackoffBounds::default(),
        }
    }
}

impl Settings {
    /// What is read of a cluster that can do this.
    #[must_use]
    pub fn kinds_of(&self, capabilities: &Capabilities) -> BTreeSet<Kind> {
        let (services, slices) = self.services.choose(capabilities.endpoint_slices_export_mode);
        let offered = |kind: &Kind| match kind {
            Kind::Nodes | Kind::Identities | Kind::Ips => true,
            Kind::Services => services,
            Kind::EndpointSlices => slices,
            // Off, but known: it may be switched on, so it is watched.
            Kind::ServiceExports => capabilities.service_exports_enabled.is_some(),
        };
        self.kinds.iter().copied().filter(offered).collect()
    }
}

impl ServiceMode {
    /// Whether to read `services/v1`, and whether `endpointslices/v1`.
    fn choose(self, offered: ExportMode) -> (bool, bool) {
        match (self, offered) {
            (ServiceMode::PreferLegacy, ExportMode::Services | ExportMode::Both)
            | (ServiceMode::PreferEndpointSlice | ServiceMode::Both, ExportMode::Services) => (true, false),
            (ServiceMode::Both, ExportMode::Both) => (true, true),
            (ServiceMode::OnlyEndpointSlice, ExportMode::Services) => (false, false),
            (_, ExportMode::EndpointSlices)
            | (ServiceMode::PreferEndpointSlice | ServiceMode::OnlyEndpointSlice, ExportMode::Both) => (false, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_read_in_one_format() {
        use ExportMode::{Both, EndpointSlices, Services};
        let table = [
            (ServiceMode::PreferLegacy, Services, (true, false)),
            (ServiceMode::PreferLegacy, Both, (true, false)),
            (ServiceMode::PreferLegacy, EndpointSlices, (false, true)),
            (ServiceMode::PreferEndpointSlice, Services, (true, false)),
            (ServiceMode::PreferEndpointSlice, Both, (false, true)),
            (ServiceMode::PreferEndpointSlice, EndpointSlices, (false, true)),
            (ServiceMode::OnlyEndpointSlice, Services, (false, false)),
            (ServiceMode::OnlyEndpointSlice, Both, (false, true)),
            (ServiceMode::OnlyEndpointSlice, EndpointSlices, (false, true)),
            (ServiceMode::Both, Services, (true, false)),
            (ServiceMode::Both, Both, (true, true)),
            (ServiceMode::Both, EndpointSlices, (false, true)),
        ];
        for (mode, offered, chosen) in table {
            assert_eq!(mode.choose(offered), chosen, "{mode:?} of {offered:?}");
        }
    }

    #[test]
    fn exports_are_read_from_who_knows_them() {
        let settings = Settings::default();
        for (enabled, read) in [(None, false), (Some(false), true), (Some(true), true)] {
            let can = Capabilities { service_exports_enabled: enabled, ..Capabilities::default() };
            assert_eq!(settings.kinds_of(&can).contains(&Kind::ServiceExports), read, "{enabled:?}");
        }
        let few = Settings { kinds: [Kind::Nodes].into(), ..settings };
        assert_eq!(few.kinds_of(&Capabilities::default()), [Kind::Nodes].into());
    }

    #[test]
    fn words() {
        assert_eq!("prefer-endpointslice".parse(), Ok(ServiceMode::PreferEndpointSlice));
        assert!("both".parse::<ServiceMode>().is_err());
    }
}
