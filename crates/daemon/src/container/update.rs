//! Changing a container's limits, and its log file after a rotation.

use super::Container;
use super::assemble::linux_resources;
use super::plan::resources;
use super::state::ContainerState;
use crate::cgroups::names;
use crate::error::{Error, Kind, Result};
use crate::node::Node;
use crate::pod::short;
use crate::tasks::{blocking, detached};
use std::sync::Arc;
use strata_api::cri;
use strata_cgroup::{Group, Mode, Resources};
use strata_wire::Request;

impl Node {
    /// Sets limits, whether or not its program runs; what the request leaves out stays (CRI UpdateContainerResources).
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for limits that make no sense, [`Kind::FailedPrecondition`] for a container that has ended,
    /// and for a memory limit below what it cannot do without. The limits are then as they were.
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
            container.known()?;
            if !matches!(container.state(), ContainerState::Created | ContainerState::Running) {
                return Err(Error::precondition(format!("container {} has ended", short(container.id()))));
            }
            let record = container.record();
            let old = linux_resources(&record.config);
            let (merged, mut limits) = resources::changed(&old, &new)?;
            if names::is_unit(&record.cgroup) {
                // Told of some limits, systemd writes the files of others, too, in its own way: so all are written after it.
                limits = resources::resources(&merged, 0)?;
            }
            let group = node.group(&record.cgroup)?;
            let (limits, left_out) = resources::fit(limits, &node.cgroups, None);
            left_out.iter().for_each(|warning| node.warn_once(warning));
            let adj = i32::try_from(merged.oom_score_adj).ok().filter(|_| new.oom_score_adj != 0);
            let (own, of, wanted) = (node.clone(), group.clone(), limits.clone());
            let before = blocking(move || {
                refuse_to_kill(&of, &wanted)?;
                let before = own.change_limits(&of, &wanted)?;
                if adj.is_some_and(|adj| !set_oom_score_adj(&of, adj)) {
                    own.warn_once(
                        "oom_score_adj of running processes cannot be lowered without CAP_SYS_RESOURCE",
                    );
                }
                Ok(before)
            })
            .await
            .map_err(|e| e.context(format!("container {}", short(container.id()))))?;
            let tell = |resources| {
                container.edit(|r| r.config.linux.get_or_insert_default().resources = Some(resources));
            };
            tell(merged);
            if let Err(e) = node.put_container(&container).await {
                let adj = adj.and_then(|_| i32::try_from(old.oom_score_adj).ok());
                tell(old);
                let own = node.clone();
                blocking(move || {
                    own.take_limits_back(&group, &limits, &before);
                    if let Some(adj) = adj {
                        set_oom_score_adj(&group, adj);
                    }
                    Ok(())
                })
                .await?;
                return Err(e);
            }
            Ok(())
        })
        .await
    }

    /// Has the shim open a container's log file anew (CRI ReopenContainerLog).
    pub(crate) async fn reopen_log(&self, container: &Container) -> Result<()> {
        self.settled(container.pod()).await?;
        container.known()?;
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

/// v1 refuses a limit that cannot be met; v2 meets it by killing.
fn refuse_to_kill(group: &Group, limits: &Resources) -> Result<()> {
    let Some(limit) = limits.memory_limit.and_then(|l| u64::try_from(l).ok()) else { return Ok(()) };
    if group.hierarchy().mode() != Mode::V2 {
        return Ok(());
    }
    let used = group.stats().ok().and_then(|s| s.memory_rss).unwrap_or(0);
    if used <= limit {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "its processes hold {used} bytes of memory: a limit of {limit} would kill them; free memory first, or restart it"
    )))
}

/// Whether all processes could be given it. One that has just ended has no need of it.
fn set_oom_score_adj(group: &Group, adj: i32) -> bool {
    use std::io::ErrorKind;
    let pids = group.procs().unwrap_or_default();
    let written =
        pids.iter().map(|pid| std::fs::write(format!("/proc/{pid}/oom_score_adj"), adj.to_string()));
    written.filter_map(Result::err).all(|e| e.kind() != ErrorKind::PermissionDenied)
}
