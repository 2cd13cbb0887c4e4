//! Watching another process's system calls, and answering in the kernel's place: seccomp's user notification
//! (seccomp_unotify(2), Linux 5.5). For tests that make one call of a program fail, or end it there.

use crate::error::{CallExt, Error, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// Has every thread of the calling process ask before each of these system calls, for good; its children too.
///
/// The descriptor is for the process that answers, as a [`Listener`]. Until that does, the calls wait. Descriptors of the
/// caller's own are made and passed on by calls, so these should not be among them (sendmsg(2), close(2)).
///
/// # Errors
/// `EINVAL` for more than 250 calls, `EACCES` without CAP_SYS_ADMIN and no_new_privs, `EBUSY` if there is a listener.
pub fn install(calls: &[libc::c_long]) -> Result<OwnedFd> {
    install_with(calls, libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH)
}

/// As [`install`], for the calling thread alone and what it starts from here on, each with all its threads. Another thread of the
/// same process may be the one that answers.
///
/// # Errors
/// As [`install`].
pub fn install_here(calls: &[libc::c_long]) -> Result<OwnedFd> {
    install_with(calls, 0)
}

fn install_with(calls: &[libc::c_long], more: libc::c_ulong) -> Result<OwnedFd> {
    let what = || format!("seccomp(SECCOMP_SET_MODE_FILTER, NEW_LISTENER|{more:#x}, {} calls)", calls.len());
    // Jumps have eight bits.
    let count = u8::try_from(calls.len()).ok().filter(|n| *n <= 250);
    let count = count.ok_or_else(|| Error::new(what(), Errno::INVAL))?;
    let mut program = vec![
        load(offset_of!(libc::seccomp_data, arch)),
        jump_if(ARCH, 1, 0),
        ret(libc::SECCOMP_RET_ALLOW),
        load(offset_of!(libc::seccomp_data, nr)),
    ];
    for (left, call) in (0..count).rev().zip(calls) {
        let number = u32::try_from(*call).map_err(|_| Error::new(what(), Errno::INVAL))?;
        program.push(jump_if(number, left + 1, 0));
    }
    program.push(ret(libc::SECCOMP_RET_ALLOW));
    program.push(ret(libc::SECCOMP_RET_USER_NOTIF));
    let program = libc::sock_fprog {
        // 256 at most.
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_mut_ptr(),
    };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | more;
    // SAFETY: the program's length is that of the vector, which lives over the call; the kernel copies it and only reads.
    let fd =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    let fd = RawFd::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(std::io::Error::last_os_error()).call(what);
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    // All of BPF's codes fit.
    libc::sock_filter { code: u16::try_from(code).unwrap_or(0), jt, jf, k }
}

fn load(offset: usize) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, u32::try_from(offset).unwrap_or(u32::MAX))
}

fn jump_if(value: u32, then: u8, otherwise: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, then, otherwise, value)
}

fn ret(action: u32) -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, action)
}

/// A system call that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// What the answer must name.
    pub id: u64,
    /// The thread that made it.
    pub pid: u32,
    /// Its number.
    pub number: libc::c_long,
    /// Its arguments, as they stood in the registers.
    pub args: [u64; 6],
}

/// What a waiting system call is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Go on, as if nobody had looked.
    Continue,
    /// Nothing was done; this is what it returns.
    Value(i64),
    /// Nothing was done; it fails with this.
    Error(Errno),
}

/// The end at which waiting calls are answered.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Of what [`install`] made, in this process or another one.
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The next call; `None` once all threads with the filter are gone.
    ///
    /// # Errors
    /// `ETIMEDOUT` if there was none in time, or if the descriptor is no listener.
    pub fn next(&self, timeout: Duration) -> Result<Option<Call>> {
        loop {
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            let wait = timeout.try_into().ok();
            let ready = rustix::io::retry_on_intr(|| poll(&mut fds, wait.as_ref()));
            if ready.call(|| "poll(seccomp listener)".into())? == 0 {
                return Err(Error::new("poll(seccomp listener)", Errno::TIMEDOUT));
            }
            if fds[0].revents().contains(PollFlags::IN) {
                match self.receive() {
                    // The thread was killed before anybody looked.
                    Err(e) if matches!(e.errno, Errno::NOENT | Errno::INTR) => {}
                    other => return other.map(Some),
                }
            } else if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
                return Ok(None);
            }
        }
    }

    fn receive(&self) -> Result<Call> {
        // SAFETY: all its fields are integers, and the kernel wants them zero.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one seccomp_notif, which lives over the call.
        let done =
            unsafe { libc::ioctl(self.0.as_fd().as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) };
        if done != 0 {
            return Err(std::io::Error::last_os_error()).call(|| "ioctl(SECCOMP_IOCTL_NOTIF_RECV)".into());
        }
        Ok(Call { id: call.id, pid: call.pid, number: call.data.nr.into(), args: call.data.args })
    }

    /// Answers a call; `false` if its thread has been killed meanwhile.
    ///
    /// # Errors
    /// If the kernel refuses the answer.
    pub fn answer(&self, call: &Call, answer: Answer) -> Result<bool> {
        let mut response = libc::seccomp_notif_resp { id: call.id, val: 0, error: 0, flags: 0 };
        match answer {
            // The constant is a flag of 32 bits.
            Answer::Continue => response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            Answer::Value(value) => response.val = value,
            Answer::Error(errno) => response.error = -errno.raw_os_error(),
        }
        // SAFETY: the kernel reads one seccomp_notif_resp, which lives over the call.
        let done = unsafe {
            libc::ioctl(self.0.as_fd().as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response)
        };
        match std::io::Error::last_os_error() {
            _ if done == 0 => Ok(true),
            e if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            e => Err(e).call(|| format!("ioctl(SECCOMP_IOCTL_NOTIF_SEND, {answer:?})")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const CHILD: &str = "STRATA_NOTIFY_TEST";

    /// The filter is for good and for all threads, so a process of its own gets it.
    #[test]
    fn the_process_that_is_watched() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let listener = Listener::new(install(&[libc::SYS_getppid, libc::SYS_getpgid]).unwrap());
        let asked = std::thread::spawn(move || {
            let next = || listener.next(Duration::from_secs(10)).unwrap().unwrap();
            let first = next();
            assert!(listener.answer(&first, Answer::Value(4711)).unwrap());
            let second = next();
            assert_eq!((second.number, second.args[0]), (libc::SYS_getpgid, 12));
            assert!(listener.answer(&second, Answer::Error(Errno::NOSPC)).unwrap());
            let third = next();
            assert!(listener.answer(&third, Answer::Continue).unwrap());
            assert_eq!(listener.next(Duration::from_millis(1)).unwrap_err().errno, Errno::TIMEDOUT);
        });
        assert_eq!(nix::unistd::getppid().as_raw(), 4711);
        let group = |pid| nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(pid)));
        assert_eq!(group(12), Err(nix::errno::Errno::ENOSPC));
        assert!(nix::unistd::getppid().as_raw() != 4711);
        asked.join().unwrap();
        println!("all answered");
    }

    #[test]
    fn calls_are_answered_as_told() {
        let done = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "notify::tests::the_process_that_is_watched", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let text = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && text.contains("all answered"), "{done:?}");
    }
}
