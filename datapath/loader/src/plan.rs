//! Pure decisions: what to write for a wished service, in which order, and what to adopt after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_datapath_abi as abi;

use crate::{Backend, Error, Frontend, LbService, Result, convert};

/// Most backends of one service: the count is 16 bits wide, and a table of more slots is a mistake rather than a wish.
pub const MAX_BACKENDS: usize = 0x7fff;

/// A service as the maps hold it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Installed {
    pub(crate) id: u32,
    pub(crate) generation: u16,
    pub(crate) service: LbService,
}

/// Writes that bring one service from its installed to its wished state, to be done in the order of the fields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    pub(crate) new_slots: Vec<(abi::SlotKey, abi::Slot)>,
    pub(crate) row: abi::Service,
    pub(crate) old_slots: Vec<abi::SlotKey>,
    pub(crate) installed: Installed,
}

/// What the maps held at start.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) services: BTreeMap<Frontend, Installed>,
    /// Catch-all rows and their flags.
    pub(crate) catch_alls: BTreeMap<IpAddr, u16>,
    /// Rows that nobody could have wished: remains of an update that was cut short.
    pub(crate) stray_rows: Vec<abi::ServiceKey>,
    pub(crate) stray_slots: Vec<abi::SlotKey>,
    pub(crate) highest_id: u32,
}

/// Brings a wished service into the form that the maps hold: local backends first, then by address, no duplicates.
pub fn canonical(frontend: Frontend, service: &LbService) -> Result<LbService> {
    let invalid = |why: String| Error::Invalid { what: format!("service {frontend}"), why };
    if frontend.port == 0 {
        return Err(invalid("port 0 is not a port; give 1 to 65535".into()));
    }
    if frontend.addr.is_unspecified() || frontend.addr.is_multicast() || is_mapped(frontend.addr) {
        return Err(invalid("the address is not a plain unicast address".into()));
    }
    let mut backends: Vec<Backend> = service.backends.clone();
    for backend in &backends {
        if backend.addr.is_ipv4() != frontend.addr.is_ipv4() || is_mapped(backend.addr.ip()) {
            return Err(invalid(format!("backend {} is of the other address family", backend.addr)));
        }
        if backend.addr.port() == 0 {
            return Err(invalid(format!("backend {} has port 0", backend.addr)));
        }
    }
    backends.sort_unstable();
    // Sorted, the local one of two equal addresses comes first, but not next to the other.
    let mut seen = BTreeSet::new();
    backends.retain(|b| seen.insert(b.addr));
    if backends.len() > MAX_BACKENDS {
        return Err(invalid(format!("{} backends, at most {MAX_BACKENDS} are supported", backends.len())));
    }
    Ok(LbService { backends, ..*service })
}

/// An IPv6 address that the maps could not tell from an IPv4 one.
fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// Plans the change from `old` to `wished` (canonical); `None` when nothing is to be done. `fresh_id` is used for a
/// new service only.
pub(crate) fn change(old: Option<&Installed>, wished: &LbService, fresh_id: u32) -> Option<Change> {
    let (id, generation) = match old {
        Some(old) if old.service == *wished => return None,
        // Only flags differ: the slots stay, and one row is written.
        Some(old) if old.service.backends == wished.backends => {
            let installed = Installed { service: wished.clone(), ..*old };
            return Some(Change { new_slots: vec![], row: row(&installed), old_slots: vec![], installed });
        }
        Some(old) => (old.id, old.generation.wrapping_add(1)),
        None => (fresh_id, 1),
    };
    let installed = Installed { id, generation, service: wished.clone() };
    let new_slots = slot_keys(&installed).into_iter().zip(wished.backends.iter().map(convert::slot)).collect();
    let old_slots = old.map(slot_keys).unwrap_or_default();
    Some(Change { new_slots, row: row(&installed), old_slots, installed })
}

pub(crate) fn slot_keys(installed: &Installed) -> Vec<abi::SlotKey> {
    let &Installed { id: service_id, generation, ref service } = installed;
    let key = |slot| abi::SlotKey { service_id, generation, slot };
    (0..u16::MAX).take(service.backends.len()).map(key).collect()
}

fn row(installed: &Installed) -> abi::Service {
    let count = |n: usize| u16::try_from(n).expect("canonical services have at most MAX_BACKENDS backends");
    let backends = &installed.service.backends;
    abi::Service {
        id: installed.id,
        generation: installed.generation,
        count: count(backends.len()),
        local_count: count(backends.iter().filter(|b| b.local).count()),
        flags: convert::service_flags(&installed.service),
    }
}

/// Reads back what an earlier process wrote.
pub(crate) fn recover(rows: &[(abi::ServiceKey, abi::Service)], slots: &[(abi::SlotKey, abi::Slot)]) -> Recovered {
    use abi::service_flag::{EXTERNAL, EXTERNAL_LOCAL, INTERNAL_LOCAL};
    let by_key: BTreeMap<abi::SlotKey, &abi::Slot> = slots.iter().map(|(key, slot)| (*key, slot)).collect();
    let mut found = Recovered::default();
    let mut used = BTreeSet::new();
    for (key, row) in rows {
        if convert::is_catch_all(*key) {
            found.catch_alls.insert(convert::ip(key.addr), row.flags);
            continue;
        }
        let Some(frontend) = convert::frontend(*key) else {
            found.stray_rows.push(*key);
            continue;
        };
        let slot_key = |slot| abi::SlotKey { service_id: row.id, generation: row.generation, slot };
        let keys: Vec<abi::SlotKey> = (0..row.count).map(slot_key).filter(|key| by_key.contains_key(key)).collect();
        let service = LbService {
            backends: keys.iter().filter_map(|key| by_key.get(key)).map(|slot| convert::backend(slot)).collect(),
            external_local: row.flags & EXTERNAL_LOCAL != 0,
            internal_local: row.flags & INTERNAL_LOCAL != 0,
            external: row.flags & EXTERNAL != 0,
        };
        used.extend(keys);
        found.highest_id = found.highest_id.max(row.id);
        found.services.insert(frontend, Installed { id: row.id, generation: row.generation, service });
    }
    found.stray_slots = by_key.into_keys().filter(|key| !used.contains(key)).collect();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Proto;

    fn frontend() -> Frontend {
        Frontend { addr: [192, 0, 2, 1].into(), port: 80, proto: Proto::Tcp }
    }

    fn service(backends: &[(&str, bool)]) -> LbService {
        let backends = backends.iter().map(|(a, local)| Backend { addr: a.parse().unwrap(), local: *local }).collect();
        LbService { backends, external: true, ..LbService::default() }
    }

    #[test]
    fn canonical_puts_local_first_and_drops_duplicates() {
        let wished =
            service(&[("10.1.2.2:80", false), ("10.1.1.9:80", true), ("10.1.2.2:80", false), ("10.1.1.3:80", true)]);
        let order: Vec<String> =
            canonical(frontend(), &wished).unwrap().backends.iter().map(|b| b.addr.to_string()).collect();
        assert_eq!(order, ["10.1.1.3:80", "10.1.1.9:80", "10.1.2.2:80"]);
    }

    #[test]
    fn canonical_names_what_is_wrong() {
        let cases = [
            (Frontend { port: 0, ..frontend() }, service(&[]), "port 0"),
            (Frontend { addr: [0, 0, 0, 0].into(), ..frontend() }, service(&[]), "unicast"),
            (Frontend { addr: "::ffff:1.2.3.4".parse().unwrap(), ..frontend() }, service(&[]), "unicast"),
            (frontend(), service(&[("[fd00::1]:80", false)]), "[fd00::1]:80 is of the other address family"),
            (frontend(), service(&[("10.0.0.1:0", false)]), "backend 10.0.0.1:0 has port 0"),
        ];
        for (frontend, service, expected) in cases {
            let error = canonical(frontend, &service).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let many = (0..=MAX_BACKENDS).map(|i| {
            let [.., b, c] = u32::try_from(i).unwrap().to_be_bytes();
            Backend { addr: ([10, 9, b, c], 80).into(), local: false }
        });
        let error = canonical(frontend(), &LbService { backends: many.collect(), ..LbService::default() }).unwrap_err();
        assert!(error.to_string().contains("32768 backends, at most 32767"), "{error}");
    }

    #[test]
    fn an_update_writes_a_new_generation_and_forgets_the_old() {
        let one = service(&[("10.1.1.1:80", true)]);
        let first = change(None, &one, 7).unwrap();
        assert_eq!((first.row.id, first.row.generation, first.row.count, first.row.local_count), (7, 1, 1, 1));
        assert!(first.old_slots.is_empty());
        assert_eq!(change(Some(&first.installed), &one, 99), None);

        let two = service(&[("10.1.1.1:80", true), ("10.1.2.1:80", false)]);
        let second = change(Some(&first.installed), &two, 99).unwrap();
        assert_eq!((second.row.id, second.row.generation, second.row.count, second.row.local_count), (7, 2, 2, 1));
        let key = |generation, slot| abi::SlotKey { service_id: 7, generation, slot };
        assert_eq!(second.new_slots.iter().map(|(k, _)| *k).collect::<Vec<_>>(), [key(2, 0), key(2, 1)]);
        assert_eq!(second.old_slots, [key(1, 0)]);
    }

    #[test]
    fn generations_wrap_and_flags_alone_write_no_slots() {
        let one = service(&[("10.1.1.1:80", true)]);
        let old = Installed { id: 3, generation: u16::MAX, service: one.clone() };
        assert_eq!(change(Some(&old), &service(&[]), 9).unwrap().row.generation, 0);
        let flags = change(Some(&old), &LbService { internal_local: true, ..one }, 9).unwrap();
        assert_eq!(flags.row.generation, u16::MAX);
        assert_eq!(flags.row.flags, abi::service_flag::EXTERNAL | abi::service_flag::INTERNAL_LOCAL);
        assert!(flags.new_slots.is_empty() && flags.old_slots.is_empty());
    }

    #[test]
    fn what_was_written_is_recovered_and_remains_are_strays() {
        let wished = canonical(frontend(), &service(&[("10.1.1.1:80", true), ("10.1.2.1:80", false)])).unwrap();
        let written = change(None, &wished, 5).unwrap();
        let mut rows = vec![(convert::service_key(frontend()), written.row)];
        rows.push((convert::catch_all_key(frontend().addr), abi::Service::default()));
        let odd = abi::ServiceKey { proto: 99, ..convert::service_key(frontend()) };
        rows.push((odd, abi::Service::default()));
        // The remains of an update that stopped before the flip.
        let next = change(Some(&written.installed), &service(&[("10.1.2.9:80", false)]), 5).unwrap();
        let slots = [written.new_slots.clone(), next.new_slots.clone()].concat();

        let found = recover(&rows, &slots);
        assert_eq!(found.services, BTreeMap::from([(frontend(), written.installed)]));
        assert_eq!(found.catch_alls, BTreeMap::from([(frontend().addr, 0)]));
        assert_eq!((found.stray_rows, found.highest_id), (vec![odd], 5));
        assert_eq!(found.stray_slots, next.new_slots.iter().map(|(k, _)| *k).collect::<Vec<_>>());
    }
}
