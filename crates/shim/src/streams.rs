//! A container's standard streams: the shim's ends of its pipes, or the master of its terminal.

use crate::log::{Log, Stream};
use crate::poll::{Poll, Token};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use strata_runtime::StandardFds;
use strata_sys::CallExt;
use strata_wire::plan::Stdio;

/// Input that waits for the container to read it: beyond this, clients are not read from.
const MAX_INPUT: usize = 64 << 10;

/// The shim's ends.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    /// The terminal's master, which is input and output at once.
    terminal: Option<OwnedFd>,
    input: VecDeque<u8>,
    close_when_written: bool,
    /// Output is not read for now.
    held: bool,
    pub(crate) log: Option<Log>,
}

/// The container's ends, open until it has them.
#[derive(Debug, Default)]
pub(crate) struct ContainerEnds {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl ContainerEnds {
    pub(crate) fn standard_fds(&self) -> StandardFds<'_> {
        StandardFds {
            stdin: self.stdin.as_ref().map(AsFd::as_fd),
            stdout: self.stdout.as_ref().map(AsFd::as_fd),
            stderr: self.stderr.as_ref().map(AsFd::as_fd),
        }
    }
}

fn pipe() -> strata_sys::Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).call(|| "pipe2(O_CLOEXEC)".into())
}

fn nonblocking(fd: &OwnedFd) -> strata_sys::Result<()> {
    rustix::fs::fcntl_setfl(fd, OFlags::NONBLOCK).call(|| "fcntl(F_SETFL, O_NONBLOCK)".into())
}

impl Streams {
    /// Makes pipes as the plan asks, and opens the log. A terminal comes later, from the container's own devpts.
    pub(crate) fn new(plan: &Stdio) -> strata_sys::Result<(Self, ContainerEnds)> {
        let log = plan.log_path.as_ref().map(|path| Log::open(path, plan.log_max_line)).transpose()?;
        let (mut ours, mut theirs) = (Self { log, ..Self::default() }, ContainerEnds::default());
        if plan.tty {
            return Ok((ours, theirs));
        }
        if plan.stdin {
            let (read, write) = pipe()?;
            nonblocking(&write)?;
            (theirs.stdin, ours.stdin) = (Some(read), Some(write));
        }
        for (our, their) in [(&mut ours.stdout, &mut theirs.stdout), (&mut ours.stderr, &mut theirs.stderr)] {
            let (read, write) = pipe()?;
            nonblocking(&read)?;
            (*our, *their) = (Some(read), Some(write));
        }
        Ok((ours, theirs))
    }

    /// Takes the master of the container's terminal.
    pub(crate) fn set_terminal(&mut self, master: OwnedFd) -> strata_sys::Result<()> {
        nonblocking(&master)?;
        self.terminal = Some(master);
        Ok(())
    }

    /// Watches for output.
    pub(crate) fn watch(&self, poll: &Poll, id: u32) -> std::io::Result<()> {
        if let Some(fd) = &self.terminal {
            poll.add(fd, Token::Stdout(id), true, false)?;
        }
        if let Some(fd) = &self.stdout {
            poll.add(fd, Token::Stdout(id), true, false)?;
        }
        if let Some(fd) = &self.stderr {
            poll.add(fd, Token::Stderr(id), true, false)?;
        }
        if let Some(fd) = &self.stdin {
            poll.add(fd, Token::Stdin(id), false, false)?;
        }
        Ok(())
    }

    /// Reads output once: `None` when there is none now; an empty slice at its end, after which it is closed.
    pub(crate) fn read<'b>(&mut self, stream: Stream, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let source = match (stream, self.terminal.is_some()) {
            (Stream::Stdout, true) => &mut self.terminal,
            (Stream::Stdout, false) => &mut self.stdout,
            (Stream::Stderr, _) => &mut self.stderr,
        };
        let fd = source.as_ref()?;
        loop {
            match rustix::io::read(fd, &mut *buffer) {
                Ok(0) => break,
                Ok(n) => return Some(&buffer[..n]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                // EIO: every slave of the terminal has been closed.
                Err(_) => break,
            }
        }
        *source = None;
        Some(&[])
    }

    /// Stops or resumes reading output.
    pub(crate) fn hold(&mut self, poll: &Poll, id: u32, held: bool) {
        self.held = held;
        if let Some(fd) = &self.terminal {
            let _ = poll.change(fd, Token::Stdout(id), !held, !self.input.is_empty());
        }
        for (fd, token) in [(&self.stdout, Token::Stdout(id)), (&self.stderr, Token::Stderr(id))] {
            if let Some(fd) = fd {
                let _ = poll.change(fd, token, !held, false);
            }
        }
    }

    pub(crate) fn held(&self) -> bool {
        self.held
    }

    /// Whether all output has ended.
    pub(crate) fn ended(&self) -> bool {
        self.terminal.is_none() && self.stdout.is_none() && self.stderr.is_none()
    }

    /// Gives up waiting for whoever still holds the other ends.
    pub(crate) fn close(&mut self) {
        (self.terminal, self.stdout, self.stderr, self.stdin) = (None, None, None, None);
        self.input.clear();
    }

    pub(crate) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    /// Whether input has somewhere to go.
    pub(crate) fn takes_input(&self) -> bool {
        self.stdin.is_some() || self.terminal.is_some()
    }

    /// Takes input, to be written as the container reads it.
    pub(crate) fn push_input(&mut self, data: &[u8]) {
        if self.takes_input() {
            self.input.extend(data);
        }
    }

    /// Whether clients should not be read from for now.
    pub(crate) fn input_full(&self) -> bool {
        self.input.len() >= MAX_INPUT
    }

    /// The container has closed its standard input.
    pub(crate) fn refuse_input(&mut self) {
        self.input.clear();
        self.stdin = None;
    }

    /// Closes standard input once all of it is written. A terminal's is never closed: its user types ^D.
    pub(crate) fn end_input(&mut self) {
        self.close_when_written = true;
    }

    /// Writes what the container takes now.
    pub(crate) fn write_input(&mut self, poll: &Poll, id: u32) {
        let Some(fd) = self.stdin.as_ref().or(self.terminal.as_ref()) else { return };
        while !self.input.is_empty() {
            let (front, _) = self.input.as_slices();
            match rustix::io::write(fd, front) {
                Ok(n) => drop(self.input.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    // The container has closed its input.
                    self.input.clear();
                    self.close_when_written = true;
                }
            }
        }
        let waiting = !self.input.is_empty();
        if self.terminal.is_some() {
            let _ = poll.change(fd, Token::Stdout(id), !self.held, waiting);
        } else if self.close_when_written && !waiting {
            self.stdin = None;
        } else {
            let _ = poll.change(fd, Token::Stdin(id), false, waiting);
        }
    }

    /// Whether standard input has been closed for good.
    pub(crate) fn input_closed(&self) -> bool {
        !self.takes_input()
    }
}
