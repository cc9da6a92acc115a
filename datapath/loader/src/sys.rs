//! The few `bpf(2)` commands that aya does not offer: facts of a pinned tcx link, and maps in batches.
//!
//! Structures follow `include/uapi/linux/bpf.h`; the kernel accepts a shorter `union bpf_attr` than its own and takes
//! the rest as zero.
#![allow(unsafe_code, reason = "bpf(2) has no safe wrapper for these commands")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya::Pod;

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_LINK_TYPE_TCX: u32 = 11;
/// `BPF_NOEXIST`: write only where nothing is.
const NO_EXIST: u64 = 1;

/// Facts of a tcx link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TcxLink {
    pub(crate) program_id: u32,
    /// Zero when the interface has vanished.
    pub(crate) ifindex: u32,
}

#[repr(C)]
#[derive(Default)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// Head of `struct bpf_link_info`, with the tcx arm of its union.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    padding: u32,
    ifindex: u32,
    attach_type: u32,
    rest: [u64; 8],
}

#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

#[repr(C)]
struct ElemAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    /// Value, or the next key.
    value: u64,
    flags: u64,
}

/// What became of the rows of a copied map.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Copied {
    pub(crate) rows: usize,
    /// Rows for which the new map had no room.
    pub(crate) refused: usize,
}

/// # Safety
/// `attr` must be the arm of `union bpf_attr` that `command` takes, and every address in it must be valid for what the
/// command reads and writes there.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the caller vouches for the contents; pointer and size describe `attr`, which outlives the call.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjAttr { pathname: path.as_ptr() as u64, ..ObjAttr::default() };
    // SAFETY: OBJ_GET reads the NUL-terminated path, which outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut attr)? };
    let fd = i32::try_from(fd).map_err(|_| io::Error::other("bpf(2) answered an impossible descriptor"))?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads the tcx link pinned at `path`; `None` when the pin is something else.
pub(crate) fn tcx_link(path: &Path) -> io::Result<Option<TcxLink>> {
    let fd = open_pin(path)?;
    let mut info = LinkInfo::default();
    let info_len = u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?;
    let bpf_fd = fd.as_raw_fd().cast_unsigned();
    let mut attr = InfoAttr { bpf_fd, info_len, info: std::ptr::from_mut(&mut info) as u64 };
    // SAFETY: the kernel writes at most `info_len` bytes to `info`, which outlives the call and holds plain integers.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)? };
    Ok((info.kind == BPF_LINK_TYPE_TCX).then_some(TcxLink { program_id: info.prog_id, ifindex: info.ifindex }))
}

/// Reads a hash map in batches; `each` sees every row that stays in the map during the walk, and perhaps others.
/// It returns false to end the walk.
pub(crate) fn walk<K: Pod + Default, V: Pod + Default>(
    map: BorrowedFd<'_>,
    mut each: impl FnMut(&K, &V) -> bool,
) -> io::Result<()> {
    // 4096 rows are 400 kB of flows, and amortise the call to nothing. The kernel wants room for a whole bucket.
    let mut room = 4096_usize;
    let (mut keys, mut values) = (vec![K::default(); room], vec![V::default(); room]);
    let mut position: Option<u64> = None;
    loop {
        let mut next = 0_u64;
        let mut attr = BatchAttr {
            in_batch: position.as_mut().map_or(0, |p| std::ptr::from_mut(p) as u64),
            out_batch: std::ptr::from_mut(&mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: u32::try_from(room).map_err(io::Error::other)?,
            map_fd: map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: a hash map's batch position is a u32 and fits `next`; keys and values have room for `count` rows of
        // the map's own sizes (the caller chose K and V after the map's layout), and any bytes are valid for Pod types.
        let answer = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
        let last = match answer {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < (1 << 20) => {
                room *= 2;
                keys.resize(room, K::default());
                values.resize(room, V::default());
                continue;
            }
            Err(error) => return Err(error),
        };
        let count = usize::try_from(attr.count).unwrap_or(0).min(room);
        for (key, value) in keys.iter().zip(&values).take(count) {
            if !each(key, value) {
                return Ok(());
            }
        }
        if last {
            return Ok(());
        }
        position = Some(next);
    }
}

/// Deletes a row if `obsolete` still says so of its value at that moment: a row that was written anew since somebody
/// looked is put back, unless it has a successor already. Says whether it is gone by this.
pub(crate) fn delete_if<K: Pod, V: Pod + Default>(
    map: BorrowedFd<'_>,
    key: &K,
    obsolete: impl Fn(&K, &V) -> bool,
) -> io::Result<bool> {
    let key_at = std::ptr::from_ref(key) as u64;
    let mut value = V::default();
    let mut attr = elem(map, key_at, std::ptr::from_mut(&mut value) as u64, 0);
    // SAFETY: the kernel reads one key and writes one value of the map's sizes, which are those of K and V.
    match unsafe { bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attr) } {
        Ok(_) if obsolete(key, &value) => return Ok(true),
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(false),
        Err(error) => return Err(error),
    }
    let mut attr = elem(map, key_at, std::ptr::from_ref(&value) as u64, NO_EXIST);
    // SAFETY: the kernel reads one key and one value, as above.
    match unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) } {
        Ok(_) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Copies all rows of one map to another of the same key and value size; rows that are there already stay.
pub(crate) fn copy_rows(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    key_size: usize,
    value_size: usize,
) -> io::Result<Copied> {
    // The kernel rounds value sizes up to 8 when it copies out of per-CPU maps only; a reserve costs nothing.
    let (mut key, mut next, mut value) = (vec![0_u8; key_size], vec![0_u8; key_size], vec![0_u8; value_size + 8]);
    let mut copied = Copied::default();
    let mut started = false;
    loop {
        let key_at = if started { key.as_ptr() as u64 } else { 0 };
        let mut attr = elem(from, key_at, next.as_mut_ptr() as u64, 0);
        // SAFETY: the kernel reads one key and writes one key; both buffers have the map's key size.
        match unsafe { bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) } {
            Ok(_) => std::mem::swap(&mut key, &mut next),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(copied),
            Err(error) => return Err(error),
        }
        started = true;
        let mut attr = elem(from, key.as_ptr() as u64, value.as_mut_ptr() as u64, 0);
        // SAFETY: the kernel reads one key and writes one value; the buffers are large enough for both.
        match unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) } {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            Err(error) => return Err(error),
        }
        let mut attr = elem(to, key.as_ptr() as u64, value.as_ptr() as u64, NO_EXIST);
        // SAFETY: the kernel reads one key and one value of the sizes that both maps share.
        match unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) } {
            Ok(_) => copied.rows += 1,
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) => copied.refused += 1,
            Err(error) => return Err(error),
        }
    }
}

fn elem(map: BorrowedFd<'_>, key: u64, value: u64, flags: u64) -> ElemAttr {
    ElemAttr { map_fd: map.as_raw_fd().cast_unsigned(), padding: 0, key, value, flags }
}

/// Name of an interface of this network namespace.
pub(crate) fn interface_name(ifindex: u32) -> Option<String> {
    let mut name = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the IF_NAMESIZE bytes that if_indextoname(3) may write.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr().cast()) };
    if found.is_null() {
        return None;
    }
    CStr::from_bytes_until_nul(&name).ok().map(|name| name.to_string_lossy().into_owned())
}
