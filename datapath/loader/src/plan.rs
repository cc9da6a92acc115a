//! Pure decisions: what to write for a wished service, in which order, and what to adopt after a restart.

use crate::{Backend, Error, Frontend, LbService, Result};

/// Most backends of one service: `Service::count` is 16 bits wide, and the programs reserve the highest values.
pub const MAX_BACKENDS: usize = 0x7fff;

/// Brings a wished service into the form that the maps hold: local backends first, then by address, no duplicates.
pub fn canonical(frontend: Frontend, service: &LbService) -> Result<LbService> {
    let invalid = |why: String| Error::Invalid { what: format!("service {frontend}"), why };
    if frontend.port == 0 {
        return Err(invalid("port 0 is not a port; give 1 to 65535".into()));
    }
    if frontend.addr.is_unspecified() || frontend.addr.is_multicast() {
        return Err(invalid("the address is not a unicast address".into()));
    }
    let mut backends: Vec<Backend> = service.backends.clone();
    if let Some(other) = backends.iter().find(|b| b.addr.is_ipv4() != frontend.addr.is_ipv4()) {
        return Err(invalid(format!("backend {} is of the other address family", other.addr)));
    }
    if let Some(zero) = backends.iter().find(|b| b.addr.port() == 0) {
        return Err(invalid(format!("backend {} has port 0", zero.addr)));
    }
    backends.sort_unstable();
    backends.dedup_by_key(|b| b.addr);
    if backends.len() > MAX_BACKENDS {
        return Err(invalid(format!("{} backends, at most {MAX_BACKENDS} are supported", backends.len())));
    }
    Ok(LbService { backends, ..*service })
}
