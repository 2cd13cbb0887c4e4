//! StopPodSandbox: nothing of a pod runs any more, and its network is given back; its records stay.

use super::Pod;
use super::state::{Change, PodState};
use crate::container::state::ContainerState;
use crate::error::Result;
use crate::node::Node;
use crate::shim::process;
use crate::tasks::detached;
use std::sync::Arc;
use std::time::Duration;
use strata_wire::Request;

/// How long killed containers may take to end.
const KILLED: Duration = Duration::from_secs(10);

impl Node {
    /// Kills what runs in a pod and gives its network back. A pod that is not there is success.
    pub(crate) async fn stop_pod(self: &Arc<Self>, id: &str) -> Result<()> {
        let Some(pod) = self.pods.find_or_going(id) else { return Ok(()) };
        let node = self.clone();
        detached(async move {
            let stopped = node.stop_found(&pod).await;
            if stopped.is_err() {
                // What it owes is owed whether or not the caller comes back.
                node.stop_later(&pod);
            }
            stopped
        })
        .await
    }

    pub(crate) async fn stop_found(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        self.settled(pod).await?;
        let _alone = pod.gate.write().await;
        match pod.state() {
            // Removed while this waited for its turn.
            PodState::Discarding => return Ok(()),
            PodState::NotReady if !pod.record().network.owes() && pod.shim().is_none() => return Ok(()),
            PodState::Ready | PodState::Stopping => {
                pod.change(Change::Stopping)?;
            }
            _ => {}
        }
        self.end_containers(pod).await;
        self.take_down(pod).await?;
        if pod.state() == PodState::Stopping {
            pod.change(Change::Stopped)?;
        }
        self.put_pod(pod).await
    }

    /// Kills a pod's containers and waits until their exits are known.
    pub(crate) async fn end_containers(self: &Arc<Self>, pod: &Arc<Pod>) {
        let live =
            |s| matches!(s, ContainerState::Created | ContainerState::Running | ContainerState::Unknown);
        let containers: Vec<_> =
            self.containers.of_pod(pod.id()).into_iter().filter(|c| live(c.state())).collect();
        let Some(shim) = pod.shim() else {
            // Before it can tell of ends that it wakes up to.
            process::kill(pod.state_dir());
            for container in containers {
                self.declare_dead(&container, "the pod was stopped while its shim was gone").await;
            }
            return;
        };
        for container in &containers {
            let _ = self.thaw_if_paused(container);
            let kill = Request::Signal { id: container.id().to_owned(), signal: 9, all: true };
            if let Err(e) = shim.done(kill, crate::shim::PROMPT).await {
                tracing::debug!(container = container.id(), error = %e, "kill");
            }
        }
        for container in &containers {
            let mut changes = container.subscribe();
            let ended = changes.wait_for(|l| !live(l.state));
            if tokio::time::timeout(KILLED, ended).await.is_err() {
                self.declare_dead(container, "it was killed with its pod and did not end in time").await;
            }
        }
    }
}
