//! /dev: nodes, links, and the console.

use crate::{Step, failure};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;
use strata_sys::CallExt;
use strata_sys::mount;
use strata_sys::path::Root;
use strata_sys::tty::{self, Pty};
use strata_wire::message::{Failure, FailureKind};
use strata_wire::plan::Device;

/// Links that programs expect (runtime-spec, "Default Devices", "/dev symlinks").
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

/// Makes device nodes and the usual links. `nodes` are the devices where they are mounts of nodes made elsewhere.
pub(crate) fn make_all(root: &Root, devices: &[Device], nodes: Option<&[OwnedFd]>) -> Result<(), Failure> {
    for (n, device) in devices.iter().enumerate() {
        match nodes.and_then(|nodes| nodes.get(n)) {
            Some(node) => mount_node(root, device, node)?,
            None => make(root, device)?,
        }
    }
    let Ok(dev) = root.resolve("dev", OFlags::PATH | OFlags::DIRECTORY) else { return Ok(()) };
    for (name, to) in LINKS {
        match rustix::fs::symlinkat(to, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e).call(|| format!("symlinkat({name:?})")).step(|| "link in /dev".into()),
        }
    }
    Ok(())
}

/// The type of a device's node.
pub(crate) fn kind(device: &Device) -> Result<FileType, Failure> {
    match device.kind {
        'c' | 'u' => Ok(FileType::CharacterDevice),
        'b' => Ok(FileType::BlockDevice),
        'p' => Ok(FileType::Fifo),
        other => {
            let step = format!("make the device {}", device.path);
            Err(failure(FailureKind::Invalid, step, format!("{other:?} is no kind of device")))
        }
    }
}

fn mount_node(root: &Root, device: &Device, node: &OwnedFd) -> Result<(), Failure> {
    let step = || format!("mount the device {}", device.path);
    let at = match root.resolve(&device.path, OFlags::PATH | OFlags::NOFOLLOW) {
        Err(e) if e.errno == Errno::NOENT => {
            drop(root.create_file_all(&device.path, 0o600, 0o755).step(step)?);
            root.resolve(&device.path, OFlags::PATH | OFlags::NOFOLLOW)
        }
        other => other,
    };
    mount::attach(node, at.step(step)?).step(step)
}

fn make(root: &Root, device: &Device) -> Result<(), Failure> {
    let step = || format!("make the device {}", device.path);
    let kind = kind(device)?;
    let path = Path::new(&device.path);
    if let Some(parent) = path.parent() {
        root.mkdir_all(parent, 0o755).step(step)?;
    }
    let (dir, name) = root.parent(path).step(step)?;
    let number = rustix::fs::makedev(device.major, device.minor);
    match rustix::fs::mknodat(&dir, name, kind, Mode::from_raw_mode(device.mode & 0o7777), number) {
        // An image may bring its own; what it is decides the devices cgroup.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e).call(|| format!("mknodat({name:?})")).step(step),
    }
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    rustix::fs::chownat(&dir, name, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .call(|| format!("fchownat({name:?})"))
        .step(step)
}

/// Opens a terminal of the container's own devpts and makes it /dev/console.
pub(crate) fn console(root: &Root, size: Option<(u16, u16)>) -> Result<Pty, Failure> {
    let step = || "make the container's terminal".to_owned();
    let pty = tty::open(root).step(step)?;
    if let Some((rows, cols)) = size {
        tty::set_size(&pty.master, rows, cols).step(step)?;
    }
    let tree = mount::clone_tree(&pty.slave, c"", false).step(step)?;
    drop(root.create_file("dev/console", 0o600).step(step)?);
    let target = root.resolve("dev/console", OFlags::PATH).step(step)?;
    mount::attach(&tree, &target).step(step)?;
    Ok(pty)
}
