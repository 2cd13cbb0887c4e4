//! Pseudo-terminals (pty(7)).

use crate::error::{CallExt, Result};
use crate::path::Root;
use rustix::fs::OFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use std::os::fd::{AsFd, OwnedFd};

/// Both ends of a pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    /// What is typed goes in here, what is shown comes out.
    pub master: OwnedFd,
    /// The program's terminal.
    pub slave: OwnedFd,
}

/// Opens a pseudo-terminal of the devpts instance mounted at `dev/pts` below `root`.
///
/// The slave is opened through the master (TIOCGPTPEER, Linux 4.13): no path of the container is trusted for it.
pub fn open(root: &Root) -> Result<Pty> {
    let master = root.resolve("dev/pts/ptmx", OFlags::RDWR | OFlags::NOCTTY)?;
    rustix::pty::unlockpt(&master).call(|| "ioctl(TIOCSPTLCK)".into())?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).call(|| "ioctl(TIOCGPTPEER)".into())?;
    Ok(Pty { master, slave })
}

/// Sets a terminal's size; its foreground process group gets SIGWINCH if it changed.
pub fn set_size(terminal: impl AsFd, rows: u16, cols: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).call(|| format!("ioctl(TIOCSWINSZ, {rows}x{cols})"))
}

/// Makes a terminal the controlling one of the calling process, which must lead a session without one.
pub fn set_controlling(terminal: impl AsFd) -> Result<()> {
    rustix::process::ioctl_tiocsctty(terminal).call(|| "ioctl(TIOCSCTTY)".into())
}
