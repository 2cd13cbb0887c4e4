//! The caller's terminal: raw while a session lasts, as it was afterwards, whatever ends the session.

use crate::error::{Error, Result};
use crate::output::Output;
use rustix::termios::{self, OptionalActions, Termios};
use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};

/// The terminal's attributes as they were, while it is raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// A raw terminal. It is put back when this is dropped, on a panic, and by [`leave`].
#[derive(Debug)]
pub(crate) struct Raw(());

impl Raw {
    /// Makes the terminal on standard input raw.
    pub(crate) fn enter() -> Result<Self> {
        let failed = |e: rustix::io::Errno| Error::io("the terminal on standard input", e.into());
        let before = termios::tcgetattr(io::stdin()).map_err(failed)?;
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(before.clone());
        set_raw(before).map_err(failed)?;
        Ok(Self(()))
    }

    /// Raw again, after whoever stopped this process has used the terminal.
    pub(crate) fn again(&self) {
        let before = SAVED.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(before) = before {
            let _ = set_raw(before);
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Asks on standard error and reads a line from the terminal on standard input, without showing what is typed unless
/// `echo`. Ctrl-C ends it with the terminal as it was.
pub(crate) async fn prompt(what: &str, echo: bool) -> Result<String> {
    let failed = |e: io::Error| Error::io("the terminal on standard input", e);
    Output::Stderr.bytes(what.as_bytes())?;
    if !echo {
        let before = termios::tcgetattr(io::stdin()).map_err(|e| failed(e.into()))?;
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(before.clone());
        let mut quiet = before;
        quiet.local_modes.remove(termios::LocalModes::ECHO);
        termios::tcsetattr(io::stdin(), OptionalActions::Flush, &quiet).map_err(|e| failed(e.into()))?;
    }
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = tokio::select! {
        line = read => line.map_err(|e| failed(io::Error::other(e))).and_then(|line| line.map_err(failed)),
        _ = tokio::signal::ctrl_c() => Err(Error::Said(128 + nix::sys::signal::Signal::SIGINT as i32)),
    };
    if !echo {
        restore();
        Output::Stderr.bytes(b"\n")?;
    }
    Ok(line?.trim_end_matches(['\r', '\n']).to_owned())
}

fn set_raw(mut attributes: Termios) -> rustix::io::Result<()> {
    attributes.make_raw();
    termios::tcsetattr(io::stdin(), OptionalActions::Now, &attributes)
}

/// Puts the terminal back, if it is raw.
pub(crate) fn restore() {
    // try_lock: a panic may have come while the lock was held, and this runs in the panic's hook.
    let saved = match SAVED.try_lock() {
        Ok(mut saved) => saved.take(),
        Err(_) => None,
    };
    if let Some(before) = saved {
        // A terminal that has gone cannot be put back.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, &before);
    }
}

/// Puts the terminal back before a panic prints its message; a release build aborts after it.
pub(crate) fn restore_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        before(info);
    }));
}

/// Ends this process as a signal would have, with the terminal put back.
pub(crate) fn leave(signal: i32) -> ! {
    restore();
    std::process::exit(128 + signal)
}

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Rows and columns of the caller's terminal.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(io::stdout()).or_else(|_| termios::tcgetwinsize(io::stdin())).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}
