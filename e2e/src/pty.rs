//! Programs that want a terminal.

use crate::Result;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A program on a pseudo-terminal, and everything it wrote there.
#[derive(Debug)]
pub struct Session {
    child: Child,
    terminal: File,
    written: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
    seen: usize,
}

impl Session {
    /// Starts a program with a new terminal of 24 rows and 80 columns as its controlling one.
    pub fn start(command: &Command) -> Result<Self> {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        rustix::pty::grantpt(&master)?;
        rustix::pty::unlockpt(&master)?;
        rustix::termios::tcsetwinsize(
            &master,
            Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 },
        )?;
        let name = rustix::pty::ptsname(&master, Vec::new())?;
        let slave = File::options().read(true).write(true).open(name.to_str()?)?;
        // setsid --ctty makes the terminal the controlling one without unsafe code here.
        let mut outer = Command::new("setsid");
        outer.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        outer.env("TERM", "xterm");
        let child = outer.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave).spawn()?;
        drop(outer);
        let terminal = File::from(master);
        let written = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (terminal.try_clone()?, Arc::clone(&written));
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO: nobody has the terminal's other end any more.
            while let Ok(n) = from.read(&mut buffer) {
                if n == 0 {
                    break;
                }
                to.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..n]);
            }
        });
        Ok(Self { child, terminal, written, reader, seen: 0 })
    }

    /// Everything written so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Types text.
    #[track_caller]
    pub fn send(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap_or_else(|e| panic!("typing {text:?}: {e}"));
    }

    /// Waits until this has been written since what was waited for before; returns what came up to its end.
    #[track_caller]
    pub fn expect(&mut self, needle: &str) -> String {
        let from = self.seen;
        let (text, end) = crate::eventually(30, "the terminal shows it", || {
            let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            let new = written.get(from..).unwrap_or_default();
            let found = new.windows(needle.len()).position(|window| window == needle.as_bytes());
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            match found {
                Some(at) => Ok((text(&new[..at + needle.len()]), from + at + needle.len())),
                None => Err(format!("no {needle:?} in {:?}", text(new))),
            }
        });
        self.seen = end;
        text
    }

    /// Changes the terminal's size, as a person does who drags a window's corner.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(&self.terminal, size)?)
    }

    /// Waits for its end, and for all that it has written.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = crate::eventually(30, "the program on the terminal ends", || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        // The last words may still be on their way to the reader, which ends with the terminal.
        crate::eventually(30, "nobody has the terminal any more", || match self.reader.is_finished() {
            true => Ok(()),
            false => Err(self.output()),
        });
        status
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_sees_a_terminal_of_the_size_it_is_given() {
        let mut command = Command::new("sh");
        command.args(["-c", "stty size; read -r line; echo got $line; stty size; exit 7"]);
        let mut session = Session::start(&command).unwrap();
        session.expect("24 80");
        session.resize(30, 100).unwrap();
        session.send("something\n");
        session.expect("got something");
        session.expect("30 100");
        assert_eq!(session.wait().code(), Some(7));
    }
}
