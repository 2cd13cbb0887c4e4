//! What is done to containers, of every origin.

use crate::container::ContainerInfo;
use crate::container::state::ContainerState;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::tasks::blocking;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use strata_api::debug;
use strata_api::debug::container::State;
use strata_sys::signal;

/// How long a program may take to end once it was asked to, in seconds, where nobody says.
const STOP_TIMEOUT: i64 = 10;

pub(super) async fn start(
    node: &Arc<Node>,
    request: &debug::StartContainerRequest,
) -> Result<debug::StartContainerResponse> {
    let id = node.find_container(&request.r#ref)?.id().to_owned();
    node.start_container(&id).await?;
    Ok(debug::StartContainerResponse { id })
}

pub(super) async fn stop(
    node: &Arc<Node>,
    request: &debug::StopContainerRequest,
) -> Result<debug::StopContainerResponse> {
    let container = node.find_container(&request.r#ref)?;
    let own = container.record().extras.stop_timeout;
    let timeout = timeout(request.timeout.or(own));
    let signal = signal_of(&request.signal)?;
    node.stop_container(container.id(), timeout, signal).await?;
    Ok(debug::StopContainerResponse { id: container.id().to_owned() })
}

/// A negative number waits for ever, as with Docker.
fn timeout(seconds: Option<i64>) -> Duration {
    u64::try_from(seconds.unwrap_or(STOP_TIMEOUT)).map_or(Duration::MAX, Duration::from_secs)
}

fn signal_of(text: &str) -> Result<Option<i32>> {
    match text {
        "" => Ok(None),
        text => match signal::parse(text) {
            Some(number) => Ok(Some(number)),
            None => Err(Error::invalid(format!("Invalid signal: {text}"))),
        },
    }
}

pub(super) async fn kill(
    node: &Arc<Node>,
    request: &debug::KillContainerRequest,
) -> Result<debug::KillContainerResponse> {
    let container = node.find_container(&request.r#ref)?;
    let signal = signal_of(&request.signal)?;
    let kill = signal::parse("KILL").unwrap_or(9);
    let id = container.id().to_owned();
    node.kill_container(&id, signal.unwrap_or(kill))
        .await
        .map_err(|e| e.context(format!("cannot kill container: {}", request.r#ref)))?;
    Ok(debug::KillContainerResponse { id })
}

pub(super) async fn remove(
    node: &Arc<Node>,
    request: &debug::RemoveContainerRequest,
) -> Result<debug::RemoveContainerResponse> {
    let id = node.find_container(&request.r#ref)?.id().to_owned();
    node.remove_container(&id, request.force).await?;
    Ok(debug::RemoveContainerResponse { id })
}

pub(super) async fn wait(
    node: &Arc<Node>,
    request: &debug::WaitContainerRequest,
) -> Result<debug::WaitContainerResponse> {
    let id = node.find_container(&request.r#ref)?.id().to_owned();
    let exit = node.wait_container(&id).await?;
    Ok(debug::WaitContainerResponse { exit_code: exit.code, oom_killed: exit.oom_killed })
}

pub(super) async fn list(
    node: &Arc<Node>,
    request: &debug::ListContainersRequest,
) -> Result<debug::ListContainersResponse> {
    let mut infos = node.container_infos();
    if !request.all {
        infos.retain(|i| i.state() == ContainerState::Running);
    }
    Ok(debug::ListContainersResponse { containers: described(node, infos, request.size).await? })
}

/// Containers as the command line lists them, with their sizes if that is wanted.
pub(super) async fn described(
    node: &Arc<Node>,
    infos: Vec<ContainerInfo>,
    size: bool,
) -> Result<Vec<debug::Container>> {
    let sizes = if size { sizes(node, &infos).await? } else { HashMap::new() };
    let described = infos.iter().map(|info| {
        let mut container = container(node, info);
        if let Some(size) = sizes.get(info.id()) {
            container.size_rw = size.rw;
            container.size_root = size.rw.saturating_add(size.image);
            container.disk = size.disk;
        }
        container
    });
    Ok(described.collect())
}

/// How long a person waits for sizes that are as of now, and not of some seconds ago.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a container takes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Bytes of the files in its writable layer.
    pub(super) rw: u64,
    /// Bytes of the files in its image.
    pub(super) image: u64,
    /// Bytes on disk of all that is the container's.
    pub(super) disk: u64,
}

/// What containers take up. One that goes meanwhile takes up nothing.
pub(super) async fn sizes(node: &Arc<Node>, infos: &[ContainerInfo]) -> Result<HashMap<String, Sizes>> {
    let store = node.store.clone();
    let wanted: Vec<_> = infos.iter().map(|i| (i.id().to_owned(), i.record.image_id.clone())).collect();
    blocking(move || {
        let ids: Vec<String> = wanted.iter().map(|(id, _)| id.clone()).collect();
        store.measure_writable(&ids, PATIENCE);
        let size = |(id, image): (String, String)| {
            let own = store.writable(&id).unwrap_or_default();
            let image = store.resolve(&image).map_or(0, |i| i.size);
            (id, Sizes { rw: own.size, image, disk: own.disk })
        };
        Ok(wanted.into_iter().map(size).collect())
    })
    .await
}

fn container(node: &Node, info: &ContainerInfo) -> debug::Container {
    let (record, live) = (&info.record, &info.live);
    let exit = live.exit.clone().unwrap_or_default();
    debug::Container {
        id: record.id.clone(),
        name: info.name.clone(),
        image: image_name(info),
        image_id: record.image_id.clone(),
        command: record.process.args.clone(),
        created_at: record.created_at,
        started_at: live.started_at,
        finished_at: exit.finished_at,
        state: state(info).into(),
        exit_code: exit.code,
        ports: ports(node, info),
        labels: record.config.labels.clone(),
        pod_id: record.pod_id.clone(),
        kubernetes: info.origin() == crate::request::Origin::Kubernetes,
        size_rw: 0,
        size_root: 0,
        disk: 0,
        oom_killed: exit.oom_killed,
        reason: exit.reason,
        tty: record.config.tty,
        pid: live.pid,
        handler: node.pods.get(&record.pod_id).map(|p| p.info().handler).unwrap_or_default(),
    }
}

/// The image as it was asked for. The kubelet asks by ID, and says beside it what the pod's author wrote.
pub(super) fn image_name(info: &ContainerInfo) -> String {
    let typed = &info.extras().image_name;
    match &info.record.config.image {
        Some(spec) if !spec.user_specified_image.is_empty() => spec.user_specified_image.clone(),
        _ if !typed.is_empty() => typed.clone(),
        Some(spec) => spec.image.clone(),
        None => info.record.image_id.clone(),
    }
}

fn state(info: &ContainerInfo) -> State {
    match info.state() {
        ContainerState::Creating | ContainerState::Created => State::Created,
        ContainerState::Running if info.live.paused => State::Paused,
        ContainerState::Running => State::Running,
        ContainerState::Exited | ContainerState::Removing => State::Exited,
        ContainerState::Unknown => State::Unknown,
    }
}

/// Ports of the node that lead to a container, while it runs.
fn ports(node: &Node, info: &ContainerInfo) -> Vec<debug::PortMapping> {
    if info.state() != ContainerState::Running {
        return Vec::new();
    }
    let attachment = node.pods.get(&info.record.pod_id).and_then(|p| p.info().attachment);
    let port = |p: &crate::net::PortMapping| debug::PortMapping {
        host_ip: p.host_ip.map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string()),
        host_port: p.host_port.into(),
        container_port: p.container_port.into(),
        protocol: p.protocol.to_string(),
    };
    attachment.iter().flat_map(|a| &a.ports).map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_and_signals() {
        assert_eq!(timeout(None), Duration::from_secs(10));
        assert_eq!(timeout(Some(0)), Duration::ZERO);
        assert_eq!(timeout(Some(-1)), Duration::MAX);
        assert_eq!(signal_of("").unwrap(), None);
        assert_eq!(signal_of("SIGUSR1").unwrap(), Some(10));
        assert_eq!(signal_of("nope").unwrap_err().to_string(), "Invalid signal: nope");
    }
}
