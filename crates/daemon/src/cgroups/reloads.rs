//! What systemd undoes: once it has read all units again (`systemctl daemon-reload`, `daemon-reexec`), it writes the files of their
//! cgroups as it knows them. It knows no `memory.oom.group` of a scope that is there, and CPU quotas in steps of 10 ms only. So the
//! limits are written once more, whenever it says that it has done so, and when that may have been missed.

use super::names;
use crate::config::CgroupDriver;
use crate::container::Container;
use crate::container::assemble::linux_resources;
use crate::container::plan::resources;
use crate::container::state::ContainerState;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::pod::state::PodState;
use crate::pod::{Pod, short};
use crate::tasks::blocking;
use std::sync::Arc;
use std::time::Duration;
use strata_api::cri;

/// How soon a bus that has gone is looked for again.
const AGAIN: Duration = Duration::from_secs(5);

impl Node {
    /// Writes limits once more whenever systemd may have undone them, for good. Where nothing is systemd's, it returns.
    pub(crate) async fn follow_reloads(self: Arc<Self>) {
        // Pods of another driver go on as they were made.
        let units = || self.containers.all().iter().any(|c| is_unit(&c.record().cgroup));
        if self.config.cgroup.driver == CgroupDriver::Cgroupfs && !units() {
            return;
        }
        loop {
            // What is wrong with the bus is told to whoever needs it.
            if let Ok(mut reloads) = self.systemd.0.reloads().await {
                loop {
                    self.write_limits_again();
                    if reloads.changed().await.is_err() {
                        break;
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Each by itself: a container's turn may be another's for a while.
    fn write_limits_again(self: &Arc<Self>) {
        for pod in self.pods.all() {
            let node = self.clone();
            tokio::spawn(async move {
                if let Err(e) = node.write_pod_again(&pod).await {
                    tracing::warn!(pod = short(pod.id()), error = %e, "{UNDONE}");
                }
            });
        }
        for container in self.containers.all() {
            let node = self.clone();
            tokio::spawn(async move {
                if let Err(e) = node.write_container_again(&container).await {
                    tracing::warn!(container = short(container.id()), error = %e, "{UNDONE}");
                }
            });
        }
    }

    async fn write_pod_again(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        let _gate = pod.gate.read().await;
        let record = pod.record();
        let Some(asked) = record.resources.resources else { return Ok(()) };
        if !record.owns_cgroup || pod.state() != PodState::Ready {
            return Ok(());
        }
        let overhead = record.resources.overhead.unwrap_or_default();
        self.write_again(&record.cgroup_parent, &resources::with_overhead(&asked, &overhead)).await
    }

    async fn write_container_again(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _turn = container.turn.lock().await;
        use ContainerState::{Created, Running, Unknown};
        if !matches!(container.state(), Created | Running | Unknown) {
            return Ok(());
        }
        let record = container.record();
        let asked = linux_resources(&record.config);
        self.write_again(&record.cgroup, &asked).await
    }

    async fn write_again(self: &Arc<Self>, cgroup: &str, asked: &cri::LinuxContainerResources) -> Result<()> {
        if !is_unit(cgroup) {
            return Ok(());
        }
        let (limits, _) = resources::fit(resources::resources(asked, 0)?, &self.cgroups, None);
        let group = self.group(cgroup)?;
        blocking(move || match group.apply(&limits) {
            // It has ended meanwhile.
            Err(_) if !group.exists() => Ok(()),
            other => other.map_err(|e| Error::internal(e.to_string())),
        })
        .await
    }
}

const UNDONE: &str = "limits that systemd has undone cannot be written again";

fn is_unit(cgroup: &str) -> bool {
    names::is_unit(names::unit(cgroup))
}
