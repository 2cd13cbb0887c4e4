//! Changing a container's limits, and its log file after a rotation.

use super::Container;
use super::assemble::linux_resources;
use super::plan::resources;
use super::state::ContainerState;
use crate::error::{Error, Kind, Result};
use crate::node::Node;
use crate::pod::short;
use crate::tasks::{blocking, detached};
use std::sync::Arc;
use strata_api::cri;
use strata_wire::Request;

impl Node {
    /// Sets limits; what the request leaves out stays (CRI UpdateContainerResources).
    pub(crate) async fn update_container(
        self: &Arc<Self>,
        id: &str,
        new: cri::LinuxContainerResources,
    ) -> Result<()> {
        let container = self.find_container(id)?;
        let node = self.clone();
        detached(async move {
            node.settled(container.pod()).await?;
            let _turn = container.turn.lock().await;
            if !matches!(container.state(), ContainerState::Created | ContainerState::Running) {
                return Err(Error::precondition(format!("container {} has ended", short(container.id()))));
            }
            let record = container.record();
            let merged = resources::merged(&linux_resources(&record.config), &new);
            let limits = resources::resources(&new, 0)?;
            let (mut limits, _) = resources::fit(limits, &node.cgroups, Vec::new());
            // Which devices it may use does not change.
            limits.devices = None;
            let group = node.group(&record.cgroup)?;
            blocking(move || {
                group.apply(&limits).map_err(|e| match e {
                    strata_cgroup::Error::Value { .. } => Error::invalid(e.to_string()),
                    other => Error::internal(other.to_string()),
                })
            })
            .await?;
            container.edit(|r| {
                r.config.linux.get_or_insert_default().resources = Some(merged);
            });
            node.put_container(&container).await
        })
        .await
    }

    /// Has the shim open a container's log file anew (CRI ReopenContainerLog).
    pub(crate) async fn reopen_log(&self, container: &Container) -> Result<()> {
        self.settled(container.pod()).await?;
        if container.state() != ContainerState::Running {
            return Err(Error::precondition(format!("container {} is not running", container.id())));
        }
        let request = Request::ReopenLog { id: container.id().to_owned() };
        match container.pod().need_shim()?.done(request, crate::shim::PROMPT).await {
            Ok(()) => Ok(()),
            Err(e) => {
                let e = Error::from(e);
                // It ended meanwhile: there is nothing more to write.
                if e.kind() == Kind::NotFound {
                    Ok(())
                } else {
                    Err(e.context("the log cannot be opened anew"))
                }
            }
        }
    }
}
