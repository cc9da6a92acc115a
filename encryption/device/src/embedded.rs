//! The client of `causeway-wireguard`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use causeway_encryption_plan::{Answer, Change, DeviceSpec, Request, Snapshot};
use zeroize::Zeroizing;

use crate::{Device, DeviceError, Ensured};

/// For 50,000 prefixes on a busy machine; a process that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// One connection, made when it is needed.
pub struct Embedded {
    socket: PathBuf,
    why: String,
    stream: Option<BufReader<UnixStream>>,
}

impl Embedded {
    /// `why` this kind of device: a sentence for people.
    pub fn new(socket: PathBuf, why: String) -> Self {
        Self { socket, why, stream: None }
    }

    fn ask(&mut self, request: &Request) -> Result<Answer, DeviceError> {
        let answer = self.converse(request);
        if answer.is_err() {
            // What is left of an answer belongs to no later question.
            self.stream = None;
        }
        match answer {
            Ok(Answer::Failed { error, applied }) => Err(DeviceError::Refused { error, applied }),
            Ok(answer) => Ok(answer),
            Err(error) => Err(DeviceError::Gone(format!(
                "causeway-wireguard does not answer at {}: {error}; is it running on this node?",
                self.socket.display()
            ))),
        }
    }

    fn converse(&mut self, request: &Request) -> std::io::Result<Answer> {
        // It may carry a private key.
        let mut line = Zeroizing::new(serde_json::to_vec(request)?);
        line.push(b'\n');
        let stream = self.connected()?;
        stream.get_mut().write_all(&line)?;
        let mut text = String::new();
        if stream.read_line(&mut text)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&text)?)
    }

    fn connected(&mut self) -> std::io::Result<&mut BufReader<UnixStream>> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = UnixStream::connect(&self.socket)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                BufReader::new(stream)
            }
        };
        Ok(self.stream.insert(stream))
    }
}

fn unexpected(answer: &Answer) -> DeviceError {
    DeviceError::Gone(format!("causeway-wireguard answers another question ({answer:?}): is it of another version?"))
}

impl Device for Embedded {
    fn describe(&self) -> String {
        format!("embedded ({})", self.why)
    }

    fn ensure(&mut self, spec: &DeviceSpec) -> Result<Ensured, DeviceError> {
        match self.ask(&Request::Ensure(spec.clone()))? {
            Answer::Ensured { ifindex, fresh } => Ok(Ensured { ifindex, fresh }),
            other => Err(unexpected(&other)),
        }
    }

    fn apply(&mut self, changes: Vec<Change>) -> Result<(), DeviceError> {
        match self.ask(&Request::Apply(changes))? {
            Answer::Applied => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn snapshot(&mut self) -> Result<Snapshot, DeviceError> {
        match self.ask(&Request::Snapshot)? {
            Answer::Snapshot(snapshot) => Ok(*snapshot),
            other => Err(unexpected(&other)),
        }
    }

    fn delete(&mut self) -> Result<(), DeviceError> {
        match self.ask(&Request::Delete)? {
            Answer::Deleted => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}
