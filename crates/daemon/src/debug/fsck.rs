//! `fsck`.

use crate::error::{Error, Kind, Result};
use crate::node::Node;
use std::sync::Arc;
use strata_api::debug::*;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

pub(super) fn fsck(_: &Arc<Node>, _: FsckRequest) -> Result<ReceiverStream<Result<FsckEvent, Status>>> {
    Err(Error::new(Kind::Unimplemented, "fsck is not built yet"))
}
