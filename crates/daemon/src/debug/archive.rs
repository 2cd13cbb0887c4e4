//! `save` and `load`.

use crate::error::{Error, Kind, Result};
use crate::node::Node;
use std::sync::Arc;
use strata_api::debug::*;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

pub(super) fn save(
    _: &Arc<Node>,
    _: SaveImagesRequest,
) -> Result<ReceiverStream<Result<ArchiveChunk, Status>>> {
    Err(Error::new(Kind::Unimplemented, "save is not built yet"))
}

pub(super) fn load(
    _: &Arc<Node>,
    _: Streaming<ArchiveChunk>,
) -> Result<ReceiverStream<Result<LoadProgress, Status>>> {
    Err(Error::new(Kind::Unimplemented, "load is not built yet"))
}
