//! The admin socket: newline-delimited JSON over a unix socket (see `causeway-api`). A task per connection; a request
//! that is not understood gets an error and the connection goes on.

mod encryption;
mod families;
mod mesh;
mod views;

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use causeway_api::bgp::RoutesParams;
use causeway_api::datapath::{FlowsParams, IpsParams};
use causeway_api::encryption::RotateParams;
use causeway_api::mesh::MeshTraceParams;
use causeway_api::nearest::nearest;
use causeway_api::{self as api, ErrorBody, MAX_REQUEST_BYTES, METHODS, Method, NoParams, Request, Response, code};
use causeway_bgp_speaker::Speaker;
use causeway_datapath_loader::{Datapath, Frontend};
use causeway_mesh_remote::Mesh;
use causeway_table::{Realised, Shared};
use ipnet::IpNet;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use crate::cni::Cni;
use crate::config::Config;
use crate::control::bgp::Plan;
use crate::control::ipcache::IpcacheRow;
use crate::control::probe;
use crate::control::services::LbRow;
use crate::intent::mesh::intake::Intake;
use crate::realize::encryption::Encryption;
use crate::tables::Tables;

pub(crate) use families::MetricsSource;

/// Connections at a time; more wait. The CNI plugin and the CLI make one each and close it.
const MAX_CONNECTIONS: usize = 64;

/// What the socket shows. Parts that do not exist yet while the agent starts are in [`Running`].
pub(crate) struct Admin {
    pub(crate) config: Config,
    pub(crate) tables: Tables,
    pub(crate) started: Instant,
    /// What the start is waiting for.
    pub(crate) stage: watch::Sender<String>,
    pub(crate) running: OnceLock<Running>,
}

/// Parts that exist once the start is over.
pub(crate) struct Running {
    pub(crate) client: kube::Client,
    pub(crate) datapath: Arc<dyn Datapath>,
    pub(crate) cni: Arc<Cni>,
    pub(crate) lb_real: Shared<Frontend, Realised<LbRow>>,
    pub(crate) ipcache_real: Shared<IpNet, Realised<IpcacheRow>>,
    pub(crate) speaker: Speaker,
    pub(crate) plan: watch::Receiver<Arc<Plan>>,
    pub(crate) intake: Intake,
    /// `None`: this cluster meets no others.
    pub(crate) mesh: Option<Arc<Mesh>>,
    /// `None`: remote backends are not probed.
    pub(crate) probes: Option<watch::Receiver<probe::Counts>>,
    /// `None`: traffic between nodes is not encrypted.
    pub(crate) encryption: Option<Encryption>,
}

/// Listens on `path`. A socket that nobody serves any more is replaced.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another agent answers on it; stop that one, or give each its own --socket",
        ));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // Whoever may connect may delete pods' interfaces: root only.
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until cancelled.
pub(crate) async fn serve(listener: UnixListener, admin: Arc<Admin>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let admin = admin.clone();
                tokio::spawn(async move {
                    if let Err(error) = connection(stream, &admin).await {
                        tracing::debug!(%error, "admin connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors or memory: it passes, and spinning would not help.
                tracing::error!(%error, "accepting on the admin socket failed");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, admin: &Admin) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let limit = u64::try_from(MAX_REQUEST_BYTES).unwrap_or(u64::MAX);
        (&mut read).take(limit + 1).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(());
        }
        let too_long = line.len() > MAX_REQUEST_BYTES;
        let response = if too_long {
            let details = "the connection is closed";
            Response::Error(ErrorBody::new(
                code::TOO_LARGE,
                format!("the request is longer than {MAX_REQUEST_BYTES} bytes"),
                details,
            ))
        } else {
            match answer(&line, admin).await {
                Ok(value) => Response::Ok(value),
                Err(error) => Response::Error(error),
            }
        };
        let mut reply = serde_json::to_vec(&response)?;
        reply.push(b'\n');
        write.write_all(&reply).await?;
        if too_long {
            return Ok(());
        }
    }
}

async fn answer(line: &[u8], admin: &Admin) -> Result<Value, ErrorBody> {
    let request: Request = serde_json::from_slice(line).map_err(|e| {
        let details = r#"write one line such as {"method": "status", "params": {}}"#;
        ErrorBody::new(code::BAD_REQUEST, format!("not a request: {e}"), details)
    })?;
    if request.method.starts_with("cni_") && METHODS.contains(&request.method.as_str()) {
        return admin.running()?.cni.handle(&request.method, request.params).await;
    }
    match request.method.as_str() {
        api::Status::NAME => {
            params::<NoParams>(request)?;
            value(&admin.status())
        }
        api::BgpPeers::NAME => {
            params::<NoParams>(request)?;
            value(&admin.bgp_peers()?)
        }
        api::BgpRoutes::NAME => value(&admin.bgp_routes(&params::<RoutesParams>(request)?).await?),
        api::ServiceList::NAME => {
            params::<NoParams>(request)?;
            value(&admin.services()?)
        }
        api::EndpointList::NAME => {
            params::<NoParams>(request)?;
            value(&admin.endpoints())
        }
        api::IdentityList::NAME => {
            params::<NoParams>(request)?;
            value(&admin.identities())
        }
        api::IpList::NAME => value(&admin.ips(&params::<IpsParams>(request)?)?),
        api::NodeList::NAME => {
            params::<NoParams>(request)?;
            value(&admin.nodes())
        }
        api::ClustermeshStatus::NAME => {
            params::<NoParams>(request)?;
            value(&admin.mesh_status()?)
        }
        api::EncryptionRead::NAME => {
            params::<NoParams>(request)?;
            value(&admin.encryption_status()?)
        }
        api::EncryptionRotate::NAME => value(&admin.rotate(&params::<RotateParams>(request)?).await?),
        api::MeshTraceRead::NAME => value(&admin.mesh_trace(&params::<MeshTraceParams>(request)?)?),
        api::Drops::NAME => {
            params::<NoParams>(request)?;
            value(&admin.counters()?)
        }
        api::Flows::NAME => value(&admin.flows(&params::<FlowsParams>(request)?)?),
        other => Err(unknown_method(other)),
    }
}

fn unknown_method(name: &str) -> ErrorBody {
    let details = match nearest(name, METHODS.iter().copied()) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("the methods are {}", METHODS.join(", ")),
    };
    ErrorBody::new(code::NOT_FOUND, format!("no method {name:?}"), details)
}

fn params<T: serde::de::DeserializeOwned>(request: Request) -> Result<T, ErrorBody> {
    let given = if request.params.is_null() { Value::Object(serde_json::Map::new()) } else { request.params };
    serde_json::from_value(given).map_err(|e| {
        ErrorBody::new(code::BAD_REQUEST, format!("the parameters of {:?} are not understood: {e}", request.method), "")
    })
}

fn value(reply: &impl Serialize) -> Result<Value, ErrorBody> {
    serde_json::to_value(reply)
        .map_err(|e| ErrorBody::new(code::INTERNAL, format!("the answer cannot be written: {e}"), ""))
}

impl Admin {
    pub(crate) fn running(&self) -> Result<&Running, ErrorBody> {
        self.running.get().ok_or_else(|| {
            let stage = self.stage.borrow().clone();
            ErrorBody::new(code::NOT_READY, format!("the agent is starting: {stage}"), "try again in a moment")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin() -> Admin {
        Admin {
            config: Config::for_tests(),
            tables: Tables::default(),
            started: Instant::now(),
            stage: watch::Sender::new("asking Kubernetes for this node's addresses".into()),
            running: OnceLock::new(),
        }
    }

    #[tokio::test]
    async fn mistakes_are_named() {
        let admin = admin();
        let cases = [
            ("hello", code::BAD_REQUEST, "not a request"),
            (r#"{"method":"statsu"}"#, code::NOT_FOUND, r#"did you mean "status"?"#),
            (r#"{"method":"zzzzzzzz"}"#, code::NOT_FOUND, "the methods are status,"),
            (r#"{"method":"status","params":{"x":1}}"#, code::BAD_REQUEST, "unknown field `x`"),
            (r#"{"method":"flows","params":{"limit":"many"}}"#, code::BAD_REQUEST, "parameters of \"flows\""),
            (r#"{"method":"cni_status"}"#, code::NOT_READY, "asking Kubernetes"),
            (r#"{"method":"cni_stats"}"#, code::NOT_FOUND, "cni_status"),
        ];
        for (line, want, text) in cases {
            let error = answer(line.as_bytes(), &admin).await.unwrap_err();
            assert_eq!(error.code, want, "{line}: {error}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[tokio::test]
    async fn status_answers_while_starting() {
        let status = answer(br#"{"method":"status"}"#, &admin()).await.unwrap();
        assert_eq!(status["healthy"], false);
        assert_eq!(status["components"][0]["health"], "starting");
    }

    #[tokio::test]
    async fn a_connection_serves_many_requests_and_refuses_a_long_one() {
        let dir = std::env::temp_dir().join(format!("causeway-admin-{}", std::process::id()));
        let path = dir.join("agent.sock");
        let listener = listen(&path).unwrap();
        assert!(listen(&path).unwrap_err().to_string().contains("another agent"));
        let server = tokio::spawn(serve(listener, Arc::new(admin())));
        let mut stream = BufReader::new(UnixStream::connect(&path).await.unwrap());
        for _ in 0..2 {
            stream.write_all(b"{\"method\":\"endpoint_list\"}\n").await.unwrap();
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            assert_eq!(line, "{\"ok\":[]}\n");
        }
        let long = vec![b'x'; MAX_REQUEST_BYTES + 1];
        stream.write_all(&long).await.unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        assert!(line.contains("longer than"), "{line}");
        server.abort();
        let _ = server.await;
        let again = listen(&path).unwrap();
        drop(again);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
