//! What a pod's shim tells, and what its silence means.

use super::state::{Change, PodState};
use super::{ExecEnd, Pod, short};
use crate::container::state::ContainerState;
use crate::node::Node;
use crate::shim::{Connected, Shim, process};
use std::sync::Arc;
use std::time::Duration;
use strata_wire::Event;
use tokio::sync::mpsc;

/// How soon a shim that lives but does not answer is tried again.
const AGAIN: Duration = Duration::from_secs(1);

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
            match self.find_shim_again(&pod).await {
                Some(next) => events = next,
                None => return,
            }
        }
    }

    /// Follows a shim that lives and is not connected, once it is.
    pub(crate) fn follow_later(self: &Arc<Self>, pod: &Arc<Pod>) {
        // As if its connection had just gone.
        let (_, ended) = mpsc::unbounded_channel();
        tokio::spawn(self.clone().watch_pod(pod.clone(), ended));
    }

    /// Sees to containers that ended, and the daemon too before it could.
    pub(crate) fn clean_up_ended(self: &Arc<Self>, pod: &Pod) {
        for container in self.containers.of_pod(pod.id()) {
            if container.state() == ContainerState::Exited {
                self.clean_up_after(&container);
            }
        }
    }

    /// The connection has gone, but perhaps not the shim. Nothing is made or started meanwhile: what the shim has told would
    /// be older than that.
    async fn find_shim_again(self: &Arc<Self>, pod: &Arc<Pod>) -> Option<mpsc::UnboundedReceiver<Event>> {
        loop {
            let alone = pod.gate.write().await;
            if pod.going().is_cancelled() || pod.state() != PodState::Ready {
                return None;
            }
            match Shim::connect(pod.state_dir(), pod.id()).await {
                Ok(Connected { shim, containers, events }) => {
                    self.metrics.shims_reconnected.inc();
                    pod.set_shim(Some(shim));
                    self.reconcile(pod, &containers).await;
                    self.clean_up_ended(pod);
                    return Some(events);
                }
                Err(e) if process::lives(pod.state_dir()) => {
                    // It may go on so for days.
                    if pod.set_apart(e.to_string()) {
                        tracing::warn!(pod = short(pod.id()), error = %e, "the pod's shim does not answer; trying again");
                    }
                }
                Err(e) => {
                    tracing::error!(pod = short(pod.id()), error = %e, "the pod's shim has died; the pod goes with it");
                    self.lose(pod).await;
                    return None;
                }
            }
            // Whoever wants to stop the pod has its turn.
            drop(alone);
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = pod.going().cancelled_owned() => {}
            }
        }
    }

    /// A dead shim means a dead pod: its containers have lost their parent, their terminals and their log.
    pub(crate) async fn pod_lost(self: &Arc<Self>, pod: &Arc<Pod>) {
        let _alone = pod.gate.write().await;
        self.lose(pod).await;
    }

    async fn lose(self: &Arc<Self>, pod: &Arc<Pod>) {
        pod.set_shim(None);
        if let Err(e) = pod.change(Change::Lost) {
            tracing::debug!(error = %e, "pod was on its way already");
            return;
        }
        self.metrics.shims_lost.inc();
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
