//! UpdatePodSandboxResources: limits of a pod as a whole.

use super::short;
use super::state::PodState;
use crate::container::plan::resources;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::tasks::{blocking, detached};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use strata_api::cri;

/// What was last said of a pod's limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PodResources {
    /// What the pod takes beside its containers.
    pub(crate) overhead: Option<cri::LinuxContainerResources>,
    /// What its containers take together.
    pub(crate) resources: Option<cri::LinuxContainerResources>,
}

impl Node {
    /// Takes new limits of a pod; what is left out stays.
    ///
    /// The kubelet sets those of the cgroups that it makes itself, before it says so: then they are recorded, for whoever looks
    /// at the pod. A cgroup that Strata has made gets them here.
    ///
    /// # Errors
    /// [`NotFound`](crate::error::Kind::NotFound), [`FailedPrecondition`](crate::error::Kind::FailedPrecondition) for a pod that
    /// is not ready, [`InvalidArgument`](crate::error::Kind::InvalidArgument) for limits that make no sense.
    pub(crate) async fn update_pod(self: &Arc<Self>, id: &str, new: PodResources) -> Result<()> {
        let pod = self.find_pod(id)?;
        let node = self.clone();
        detached(async move {
            node.settled(&pod).await?;
            // Alone, so that of two updates the later one's record is the later one on disk.
            let _alone = pod.gate.write().await;
            if pod.state() != PodState::Ready {
                return Err(Error::precondition(format!(
                    "pod {} is {}: limits of ready pods only can be changed",
                    short(pod.id()),
                    pod.state().word()
                )));
            }
            let record = pod.record();
            let old = record.resources.clone();
            let all = PodResources {
                overhead: new.overhead.or(record.resources.overhead),
                resources: new.resources.or(record.resources.resources),
            };
            let overhead = all.overhead.clone().unwrap_or_default();
            resources::resources(&overhead, 0)?;
            let total = resources::with_overhead(&all.resources.clone().unwrap_or_default(), &overhead);
            let limits = resources::resources(&total, 0)?;
            let (limits, left_out) = resources::fit(limits, &node.cgroups, None);
            let group = node.group(&record.cgroup_parent)?;
            let mut before = None;
            if record.owns_cgroup {
                left_out.iter().for_each(|warning| node.warn_once(warning));
                let (own, of, wanted) = (node.clone(), group.clone(), limits.clone());
                before = Some(blocking(move || own.change_limits(&of, &wanted)).await?);
            }
            pod.edit(|r| r.resources = all);
            let written = node.put_pod(&pod).await;
            if written.is_err() {
                pod.edit(|r| r.resources = old);
                let own = node.clone();
                blocking(move || {
                    if let Some(before) = before {
                        own.take_limits_back(&group, &limits, &before);
                    }
                    Ok(())
                })
                .await?;
            }
            written
        })
        .await
    }
}
