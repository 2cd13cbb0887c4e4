//! The daemon's one error type, and the one place where an error becomes a gRPC status.

use std::fmt;

/// What sort of failure it is: a subset of gRPC's codes (grpc.io, "Status codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No such pod, container, image, layer.
    NotFound,
    /// The name or key is taken by something else.
    AlreadyExists,
    /// The request makes no sense.
    InvalidArgument,
    /// Not in this state: a running container, an image in use.
    FailedPrecondition,
    /// A deadline passed.
    DeadlineExceeded,
    /// The caller may not: a registry refused the credentials.
    PermissionDenied,
    /// Not built, or not to be had on this node.
    Unimplemented,
    /// Something that it depends on does not answer; a retry may help.
    Unavailable,
    /// A limit was reached: no address left, an image over its limits.
    ResourceExhausted,
    /// Data on disk or from a registry is damaged.
    DataLoss,
    /// Anything else.
    Internal,
}

/// What failed, on what, and what to do next.
#[derive(Clone, Debug)]
pub(crate) struct Error {
    kind: Kind,
    message: String,
}

/// The result of the daemon's operations.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind. The message says what failed, on what, and what to do next.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// [`Kind::NotFound`]
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// [`Kind::InvalidArgument`]
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }

    /// [`Kind::FailedPrecondition`]
    pub(crate) fn precondition(message: impl Into<String>) -> Self {
        Self::new(Kind::FailedPrecondition, message)
    }

    /// [`Kind::Unimplemented`]
    pub(crate) fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(Kind::Unimplemented, message)
    }

    /// [`Kind::Internal`]
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// What sort of failure it is.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Says what was being done, in front of what failed.
    #[must_use]
    pub(crate) fn context(self, what: impl fmt::Display) -> Self {
        Self { kind: self.kind, message: format!("{what}: {}", self.message) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The longest message that is sent, in bytes. It is a header, of which clients take little: one that finds its headers too long
/// ends the connection, and with it every other call.
const MAX_MESSAGE: usize = 4 << 10;

/// A message without its middle if it is too long: it ends with what to do.
fn bounded(message: String) -> String {
    if message.len() <= MAX_MESSAGE {
        return message;
    }
    let head = message.floor_char_boundary(MAX_MESSAGE / 2);
    let tail = message.ceil_char_boundary(message.len() - MAX_MESSAGE / 4);
    let (start, end) = (message.get(..head).unwrap_or_default(), message.get(tail..).unwrap_or_default());
    format!("{start} [{} bytes] {end}", tail - head)
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        use tonic::Code;
        crate::metrics::rpc::answered();
        let code = match error.kind {
            Kind::NotFound => Code::NotFound,
            Kind::AlreadyExists => Code::AlreadyExists,
            Kind::InvalidArgument => Code::InvalidArgument,
            Kind::FailedPrecondition => Code::FailedPrecondition,
            Kind::DeadlineExceeded => Code::DeadlineExceeded,
            Kind::PermissionDenied => Code::PermissionDenied,
            Kind::Unimplemented => Code::Unimplemented,
            Kind::Unavailable => Code::Unavailable,
            Kind::ResourceExhausted => Code::ResourceExhausted,
            Kind::DataLoss => Code::DataLoss,
            Kind::Internal => Code::Internal,
        };
        tonic::Status::new(code, bounded(error.message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_loses_its_middle() {
        let text = |message: String| tonic::Status::from(Error::internal(message)).message().to_owned();
        assert_eq!(text("x".repeat(MAX_MESSAGE)), "x".repeat(MAX_MESSAGE));
        let told = text(format!("what {} to do", "é".repeat(50_000)));
        assert!(
            told.starts_with("what éé") && told.ends_with("é to do") && told.contains(" bytes] "),
            "{told}"
        );
        assert!(told.len() < MAX_MESSAGE);
    }
}
