//! What a container has changed, and an image of it.

use super::images::tag_name;
use crate::container::ContainerInfo;
use crate::container::state::ContainerState;
use crate::error::{Error, Kind, Result};
use crate::node::Node;
use crate::request::Origin;
use crate::tasks::{blocking, detached};
use std::sync::Arc;
use strata_api::debug;
use strata_oci::change;
use strata_oci::config::Execution;
use strata_store::{ChangeKind, CommitOptions, Image};

pub(super) async fn diff(node: &Node, request: &debug::DiffRequest) -> Result<debug::DiffResponse> {
    let id = node.find_container(&request.r#ref)?.id().to_owned();
    let store = node.store.clone();
    let changes = blocking(move || Ok(store.diff(&id)?)).await?;
    let change = |c: strata_store::Change| debug::Change {
        kind: match c.kind {
            ChangeKind::Changed => debug::change::Kind::Changed,
            ChangeKind::Added => debug::change::Kind::Added,
            ChangeKind::Deleted => debug::change::Kind::Deleted,
        }
        .into(),
        path: c.path,
    };
    Ok(debug::DiffResponse { changes: changes.into_iter().map(change).collect() })
}

pub(super) async fn commit(node: &Arc<Node>, request: debug::CommitRequest) -> Result<debug::CommitResponse> {
    let container = node.find_container(&request.r#ref)?;
    let name = match request.image.as_str() {
        "" => None,
        text => Some(tag_name(text)?),
    };
    let info = container.info();
    let image = node.images.resolve(&info.record.image_id)?;
    let base = execution(&info, &image);
    let created_by = created_by(&info, &base);
    let options = CommitOptions {
        name,
        author: request.author,
        comment: request.message,
        created_by,
        config: changed(base, &request.changes)?,
    };
    let (node, pause) =
        (node.clone(), !request.no_pause && info.state() == ContainerState::Running && !info.live.paused);
    // In a task of its own: whatever becomes of the client, the container is thawed.
    let image = detached(async move {
        let pause = match pause {
            false => false,
            true => match node.pause_container(container.id()).await {
                Ok(()) => true,
                // It ended a moment ago: nothing changes any more.
                Err(e) if e.kind() == Kind::FailedPrecondition => false,
                Err(e) => return Err(e),
            },
        };
        let (store, id) = (node.store.clone(), container.id().to_owned());
        let committed = blocking(move || Ok(store.commit(&id, &options)?)).await;
        let thawed = if pause { node.unpause_container(container.id()).await } else { Ok(()) };
        let image = committed?;
        thawed.map(|()| image)
    })
    .await?;
    Ok(debug::CommitResponse { image_id: image.id.to_string() })
}

fn changed(mut config: Execution, changes: &[String]) -> Result<Execution> {
    for line in changes {
        change::apply(&mut config, line).map_err(|e| Error::invalid(e.to_string()))?;
    }
    Ok(config)
}

/// How containers of the new image run: as its image says, and as `strata run` was told.
///
/// What a pod says is left out: its environment holds secrets and addresses of its cluster, and its command belongs to
/// the pod. A commit of it says what it wants by `--change`.
pub(super) fn execution(info: &ContainerInfo, image: &Image) -> Execution {
    let mut config = image.config.config.clone();
    if info.origin() == Origin::Kubernetes {
        return config;
    }
    let (asked, extras) = (&info.record.config, info.extras());
    if let Some(entrypoint) = &extras.entrypoint {
        config.entrypoint.clone_from(entrypoint);
        config.cmd.clone_from(&asked.args);
    } else if !asked.args.is_empty() {
        config.cmd.clone_from(&asked.args);
    }
    for pair in &asked.envs {
        let line = format!("{}={}", pair.key, String::from_utf8_lossy(&pair.value));
        crate::container::plan::command::put(&mut config.env, line);
    }
    if let Some(user) = &extras.user {
        config.user.clone_from(user);
    }
    if !asked.working_dir.is_empty() {
        config.working_dir.clone_from(&asked.working_dir);
    }
    if let Some(signal) = &extras.stop_signal {
        config.stop_signal.clone_from(signal);
    }
    config.labels.extend(asked.labels.clone());
    config
}

/// What made the layer: the container's command, without what the image puts before it.
fn created_by(info: &ContainerInfo, config: &Execution) -> String {
    if info.origin() == Origin::Strata && !config.cmd.is_empty() {
        config.cmd.join(" ")
    } else {
        info.record.process.args.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_applied_in_order() {
        let lines: Vec<String> = ["CMD [\"a\"]", "ENV X=1", "CMD b c"].map(String::from).into();
        let config = changed(Execution::default(), &lines).unwrap();
        assert_eq!((config.cmd.join(" "), config.env), ("/bin/sh -c b c".into(), vec!["X=1".to_owned()]));
        let error = changed(Execution::default(), &["RUN x".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "RUN is not a valid change command");
        assert_eq!(error.kind(), crate::error::Kind::InvalidArgument);
    }
}
