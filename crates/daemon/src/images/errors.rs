//! The store's errors as the daemon's.

use crate::error::{Error, Kind};
use strata_store::Kind as StoreKind;

impl From<strata_store::Error> for Error {
    fn from(e: strata_store::Error) -> Self {
        let kind = match e.kind() {
            StoreKind::NotFound => Kind::NotFound,
            StoreKind::AlreadyExists => Kind::AlreadyExists,
            StoreKind::Invalid => Kind::InvalidArgument,
            StoreKind::Damaged => Kind::DataLoss,
            StoreKind::InUse | StoreKind::NewerFormat | StoreKind::Locked | StoreKind::Limit => {
                Kind::FailedPrecondition
            }
            StoreKind::Io if e.errno() == Some(rustix::io::Errno::NOSPC) => Kind::ResourceExhausted,
            StoreKind::Io => Kind::Internal,
        };
        Self::new(kind, e.to_string())
    }
}

/// An error about what a registry sent: where it is wrong, the data is, and not the request.
pub(crate) fn of_content(e: strata_store::Error) -> Error {
    if e.kind() == StoreKind::Invalid {
        return Error::new(Kind::DataLoss, format!("{e}; push the image again"));
    }
    e.into()
}
