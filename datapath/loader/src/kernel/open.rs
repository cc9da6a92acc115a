//! Opens the datapath: checks the pins of an earlier process, loads the object onto them, takes over its links.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, LpmTrie, Map, MapData, MapError, MapInfo, MapType, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use causeway_datapath_abi as abi;

use super::services::Services;
use super::{Kernel, Table, flows, links, probe};
use crate::error::chain;
use crate::{Error, Hook, Result, convert, sys};

/// How long to wait for an earlier process that is just being torn down.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// How often the kernel is asked to verify a program, as by libbpf.
const LOAD_ATTEMPTS: u32 = 5;

/// What the datapath is opened with. `Options::new` has the defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory on a BPF filesystem; made when absent.
    pub pin_root: PathBuf,
    pub node: abi::NodeConfig,
    pub sizes: MapSize,
}

/// Rows that the maps can hold. Hash tables grow on demand, except `flows`, whose memory (about 150 bytes a row) is
/// taken at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapSize {
    pub flows: u32,
    pub services: u32,
    pub backends: u32,
    pub ipcache: u32,
    pub encrypt: u32,
    pub endpoints: u32,
}

impl Default for MapSize {
    fn default() -> Self {
        // The largest clusters known have 10k services, 150k pods and 15k nodes; a node has some hundred pods, and a few
        // rows of `encrypt` in each family.
        MapSize {
            flows: 262_144,
            services: 65_536,
            backends: 262_144,
            ipcache: 512_000,
            encrypt: 65_536,
            endpoints: 4096,
        }
    }
}

impl Options {
    pub fn new(pin_root: impl Into<PathBuf>, node: abi::NodeConfig) -> Options {
        Options { pin_root: pin_root.into(), node, sizes: MapSize::default() }
    }
}

#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

/// The eBPF object as built; empty when the build was asked to skip it.
pub fn object() -> &'static [u8] {
    static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/causeway")));
    &OBJECT.0
}

/// A map as this version wants it.
#[derive(Clone, Copy, Debug)]
struct Spec {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    rows: u32,
}

/// What to do with a pin that is there already.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Verdict {
    Adopt,
    /// Same rows, other capacity: make a new map and carry the rows over.
    Resize,
    Recreate(String),
}

fn specs(sizes: &MapSize) -> [Spec; 7] {
    fn spec<K, V>(name: &'static str, kind: MapType, rows: u32) -> Spec {
        Spec { name, kind, key: size_of::<K>(), value: size_of::<V>(), rows }
    }
    [
        spec::<abi::Addr, abi::Endpoint>(abi::map::ENDPOINTS, MapType::Hash, sizes.endpoints),
        spec::<abi::IpcacheKey, abi::IpcacheEntry>(abi::map::IPCACHE, MapType::LpmTrie, sizes.ipcache),
        spec::<abi::IpcacheKey, abi::EncryptEntry>(abi::map::ENCRYPT, MapType::LpmTrie, sizes.encrypt),
        spec::<abi::ServiceKey, abi::Service>(abi::map::SERVICES, MapType::Hash, sizes.services),
        spec::<abi::SlotKey, abi::Slot>(abi::map::SLOTS, MapType::Hash, sizes.backends),
        spec::<abi::Tuple, abi::Flow>(abi::map::FLOWS, MapType::LruHash, sizes.flows),
        spec::<u32, abi::Count>(abi::map::COUNTERS, MapType::PerCpuArray, abi::COUNTERS_LEN),
    ]
}

/// What to do about a map that is too small, for messages: the agent has an option for one of them.
pub(super) fn remedy_of(map: &str) -> &'static str {
    match map {
        abi::map::FLOWS => "raise --flow-entries and restart the agent",
        abi::map::SERVICES | abi::map::SLOTS => "the limit is fixed: have fewer Services, or fewer backends",
        abi::map::IPCACHE => "the limit is fixed: have fewer addresses in this cluster and those that it meets",
        abi::map::ENCRYPT => "the limit is fixed: have fewer nodes in this cluster and those that it meets",
        abi::map::ENDPOINTS => "the limit is fixed: have fewer pods on this node",
        _ => "the limit is fixed",
    }
}

fn judge(spec: &Spec, kind: Option<MapType>, key: u32, value: u32, rows: u32) -> Verdict {
    let same = |have: u32, want: usize| usize::try_from(have).is_ok_and(|have| have == want);
    if kind != Some(spec.kind) {
        return Verdict::Recreate(format!("it is of type {kind:?}, wanted is {:?}", spec.kind));
    }
    if !same(key, spec.key) || !same(value, spec.value) {
        let (want_key, want_value) = (spec.key, spec.value);
        return Verdict::Recreate(format!("its rows are {key}+{value} bytes, wanted are {want_key}+{want_value}"));
    }
    if rows != spec.rows { Verdict::Resize } else { Verdict::Adopt }
}

impl Kernel {
    /// Loads the programs onto the pinned maps and exchanges the programs of all pinned links. Maps that do not exist
    /// are made; a map of another capacity is replaced, its rows carried over; one whose rows have another layout is
    /// replaced empty, with a logged reason.
    ///
    /// Needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, a BPF filesystem, and must run in the network namespace whose
    /// interfaces it shall attach to.
    pub fn open(options: &Options) -> Result<Kernel> {
        if object().is_empty() {
            return Err(Error::NoObject);
        }
        let dir = options.pin_root.join(format!("v{}", abi::LAYOUT_VERSION));
        let making = |source| Error::Pin { doing: "making directory", path: dir.clone(), source };
        fs::create_dir_all(dir.join(links::LINKS)).map_err(making)?;
        let lock = lock_dir(&dir)?;
        let specs = specs(&options.sizes);
        let outgrown = prepare_pins(&dir, &specs)?;
        let mut ebpf = load(&dir, &options.node, &specs)?;
        let maps = Maps::take(&mut ebpf)?;
        for map in &outgrown {
            carry_over(&dir, map)?;
        }
        let mut kernel = assemble(options, dir, lock, &specs, ebpf, maps)?;
        let (adopted, orphans) = links::adopt(&mut super::lock(&kernel.programs), &kernel.dir)?;
        for map in &outgrown {
            // Once more for what the old programs wrote meanwhile.
            if map.name == abi::map::FLOWS {
                carry_over(&kernel.dir, map)?;
            }
            let path = old_pin(&kernel.dir, map.name);
            fs::remove_file(&path).map_err(|source| Error::Pin { doing: "removing the outgrown map", path, source })?;
        }
        kernel.features = probe::features();
        tracing::info!(dir = %kernel.dir.display(), adopted, orphans, "datapath open");
        Ok(kernel)
    }
}

/// Waits a moment for a process that was killed just now, then says who is in the way.
fn lock_dir(dir: &Path) -> Result<File> {
    let path = || dir.to_path_buf();
    let file = File::open(dir).map_err(|source| Error::Pin { doing: "opening", path: path(), source })?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: path() }),
            Err(TryLockError::Error(source)) => return Err(Error::Pin { doing: "locking", path: path(), source }),
        }
    }
}

fn old_pin(dir: &Path, map: &str) -> PathBuf {
    dir.join(format!("{map}-outgrown"))
}

/// Moves away the pins that do not fit, and returns the maps whose rows are to be carried over.
fn prepare_pins(dir: &Path, specs: &[Spec]) -> Result<Vec<Spec>> {
    let mut outgrown = Vec::new();
    for spec in specs {
        let path = dir.join(spec.name);
        let old = old_pin(dir, spec.name);
        let failed = |doing| {
            let path = path.clone();
            move |source| Error::Pin { doing, path, source }
        };
        if old.exists() {
            // A resize was cut short. The outgrown map has all rows; what stands at the right name is a partial copy.
            if path.exists() {
                fs::remove_file(&path).map_err(failed("removing a half-filled map"))?;
            }
            fs::rename(&old, &path).map_err(failed("restoring the outgrown map to"))?;
        }
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).map_err(|e| Error::kernel(format!("opening pin {}", path.display()), e))?;
        match judge(spec, info.map_type().ok(), info.key_size(), info.value_size(), info.max_entries()) {
            Verdict::Adopt => {}
            Verdict::Resize => {
                tracing::info!(map = spec.name, from = info.max_entries(), to = spec.rows, "map changes its size");
                fs::rename(&path, &old).map_err(failed("moving away the outgrown map"))?;
                outgrown.push(*spec);
            }
            Verdict::Recreate(reason) => {
                tracing::warn!(map = spec.name, reason, "map is made anew and its rows are lost");
                fs::remove_file(&path).map_err(failed("removing an unfit map"))?;
            }
        }
    }
    Ok(outgrown)
}

/// Copies the rows of an outgrown map to its successor, except those that the successor has already.
fn carry_over(dir: &Path, spec: &Spec) -> Result<()> {
    let open = |path: PathBuf| {
        MapData::from_pin(&path).map_err(|e| Error::kernel(format!("opening pin {}", path.display()), e))
    };
    let (old, new) = (open(old_pin(dir, spec.name))?, open(dir.join(spec.name))?);
    let copied = sys::copy_rows(old.fd().as_fd(), new.fd().as_fd(), spec.key, spec.value)
        .map_err(|e| Error::kernel(format!("copying the rows of map {}", spec.name), e))?;
    if copied.refused > 0 {
        let (map, rows, limit) = (spec.name, copied.refused, spec.rows);
        tracing::warn!(map, rows, limit, "the new map is too small for all rows; {}", remedy_of(map));
    }
    Ok(())
}

fn load(dir: &Path, node: &abi::NodeConfig, specs: &[Spec]) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::STATS);
    loader.override_global(abi::map::NODE_CONFIG, node, true);
    for spec in specs {
        loader.map_max_entries(spec.name, spec.rows).map_pin_path(spec.name, dir.join(spec.name));
    }
    let mut ebpf = loader.load(object()).map_err(|e| load_error(dir, &e))?;
    for hook in Hook::ALL {
        links::with_program(&mut ebpf, hook, load_program)?
            .map_err(|e| Error::kernel(format!("loading program {hook}"), e))?;
    }
    Ok(ebpf)
}

/// A verification that a signal interrupts ends with EAGAIN, and is begun anew.
fn load_program(program: &mut SchedClassifier) -> std::result::Result<(), ProgramError> {
    for _ in 1..LOAD_ATTEMPTS {
        match program.load() {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.raw_os_error() == Some(libc::EAGAIN) => {}
            done => return done,
        }
    }
    program.load()
}

fn load_error(dir: &Path, error: &aya::EbpfError) -> Error {
    let text = chain(error);
    if text.contains("BPF_OBJ_PIN") {
        return Error::Pin { doing: "pinning maps in", path: dir.into(), source: io::Error::other(text) };
    }
    Error::kernel("loading the eBPF object", text)
}

struct Maps {
    endpoints: HashMap<MapData, abi::Addr, abi::Endpoint>,
    ipcache: LpmTrie<MapData, abi::Addr, abi::IpcacheEntry>,
    encrypt: LpmTrie<MapData, abi::Addr, abi::EncryptEntry>,
    services: HashMap<MapData, abi::ServiceKey, abi::Service>,
    slots: HashMap<MapData, abi::SlotKey, abi::Slot>,
    counters: PerCpuArray<MapData, abi::Count>,
    flows: MapData,
}

impl Maps {
    fn take(ebpf: &mut Ebpf) -> Result<Maps> {
        fn typed<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M> {
            let doing = || format!("taking map {name} out of the object");
            let map = ebpf.take_map(name).ok_or_else(|| Error::kernel(doing(), "it is not there"))?;
            M::try_from(map).map_err(|e| Error::kernel(doing(), e))
        }
        let flows = match ebpf.take_map(abi::map::FLOWS) {
            Some(Map::LruHashMap(data) | Map::HashMap(data)) => data,
            other => return Err(Error::kernel("taking map FLOWS out of the object", format!("found {other:?}"))),
        };
        Ok(Maps {
            endpoints: typed(ebpf, abi::map::ENDPOINTS)?,
            ipcache: typed(ebpf, abi::map::IPCACHE)?,
            encrypt: typed(ebpf, abi::map::ENCRYPT)?,
            services: typed(ebpf, abi::map::SERVICES)?,
            slots: typed(ebpf, abi::map::SLOTS)?,
            counters: typed(ebpf, abi::map::COUNTERS)?,
            flows,
        })
    }
}

fn assemble(options: &Options, dir: PathBuf, lock: File, specs: &[Spec], ebpf: Ebpf, maps: Maps) -> Result<Kernel> {
    let reading = |map: &'static str| move |e: MapError| Error::kernel(format!("reading map {map}"), e);
    let endpoint = |row: Result<(abi::Addr, abi::Endpoint), MapError>| {
        row.map(|(addr, endpoint)| (convert::ip(addr), convert::endpoint_back(endpoint)))
    };
    let endpoints =
        maps.endpoints.iter().map(endpoint).collect::<Result<_, _>>().map_err(reading(abi::map::ENDPOINTS))?;
    let mut ipcache = BTreeMap::new();
    for row in maps.ipcache.iter() {
        let (key, entry) = row.map_err(reading(abi::map::IPCACHE))?;
        let key = abi::IpcacheKey { prefix_len: key.prefix_len(), addr: key.data() };
        if let Some(prefix) = convert::prefix(key) {
            ipcache.insert(prefix, convert::ipcache_entry_back(entry));
        }
    }
    let mut encrypt = BTreeMap::new();
    for row in maps.encrypt.iter() {
        let (key, entry) = row.map_err(reading(abi::map::ENCRYPT))?;
        let key = abi::IpcacheKey { prefix_len: key.prefix_len(), addr: key.data() };
        // A row of another version stays as it is until somebody writes it anew: to forget it could open the guard.
        if let (Some(prefix), Some(entry)) = (convert::prefix(key), convert::encrypt_entry_back(entry)) {
            encrypt.insert(prefix, entry);
        }
    }
    let host: BTreeSet<_> = [options.node.node_v4, options.node.node_v6]
        .into_iter()
        .filter(|addr| *addr != abi::Addr::ZERO)
        .map(convert::ip)
        .collect();
    let limits = (options.sizes.services, options.sizes.backends);
    let services = Services::adopt(maps.services, maps.slots, limits, host)?;
    Ok(Kernel {
        dir,
        features: Vec::new(),
        limits: specs.iter().map(|spec| (spec.name, spec.rows)).collect(),
        services: Mutex::new(services),
        ipcache: Mutex::new(Table { map: maps.ipcache, mirror: ipcache }),
        encrypt: Mutex::new(Table { map: maps.encrypt, mirror: encrypt }),
        endpoints: Mutex::new(Table { map: maps.endpoints, mirror: endpoints }),
        programs: Mutex::new(ebpf),
        counters: maps.counters,
        flows: flows::Flows::new(maps.flows),
        _lock: lock,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_option_that_the_agent_has_is_a_remedy() {
        for spec in specs(&MapSize::default()) {
            let remedy = remedy_of(spec.name);
            let has_option = spec.name == abi::map::FLOWS;
            assert_eq!(remedy.contains("--flow-entries"), has_option, "{}", spec.name);
            assert_eq!(remedy.contains("the limit is fixed"), !has_option, "{}", spec.name);
        }
    }
}
