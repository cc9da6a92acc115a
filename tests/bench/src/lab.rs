//! Labs for the benchmarks that need agents, and a plain HTTP way to its Kubernetes API.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

pub(crate) struct Lab {
    name: &'static str,
}

impl Lab {
    pub(crate) fn up(name: &'static str) -> Result<Lab> {
        Lab::up_from("topologies/one-rack", name)
    }

    /// Brings the topology in `dir` up.
    pub(crate) fn up_from(dir: &str, name: &'static str) -> Result<Lab> {
        let _ = lab_command()?.args(["down", name]).output();
        let out = lab_command()?.args(["up", dir, "--name", name]).output()?;
        ensure!(out.status.success(), "causeway-lab up: {}", String::from_utf8_lossy(&out.stderr));
        Ok(Lab { name })
    }

    pub(crate) fn dir(&self) -> PathBuf {
        PathBuf::from("/run/causeway-lab").join(self.name)
    }

    /// `causeway-lab VERB LAB ARGS...`.
    pub(crate) fn command(&self, verb: &str, args: &[&str]) -> Result<()> {
        let out = lab_command()?.arg(verb).arg(self.name).args(args).output()?;
        ensure!(out.status.success(), "causeway-lab {verb} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(())
    }

    /// The CLI against a node's agent, as JSON.
    pub(crate) fn causeway(&self, node: &str, args: &[&str]) -> Result<Value> {
        let out = Command::new(std::env::current_exe()?.with_file_name("causeway"))
            .arg("--socket")
            .arg(self.dir().join(node).join("agent.sock"))
            .args(args)
            .args(["-o", "json"])
            .output()?;
        serde_json::from_slice(&out.stdout)
            .with_context(|| format!("causeway {args:?}: {}", String::from_utf8_lossy(&out.stderr)))
    }

    pub(crate) fn netns(&self, host: &str) -> String {
        format!("/run/netns/cw-{}-{host}", self.name)
    }

    pub(crate) fn bpf_root(&self, node: &str) -> PathBuf {
        PathBuf::from("/sys/fs/bpf/causeway-lab").join(self.name).join(node)
    }

    pub(crate) fn kubectl(&self, args: &[&str], input: &str) -> Result<String> {
        let mut child = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(self.dir().join("kubeconfig"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
        let out = child.wait_with_output()?;
        ensure!(out.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Process id of one of the lab's processes.
    pub(crate) fn pid(&self, process: &str) -> Result<u32> {
        let out = lab_command()?.args(["status", self.name, "-o", "json"]).output()?;
        let status: Value = serde_json::from_slice(&out.stdout).context("causeway-lab status")?;
        status["processes"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|row| row["name"] == process)
            .and_then(|row| row["pid"].as_u64())
            .and_then(|pid| u32::try_from(pid).ok())
            .with_context(|| format!("no process {process} in {status}"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Ok(mut command) = lab_command() {
            let _ = command.args(["down", self.name]).output();
        }
    }
}

fn lab_command() -> Result<Command> {
    Ok(Command::new(std::env::current_exe()?.with_file_name("causeway-lab")))
}

/// `kubectl proxy`, so that a request costs a round trip instead of a process.
pub(crate) struct Api {
    proxy: Child,
    stream: BufReader<TcpStream>,
}

impl Api {
    pub(crate) fn open(lab: &Lab) -> Result<Api> {
        let mut proxy = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(lab.dir().join("kubeconfig"))
            .args(["proxy", "--port=0"])
            .stdout(Stdio::piped())
            .spawn()?;
        // "Starting to serve on 127.0.0.1:41577"
        let mut line = String::new();
        BufReader::new(proxy.stdout.take().context("stdout")?).read_line(&mut line)?;
        let addr = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        let stream = TcpStream::connect(&addr).with_context(|| format!("kubectl proxy said {line:?}"))?;
        stream.set_nodelay(true)?;
        Ok(Api { proxy, stream: BufReader::new(stream) })
    }

    /// One request on the kept connection; the answer's body as JSON.
    pub(crate) fn request(&mut self, method: &str, path: &str, content_type: &str, body: &str) -> Result<Value> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nAccept: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut status = String::new();
        self.stream.read_line(&mut status)?;
        let mut length = None;
        let mut chunked = false;
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = Some(value.trim().parse::<usize>()?);
            }
            chunked |= line == "transfer-encoding: chunked";
        }
        let mut bytes = vec![0; length.unwrap_or(0)];
        if chunked {
            self.read_chunks(&mut bytes)?;
        } else {
            self.stream.read_exact(&mut bytes)?;
        }
        ensure!(status.contains(" 2"), "{method} {path}: {}{}", status, String::from_utf8_lossy(&bytes));
        Ok(serde_json::from_slice(&bytes)?)
    }

    fn read_chunks(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        loop {
            let mut size = String::new();
            self.stream.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16)?;
            let start = bytes.len();
            bytes.resize(start + size, 0);
            self.stream.read_exact(&mut bytes[start..])?;
            self.stream.read_line(&mut String::new())?;
            if size == 0 {
                return Ok(());
            }
        }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}
