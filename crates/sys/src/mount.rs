//! The new mount API (Linux 5.2; mount_setattr 5.12), and overlayfs on top of it.
//!
//! A mount made here is detached: a descriptor that nobody else sees until [`attach`] puts it somewhere, and that is
//! gone when it is closed.

mod overlay;

pub use overlay::Overlay;

use crate::error::{CallExt, Error, Result};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// A file system being configured (fsopen(2)).
#[derive(Debug)]
pub struct FsContext {
    fd: OwnedFd,
    fstype: String,
}

impl FsContext {
    /// Begins a new instance of a file system.
    pub fn new(fstype: &str) -> Result<Self> {
        let fd = rustix::mount::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)
            .call(|| format!("fsopen({fstype:?})"))?;
        let context = Self { fd, fstype: fstype.to_owned() };
        // What df(1) and /proc/mounts show first, as mount(8) does for a file system without a device.
        context.set_string("source", fstype)?;
        Ok(context)
    }

    /// Sets a parameter with a value.
    pub fn set_string(&self, key: &str, value: impl rustix::path::Arg + std::fmt::Debug) -> Result<()> {
        let shown = format!("{value:?}");
        rustix::mount::fsconfig_set_string(self.fd.as_fd(), key, value)
            .call(|| format!("fsconfig({}, SET_STRING, {key:?}, {shown})", self.fstype))
            .map_err(|e| self.explain(e))
    }

    /// Sets a parameter without a value.
    pub fn set_flag(&self, key: &str) -> Result<()> {
        rustix::mount::fsconfig_set_flag(self.fd.as_fd(), key)
            .call(|| format!("fsconfig({}, SET_FLAG, {key:?})", self.fstype))
            .map_err(|e| self.explain(e))
    }

    /// Gives all that it will show an SELinux label, whatever its files say (mount(8), `context=`).
    pub fn set_label(&self, label: Option<&str>) -> Result<()> {
        label.map_or(Ok(()), |label| self.set_string("context", label))
    }

    /// Makes the instance and a detached mount of it.
    pub fn mount(self, attrs: Attrs) -> Result<OwnedFd> {
        rustix::mount::fsconfig_create(self.fd.as_fd())
            .call(|| format!("fsconfig({}, CMD_CREATE)", self.fstype))
            .map_err(|e| self.explain(e))?;
        rustix::mount::fsmount(self.fd.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attrs.flags())
            .call(|| format!("fsmount({})", self.fstype))
    }

    /// Adds what the file system itself says of the failure (fsopen(2), "message retrieval").
    fn explain(&self, error: Error) -> Error {
        let mut text = [0; 512];
        match rustix::io::read(&self.fd, &mut text) {
            Ok(n) if n > 2 => {
                let said = String::from_utf8_lossy(&text[2..n]);
                Error::new(format!("{} [{}]", error.call, said.trim()), error.errno)
            }
            _ => error,
        }
    }
}

/// Mount attributes (`MOUNT_ATTR_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attrs {
    /// Read-only.
    pub readonly: bool,
    /// No set-user-ID programs and file capabilities.
    pub nosuid: bool,
    /// No devices.
    pub nodev: bool,
    /// No programs.
    pub noexec: bool,
    /// Access times always.
    pub strictatime: bool,
}

impl Attrs {
    /// nosuid, nodev, noexec.
    pub const INERT: Self =
        Self { readonly: false, nosuid: true, nodev: true, noexec: true, strictatime: false };

    fn flags(self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::empty();
        flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.readonly);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.nosuid);
        flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.nodev);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.noexec);
        flags.set(MountAttrFlags::MOUNT_ATTR_STRICTATIME, self.strictatime);
        flags
    }
}

/// A detached copy of the mount at a path, with the mounts below it if asked (open_tree(2)).
pub fn clone_tree(
    dir: impl AsFd,
    path: impl rustix::path::Arg + std::fmt::Debug,
    recursive: bool,
) -> Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    let shown = format!("{path:?}");
    rustix::mount::open_tree(dir, path, flags)
        .call(|| format!("open_tree({shown}, CLONE, recursive={recursive})"))
}

/// Attaches a detached mount onto what the descriptor `target` (`O_PATH` will do) refers to.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", target, c"", flags).call(|| "move_mount".into())
}

/// Mount propagation (mount_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// No events either way.
    Private,
    /// Events from the peer group only.
    Slave,
    /// Events both ways.
    Shared,
}

/// Changes the attributes of a mount, and of those below it if asked (mount_setattr(2)).
///
/// Only attributes that are set are changed, so nothing that was restricted is loosened.
pub fn set_attrs(
    mount: impl AsFd,
    attrs: Attrs,
    propagation: Option<Propagation>,
    recursive: bool,
) -> Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    let raw = MountAttr {
        set: u64::from(attrs.flags().bits()),
        // Access-time settings are one field, which must be cleared to be set.
        clear: if attrs.strictatime { MOUNT_ATTR_ATIME } else { 0 },
        propagation: match propagation {
            None => 0,
            Some(Propagation::Private) => MountPropagationFlags::PRIVATE.bits().into(),
            Some(Propagation::Slave) => MountPropagationFlags::DOWNSTREAM.bits().into(),
            Some(Propagation::Shared) => MountPropagationFlags::SHARED.bits().into(),
        },
        userns: 0,
    };
    setattr(mount, flags, &raw)
        .call(|| format!("mount_setattr({attrs:?}, {propagation:?}, recursive={recursive})"))
}

/// Shows the IDs of a mount's files as the map of a user namespace says (`MOUNT_ATTR_IDMAP`, Linux 5.12): what is in the
/// namespace's map on disk is what that is outside. The mount must be detached and not yet mapped. With `recursive` the same
/// holds for all mounts below it; if one of them cannot be mapped, none is.
///
/// # Errors
/// `EINVAL` if its file system cannot do that (mount_setattr(2) lists those that can), `EPERM` if it is mapped already.
pub fn idmap(mount: impl AsFd, userns: impl AsFd, recursive: bool) -> Result<()> {
    let userns = u64::from(userns.as_fd().as_raw_fd().unsigned_abs());
    let raw = MountAttr { set: MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, userns };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    setattr(mount, flags, &raw).call(|| format!("mount_setattr(MOUNT_ATTR_IDMAP, recursive={recursive})"))
}

fn setattr(mount: impl AsFd, flags: i32, raw: &MountAttr) -> std::io::Result<()> {
    // SAFETY: `raw` has the layout of struct mount_attr's first version, whose size is passed with it, and lives over
    // the call; the path is an empty C string.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(raw),
            size_of::<MountAttr>(),
        )
    };
    if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

const MOUNT_ATTR_ATIME: u64 = 0x70;
const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Makes the mount at `path` and all below it private, slave or shared (mount(2), `MS_REC`).
pub fn set_propagation(path: &Path, propagation: Propagation) -> Result<()> {
    let flags = match propagation {
        Propagation::Private => MountPropagationFlags::PRIVATE,
        Propagation::Slave => MountPropagationFlags::DOWNSTREAM,
        Propagation::Shared => MountPropagationFlags::SHARED,
    };
    rustix::mount::mount_change(path, flags | MountPropagationFlags::REC)
        .call(|| format!("mount({path:?}, MS_REC|{propagation:?})"))
}

/// Detaches what is mounted at a path; it goes once nothing uses it (`MNT_DETACH`).
pub fn unmount(path: impl rustix::path::Arg + std::fmt::Debug) -> Result<()> {
    let shown = format!("{path:?}");
    rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        .call(|| format!("umount2({shown}, MNT_DETACH)"))
}

/// Makes a mount the root of this mount namespace and lets the old one go.
///
/// `pivot_root(".", ".")` puts the old root below the new one, from where it is detached (pivot_root(2), Notes).
pub fn pivot_root(new_root: impl AsFd) -> Result<()> {
    let old = rustix::fs::open(
        "/",
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .call(|| "open(\"/\", O_PATH)".into())?;
    rustix::process::fchdir(new_root).call(|| "fchdir(new root)".into())?;
    rustix::process::pivot_root(".", ".").call(|| "pivot_root(\".\", \".\")".into())?;
    rustix::process::fchdir(&old).call(|| "fchdir(old root)".into())?;
    // Nothing that is unmounted here may propagate to the host.
    rustix::mount::mount_change(".", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .call(|| "mount(old root, MS_REC|MS_SLAVE)".into())?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).call(|| "umount2(old root, MNT_DETACH)".into())?;
    rustix::process::chdir("/").call(|| "chdir(\"/\")".into())
}

/// Binds a file or directory onto another path of this mount namespace.
pub fn bind(source: impl AsFd, target: &Path) -> Result<()> {
    let tree = clone_tree(source, c"", false)?;
    rustix::mount::move_mount(&tree, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .call(|| format!("move_mount({target:?})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Root;

    fn root() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("skipped: needs root");
        }
        root
    }

    fn stack(dir: &Path, layers: usize) -> Vec<std::path::PathBuf> {
        (0..layers)
            .map(|n| {
                let layer = dir.join(format!("l{n}"));
                std::fs::create_dir(&layer).unwrap();
                std::fs::write(layer.join(format!("f{n}")), format!("{n}")).unwrap();
                std::fs::write(layer.join("same"), format!("{n}")).unwrap();
                layer
            })
            .collect()
    }

    #[test]
    fn a_detached_overlay_shows_its_topmost_layer_and_copies_up() {
        if !root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let lowers = stack(dir.path(), 200);
        let (upper, work) = (dir.path().join("upper"), dir.path().join("work"));
        std::fs::create_dir(&upper).unwrap();
        std::fs::create_dir(&work).unwrap();
        for volatile in [false, true] {
            let overlay = Overlay { lowers: &lowers, upper: Some((&upper, &work)), volatile, label: None };
            let merged = Root::from_fd(overlay.mount(Attrs::default()).unwrap());
            assert_eq!(merged.read_to_string("same", 10).unwrap(), if volatile { "new" } else { "0" });
            assert_eq!(merged.read_to_string("f199", 10).unwrap(), "199");
            let file = merged.create_file("same", 0o644).unwrap();
            rustix::io::write(&file, b"new").unwrap();
        }
        assert_eq!(std::fs::read_to_string(upper.join("same")).unwrap(), "new");
        assert_eq!(std::fs::read_to_string(lowers[0].join("same")).unwrap(), "0");
    }

    #[test]
    fn the_old_option_string_takes_odd_names() {
        if !root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a:b");
        std::fs::create_dir(&odd).unwrap();
        std::fs::write(odd.join("f"), "odd").unwrap();
        let lowers = [odd, stack(dir.path(), 1).remove(0)];
        let overlay = Overlay { lowers: &lowers, upper: None, volatile: false, label: None };
        let fs = FsContext::new("overlay").unwrap();
        let held = overlay.set_lowerdir(&fs).unwrap();
        let merged = Root::from_fd(fs.mount(Attrs::default()).unwrap());
        assert_eq!((merged.read_to_string("f", 10).unwrap().as_str(), held.len()), ("odd", 0));
        // Together they are longer than a string may be.
        let long = dir.path().join("long".repeat(20));
        std::fs::create_dir(&long).unwrap();
        let lowers = stack(&long, 10);
        let overlay = Overlay { lowers: &lowers, upper: None, volatile: false, label: None };
        let fs = FsContext::new("overlay").unwrap();
        let held = overlay.set_lowerdir(&fs).unwrap();
        let merged = Root::from_fd(fs.mount(Attrs::default()).unwrap());
        assert_eq!(held.len(), 10);
        let read = |name: &str| merged.read_to_string(name, 10).unwrap();
        assert_eq!((read("same").as_str(), read("f9").as_str()), ("0", "9"));
        let many = vec![lowers[0].clone(); 30];
        let overlay = Overlay { lowers: &many, upper: None, volatile: false, label: None };
        let error = overlay.set_lowerdir(&FsContext::new("overlay").unwrap()).unwrap_err();
        assert!(error.to_string().contains("lowerdir\") of 30 layers"), "{error}");
    }

    #[test]
    fn a_failed_mount_says_what_the_file_system_said() {
        if !root() {
            return;
        }
        let fs = FsContext::new("overlay").unwrap();
        let error = fs.set_string("no_such_option", "1").unwrap_err();
        assert!(error.to_string().contains("no_such_option"), "{error}");
    }
}
