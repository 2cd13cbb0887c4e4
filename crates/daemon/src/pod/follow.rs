//! What a pod's shim tells, and what its silence means.

use super::state::{Change, PodState};
use super::{ExecEnd, Pod, short};
use crate::node::Node;
use crate::shim::{Connected, Shim};
use std::sync::Arc;
use strata_wire::Event;
use tokio::sync::mpsc;

impl Node {
    /// Follows a shim until its pod goes down.
    pub(crate) async fn watch_pod(self: Arc<Self>, pod: Arc<Pod>, events: mpsc::UnboundedReceiver<Event>) {
        let mut events = events;
        loop {
            while let Some(event) = events.recv().await {
                match event {
                    Event::Exited(exit) => self.container_exited(&exit).await,
                    Event::ExecExited { exec_id, exit_code, timed_out, .. } => {
                        pod.exec_ended(&exec_id, Some(ExecEnd { exit_code, timed_out }));
                    }
                }
            }
            pod.forget_execs();
            if pod.going().is_cancelled() || pod.state() != PodState::Ready {
                return;
            }
            // The connection has gone, but perhaps not the shim.
            match Shim::connect(pod.state_dir(), pod.id()).await {
                Ok(Connected { shim, containers, events: next }) => {
                    pod.set_shim(Some(shim));
                    self.reconcile(&pod, &containers).await;
                    events = next;
                }
                Err(e) => {
                    tracing::error!(pod = short(pod.id()), error = %e, "the pod's shim has died; the pod goes with it");
                    self.pod_lost(&pod).await;
                    return;
                }
            }
        }
    }

    /// A dead shim means a dead pod: its containers have lost their parent, their terminals and their log.
    pub(crate) async fn pod_lost(self: &Arc<Self>, pod: &Arc<Pod>) {
        let _alone = pod.gate.write().await;
        pod.set_shim(None);
        if let Err(e) = pod.change(Change::Lost) {
            tracing::debug!(error = %e, "pod was on its way already");
            return;
        }
        for container in self.containers.of_pod(pod.id()) {
            let group = self.group(&container.record().cgroup);
            let killed = crate::tasks::blocking(move || {
                group?.kill().map_err(|e| crate::error::Error::internal(e.to_string()))
            });
            if let Err(e) = killed.await {
                tracing::warn!(container = short(container.id()), error = %e, "cannot be killed");
            }
            self.declare_dead(&container, "the pod's shim died").await;
        }
        if let Err(e) = self.put_pod(pod).await {
            tracing::warn!(pod = short(pod.id()), error = %e, "the pod's record cannot be written");
        }
    }
}
