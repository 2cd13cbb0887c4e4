//! GetContainerEvents: what the kubelet's evented PLEG follows. Each event says how the pod and all its containers are, so
//! that nothing has to be asked for.

use super::{containers, pods};
use crate::events::{Event, Happened};
use crate::node::Node;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::sync::Arc;
use strata_api::cri;
use tonic::Status;

/// Everything that happens from now on.
pub(super) fn follow(node: &Arc<Node>) -> BoxStream<'static, Result<cri::ContainerEventResponse, Status>> {
    let events = node.events.follow();
    let node = node.clone();
    events.map(move |event| event.map(|e| response(&node, &e)).map_err(Status::from)).boxed()
}

/// The pod and the container that it is about are told as they were when it happened, other containers as they are now.
fn response(node: &Node, event: &Event) -> cri::ContainerEventResponse {
    let kind = match event.happened {
        Happened::Created => cri::ContainerEventType::ContainerCreatedEvent,
        Happened::Started => cri::ContainerEventType::ContainerStartedEvent,
        Happened::Stopped => cri::ContainerEventType::ContainerStoppedEvent,
        Happened::Deleted => cri::ContainerEventType::ContainerDeletedEvent,
    };
    let all = node.containers.of_pod(&event.pod.id);
    let statuses = all.iter().filter_map(|container| {
        let mut info = container.info();
        if let Some(live) = event.live.as_ref().filter(|_| info.id() == event.id) {
            info.live = live.clone();
        }
        info.is_shown().then(|| containers::describe(&info))
    });
    cri::ContainerEventResponse {
        container_id: event.id.clone(),
        container_event_type: kind.into(),
        created_at: event.at,
        pod_sandbox_status: Some(pods::describe(&event.pod)),
        containers_statuses: statuses.collect(),
    }
}
