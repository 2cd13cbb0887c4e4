//! `push`.

use crate::error::{Error, Kind, Result};
use crate::node::Node;
use std::sync::Arc;
use strata_api::debug::*;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

pub(super) fn push(
    _: &Arc<Node>,
    _: PushImageRequest,
) -> Result<ReceiverStream<Result<PushProgress, Status>>> {
    Err(Error::new(Kind::Unimplemented, "push is not built yet"))
}
