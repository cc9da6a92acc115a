//! A blocking client for the admin socket: one connection per call, std only.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{ErrorBody, MAX_RESPONSE_BYTES, Method, Response};

/// How long a call may take unless [`Client::with_timeout`] says otherwise: the kubelet gives a CNI verb minutes, and
/// an agent that does not answer in this time is as good as away.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers: the caller may retry later.
    #[error(
        "cannot reach the agent at {socket}: {source}; check that causeway-agent runs on this node, that its --socket is this path, and that you may open it"
    )]
    Unreachable { socket: String, source: io::Error },
    /// The connection broke or timed out on the way: the agent may or may not have done it.
    #[error("the agent at {socket} did not answer `{method}`: {source}")]
    Broken { socket: String, method: &'static str, source: io::Error },
    /// The two sides are of different versions.
    #[error(
        "the agent's answer to `{method}` was not understood ({source}); are the agent and this program of the same version?"
    )]
    Answer { method: &'static str, source: serde_json::Error },
    /// The agent understood and refused.
    #[error(transparent)]
    Refused(ErrorBody),
}

impl Client {
    pub fn new(socket: impl Into<PathBuf>) -> Client {
        Client { socket: socket.into(), timeout: DEFAULT_TIMEOUT }
    }

    /// Limits each wait for the agent, not the whole call.
    pub fn with_timeout(mut self, timeout: Duration) -> Client {
        self.timeout = timeout;
        self
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Calls one method and waits for its answer.
    pub fn call<M: Method>(&self, _method: M, params: &M::Params) -> Result<M::Reply, ClientError> {
        let answer = |source| ClientError::Answer { method: M::NAME, source };
        let broken =
            |source| ClientError::Broken { socket: self.socket.display().to_string(), method: M::NAME, source };
        let mut line = serde_json::to_vec(&serde_json::json!({"method": M::NAME, "params": params})).map_err(answer)?;
        line.push(b'\n');
        let stream = self.connect()?;
        (&stream).write_all(&line).map_err(broken)?;
        let mut reply = Vec::new();
        BufReader::new((&stream).take(MAX_RESPONSE_BYTES)).read_until(b'\n', &mut reply).map_err(broken)?;
        if reply.is_empty() {
            return Err(broken(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")));
        }
        match serde_json::from_slice(&reply).map_err(answer)? {
            Response::Ok(value) => serde_json::from_value(value).map_err(answer),
            Response::Error(body) => Err(ClientError::Refused(body)),
        }
    }

    fn connect(&self) -> Result<UnixStream, ClientError> {
        let open = || {
            let stream = UnixStream::connect(&self.socket)?;
            stream.set_read_timeout(Some(self.timeout))?;
            stream.set_write_timeout(Some(self.timeout))?;
            Ok(stream)
        };
        open().map_err(|source| ClientError::Unreachable { socket: self.socket.display().to_string(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CniStatus, NoParams, cni::Done, code};
    use std::os::unix::net::UnixListener;

    /// Serves one connection with a fixed line and gives back the request line.
    fn answer_once(reply: &'static str) -> (Client, std::thread::JoinHandle<String>, PathBuf) {
        let path = std::env::temp_dir().join(format!("causeway-api-{}-{}", std::process::id(), reply.len()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            stream.write_all(reply.as_bytes()).unwrap();
            line
        });
        (Client::new(&path), server, path)
    }

    #[test]
    fn ok_and_error_come_back_typed() {
        let (client, server, path) = answer_once("{\"ok\":{}}\n");
        assert_eq!(client.call(CniStatus, &NoParams {}).unwrap(), Done {});
        assert_eq!(server.join().unwrap(), "{\"method\":\"cni_status\",\"params\":{}}\n");
        std::fs::remove_file(path).unwrap();

        let (client, server, path) = answer_once("{\"error\":{\"code\":503,\"message\":\"starting\"}}\n");
        let Err(ClientError::Refused(body)) = client.call(CniStatus, &NoParams {}) else { panic!("not refused") };
        assert_eq!(body.code, code::NOT_READY);
        server.join().unwrap();
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn hang_up_and_nonsense_are_told_apart() {
        let (client, server, path) = answer_once("");
        assert!(matches!(client.call(CniStatus, &NoParams {}), Err(ClientError::Broken { .. })));
        server.join().unwrap();
        std::fs::remove_file(path).unwrap();
        let (client, server, path) = answer_once("hello\n");
        assert!(matches!(client.call(CniStatus, &NoParams {}), Err(ClientError::Answer { .. })));
        server.join().unwrap();
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn absent_agent_names_the_socket() {
        let e = Client::new("/nonexistent/agent.sock").call(CniStatus, &NoParams {}).unwrap_err();
        assert!(matches!(e, ClientError::Unreachable { .. }));
        assert!(e.to_string().contains("/nonexistent/agent.sock"), "{e}");
    }
}
