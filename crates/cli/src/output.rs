//! Standard output and standard error, the only way to them.

use crate::error::{Error, Result};
use std::io::{self, IsTerminal, Write};

/// What a command says. A reader that went away ends the command quietly.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Output {
    /// Writes bytes as they are.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<()> {
        let written = match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            Self::Stderr => io::stderr().lock().write_all(bytes),
        };
        written.map_err(|e| Error::io(self.name(), e))
    }

    /// Writes one line.
    pub(crate) fn line(self, text: impl AsRef<str>) -> Result<()> {
        let mut line = text.as_ref().to_owned();
        line.push('\n');
        self.bytes(line.as_bytes())
    }

    /// Whether somebody looks at it on a terminal.
    pub(crate) fn is_terminal(self) -> bool {
        match self {
            Self::Stdout => io::stdout().is_terminal(),
            Self::Stderr => io::stderr().is_terminal(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "standard output",
            Self::Stderr => "standard error",
        }
    }
}

/// A line on standard error. There is nobody to tell if that fails.
pub(crate) fn complain(text: impl AsRef<str>) {
    let _ = Output::Stderr.line(text);
}
