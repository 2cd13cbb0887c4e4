//! What parent and child share: the channel between them and the standard streams.

use crate::{Step, failure};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use strata_sys::CallExt;
use strata_wire::frame::{self, Decoder, FrameError};
use strata_wire::message::{Envelope, Failure, FailureKind};

/// What a child says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// Another process, whose descriptor comes with this, goes on in its place: that one is the container's init.
    Moved {
        /// Its ID in the caller's PID namespace.
        pid: i32,
    },
    /// Everything is mounted, and the root not entered yet: it waits for a byte. Only with hooks.
    Mounted {
        /// Its ID in its own PID namespace.
        pid: i32,
    },
    /// Everything is set up. With a terminal, its master comes with this.
    Ready {
        /// What the node could not give.
        warnings: Vec<String>,
    },
    /// A step failed; the child exits.
    Failed(Failure),
}

/// A new process and the channel it reports on.
#[derive(Debug)]
pub struct Spawned {
    /// Its ID in the caller's PID namespace.
    pub pid: i32,
    /// A descriptor of it.
    pub pidfd: OwnedFd,
    /// Where it reports.
    pub channel: Channel,
}

/// The exit code of a process that did not become its program: 127 and 126 as a shell has it, 128 for what went wrong
/// before.
pub fn exit_code(kind: FailureKind) -> i32 {
    match kind {
        FailureKind::ExecNotFound => 127,
        FailureKind::ExecFailed => 126,
        _ => 128,
    }
}

/// The caller's end. Non-blocking: watch it for reading.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    decoder: Decoder,
}

impl Channel {
    /// Receives what there is: `Ok(None)`: nothing more now. [`FrameError::Closed`]: the program runs, or the child
    /// has died without a word.
    pub fn receive(&mut self) -> Result<Option<(Report, Vec<OwnedFd>)>, FrameError> {
        loop {
            if let Some((envelope, fds)) = self.decoder.take::<Report>()? {
                return Ok(Some((envelope.body, fds)));
            }
            match self.decoder.fill(&self.socket) {
                Ok(0) | Err(Errno::CONNRESET) => return Err(FrameError::Closed),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(e) => return Err(FrameError::Socket("recvmsg", e)),
            }
        }
    }

    /// Lets a child that waits go on: to its root with hooks, and then to its program.
    pub fn release(&self) -> strata_sys::Result<()> {
        frame::send(&self.socket, &[1], &[]).call(|| "send(start barrier)".into()).map(drop)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The child's end. Blocking.
pub(crate) struct ChildEnd(OwnedFd);

/// Makes both ends.
pub(crate) fn channel() -> Result<(Channel, ChildEnd), Failure> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .call(|| "socketpair(AF_UNIX)".into())
            .step(|| "channel to the new process".into())?;
    rustix::io::ioctl_fionbio(&ours, true)
        .call(|| "ioctl(FIONBIO)".into())
        .step(|| "channel to the new process".into())?;
    Ok((Channel { socket: ours, decoder: Decoder::default() }, ChildEnd(theirs)))
}

impl ChildEnd {
    /// Says which process goes on.
    pub(crate) fn moved(&self, pid: i32, pidfd: BorrowedFd<'_>) -> Result<(), Failure> {
        let envelope = Envelope { id: 0, fds: 1, body: Report::Moved { pid } };
        frame::write(&self.0, &envelope, &[pidfd])
            .map_err(|e| failure(FailureKind::Internal, "report the second stage", e))
    }

    /// Says that everything is mounted.
    pub(crate) fn mounted(&self) -> Result<(), Failure> {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let envelope = Envelope { id: 0, fds: 0, body: Report::Mounted { pid } };
        frame::write(&self.0, &envelope, &[])
            .map_err(|e| failure(FailureKind::Internal, "report the mounts", e))
    }

    /// Says that everything is set up.
    pub(crate) fn ready(&self, warnings: Vec<String>, master: Option<BorrowedFd<'_>>) -> Result<(), Failure> {
        let fds: Vec<BorrowedFd<'_>> = master.into_iter().collect();
        let count = u8::from(!fds.is_empty());
        let envelope = Envelope { id: 0, fds: count, body: Report::Ready { warnings } };
        frame::write(&self.0, &envelope, &fds)
            .map_err(|e| failure(FailureKind::Internal, "report readiness", e))
    }

    /// Says what failed, and gives the exit code for it. By write(2), which a seccomp filter hardly denies; if nobody
    /// listens, nobody needs it.
    pub(crate) fn failed(&self, failure: Failure) -> i32 {
        let code = exit_code(failure.kind);
        let Ok(bytes) = frame::encode(&Envelope { id: 0, fds: 0, body: Report::Failed(failure) }) else {
            return code;
        };
        let mut rest = bytes.as_slice();
        while let Ok(n) = rustix::io::write(&self.0, rest) {
            if n == 0 || n >= rest.len() {
                break;
            }
            rest = &rest[n..];
        }
        code
    }

    /// Waits until the caller lets it go on; `false`: it has gone.
    pub(crate) fn wait_for_release(&self) -> bool {
        let mut byte = [0];
        loop {
            match rustix::io::read(&self.0, &mut byte) {
                Ok(n) => return n == 1,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

impl AsFd for ChildEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The three standard streams of a process without a terminal.
#[derive(Clone, Copy, Debug)]
pub struct StandardFds<'a> {
    /// Standard input; `None`: /dev/null.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Standard output; `None`: /dev/null.
    pub stdout: Option<BorrowedFd<'a>>,
    /// Standard error; `None`: /dev/null.
    pub stderr: Option<BorrowedFd<'a>>,
}

impl<'a> StandardFds<'a> {
    /// Those that are there.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'a>> + use<'a> {
        [self.stdin, self.stdout, self.stderr].into_iter().flatten()
    }

    /// Puts them in place; what is missing becomes `null`.
    pub(crate) fn install(&self, null: BorrowedFd<'_>) -> Result<(), Failure> {
        for (fd, to) in [(self.stdin, 0), (self.stdout, 1), (self.stderr, 2)] {
            strata_sys::process::set_standard_fd(fd.unwrap_or(null), to)
                .step(|| "standard streams".into())?;
        }
        Ok(())
    }
}
