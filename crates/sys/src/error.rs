//! Errors that print the call like strace does.

use rustix::io::Errno;
use std::fmt;

/// A system call that failed: the call with its arguments, and the error number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The call, such as `openat2("/etc/passwd", IN_ROOT)`.
    pub call: String,
    /// Its error number.
    pub errno: Errno,
}

/// The result of a system call.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this call.
    pub fn new(call: impl Into<String>, errno: Errno) -> Self {
        Self { call: call.into(), errno }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.errno)
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = std::io::Error::from(error.errno).kind();
        Self::new(kind, error)
    }
}

/// Names the call that a bare error number came from.
pub trait CallExt<T> {
    /// Turns the error number into an [`Error`] that says which call it was.
    fn call(self, describe: impl FnOnce() -> String) -> Result<T>;
}

impl<T> CallExt<T> for std::result::Result<T, Errno> {
    fn call(self, describe: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Error::new(describe(), errno))
    }
}

impl<T> CallExt<T> for std::io::Result<T> {
    fn call(self, describe: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| {
            // An error of the standard library's own making has no number; EIO is what a reader would guess.
            let errno = Errno::from_io_error(&e).unwrap_or(Errno::IO);
            Error::new(describe(), errno)
        })
    }
}

impl<T> CallExt<T> for std::result::Result<T, nix::errno::Errno> {
    fn call(self, describe: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::new(describe(), Errno::from_raw_os_error(e as i32)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_like_strace() {
        let error = std::fs::metadata("/no/such").call(|| "stat(\"/no/such\")".into()).unwrap_err();
        assert_eq!(error.errno, Errno::NOENT);
        assert_eq!(error.to_string(), "stat(\"/no/such\"): No such file or directory (os error 2)");
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::NotFound);
    }
}
