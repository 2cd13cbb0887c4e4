//! epoll, with tokens that say what a descriptor is.

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// What became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// The pod's socket.
    Listener,
    /// A child has ended.
    Signals,
    /// The pod's state directory has gone.
    StateDir,
    /// A client.
    Conn(u32),
    /// The report of a container's init.
    Container(u32),
    /// The report of an exec.
    Exec(u32),
    /// A container's standard output, or its terminal.
    Stdout(u32),
    /// A container's standard error.
    Stderr(u32),
    /// A container's standard input can take more.
    Stdin(u32),
    /// What a container's hook writes.
    Hook(u32),
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, id) = match self {
            Self::Listener => (0, 0),
            Self::Signals => (1, 0),
            Self::StateDir => (2, 0),
            Self::Conn(id) => (3, id),
            Self::Container(id) => (4, id),
            Self::Exec(id) => (5, id),
            Self::Stdout(id) => (6, id),
            Self::Stderr(id) => (7, id),
            Self::Stdin(id) => (8, id),
            Self::Hook(id) => (9, id),
        };
        kind << 32 | u64::from(id)
    }

    fn unpack(data: u64) -> Option<Self> {
        let id = u32::try_from(data & 0xffff_ffff).ok()?;
        Some(match data >> 32 {
            0 => Self::Listener,
            1 => Self::Signals,
            2 => Self::StateDir,
            3 => Self::Conn(id),
            4 => Self::Container(id),
            5 => Self::Exec(id),
            6 => Self::Stdout(id),
            7 => Self::Stderr(id),
            8 => Self::Stdin(id),
            9 => Self::Hook(id),
            _ => return None,
        })
    }
}

/// A descriptor that became ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    /// Which.
    pub(crate) token: Token,
    /// Whether the other end has gone.
    pub(crate) gone: bool,
}

/// The one epoll instance. Descriptors leave it by being closed.
#[derive(Debug)]
pub(crate) struct Poll(OwnedFd);

const BATCH: usize = 32;

impl Ready {
    fn of(event: &epoll::Event) -> Option<Self> {
        let (token, flags) = (Token::unpack(event.data.u64())?, event.flags);
        Some(Self { token, gone: flags.intersects(EventFlags::ERR | EventFlags::HUP) })
    }
}

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    fn flags(read: bool, write: bool) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, read);
        flags.set(EventFlags::OUT, write);
        flags
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: Token, read: bool, write: bool) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(token.pack()), Self::flags(read, write))?)
    }

    pub(crate) fn change(&self, fd: impl AsFd, token: Token, read: bool, write: bool) -> io::Result<()> {
        Ok(epoll::modify(&self.0, fd, EventData::new_u64(token.pack()), Self::flags(read, write))?)
    }

    pub(crate) fn remove(&self, fd: impl AsFd) {
        // Not being there is what is wanted.
        let _ = epoll::delete(&self.0, fd);
    }

    /// Waits for events, at most until the deadline.
    pub(crate) fn wait(&self, until: Option<Instant>) -> io::Result<Vec<Ready>> {
        let left = until.map(|at| at.saturating_duration_since(Instant::now()));
        // Rounded up: a deadline a little in the future must not spin.
        let left = left.map(|d| d + Duration::from_micros(500));
        let timeout = left.map(|d| rustix::event::Timespec {
            tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(d.subsec_nanos()),
        });
        let mut events = [const { MaybeUninit::uninit() }; BATCH];
        match epoll::wait(&self.0, &mut events, timeout.as_ref()) {
            Ok((ready, _)) => Ok(ready.iter().filter_map(Ready::of).collect()),
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_packing() {
        for token in
            [Token::Listener, Token::Signals, Token::StateDir, Token::Conn(7), Token::Stdin(u32::MAX)]
        {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
    }
}
