//! `image prune`.

use crate::error::{Error, Kind, Result};
use crate::node::Node;
use std::sync::Arc;
use strata_api::debug::*;

pub(super) async fn prune(_: &Arc<Node>, _: PruneImagesRequest) -> Result<PruneImagesResponse> {
    Err(Error::new(Kind::Unimplemented, "prune is not built yet"))
}
