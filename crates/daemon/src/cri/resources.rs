//! Limits of pods and containers that run: UpdateContainerResources, UpdatePodSandboxResources.

use super::{containers, pods};
use crate::error::{Error, Result};
use crate::node::Node;
use crate::pod::resources::PodResources;
use std::sync::Arc;
use strata_api::cri;

/// UpdateContainerResources. Its annotations say nothing that Strata knows.
pub(super) async fn update_container(
    node: &Arc<Node>,
    request: cri::UpdateContainerResourcesRequest,
) -> Result<()> {
    let container = containers::own(node, &request.container_id)?;
    let linux = request.linux.ok_or_else(|| Error::invalid("the new limits are missing: set linux"))?;
    node.update_container(container.id(), linux).await
}

/// UpdatePodSandboxResources.
pub(super) async fn update_pod(
    node: &Arc<Node>,
    request: cri::UpdatePodSandboxResourcesRequest,
) -> Result<()> {
    let pod = pods::own(node, &request.pod_sandbox_id)?;
    let new = PodResources { overhead: request.overhead, resources: request.resources };
    if new == PodResources::default() {
        return Err(Error::invalid("the new limits are missing: set overhead or resources"));
    }
    node.update_pod(pod.id(), new).await
}
