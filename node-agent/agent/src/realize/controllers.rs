//! The shells around the pure controllers: wait for changes of the inputs, call, repeat. Cancel-safe between calls.

use causeway_table::Changes;
use tokio::sync::watch;

use crate::control::{ipcache, services};
use crate::intent::slice::SliceKey;

/// Drives the services controller for ever.
pub(crate) async fn run_services(mut controller: services::Controller) {
    let inputs = controller.inputs.clone();
    let (mut services, mut slices) = (inputs.services.reader(), inputs.slices.reader());
    let (mut offers, mut clusters) = (inputs.offers.reader(), inputs.clusters.reader());
    let (mut health, mut guarded) = (inputs.health.reader(), inputs.guarded.reader());
    loop {
        let synced = inputs.synced();
        let keys = controller.keys(services::Changed {
            synced,
            services: services.changes(),
            slices: slices.changes(),
            offers: offers.changes(),
            clusters: clusters.changes(),
            health: health.changes(),
            guarded: guarded.changes(),
        });
        controller.update(keys);
        // An input that became complete between the two looks wakes nobody any more.
        if inputs.synced() != synced {
            continue;
        }
        tokio::select! {
            () = services.changed() => {}
            () = slices.changed() => {}
            () = offers.changed() => {}
            () = clusters.changed() => {}
            () = health.changed() => {}
            () = guarded.changed() => {}
        }
    }
}

/// Drives the ipcache controller for ever. `remote_nodes_done` becomes true when the nodes of all clusters are in the
/// desired table.
pub(crate) async fn run_ipcache(
    inputs: ipcache::Inputs,
    mut controller: ipcache::Controller,
    remote_nodes_done: watch::Sender<bool>,
) {
    let mut nodes = inputs.nodes.reader();
    let mut endpoints = inputs.endpoints.reader();
    let mut remote = inputs.remote_endpoints.reader();
    let mut slices = inputs.slices.reader();
    let mut remote_nodes = inputs.remote_nodes.reader();
    let api_server = ipcache::api_server();
    loop {
        let api_server_changed = match slices.changes() {
            Changes::Keys(keys) => keys.iter().any(|k: &SliceKey| k.service == api_server),
            Changes::Reset => true,
        };
        let asked = || (inputs.synced(), inputs.remote_nodes.synced());
        let (synced, all_nodes) = asked();
        controller.update(ipcache::Changed {
            synced,
            nodes: nodes.changes(),
            endpoints: endpoints.changes(),
            remote_endpoints: remote.changes(),
            api_server: api_server_changed,
            remote_nodes: remote_nodes.changes(),
        });
        remote_nodes_done.send_if_modified(|done| all_nodes && !std::mem::replace(done, all_nodes));
        if asked() != (synced, all_nodes) {
            continue;
        }
        tokio::select! {
            () = nodes.changed() => {}
            () = endpoints.changed() => {}
            () = remote.changed() => {}
            () = slices.changed() => {}
            () = remote_nodes.changed() => {}
        }
    }
}
