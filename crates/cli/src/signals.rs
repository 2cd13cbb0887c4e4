//! Signals to this process, as a stream.

use crate::error::{Error, Result};
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What is passed on to a container: everything by which people and programs end or poke a process.
pub(crate) const PROXIED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
];

/// How many times SIGTERM or SIGINT has to come before it is for the command line itself.
pub(crate) const PATIENCE: u32 = 3;

/// Catches these signals from now on.
pub(crate) fn listen(signals: &[Signal]) -> Result<mpsc::UnboundedReceiver<Signal>> {
    let (tell, told) = mpsc::unbounded_channel();
    for wanted in signals.iter().copied() {
        let mut stream = signal(SignalKind::from_raw(wanted as i32))
            .map_err(|e| Error::io(format!("catching {wanted}"), e))?;
        let tell = tell.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if tell.send(wanted).is_err() {
                    return;
                }
            }
        });
    }
    Ok(told)
}

/// Counts how often the user has asked for an end.
#[derive(Debug, Default)]
pub(crate) struct Impatience(u32);

impl Impatience {
    /// Whether this signal is one too many.
    pub(crate) fn exhausted_by(&mut self, signal: Signal) -> bool {
        if matches!(signal, Signal::SIGINT | Signal::SIGTERM) {
            self.0 += 1;
        }
        self.0 >= PATIENCE
    }
}
