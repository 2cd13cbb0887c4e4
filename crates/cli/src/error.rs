//! What goes wrong, and the exit code that says so.

use std::io;
use std::path::{Path, PathBuf};
use tonic::{Code, Status};

/// The result of everything that a command does.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Metadata in which stratad may say the exit code that a failed start stands for.
const EXIT_CODE: &str = "strata-exit-code";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// stratad answered with an error.
    #[error("Error response from daemon: {message}")]
    Daemon {
        /// Its text.
        message: String,
        /// Its sort.
        code: Code,
        /// The exit code that it asks for.
        exit: Option<i32>,
    },
    /// stratad does not answer.
    #[error(
        "cannot connect to stratad at {}: {reason}. Is stratad running? (--socket or STRATA_SOCKET name another socket)",
        .socket.display()
    )]
    Unreachable {
        /// Where it was looked for.
        socket: PathBuf,
        /// Why not.
        reason: String,
    },
    /// stratad went away while it was working on something.
    #[error("the connection to stratad broke: {0}. Containers go on without it; try again once it is back")]
    Broken(String),
    /// The pod's shim failed, or could not be talked to.
    #[error("{0}")]
    Shim(String),
    /// The shim could not run the program.
    #[error("{0}")]
    Program(strata_wire::message::Failure),
    /// Anything that is wrong on this side.
    #[error("{0}")]
    Local(String),
    /// Standard output or a file failed.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
    /// Everything there is to say has been said.
    #[error("")]
    Said(i32),
}

impl Error {
    /// Something is wrong on this side.
    pub(crate) fn local(message: impl Into<String>) -> Self {
        Self::Local(message.into())
    }

    /// A file, a terminal or a pipe failed.
    pub(crate) fn io(what: impl Into<String>, error: io::Error) -> Self {
        Self::Io(what.into(), error)
    }

    /// stratad cannot be reached there.
    pub(crate) fn unreachable(socket: &Path, reason: &dyn std::error::Error) -> Self {
        Self::Unreachable { socket: socket.to_owned(), reason: innermost(reason) }
    }

    /// Whether it says that there is no such thing.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Daemon { code: Code::NotFound, .. })
    }

    /// Whether stratad says that it, or what it depends on, may answer later.
    pub(crate) fn is_unavailable(&self) -> bool {
        matches!(self, Self::Daemon { code: Code::Unavailable, .. })
    }

    /// Whether stratad may answer if it is asked again later.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::Unreachable { .. })
    }

    /// Whether the reader of standard output has gone, which is nobody's error.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io(_, e) if e.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The exit code that `strata run` and `strata exec` give a program that could not be started: 127 if it is not
    /// there, 126 if it cannot be executed, `otherwise` if something else failed.
    pub(crate) fn start_code(&self, otherwise: i32) -> i32 {
        use strata_wire::message::FailureKind;
        match self {
            Self::Program(f) if f.kind == FailureKind::ExecNotFound => 127,
            Self::Program(f) if f.kind == FailureKind::ExecFailed => 126,
            Self::Daemon { exit: Some(code), .. } | Self::Said(code) => *code,
            Self::Daemon { message, .. } => code_in_text(message).unwrap_or(otherwise),
            _ => otherwise,
        }
    }
}

/// What the text of a failed start says, where the status itself does not: Docker's own rule.
fn code_in_text(message: &str) -> Option<i32> {
    let has = |words: &[&str]| words.iter().any(|w| message.contains(w));
    if !has(&["exec ", "executable file"]) {
        return None;
    }
    if has(&["executable file not found", "ENOENT", "no such file or directory", "No such file or directory"])
    {
        Some(127)
    } else if has(&["EACCES", "ENOEXEC", "EISDIR", "ermission denied", "is a directory", "format error"]) {
        Some(126)
    } else {
        None
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        // What the transport makes up has a cause; what stratad says has none.
        if let Some(cause) = std::error::Error::source(&status) {
            return Self::Broken(innermost(cause));
        }
        let exit = status.metadata().get(EXIT_CODE).and_then(|v| v.to_str().ok()?.parse().ok());
        Self::Daemon { message: status.message().to_owned(), code: status.code(), exit }
    }
}

/// The last cause is the one that names the system call's error.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(message: &str) -> Error {
        Error::from(Status::internal(message))
    }

    #[test]
    fn the_codes_of_a_failed_start_are_dockers() {
        let code = |m: &str| daemon(m).start_code(125);
        assert_eq!(code("exec: \"nosuch\": executable file not found in $PATH"), 127);
        assert_eq!(code("exec /nosuch: execve(\"/nosuch\"): ENOENT: No such file or directory"), 127);
        assert_eq!(code("exec /etc: execve(\"/etc\"): EACCES: Permission denied"), 126);
        assert_eq!(code("mount /proc: ENOENT: No such file or directory"), 125);
        let mut status = Status::internal("anything");
        status.metadata_mut().insert(EXIT_CODE, tonic::metadata::MetadataValue::from_static("126"));
        assert_eq!(Error::from(status).start_code(125), 126);
    }

    #[test]
    fn the_daemons_words_are_passed_on() {
        assert_eq!(
            daemon("No such container: x").to_string(),
            "Error response from daemon: No such container: x"
        );
        assert!(Error::from(Status::not_found("x")).is_not_found());
    }
}
