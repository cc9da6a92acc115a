//! tcx links, pinned so that they outlive the process and are replaced in place by the next one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};

use crate::{AttachedLink, Error, Hook, Result, sys};

/// Folder of the links below the pin directory.
pub(super) const LINKS: &str = "links";

pub(super) fn with_program<R>(ebpf: &mut Ebpf, hook: Hook, f: impl FnOnce(&mut SchedClassifier) -> R) -> Result<R> {
    let doing = || format!("looking for program {hook} in the object");
    let program = ebpf.program_mut(hook.program()).ok_or_else(|| Error::kernel(doing(), "it is not there"))?;
    let program: &mut SchedClassifier = program.try_into().map_err(|e: ProgramError| Error::kernel(doing(), e))?;
    Ok(f(program))
}

/// The kernel reserves dots in names of pins.
fn pin_path(dir: &Path, ifindex: u32, hook: Hook) -> PathBuf {
    dir.join(LINKS).join(format!("{ifindex}-{hook}"))
}

fn parse_pin(name: &str) -> Option<(u32, Hook)> {
    let (ifindex, program) = name.split_once('-')?;
    let hook = Hook::ALL.into_iter().find(|hook| hook.program() == program)?;
    Some((ifindex.parse().ok()?, hook))
}

/// Makes the interface run our program: replaces what an earlier process left there, or attaches anew.
pub(super) fn attach(ebpf: &mut Ebpf, dir: &Path, ifindex: u32, hook: Hook) -> Result<()> {
    let path = pin_path(dir, ifindex, hook);
    let doing = |interface: &str| format!("attaching {hook} to interface {interface} ({ifindex})");
    let Some(interface) = sys::interface_name(ifindex) else {
        return Err(Error::NoInterface { doing: "attaching programs", ifindex });
    };
    match sys::tcx_link(&path) {
        Ok(Some(link)) if link.ifindex == ifindex => return replace(ebpf, &path, hook, link.program_id),
        // The interface of that link is gone, and its number was given to another.
        Ok(_) => unpin(&path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(Error::Pin { doing: "opening link", path, source }),
    }
    with_program(ebpf, hook, |program| {
        let side = match hook {
            Hook::FromPod | Hook::FromNet | Hook::FromWg => TcAttachType::Ingress,
            Hook::ToPod | Hook::ToNet => TcAttachType::Egress,
        };
        // First: a program of another owner that passes a packet on must not pass it by us.
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options(&interface, side, order)?;
        let link: FdLink = program.take_link(id)?.try_into().map_err(link_error)?;
        link.pin(&path).map(drop).map_err(|e| ProgramError::IOError(io::Error::other(e)))
    })?
    .map_err(|e| Error::kernel(doing(&interface), e))
}

/// Swaps the program below a pinned link. The kernel exchanges one pointer: every packet meets the old program or the
/// new one.
fn replace(ebpf: &mut Ebpf, path: &Path, hook: Hook, running: u32) -> Result<()> {
    with_program(ebpf, hook, |program| {
        if program.info()?.id() == running {
            return Ok(());
        }
        let pinned = PinnedLink::from_pin(path).map_err(link_error)?;
        let link = SchedClassifierLink::try_from(FdLink::from(pinned)).map_err(link_error)?;
        let id = program.attach_to_link(link)?;
        // Our descriptor is not needed: the pin keeps the link.
        program.take_link(id).map(drop)
    })?
    .map_err(|e| Error::kernel(format!("replacing the program of link {}", path.display()), e))
}

fn link_error(error: LinkError) -> ProgramError {
    ProgramError::IOError(io::Error::other(error))
}

/// Swaps the programs of all links that an earlier process left, and removes links of vanished interfaces.
pub(super) fn adopt(ebpf: &mut Ebpf, dir: &Path) -> Result<(usize, usize)> {
    let gone = detach(dir, |link| link.interface.is_none())?;
    let links = list(dir)?;
    for link in &links {
        replace(ebpf, &pin_path(dir, link.ifindex, link.hook), link.hook, link.program_id)?;
    }
    Ok((links.len(), gone.len()))
}

pub(super) fn list(dir: &Path) -> Result<Vec<AttachedLink>> {
    let links = dir.join(LINKS);
    let failed = |path: PathBuf| |source| Error::Pin { doing: "listing links in", path, source };
    let mut found = Vec::new();
    for entry in fs::read_dir(&links).map_err(failed(links.clone()))? {
        let path = entry.map_err(failed(links.clone()))?.path();
        let Some((ifindex, hook)) = path.file_name().and_then(|n| n.to_str()).and_then(parse_pin) else {
            tracing::warn!(path = %path.display(), "leaving a pin alone that is not ours");
            continue;
        };
        let link = match sys::tcx_link(&path) {
            Ok(link) => link,
            // Unpinned by another thread meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(Error::Pin { doing: "opening link", path, source }),
        };
        let alive = link.is_some_and(|link| link.ifindex == ifindex);
        let interface = if alive { sys::interface_name(ifindex) } else { None };
        found.push(AttachedLink { ifindex, interface, hook, program_id: link.map_or(0, |l| l.program_id) });
    }
    found.sort_unstable();
    Ok(found)
}

/// Unpins the links that `which` chooses; with the pin the link goes, and with the link the program.
pub(super) fn detach(dir: &Path, which: impl Fn(&AttachedLink) -> bool) -> Result<Vec<AttachedLink>> {
    let gone: Vec<AttachedLink> = list(dir)?.into_iter().filter(which).collect();
    for link in &gone {
        unpin(&pin_path(dir, link.ifindex, link.hook))?;
    }
    Ok(gone)
}

fn unpin(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Pin { doing: "removing link", path: path.into(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_are_read_back() {
        for hook in Hook::ALL {
            let path = pin_path(Path::new("/x"), 17, hook);
            assert_eq!(parse_pin(path.file_name().unwrap().to_str().unwrap()), Some((17, hook)));
        }
        for odd in ["17", "x-from_pod", "17-other", "17-from_pod-old", ""] {
            assert_eq!(parse_pin(odd), None, "{odd}");
        }
    }
}
