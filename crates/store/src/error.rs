//! What can go wrong in the store.

use std::fmt;

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Sorts of failures, for status codes and for what a caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No such image, layer, blob or container.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// A container uses it.
    InUse,
    /// What came from outside is wrong: a digest, an archive, a name.
    Invalid,
    /// What came from outside asks for more than the configuration allows ([`Limits`](crate::Limits)).
    Limit,
    /// What is on disk is not what was written.
    Damaged,
    /// Written by a newer release.
    NewerFormat,
    /// Another process has the store open.
    Locked,
    /// The kernel or the disk refused.
    Io,
}

/// A failure: what failed, on what, and why.
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    errno: Option<rustix::io::Errno>,
}

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), errno: None }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub(crate) fn limit(message: impl Into<String>) -> Self {
        Self::new(Kind::Limit, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    pub(crate) fn damaged(message: impl Into<String>) -> Self {
        Self::new(Kind::Damaged, message)
    }

    /// What sort it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The kernel's error number, if a system call failed.
    pub fn errno(&self) -> Option<rustix::io::Errno> {
        self.errno
    }

    /// The same failure with what was being done before it.
    #[must_use]
    pub fn context(self, what: impl fmt::Display) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// The same failure with what it led to.
    #[must_use]
    pub(crate) fn and(self, after: &Self) -> Self {
        Self { message: format!("{}; after it: {after}", self.message), ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<strata_sys::Error> for Error {
    fn from(e: strata_sys::Error) -> Self {
        let hint =
            if e.errno == rustix::io::Errno::NOSPC { "; free disk space, `strata gc` may help" } else { "" };
        Self { kind: Kind::Io, message: format!("{e}{hint}"), errno: Some(e.errno) }
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        let errno = e.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
        // What the pipeline's readers report travels through io::Error and comes out as it was.
        match e.downcast::<Self>() {
            Ok(own) => own,
            // Without an error number it was no system call but a decoder, which met bytes that make no sense.
            Err(e) => {
                let kind = if errno.is_some() { Kind::Io } else { Kind::Invalid };
                Self { kind, message: e.to_string(), errno }
            }
        }
    }
}

impl From<Error> for std::io::Error {
    fn from(e: Error) -> Self {
        Self::other(e)
    }
}

/// Says what was being done when something failed.
pub(crate) trait Context<T> {
    /// Puts `what` before the failure's text.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| e.into().context(what()))
    }
}
