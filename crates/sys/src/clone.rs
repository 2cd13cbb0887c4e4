//! New processes by clone3(2) (Linux 5.3).

use crate::error::{CallExt, Error, Result};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Namespaces that a new process gets of its own (`CLONE_NEW*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CloneFlags(u64);

#[allow(clippy::cast_sign_loss)] // The constants are non-negative bit masks.
impl CloneFlags {
    /// A PID namespace.
    pub const NEWPID: Self = Self(libc::CLONE_NEWPID as u64);
    /// A mount namespace.
    pub const NEWNS: Self = Self(libc::CLONE_NEWNS as u64);
    /// A cgroup namespace.
    pub const NEWCGROUP: Self = Self(libc::CLONE_NEWCGROUP as u64);
    /// A user namespace.
    pub const NEWUSER: Self = Self(libc::CLONE_NEWUSER as u64);
    /// A network namespace.
    pub const NEWNET: Self = Self(libc::CLONE_NEWNET as u64);
    /// An IPC namespace.
    pub const NEWIPC: Self = Self(libc::CLONE_NEWIPC as u64);
    /// A UTS namespace.
    pub const NEWUTS: Self = Self(libc::CLONE_NEWUTS as u64);

    /// None.
    pub const fn empty() -> Self {
        Self(0)
    }

    /// These and others.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// Whether every namespace of `other` is among these.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for CloneFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// How to make a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clone3<'a> {
    /// Its own namespaces.
    pub flags: CloneFlags,
    /// The cgroup v2 directory to be born in (`CLONE_INTO_CGROUP`, Linux 5.7).
    pub into_cgroup: Option<BorrowedFd<'a>>,
    /// Makes it a sibling instead of a child (`CLONE_PARENT`).
    pub sibling: bool,
}

/// A new process.
#[derive(Debug)]
pub struct Child {
    /// Its ID in the caller's PID namespace.
    pub pid: i32,
    /// A descriptor of it (pidfd_open(2)); close-on-exec.
    pub pidfd: OwnedFd,
}

/// Runs `f` in a new process, which exits with its value.
///
/// The caller must be single-threaded: another thread's locks would be held for ever in the child. That is checked.
///
/// # Errors
/// `EBUSY` in a process with more than one thread, else what clone3(2) says.
pub fn clone3(args: &Clone3<'_>, f: impl FnOnce() -> i32) -> Result<Child> {
    if !crate::process::is_single_threaded() {
        return Err(Error::new("clone3 of a process with threads", Errno::BUSY));
    }
    let mut pidfd: i32 = -1;
    // SAFETY: clone_args is plain integers, for which all zeroes is the documented default.
    let mut raw: libc::clone_args = unsafe { std::mem::zeroed() };
    raw.flags = args.flags.0 | flag(libc::CLONE_PIDFD);
    raw.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    raw.exit_signal = flag(libc::SIGCHLD);
    if let Some(fd) = args.into_cgroup {
        raw.flags |= CLONE_INTO_CGROUP;
        raw.cgroup = u64::from(fd.as_raw_fd().unsigned_abs());
    }
    if args.sibling {
        raw.flags |= flag(libc::CLONE_PARENT);
        raw.exit_signal = 0;
    }
    // SAFETY: `raw` lives over the call and `pidfd` is a valid place for the descriptor. Without CLONE_VM the child has
    // a copy of the memory, and since the process is single-threaded no lock (the allocator's, for one) is held by a
    // thread that the child lacks: any safe code is sound in it, as after fork(2) of such a process.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut raw), size_of::<libc::clone_args>())
    };
    if pid == 0 {
        run_child(f);
    }
    if pid < 0 {
        return Err(std::io::Error::last_os_error())
            .call(|| format!("clone3(flags={:#x}, cgroup={:?})", raw.flags, args.into_cgroup));
    }
    // SAFETY: the kernel has stored a new descriptor, which nobody else owns, since CLONE_PIDFD was given.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid: i32::try_from(pid).unwrap_or(i32::MAX), pidfd })
}

/// As [`clone3`], in a child without the caller's descriptors from 3 up, but for those in `keep`.
///
/// A child that waits before it runs its program would otherwise hold pipes and sockets of others open. `f` uses none
/// but what `keep` names: to it the rest are closed numbers.
pub fn clone3_keeping(args: &Clone3<'_>, keep: &[BorrowedFd<'_>], f: impl FnOnce() -> i32) -> Result<Child> {
    let mut numbers: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    numbers.sort_unstable();
    clone3(args, || {
        let mut from = 3;
        let gaps = numbers.iter().copied().chain(std::iter::once(u32::MAX));
        for end in gaps {
            // SAFETY: the owners of what is closed are in the parent's frames, which this copy of them never returns to
            // nor unwinds (run_child), and `f` uses what it keeps only, as its caller promises.
            if end > from && unsafe { libc::syscall(libc::SYS_close_range, from, end - 1, 0) } < 0 {
                return 1;
            }
            from = from.max(end.saturating_add(1));
        }
        f()
    })
}

/// As [`clone3`], for a process that never runs another program: after `enter`, every descriptor is closed, the
/// standard streams included, and `then` decides the exit code. It does not run if `enter` gives `false`.
pub fn clone3_bare(args: &Clone3<'_>, enter: impl FnOnce() -> bool, then: fn() -> i32) -> Result<Child> {
    clone3(args, || {
        if !enter() {
            return 1;
        }
        // SAFETY: what owned descriptors is out of reach: `enter` is consumed, `then` is a plain function that captures
        // nothing, and the frames of the parent's copy are never returned to nor unwound (run_child).
        let closed = unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
        if closed < 0 { 1 } else { then() }
    })
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn flag(bits: i32) -> u64 {
    u64::from(bits.unsigned_abs())
}

/// Never returns into the caller's frames: those belong to the parent, whose destructors must run once only.
fn run_child(f: impl FnOnce() -> i32) -> ! {
    let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(125);
    // SAFETY: _exit(2) ends this process without running exit handlers, which are the parent's.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_refused() {
        // The test harness runs tests in threads.
        let error = clone3(&Clone3::default(), || 0).unwrap_err();
        assert_eq!(error.errno, Errno::BUSY);
    }
}
