//! The calling process: its children, attributes, descriptors, and execve(2).

use crate::error::{CallExt, Error, Result};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exited {
    /// It returned this code.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// Which.
        signal: i32,
        /// Whether a core was dumped.
        core: bool,
    },
}

impl Exited {
    /// The exit code as shells give it: 128 and the signal's number for a signal.
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal { signal, .. } => 128 + signal,
        }
    }

    fn from_status(status: &WaitIdStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (_, Some(signal)) => Self::Signal { signal, core: status.dumped() },
            (code, None) => Self::Code(code.unwrap_or(0)),
        }
    }
}

/// Reaps one child that has ended: `None` if none has, or there are none.
pub fn reap() -> Result<Option<(i32, Exited)>> {
    loop {
        // SAFETY: siginfo_t is plain data, for which zeroes are valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is a valid place for the answer.
        let done = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOHANG) };
        if done < 0 {
            match Errno::from_io_error(&std::io::Error::last_os_error()) {
                Some(Errno::CHILD) => return Ok(None),
                Some(Errno::INTR) => continue,
                other => {
                    return Err(Error::new("waitid(P_ALL, WEXITED|WNOHANG)", other.unwrap_or(Errno::IO)));
                }
            }
        }
        // SAFETY: waitid(2) fills these fields for a child; with WNOHANG and no ended child the ID stays zero.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        return Ok((pid != 0).then(|| {
            let exited = match info.si_code {
                libc::CLD_EXITED => Exited::Code(status),
                code => Exited::Signal { signal: status, core: code == libc::CLD_DUMPED },
            };
            (pid, exited)
        }));
    }
}

/// Waits for the child behind a descriptor.
pub fn wait(pidfd: BorrowedFd<'_>) -> Result<Exited> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Ok(Some(status)) => return Ok(Exited::from_status(&status)),
            Ok(None) | Err(Errno::INTR) => {}
            Err(e) => return Err(e).call(|| "waitid(P_PIDFD, WEXITED)".into()),
        }
    }
}

/// Opens a descriptor of a process (pidfd_open(2), Linux 5.3).
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    let call = || format!("pidfd_open({pid})");
    let id = Pid::from_raw(pid).ok_or(Errno::INVAL).call(call)?;
    rustix::process::pidfd_open(id, PidfdFlags::empty()).call(call)
}

/// Signals the process behind a descriptor: never another one that got its ID.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    // SAFETY: the descriptor is open over the call, no siginfo is passed, and the kernel checks the signal's number.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    cvt(done).call(|| format!("pidfd_send_signal({signal})"))
}

/// Signals a process by its ID.
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: kill(2) takes plain integers and touches no memory of ours.
    cvt(unsafe { libc::kill(pid, signal) }.into()).call(|| format!("kill({pid}, {signal})"))
}

/// Becomes the parent of orphaned descendants (PR_SET_CHILD_SUBREAPER).
pub fn set_child_subreaper() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .call(|| "prctl(PR_SET_CHILD_SUBREAPER, 1)".into())
}

/// Forbids other processes of the same user to trace this one or read its memory (PR_SET_DUMPABLE).
pub fn set_not_dumpable() -> Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .call(|| "prctl(PR_SET_DUMPABLE, 0)".into())
}

/// PR_SET_NO_NEW_PRIVS, for the calling thread.
pub fn set_no_new_privs() -> Result<()> {
    rustix::thread::set_no_new_privs(true).call(|| "prctl(PR_SET_NO_NEW_PRIVS, 1)".into())
}

/// Whether the process has exactly one thread.
pub fn is_single_threaded() -> bool {
    // The link count of /proc/self/task is two and one for each thread.
    rustix::fs::stat("/proc/self/task").is_ok_and(|s| s.st_nlink == 3)
}

/// Closes every descriptor from 3 up but these (close_range(2), Linux 5.9).
///
/// Meant for a process about to call [`execve`]: owners of the closed descriptors must never be used again.
pub fn close_fds_except(keep: &[RawFd]) -> Result<()> {
    let mut keep: Vec<u32> =
        keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep {
        if fd > from {
            close_range(from, fd - 1)?;
        }
        from = from.max(fd + 1);
    }
    close_range(from, u32::MAX)
}

fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: descriptors are marked close-on-exec rather than closed, so no owner in this process is left with a
    // number that could be reused under it; the kernel closes them when the new program starts.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
    cvt(done).call(|| format!("close_range({first}, {last}, CLOSE_RANGE_CLOEXEC)"))
}

/// Moves a descriptor onto a number of 0, 1 or 2, where it survives execve(2).
pub fn set_standard_fd(fd: impl AsFd, to: RawFd) -> Result<()> {
    let from = fd.as_fd().as_raw_fd();
    let call = || format!("dup2({from}, {to})");
    if !(0..=2).contains(&to) {
        return Err(Error::new(call(), Errno::INVAL));
    }
    if from == to {
        return rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).call(call);
    }
    // SAFETY: 0, 1 and 2 have no owner in Rust's sense: the standard library opens and closes them never.
    cvt(unsafe { libc::dup2(from, to) }.into()).call(call)
}

/// Runs another program in this process (execve(2)); returns only if that failed.
pub fn execve(path: &CStr, argv: &[CString], envp: &[CString]) -> Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (args, env) = (pointers(argv), pointers(envp));
    // SAFETY: both arrays end with a null pointer and point to C strings that live over the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    let call = format!("execve({path:?})");
    Err::<(), _>(std::io::Error::last_os_error())
        .call(|| call)
        .err()
        .unwrap_or(Error::new("execve", Errno::IO))
}

/// Prepares a command for a program that is waited for by the thread that starts it: it is killed when that thread ends
/// (prctl(2), PR_SET_PDEATHSIG), and with it when this process does, and it inherits no descriptor but its standard streams.
pub fn bind_to_thread(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let parent = rustix::process::getpid();
    let bind = move || {
        // SAFETY: descriptors are marked close-on-exec rather than closed: what the standard library has open here stays usable.
        cvt(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // It may have ended before.
        match rustix::process::getppid() == Some(parent) {
            true => Ok(()),
            false => Err(Errno::SRCH.into()),
        }
    };
    // SAFETY: the closure makes system calls and allocates nothing: it takes no lock that another thread of the parent may have
    // held when it was copied.
    unsafe { command.pre_exec(bind) };
}

/// Prepares a command to enter cgroups before it becomes its program, by writing `0` to each of these files of theirs.
pub fn enter_groups(command: &mut std::process::Command, entrances: Vec<OwnedFd>) {
    use std::os::unix::process::CommandExt;
    let enter = move || {
        for entrance in &entrances {
            rustix::io::write(entrance, b"0")?;
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls and allocates nothing: it takes no lock that another thread of the parent may have
    // held when it was copied.
    unsafe { command.pre_exec(enter) };
}

/// Blocks no signal and gives every signal its default action again, as a new program expects.
pub fn reset_signals() -> Result<()> {
    // The kernel's struct sigaction: handler, flags, restorer and mask are all zero for the default action.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // By the bare system call, since the C library hides two signals of its own, which may have been inherited
        // ignored.
        // SAFETY: SIG_DFL (zero) is no pointer to code of ours; the array is as long as the kernel's structure on every
        // 64-bit architecture and lives over the call; fixed signals are refused (EINVAL).
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), 8)
        };
    }
    nix::sys::signal::sigprocmask(
        nix::sys::signal::SigmaskHow::SIG_SETMASK,
        Some(&nix::sys::signal::SigSet::empty()),
        None,
    )
    .call(|| "sigprocmask(SIG_SETMASK, [])".into())
}

fn cvt(value: libc::c_long) -> std::io::Result<()> {
    if value < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes ownership of a descriptor that the process was started with, such as a listening socket.
///
/// # Errors
/// `EBADF` if it is not open, `EINVAL` for a standard stream.
pub fn inherited_fd(fd: RawFd) -> Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    let call = || format!("fcntl({fd}, F_GETFD)");
    if fd <= 2 {
        return Err(Error::new(call(), Errno::INVAL));
    }
    // SAFETY: fcntl(F_SETFD) takes plain integers; a number that is not open gives EBADF.
    cvt(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }.into()).call(call)?;
    // SAFETY: the descriptor is open (just checked) and was inherited from the parent, so nothing here owns it yet;
    // callers call this once per number, at start.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_a_shell() {
        assert_eq!(Exited::Code(3).shell_code(), 3);
        assert_eq!(Exited::Signal { signal: 9, core: false }.shell_code(), 137);
    }

    #[test]
    fn an_absent_process_is_named() {
        let error = pidfd_open(i32::MAX).unwrap_err();
        assert!(error.to_string().starts_with("pidfd_open(2147483647)"), "{error}");
    }

    #[test]
    fn execve_says_what_it_could_not_run() {
        let error = execve(c"/no/such", &[c"x".into()], &[]);
        assert_eq!(error.errno, Errno::NOENT);
        assert!(error.call.contains("/no/such"));
    }
}
