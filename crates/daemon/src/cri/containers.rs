//! What CRI says of containers.

use super::{info, selected};
use crate::container::assemble::linux_resources;
use crate::container::plan::command;
use crate::container::record::ContainerRecord;
use crate::container::state::ContainerState;
use crate::container::{Container, ContainerInfo};
use crate::error::{Error, Result};
use crate::node::Node;
use crate::request::{Origin, known};
use std::sync::Arc;
use strata_api::cri;

/// The container of Kubernetes' with this ID or prefix.
pub(super) fn own(node: &Node, id: &str) -> Result<Arc<Container>> {
    if id.is_empty() {
        return Err(Error::invalid("the container's ID is missing"));
    }
    let missing = || Error::not_found(format!("no such container: {id}"));
    let found = node
        .find_container(id)
        .map_err(|e| if e.kind() == crate::error::Kind::NotFound { missing() } else { e })?;
    // Kubernetes names containers by their ID only.
    if found.pod().origin() == Origin::Kubernetes && found.id().starts_with(id) {
        crate::metrics::rpc::about_container(found.id(), found.pod().id());
        Ok(found)
    } else {
        Err(missing())
    }
}

/// Its whole ID; `None` if it is not there.
pub(super) fn own_id(node: &Node, id: &str) -> Result<Option<String>> {
    match own(node, id) {
        Ok(container) => Ok(Some(container.id().to_owned())),
        Err(e) if e.kind() == crate::error::Kind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn state(state: ContainerState) -> cri::ContainerState {
    match state {
        ContainerState::Creating | ContainerState::Created => cri::ContainerState::ContainerCreated,
        ContainerState::Running => cri::ContainerState::ContainerRunning,
        ContainerState::Exited | ContainerState::Removing => cri::ContainerState::ContainerExited,
        ContainerState::Unknown => cri::ContainerState::ContainerUnknown,
    }
}

/// Kubernetes' containers that a filter lets through, newest first.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for a state that CRI v1 has not got.
pub(super) fn matching(node: &Node, filter: Option<&cri::ContainerFilter>) -> Result<Vec<ContainerInfo>> {
    let none = cri::ContainerFilter::default();
    let filter = filter.unwrap_or(&none);
    let wanted: Option<cri::ContainerState> =
        filter.state.as_ref().map(|s| known(s.state, "filter.state")).transpose()?;
    let mut all = node.container_infos();
    all.retain(|c| {
        c.origin() == Origin::Kubernetes
            && c.id().starts_with(&filter.id)
            && c.record.pod_id.starts_with(&filter.pod_sandbox_id)
            && wanted.is_none_or(|wanted| wanted == state(c.state()))
            && selected(&c.record.config.labels, &filter.label_selector)
    });
    Ok(all)
}

/// ListContainers; errors as [`matching`]'s.
pub(super) fn list(node: &Node, filter: Option<&cri::ContainerFilter>) -> Result<Vec<cri::Container>> {
    let shown = |c: ContainerInfo| {
        let config = &c.record.config;
        cri::Container {
            id: c.record.id.clone(),
            pod_sandbox_id: c.record.pod_id.clone(),
            metadata: config.metadata.clone(),
            image: config.image.clone(),
            image_ref: c.record.image_ref.clone(),
            state: state(c.state()).into(),
            created_at: c.record.created_at,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            image_id: c.record.image_id.clone(),
        }
    };
    Ok(matching(node, filter)?.into_iter().map(shown).collect())
}

/// What is mounted, with the IDs of images: what PullImage answered for them.
fn mounts(record: &ContainerRecord) -> Vec<cri::Mount> {
    let mut mounts = record.config.mounts.clone();
    let images = mounts.iter_mut().filter_map(|m| m.image.as_mut());
    for (image, id) in images.zip(&record.mounted) {
        image.image_ref.clone_from(id);
    }
    mounts
}

/// ContainerStatus without what `verbose` adds.
pub(super) fn describe(container: &ContainerInfo) -> cri::ContainerStatus {
    let ContainerInfo { record, live, .. } = container;
    let config = &record.config;
    let exit = live.exit.clone().filter(|_| live.state != ContainerState::Running).unwrap_or_default();
    let process = &record.process;
    let user = cri::LinuxContainerUser {
        uid: process.uid.into(),
        gid: process.gid.into(),
        supplemental_groups: process.groups.iter().map(|g| i64::from(*g)).collect(),
    };
    let resources = config
        .linux
        .as_ref()
        .map(|_| cri::ContainerResources { linux: Some(linux_resources(config)), windows: None });
    cri::ContainerStatus {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        state: state(live.state).into(),
        created_at: record.created_at,
        started_at: live.started_at,
        finished_at: exit.finished_at,
        exit_code: exit.code,
        image: config.image.clone(),
        image_ref: record.image_ref.clone(),
        reason: exit.reason,
        message: exit.message,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: mounts(record),
        log_path: record.log_path.clone().unwrap_or_default(),
        resources,
        image_id: record.image_id.clone(),
        user: Some(cri::ContainerUser { linux: Some(user) }),
        stop_signal: command::signal_of(record.stop_signal).into(),
    }
}

/// ContainerStatus.
pub(super) fn status(container: &Container, verbose: bool) -> cri::ContainerStatusResponse {
    let (record, live) = (container.record(), container.live());
    let info = info(verbose, || {
        serde_json::json!({
            "sandboxID": record.pod_id,
            "pid": live.pid,
            "cgroup": record.cgroup,
            "process": record.process,
            "runs": record.runs,
            "volatile": record.volatile,
            "apparmorProfile": record.apparmor,
            "selinux": record.selinux,
            "config": record.config,
        })
    });
    cri::ContainerStatusResponse { status: Some(describe(&container.info())), info }
}
