//! Options of the mesh: this cluster's number, and how others are read, aged and probed.

use std::path::PathBuf;
use std::time::Duration;

use causeway_mesh_remote::{ServiceMode, StageAfter};
use causeway_mesh_schema::{ClusterId, Scale};

use super::{ConfigError, Values};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MeshConfig {
    /// `None`: 0, this cluster meets no others.
    pub(crate) id: Option<ClusterId>,
    pub(crate) scale: Scale,
    /// A file per other cluster; empty: none.
    pub(crate) directory: PathBuf,
    /// It was named, so that it is waited for when it does not exist.
    directory_given: bool,
    pub(crate) sync_timeout: Duration,
    /// [`Duration::MAX`]: never.
    pub(crate) cache_ttl: Duration,
    pub(crate) services: ServiceMode,
    pub(crate) stages: StageAfter,
    pub(crate) probe: ProbeConfig,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProbeConfig {
    pub(crate) enabled: bool,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    /// Probes in a second, at least one.
    pub(crate) budget: u32,
}

impl MeshConfig {
    pub(super) fn read(v: &Values) -> Result<MeshConfig, ConfigError> {
        let scale = v.read("max-connected-clusters", "is neither 255 nor 511", |text| {
            text.parse().ok().and_then(Scale::from_max)
        })?;
        let range = format!(
            "is no cluster id; use 1 to {}, or 0 for a cluster that meets no others{}",
            scale.max_clusters(),
            if scale == Scale::C255 { "" } else { " (--max-connected-clusters is 511)" }
        );
        let id = v.read("cluster-id", &range, |text| match text.parse().ok()? {
            0 => Some(None),
            number => ClusterId::new(number, scale).ok().map(Some),
        })?;
        let stages = StageAfter {
            de_preferred: duration(v, "clustermesh-stage-de-preferred")?,
            probed: duration(v, "clustermesh-stage-probed")?,
            revoked: duration(v, "clustermesh-stage-revoked")?,
        };
        v.read("clustermesh-stage-probed", "is less than --clustermesh-stage-de-preferred", |_| {
            (stages.de_preferred <= stages.probed).then_some(())
        })?;
        v.read("clustermesh-stage-revoked", "is less than --clustermesh-stage-probed", |_| {
            (stages.probed <= stages.revoked).then_some(())
        })?;
        let cache_ttl = duration(v, "clustermesh-cache-ttl")?;
        Ok(MeshConfig {
            id,
            scale,
            directory: v.optional("clustermesh-config").unwrap_or_default().into(),
            directory_given: v.given("clustermesh-config"),
            sync_timeout: duration(v, "clustermesh-sync-timeout")?,
            cache_ttl: if cache_ttl.is_zero() { Duration::MAX } else { cache_ttl },
            services: v.parse(
                "clustermesh-service-v2",
                "is none of prefer-legacy, prefer-endpointslice, only-endpointslice",
            )?,
            stages,
            probe: ProbeConfig::read(v)?,
        })
    }

    /// Why this cluster meets no others, if so.
    pub(crate) fn off(&self) -> Option<String> {
        if self.id.is_none() {
            return Some("--cluster-id is 0".to_owned());
        }
        if self.directory.as_os_str().is_empty() {
            return Some("--clustermesh-config is empty".to_owned());
        }
        let there = self.directory_given || self.directory.exists();
        (!there).then(|| format!("--clustermesh-config is not given, and {} does not exist", self.directory.display()))
    }
}

impl ProbeConfig {
    fn read(v: &Values) -> Result<ProbeConfig, ConfigError> {
        let positive = |name| {
            let found = duration(v, name)?;
            v.read(name, "is no time at all", |_| (!found.is_zero()).then_some(found))
        };
        Ok(ProbeConfig {
            enabled: v.parse("clustermesh-probe", "is neither true nor false")?,
            interval: positive("clustermesh-probe-interval")?,
            timeout: positive("clustermesh-probe-timeout")?,
            budget: v.read("clustermesh-probe-budget", "is not a number of probes, 1 or more", |text| {
                text.parse().ok().filter(|n| *n > 0)
            })?,
        })
    }
}

fn duration(v: &Values, name: &str) -> Result<Duration, ConfigError> {
    v.read(name, "is no duration; write one such as 750ms, 30s or 2m5s", causeway_api::duration::parse)
}

#[cfg(test)]
mod tests {
    use super::super::tests::resolve;
    use super::*;

    fn mesh(flags: &[&str]) -> Result<MeshConfig, String> {
        Ok(resolve("node-name = 'n1'", &[], flags)?.mesh)
    }

    #[test]
    fn defaults_meet_nobody() {
        let mesh = mesh(&[]).unwrap();
        assert_eq!((mesh.id, mesh.scale, mesh.cache_ttl), (None, Scale::C255, Duration::MAX));
        assert_eq!(mesh.stages, StageAfter::default());
        assert_eq!(mesh.off().unwrap(), "--cluster-id is 0");
        assert_eq!(mesh.probe.interval, Duration::from_millis(750));
    }

    #[test]
    fn a_number_and_a_directory_switch_it_on() {
        let on = mesh(&["--cluster-id", "300", "--max-connected-clusters", "511", "--clustermesh-config", "/nowhere"]);
        let on = on.unwrap();
        assert_eq!((on.id.unwrap().get(), on.off()), (300, None));
        let off = MeshConfig { directory_given: false, ..on };
        assert!(off.off().unwrap().contains("/nowhere does not exist"));
        let there = MeshConfig { directory: "/".into(), ..off };
        assert_eq!(there.off(), None);
        let none = mesh(&["--cluster-id", "1", "--clustermesh-config", ""]).unwrap();
        assert_eq!(none.off().unwrap(), "--clustermesh-config is empty");
    }

    #[test]
    fn mistakes_are_named() {
        let cases: &[(&[&str], &str)] = &[
            (&["--cluster-id", "256"], "use 1 to 255, or 0"),
            (&["--cluster-id", "512", "--max-connected-clusters", "511"], "use 1 to 511, or 0"),
            (&["--max-connected-clusters", "300"], "is neither 255 nor 511"),
            (&["--clustermesh-sync-timeout", "soon"], "is no duration"),
            (&["--clustermesh-stage-probed", "10s"], "is less than --clustermesh-stage-de-preferred"),
            (&["--clustermesh-stage-revoked", "1m"], "is less than --clustermesh-stage-probed"),
            (&["--clustermesh-service-v2", "both"], "is none of prefer-legacy"),
            (&["--clustermesh-probe-budget", "0"], "1 or more"),
            (&["--clustermesh-probe-interval", "0"], "is no time at all"),
        ];
        for (flags, want) in cases {
            let got = mesh(flags).unwrap_err();
            assert!(got.contains(want), "{got}\nhas not\n{want}");
        }
    }
}
