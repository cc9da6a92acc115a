//! The words of the agent's admin socket, and a small blocking client for it.
//!
//! One JSON request per line, one JSON response per line, over a unix socket:
//! `{"method": "status", "params": {}}` -> `{"ok": ...}` or `{"error": {"code": 404, "message": "...", "details": "..."}}`.
//! The CNI plugin and the CLI are clients; `node-agent/agent/src/admin.rs` is the server. This crate knows nothing of
//! the agent's inside, uses no async runtime, and does I/O only in [`client`].

pub mod bgp;
pub mod client;
pub mod cni;
pub mod datapath;
pub mod duration;
pub mod encryption;
pub mod mesh;
pub mod nearest;
pub mod status;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use client::{Client, ClientError};

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/causeway/agent.sock";

/// Longest request line that the agent reads; a longer one is refused and the connection closed. The largest honest
/// request is `cni_gc` with every attachment of a node: 500 pods at 150 bytes.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;

/// Longest response line that the client reads: 262,144 flows at 250 bytes fit.
pub const MAX_RESPONSE_BYTES: u64 = 128 << 20;

/// A method of the admin socket: its name, what it takes, what it gives.
pub trait Method {
    const NAME: &'static str;
    type Params: Serialize + DeserializeOwned;
    type Reply: Serialize + DeserializeOwned;
}

/// The envelope of a request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub method: String,
    #[serde(default)]
    pub params: serde_json::Value,
}

/// The envelope of a response.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    Ok(serde_json::Value),
    Error(ErrorBody),
}

/// Why a request failed. For CNI verbs `code` is the CNI specification's; for the others see [`code`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}{}{details}", if details.is_empty() { "" } else { ": " })]
pub struct ErrorBody {
    pub code: u32,
    /// What was being done, to what.
    pub message: String,
    /// The likely cause and the remedy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl ErrorBody {
    pub fn new(code: u32, message: impl Into<String>, details: impl Into<String>) -> ErrorBody {
        ErrorBody { code, message: message.into(), details: details.into() }
    }
}

/// Values of [`ErrorBody::code`] outside CNI: the numbers that HTTP has for the same things.
pub mod code {
    /// The line is not a request, or the parameters are not the method's.
    pub const BAD_REQUEST: u32 = 400;
    /// No such method, peer, service or endpoint.
    pub const NOT_FOUND: u32 = 404;
    /// The request line is longer than [`crate::MAX_REQUEST_BYTES`].
    pub const TOO_LARGE: u32 = 413;
    /// The agent could not do it.
    pub const INTERNAL: u32 = 500;
    /// Not yet: the agent is starting.
    pub const NOT_READY: u32 = 503;
}

/// Parameters of a method that takes none. Unknown members are refused.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

macro_rules! methods {
    ($($(#[$doc:meta])* $method:ident = $name:literal ($params:ty) -> $reply:ty;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy)]
            pub struct $method;
            impl Method for $method {
                const NAME: &'static str = $name;
                type Params = $params;
                type Reply = $reply;
            }
        )*
        /// Every method's name, for the server's table and for the nearest name in an error.
        pub const METHODS: &[&str] = &[$($name),*];
    };
}

methods! {
    /// Health of everything the agent does.
    Status = "status" (NoParams) -> status::Status;
    /// BGP sessions of this node.
    BgpPeers = "bgp_peers" (NoParams) -> Vec<bgp::Peer>;
    /// Routes that are available for advertising, or advertised to peers.
    BgpRoutes = "bgp_routes" (bgp::RoutesParams) -> Vec<bgp::Route>;
    /// Load-balancer frontends with their backends and state.
    ServiceList = "service_list" (NoParams) -> Vec<datapath::Service>;
    /// Pods of this node.
    EndpointList = "endpoint_list" (NoParams) -> Vec<datapath::Endpoint>;
    /// Security identities known here.
    IdentityList = "identity_list" (NoParams) -> Vec<datapath::Identity>;
    /// The ipcache: which identity an address has.
    IpList = "ip_list" (datapath::IpsParams) -> datapath::Ips;
    /// Counters of the programs by reason.
    Drops = "drops" (NoParams) -> Vec<datapath::Count>;
    /// The flow table.
    Flows = "flows" (datapath::FlowsParams) -> Vec<datapath::Flow>;
    /// Nodes of this cluster and of others.
    NodeList = "node_list" (NoParams) -> Vec<datapath::Node>;
    /// Other clusters, and how well they are known.
    ClustermeshStatus = "clustermesh_status" (NoParams) -> mesh::MeshStatus;
    /// Encryption between nodes: device, keys, guard, peers.
    EncryptionRead = "encryption_status" (NoParams) -> encryption::EncryptionStatus;
    /// A new key for this node, another one, or all of the cluster.
    EncryptionRotate = "encryption_rotate" (encryption::RotateParams) -> Vec<encryption::Rotated>;
    /// When remote changes reached the maps.
    MeshTraceRead = "mesh_trace" (mesh::MeshTraceParams) -> mesh::MeshTrace;
    /// CNI ADD.
    CniAdd = "cni_add" (cni::Add) -> cni::Attached;
    /// CNI DEL: idempotent.
    CniDel = "cni_del" (cni::Del) -> cni::Done;
    /// CNI CHECK.
    CniCheck = "cni_check" (cni::Check) -> cni::Done;
    /// CNI GC.
    CniGc = "cni_gc" (cni::Gc) -> cni::Collected;
    /// CNI STATUS: ready to serve ADD.
    CniStatus = "cni_status" (NoParams) -> cni::Done;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelope_is_as_documented() {
        let r: Request = serde_json::from_str(r#"{"method":"status"}"#).unwrap();
        assert_eq!((r.method.as_str(), r.params), ("status", serde_json::Value::Null));
        let ok = serde_json::to_string(&Response::Ok(serde_json::json!({"a": 1}))).unwrap();
        assert_eq!(ok, r#"{"ok":{"a":1}}"#);
        let err = serde_json::to_string(&Response::Error(ErrorBody::new(404, "no", ""))).unwrap();
        assert_eq!(err, r#"{"error":{"code":404,"message":"no"}}"#);
    }

    #[test]
    fn method_names_are_unique() {
        let mut names = METHODS.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METHODS.len());
    }
}
