//! A process that does nothing: it stands in for one that is not born yet, where something is kept only for processes.

use crate::error::{CallExt, Result};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// clone3(2), Linux 5.5: handlers of the parent would run in a copy of its memory.
pub(crate) const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// Such a process; it goes with this value, or with the process that has it.
#[derive(Debug)]
pub struct Idle {
    pid: i32,
    pidfd: OwnedFd,
    /// It lives while this end of its pipe is open.
    _alive: OwnedFd,
}

impl Idle {
    /// Makes one. It holds nothing open of its parent's, no lock and no socket.
    ///
    /// # Errors
    /// What clone3(2) and pipe2(2) say: `EAGAIN` where there may be no more processes.
    pub fn spawn() -> Result<Self> {
        let (reader, alive) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .call(|| "pipe2(O_CLOEXEC)".to_owned())?;
        let mut pidfd: i32 = -1;
        // SAFETY: clone_args is plain integers, for which all zeroes is the documented default.
        let mut raw: libc::clone_args = unsafe { std::mem::zeroed() };
        raw.flags = CLONE_CLEAR_SIGHAND | u64::from(libc::CLONE_PIDFD.unsigned_abs());
        raw.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
        // No signal tells of its end, so that nobody else in this process reaps it: waiting for it takes __WALL.
        raw.exit_signal = 0;
        // SAFETY: `raw` lives over the call and `pidfd` is a valid place for the descriptor. The child has a copy of the memory in
        // which locks of other threads may be held: it makes bare system calls only (`wait_for_end`) and never returns.
        let pid = unsafe {
            libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut raw), size_of::<libc::clone_args>())
        };
        if pid == 0 {
            wait_for_end(reader.as_raw_fd());
        }
        if pid < 0 {
            return Err(std::io::Error::last_os_error()).call(|| "clone3(CLONE_PIDFD)".to_owned());
        }
        // SAFETY: the kernel has stored a new descriptor, which nobody else owns, since CLONE_PIDFD was given.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Self { pid: i32::try_from(pid).unwrap_or(i32::MAX), pidfd, _alive: alive })
    }

    /// Its process ID, which is nobody else's while this value lives.
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        kill_and_reap(&self.pidfd);
    }
}

/// Ends a child whose end no signal tells of.
pub(crate) fn kill_and_reap(pidfd: &OwnedFd) {
    let _ = crate::process::pidfd_send_signal(pidfd, libc::SIGKILL);
    loop {
        // SAFETY: siginfo_t is plain data, for which zeroes are valid, and `info` is a valid place for the answer.
        let done = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let id = pidfd.as_raw_fd().unsigned_abs();
            libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED | libc::__WALL)
        };
        if done == 0 || Errno::from_io_error(&std::io::Error::last_os_error()) != Some(Errno::INTR) {
            return;
        }
    }
}

/// Never returns: it ends with the other end of the pipe.
fn wait_for_end(pipe: i32) -> ! {
    let mut byte = 0_u8;
    // SAFETY: system calls of which one writes, into a byte that is this frame's. Nothing is allocated and no lock is taken: this
    // may run in the child of a process with threads. Descriptors that are closed here are used by nobody in this process, which
    // has one thread.
    unsafe {
        let all = libc::c_long::from(u32::MAX);
        let own = libc::c_long::from(pipe);
        if own > 0 {
            libc::syscall(libc::SYS_close_range, 0, own - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, own + 1, all, 0);
        while libc::syscall(libc::SYS_read, own, &raw mut byte, 1) > 0 {}
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn it_lives_as_long_as_its_value_and_holds_nothing_open() {
        let (held, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let idle = Idle::spawn().unwrap();
        let proc = format!("/proc/{}", idle.pid());
        // Its descriptors go a moment after it is born.
        let fds = || std::fs::read_dir(format!("{proc}/fd")).unwrap().count();
        while fds() > 1 {
            std::thread::yield_now();
        }
        drop(held);
        let mut byte = [0];
        assert_eq!(std::io::Read::read(&mut &other, &mut byte).unwrap(), 0, "nobody else has the other end");
        assert!(Path::new(&proc).exists());
        drop(idle);
        assert!(!Path::new(&proc).exists(), "it has been reaped");
    }
}
