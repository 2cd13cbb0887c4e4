//! Namespaces, and the bind mounts that keep them without a process (namespaces(7)).

use crate::error::{CallExt, Error, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NsKind {
    /// Network.
    Net,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host and domain name.
    Uts,
    /// Process IDs.
    Pid,
    /// Mounts.
    Mount,
    /// The view of cgroups.
    Cgroup,
    /// Users and capabilities.
    User,
}

impl NsKind {
    /// The file's name in /proc/PID/ns.
    pub fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Pid => "pid",
            Self::Mount => "mnt",
            Self::Cgroup => "cgroup",
            Self::User => "user",
        }
    }

    fn link_type(self) -> LinkNameSpaceType {
        match self {
            Self::Net => LinkNameSpaceType::Network,
            Self::Ipc => LinkNameSpaceType::InterProcessCommunication,
            Self::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
            Self::Pid => LinkNameSpaceType::ProcessID,
            Self::Mount => LinkNameSpaceType::Mount,
            Self::Cgroup => LinkNameSpaceType::ControlGroup,
            Self::User => LinkNameSpaceType::User,
        }
    }

    fn unshare_flag(self) -> UnshareFlags {
        match self {
            Self::Net => UnshareFlags::NEWNET,
            Self::Ipc => UnshareFlags::NEWIPC,
            Self::Uts => UnshareFlags::NEWUTS,
            Self::Pid => UnshareFlags::NEWPID,
            Self::Mount => UnshareFlags::NEWNS,
            Self::Cgroup => UnshareFlags::NEWCGROUP,
            Self::User => UnshareFlags::NEWUSER,
        }
    }
}

/// Opens a namespace by a path: a pin, or a file of /proc/PID/ns.
pub fn open(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).call(|| format!("open({path:?})"))
}

/// Opens a namespace of the calling thread.
pub fn open_self(kind: NsKind) -> Result<OwnedFd> {
    open(Path::new(&format!("/proc/thread-self/ns/{}", kind.name())))
}

/// Opens a namespace of a process.
///
/// The ID may have gone to another process: callers hold a pidfd and check afterwards that it has not ended.
pub fn open_of(pid: i32, kind: NsKind) -> Result<OwnedFd> {
    open(Path::new(&format!("/proc/{pid}/ns/{}", kind.name())))
}

/// Moves the calling thread into a namespace; for a PID namespace, its children (setns(2)).
pub fn setns(fd: impl AsFd, kind: NsKind) -> Result<()> {
    rustix::thread::move_into_link_name_space(fd.as_fd(), Some(kind.link_type()))
        .call(|| format!("setns({})", kind.name()))
}

/// Gives the calling thread namespaces of its own.
///
/// # Errors
/// `EINVAL` for [`NsKind::Mount`] and [`NsKind::User`] in a process with threads, which share those (unshare(2)).
pub fn unshare(kinds: &[NsKind]) -> Result<()> {
    let flags = kinds.iter().fold(UnshareFlags::empty(), |flags, kind| flags | kind.unshare_flag());
    let call = || format!("unshare({kinds:?})");
    if flags.intersects(UnshareFlags::NEWNS | UnshareFlags::NEWUSER) && !crate::process::is_single_threaded()
    {
        return Err(Error::new(call(), Errno::INVAL));
    }
    // SAFETY: none of these flags unshares what threads of one process must share (CLONE_FILES, CLONE_VM): file
    // descriptors stay valid everywhere. CLONE_NEWNS implies CLONE_FS, which only matters with threads: excluded.
    unsafe { rustix::thread::unshare_unsafe(flags) }.call(call)
}

/// The user namespace that owns another namespace (ioctl_ns(2), `NS_GET_USERNS`).
pub fn owner(fd: impl AsFd) -> Result<OwnedFd> {
    use std::os::fd::{AsRawFd, FromRawFd};
    /// `_IO(0xb7, 1)`
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    // SAFETY: the request takes no argument and gives a new descriptor or -1.
    let owner = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), NS_GET_USERNS) };
    if owner < 0 {
        return Err(std::io::Error::last_os_error()).call(|| "ioctl(NS_GET_USERNS)".into());
    }
    // SAFETY: the kernel has just made this descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(owner) })
}

/// Whether this process' root directory is another than its mount namespace's: it is in a chroot. Who enters the namespace
/// by setns(2) would stand in the real one.
///
/// # Errors
/// Without `CAP_SYS_ADMIN` and `CAP_SYS_CHROOT`, or without /proc.
pub fn in_chroot() -> Result<bool> {
    let look = || {
        let own = open_self(NsKind::Mount)?;
        let before = root_directory()?;
        // SAFETY: unshares the root and the working directory of this one thread, which ends here; nothing else of the process
        // depends on them, and no descriptor is touched.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.call(|| "unshare(CLONE_FS)".into())?;
        setns(own, NsKind::Mount)?;
        Ok(root_directory()? != before)
    };
    std::thread::scope(|scope| scope.spawn(look).join())
        .unwrap_or_else(|_| Err(Error::new("a thread that looks at the root", Errno::IO)))
}

/// What tells the calling thread's root directory from another one.
fn root_directory() -> Result<(u64, u64, u32, u32)> {
    use rustix::fs::{AtFlags, StatxFlags};
    let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
    let root = rustix::fs::statx(CWD, "/", AtFlags::empty(), wanted).call(|| "statx(/)".into())?;
    Ok((root.stx_mnt_id, root.stx_ino, root.stx_dev_major, root.stx_dev_minor))
}

/// Keeps a namespace of the calling thread by a bind mount at `path`, whose directory must exist.
pub fn pin(kind: NsKind, path: &Path) -> Result<()> {
    pin_from(&format!("/proc/thread-self/ns/{}", kind.name()), path)
}

/// Keeps the namespace that a file of /proc stands for.
pub(crate) fn pin_from(source: &str, path: &Path) -> Result<()> {
    let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o444))
        .call(|| format!("open({path:?}, O_CREAT)"))?;
    drop(file);
    let pinned =
        rustix::mount::mount_bind(source, path).call(|| format!("mount({source:?}, {path:?}, MS_BIND)"));
    if pinned.is_err() {
        let _ = std::fs::remove_file(path);
    }
    pinned
}

/// Whether a namespace is pinned here. Between the two steps of [`unpin`] there is a file, and no namespace in it.
pub fn is_pinned(path: &Path) -> bool {
    /// Of namespaces' own file system (linux/magic.h).
    const NSFS_MAGIC: u64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(NSFS_MAGIC))
}

/// Lets a pinned namespace go; a pin that is not there is success.
pub fn unpin(path: &Path) -> Result<()> {
    match crate::mount::unmount(path) {
        // EINVAL: a plain file, left by a failed pin or by an earlier boot.
        Err(e) if !matches!(e.errno, Errno::NOENT | Errno::INVAL) => return Err(e),
        _ => {}
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).call(|| format!("unlink({path:?})")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_namespace_outlives_its_thread() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("net");
        let at = path.clone();
        let inode = std::thread::spawn(move || {
            unshare(&[NsKind::Net, NsKind::Uts]).unwrap();
            pin(NsKind::Net, &at).unwrap();
            rustix::fs::fstat(open_self(NsKind::Net).unwrap()).unwrap().st_ino
        })
        .join()
        .unwrap();
        assert_eq!(rustix::fs::fstat(open(&path).unwrap()).unwrap().st_ino, inode);
        assert_ne!(rustix::fs::fstat(open_self(NsKind::Net).unwrap()).unwrap().st_ino, inode);
        assert!(is_pinned(&path));
        unpin(&path).unwrap();
        unpin(&path).unwrap();
        assert!(!path.exists() && !is_pinned(&path));
        std::fs::write(&path, "").unwrap();
        assert!(!is_pinned(&path));
    }

    #[test]
    fn mounts_are_not_unshared_under_other_threads() {
        assert_eq!(unshare(&[NsKind::Mount]).unwrap_err().errno, Errno::INVAL);
    }
}
