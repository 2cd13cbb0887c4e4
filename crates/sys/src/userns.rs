//! User namespaces (user_namespaces(7)): made and held by a process that does nothing else.
//!
//! A process with threads cannot enter a new one itself (unshare(2), setns(2)), and whoever makes it from inside would have no
//! rights outside to map more than its own ID. So a child is born in it and stays until the namespace is pinned or open; its
//! maps are written from outside.

use crate::clone::CloneFlags;
use crate::error::{CallExt, Result};
use crate::idle::CLONE_CLEAR_SIGHAND;
use crate::ns::{self, NsKind};
use std::fmt::Write as _;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;

/// A range of IDs: `length` of them, from `inside` in the namespace and from `outside` in its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first one in the namespace.
    pub inside: u32,
    /// What that one is in the parent namespace.
    pub outside: u32,
    /// How many.
    pub length: u32,
}

/// A process that keeps namespaces while it lives; it goes with this value.
#[derive(Debug)]
pub struct Holder {
    pid: i32,
    pidfd: OwnedFd,
}

/// Makes a user namespace with these maps, and other new namespaces that it owns.
///
/// # Errors
/// `ENOSPC` where `/proc/sys/user/max_*_namespaces` allow no more, `EINVAL` for ranges that overlap or end beyond the last ID.
pub fn hold(uids: &[Range], gids: &[Range], others: CloneFlags) -> Result<Holder> {
    let holder = Holder::spawn(others)?;
    holder.write_map("uid_map", uids)?;
    holder.write_map("gid_map", gids)?;
    Ok(holder)
}

impl Holder {
    fn spawn(others: CloneFlags) -> Result<Self> {
        let parent = rustix::process::getpid().as_raw_nonzero().get();
        let mut pidfd: i32 = -1;
        // SAFETY: clone_args is plain integers, for which all zeroes is the documented default.
        let mut raw: libc::clone_args = unsafe { std::mem::zeroed() };
        raw.flags = (CloneFlags::NEWUSER | others).bits() | CLONE_CLEAR_SIGHAND;
        raw.flags |= u64::from(libc::CLONE_PIDFD.unsigned_abs());
        raw.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
        // No signal tells of its end, so that nobody else in this process reaps it: waiting for it takes __WALL.
        raw.exit_signal = 0;
        // SAFETY: `raw` lives over the call and `pidfd` is a valid place for the descriptor. The child has a copy of the memory in
        // which locks of other threads may be held: it makes bare system calls only (`wait_to_be_killed`) and never returns.
        let pid = unsafe {
            libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut raw), size_of::<libc::clone_args>())
        };
        if pid == 0 {
            wait_to_be_killed(parent);
        }
        if pid < 0 {
            return Err(std::io::Error::last_os_error())
                .call(|| format!("clone3(CLONE_NEWUSER, flags={:#x})", raw.flags));
        }
        // SAFETY: the kernel has stored a new descriptor, which nobody else owns, since CLONE_PIDFD was given.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Self { pid: i32::try_from(pid).unwrap_or(i32::MAX), pidfd })
    }

    fn write_map(&self, name: &str, ranges: &[Range]) -> Result<()> {
        let mut text = String::new();
        for r in ranges {
            let _ = writeln!(text, "{} {} {}", r.inside, r.outside, r.length);
        }
        // The whole map is one write(2), or the kernel refuses it.
        let path = format!("/proc/{}/{name}", self.pid);
        std::fs::write(&path, &text).call(|| format!("write({path:?}, {:?})", text.trim_end()))
    }

    /// Opens one of its namespaces.
    pub fn open(&self, kind: NsKind) -> Result<OwnedFd> {
        // It cannot have ended and given its ID away: it is reaped by this value alone.
        ns::open_of(self.pid, kind)
    }

    /// Keeps one of its namespaces by a bind mount at `path`, whose directory must exist.
    pub fn pin(&self, kind: NsKind, path: &Path) -> Result<()> {
        ns::pin_from(&format!("/proc/{}/ns/{}", self.pid, kind.name()), path)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        crate::idle::kill_and_reap(&self.pidfd);
    }
}

/// Never returns: it dies by a signal of its parent's, or with it.
fn wait_to_be_killed(parent: i32) -> ! {
    // SAFETY: system calls without pointers into memory that anybody changes. Nothing is allocated and no lock is taken: this
    // may run in the child of a process with threads.
    unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        // It may have died before that was said.
        if libc::syscall(libc::SYS_getppid) == libc::c_long::from(parent) {
            loop {
                libc::syscall(
                    libc::SYS_ppoll,
                    std::ptr::null_mut::<libc::pollfd>(),
                    0,
                    std::ptr::null::<libc::timespec>(),
                    std::ptr::null::<libc::sigset_t>(),
                    0,
                );
            }
        }
        libc::_exit(1)
    }
}

/// Moves the calling process into a user namespace and makes it root there, with every capability in it and none outside.
///
/// # Errors
/// `EINVAL` in a process with threads, or in one that is there already (setns(2)); if the namespace does not map root.
pub fn become_root_in(userns: &OwnedFd) -> Result<()> {
    ns::setns(userns, NsKind::User)?;
    // The ID that it has is nobody's there, and what it makes would belong to nobody.
    let (gid, uid) = (nix::unistd::Gid::from_raw(0), nix::unistd::Uid::from_raw(0));
    nix::unistd::setgroups(&[]).call(|| "setgroups([])".into())?;
    nix::unistd::setresgid(gid, gid, gid).call(|| "setresgid(0)".into())?;
    nix::unistd::setresuid(uid, uid, uid).call(|| "setresuid(0)".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    const MAP: Range = Range { inside: 0, outside: 100_000, length: 1000 };

    #[test]
    fn a_namespace_has_its_maps_and_owns_the_others() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let gids = [Range { outside: 200_000, ..MAP }];
        // The test's harness has threads: that must not matter.
        let holder = hold(&[MAP], &gids, CloneFlags::NEWNET).unwrap();
        let words = |name: &str| {
            let text = std::fs::read_to_string(format!("/proc/{}/{name}", holder.pid)).unwrap();
            text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(words("uid_map"), ["0", "100000", "1000"]);
        assert_eq!(words("gid_map"), ["0", "200000", "1000"]);
        let user = rustix::fs::fstat(holder.open(NsKind::User).unwrap()).unwrap().st_ino;
        let net = holder.open(NsKind::Net).unwrap();
        let owner = ns::owner(&net).unwrap();
        assert_eq!(rustix::fs::fstat(&owner).unwrap().st_ino, user);
        let pid = holder.pid;
        drop(holder);
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "it has been reaped");
        // Held by descriptors now.
        assert_eq!(rustix::fs::fstat(ns::owner(&net).unwrap()).unwrap().st_ino, user);
    }

    #[test]
    fn maps_that_overlap_are_refused_and_leave_no_process() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let error = hold(&[MAP, MAP], &[MAP], CloneFlags::empty()).unwrap_err();
        assert_eq!(error.errno, Errno::INVAL, "{error}");
    }
}
