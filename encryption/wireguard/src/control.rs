//! The control socket: who may open it may read and change everything, so it is for root alone.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use causeway_encryption_plan::{Answer, DeviceSpec, Request, Snapshot};
use nix::net::if_::if_nametoindex;
use parking_lot::Mutex;

use crate::device::Device;

/// Bytes of a request: 50,000 prefixes are 5 MB.
const REQUEST_MAX: u64 = 64 << 20;

/// The one device of the process, if there is one.
pub struct Holder {
    queues: usize,
    device: Mutex<Option<Device>>,
}

impl Holder {
    /// `queues`: threads that encrypt.
    pub fn new(queues: usize) -> Self {
        Self { queues, device: Mutex::new(None) }
    }

    pub fn handle(&self, request: Request) -> Answer {
        let mut device = self.device.lock();
        match request {
            Request::Ensure(spec) => self.ensure(&mut device, spec),
            Request::Apply(changes) => match device.as_ref() {
                None => failed("there is no device: send `ensure` first", 0),
                Some(device) => match device.apply(changes) {
                    Ok(()) => Answer::Applied,
                    Err((applied, error)) => failed(error, applied),
                },
            },
            Request::Snapshot => {
                let snapshot = device.as_ref().map_or_else(Snapshot::default, Device::snapshot);
                Answer::Snapshot(Box::new(snapshot))
            }
            Request::Delete => {
                *device = None;
                Answer::Deleted
            }
        }
    }

    fn ensure(&self, slot: &mut Option<Device>, spec: DeviceSpec) -> Answer {
        if let Some(device) = slot.as_mut()
            && (DeviceSpec { mtu: spec.mtu, ..device.spec().clone() }) == spec
            && stands(device)
        {
            let same = spec.mtu == device.spec().mtu;
            return match if same { Ok(()) } else { device.set_mtu(spec.mtu) } {
                Ok(()) => Answer::Ensured { ifindex: device.ifindex(), fresh: false },
                Err(error) => failed(error, 0),
            };
        }
        // The old one first: both would want the name and the port.
        *slot = None;
        match Device::start(spec, self.queues) {
            Ok(device) => {
                let answer = Answer::Ensured { ifindex: device.ifindex(), fresh: true };
                *slot = Some(device);
                answer
            }
            Err(error) => failed(error, 0),
        }
    }
}

/// Whether the interface is still there: anybody may delete it, and its descriptors only fail from then on.
fn stands(device: &Device) -> bool {
    if_nametoindex(device.spec().name.as_str()) == Ok(device.ifindex())
}

fn failed(error: impl std::fmt::Display, applied: usize) -> Answer {
    Answer::Failed { error: error.to_string(), applied }
}

/// Listens at `path`, which is replaced if nobody answers there.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another causeway-wireguard answers at {}", path.display()),
        ));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves every connection in a thread of its own, for ever.
pub fn serve(listener: &UnixListener, holder: &Arc<Holder>) -> io::Result<()> {
    for stream in listener.incoming() {
        let (stream, holder) = (stream?, Arc::clone(holder));
        thread::Builder::new().name("control".into()).spawn(move || {
            if let Err(error) = converse(&stream, &holder) {
                tracing::warn!(%error, "a client of the control socket");
            }
        })?;
    }
    Ok(())
}

fn converse(stream: &UnixStream, holder: &Holder) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut reader).take(REQUEST_MAX).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        let answer = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => holder.handle(request),
            Err(error) => failed(format_args!("the request cannot be read: {error}"), 0),
        };
        // The request may have carried a private key.
        line.fill(0);
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        (&*stream).write_all(&text)?;
    }
}
