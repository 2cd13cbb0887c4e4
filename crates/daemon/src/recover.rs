//! Finding everything again: after a restart of stratad, and after a reboot.
//!
//! ```text
//!   records ─▶ pods, containers (state unknown) ─▶ serving begins
//!                 │ each pod by itself, within a bound
//!                 ├ same boot, shim answers   its word, and the exits that it left
//!                 ├ same boot, shim silent    the pod stays, its containers' state unknown; tried again until it answers or ends
//!                 ├ same boot, no shim        the pod has died with it
//!                 ├ another boot              running: exited 255 Unknown; created: discarded; network given back
//!                 └ half made or half gone    taken apart
//!            ─▶ what cannot be read: ended and cleaned, its record goes to lost+found/
//! ```
//!
//! * [`load`]: reading the records.
//! * [`lost`]: what is there and has no record that can be read.

mod load;
mod lost;

use crate::cgroups::names;
use crate::container::Container;
use crate::container::record::Exit;
use crate::container::state::{Change as ContainerChange, ContainerState};
use crate::error::{Error, Result};
use crate::ids::{is_id, now};
use crate::net::Held;
use crate::node::Node;
use crate::pod::state::{Change, PodState};
use crate::pod::{Pod, files, short};
use crate::request::Origin;
use crate::shim::{Connected, Shim, process};
use crate::tasks::blocking;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use strata_wire::Request;
use strata_wire::state::Phase;

/// What Kubernetes expects of a container whose end nobody has seen.
const UNKNOWN: i32 = 255;

impl Node {
    /// Reads the records and begins to recover each pod; returns when everything can be listed.
    ///
    /// # Errors
    /// If the records' directories cannot be read.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<()> {
        let node = self.clone();
        let loaded = blocking(move || node.load()).await?;
        self.recover_networks(&loaded.pods).await;
        self.end_lost(&loaded);
        for pod in loaded.pods {
            let node = self.clone();
            tokio::spawn(async move {
                let bound = Duration::from_secs(node.config.limits.recovery_timeout);
                if tokio::time::timeout(bound, node.recover_pod(&pod)).await.is_err() {
                    tracing::error!(pod = short(pod.id()), "recovery takes too long; it is cut short");
                    match pod.state() {
                        PodState::Discarding => node.discard_pod(&pod).await,
                        PodState::Ready if process::lives(pod.state_dir()) => node.follow_later(&pod),
                        _ => node.pod_lost(&pod).await,
                    }
                }
                pod.settle();
            });
        }
        Ok(())
    }

    /// Restores who has which address, before the first pod is attached.
    async fn recover_networks(&self, pods: &[Arc<Pod>]) {
        let mut held: HashMap<String, Vec<Held>> = HashMap::new();
        for pod in pods {
            let record = pod.record();
            let Some(provider) = record.network.provider.filter(|_| record.network.owed) else { continue };
            held.entry(provider).or_default().push(Held {
                pod_id: record.id,
                netns: record.namespaces.net.map(Into::into),
                intent: record.network.intent,
                attachment: record.network.attachment,
                live: record.boot_id == self.boot_id,
                ready: record.state == PodState::Ready,
            });
        }
        for provider in [&self.bridge, &self.cni] {
            let own = held.remove(provider.name()).unwrap_or_default();
            if let Err(e) = provider.recover(own).await {
                tracing::error!(network = provider.name(), error = %e, "the network cannot be restored");
            }
        }
    }

    async fn recover_pod(self: &Arc<Self>, pod: &Arc<Pod>) {
        let record = pod.record();
        for container in self.containers.of_pod(pod.id()) {
            if container.state() == ContainerState::Exited {
                self.poststop_later(&container);
            }
        }
        if record.state == PodState::Discarding {
            // What says that it is unfinished goes with its files.
            if files::unfinished(pod.state_dir()) {
                self.put_discarded(pod).await;
            }
            return self.discard_pod(pod).await;
        }
        if record.boot_id != self.boot_id {
            return self.recover_from_reboot(pod).await;
        }
        match Shim::connect(pod.state_dir(), pod.id()).await {
            Ok(Connected { shim, containers, events }) => {
                pod.set_shim(Some(shim));
                self.reconcile(pod, &containers).await;
                // Lent to a container whose creation was cut off before it was recorded.
                if let Err(e) = self.give_back_unused(pod, None).await {
                    tracing::warn!(pod = short(pod.id()), error = %e, "goes back with the pod");
                }
                if record.state == PodState::Ready {
                    tokio::spawn(self.clone().watch_pod(pod.clone(), events));
                    self.clean_up_ended(pod);
                } else if let Err(e) = self.take_down(pod).await {
                    tracing::warn!(pod = short(pod.id()), error = %e, "a stop that was cut off cannot be ended yet");
                    self.stop_later(pod);
                }
            }
            // It may be slow, or of a release that speaks otherwise: its containers run.
            Err(e) if record.state == PodState::Ready && process::lives(pod.state_dir()) => {
                tracing::warn!(pod = short(pod.id()), error = %e, "the pod's shim lives but is not connected; trying again");
                pod.set_apart(e.to_string());
                self.follow_later(pod);
            }
            Err(e) => {
                if record.state == PodState::Ready {
                    tracing::warn!(pod = short(pod.id()), error = %e, "the pod's shim is gone");
                }
                self.pod_lost(pod).await;
                // Perhaps a stop was cut off. Containers that strata starts again keep what they have until then.
                if record.origin == Origin::Kubernetes && record.network.owes() {
                    self.stop_later(pod);
                }
            }
        }
    }

    /// The machine has been down: nothing runs, and what was owed still is.
    async fn recover_from_reboot(self: &Arc<Self>, pod: &Arc<Pod>) {
        // Interfaces are the node's again, as it set them up when it booted.
        pod.edit(|r| r.network.devices.clear());
        for container in self.containers.of_pod(pod.id()) {
            if container.state() == ContainerState::Exited {
                continue;
            }
            let record = container.record();
            if record.runs == 0 && record.origin == Origin::Kubernetes {
                if let Err(e) = self.forget_container(&container).await {
                    tracing::warn!(container = short(container.id()), error = %e, "cannot be discarded");
                }
                continue;
            }
            let exit = Exit {
                run: record.runs,
                code: if record.runs == 0 { 0 } else { UNKNOWN },
                reason: "Unknown".into(),
                message: "the node was restarted while the container ran".into(),
                finished_at: now(),
                ..Exit::default()
            };
            self.ended(&container, exit).await;
        }
        if let Err(e) = self.take_down(pod).await {
            tracing::warn!(pod = short(pod.id()), error = %e, "what the pod owes is still owed; trying again");
        }
        let _ = pod.change(Change::Lost);
        pod.edit(|r| r.boot_id.clone_from(&self.boot_id));
        if let Err(e) = self.put_pod(pod).await {
            tracing::warn!(pod = short(pod.id()), error = %e, "the pod's record cannot be written");
        }
        if pod.origin() == Origin::Kubernetes && pod.record().network.owes() {
            self.stop_later(pod);
        }
    }

    /// Brings containers in line with what their shim says.
    pub(crate) async fn reconcile(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        told: &[strata_wire::state::ContainerState],
    ) {
        for container in self.containers.of_pod(pod.id()) {
            if !matches!(
                container.state(),
                ContainerState::Unknown | ContainerState::Created | ContainerState::Running
            ) {
                continue;
            }
            let changed = match told.iter().find(|t| t.id == container.id()) {
                // Recorded, but never made: nobody was told of it.
                None if container.record().runs == 0 && container.record().origin == Origin::Kubernetes => {
                    if let Err(e) = self.forget_container(&container).await {
                        tracing::warn!(container = short(container.id()), error = %e, "cannot be discarded");
                    }
                    continue;
                }
                None => {
                    self.declare_dead(&container, "its shim does not know it any more").await;
                    continue;
                }
                Some(t) => match (t.phase, &t.exit) {
                    (Phase::Exited, Some(exit)) => {
                        self.container_exited(exit).await;
                        continue;
                    }
                    (Phase::Created, _) if container.state() == ContainerState::Unknown => {
                        container.change(ContainerChange::Created, |live| live.pid = t.pid)
                    }
                    (Phase::Running | Phase::Exited, _) if container.state() != ContainerState::Running => {
                        container.change(ContainerChange::Started, |live| {
                            (live.pid, live.started_at) = (t.pid, t.started_at);
                        })
                    }
                    _ => continue,
                },
            };
            if let Err(e) = changed {
                tracing::warn!(container = short(container.id()), error = %e, "state");
            }
            self.thaw_left_frozen(&container);
        }
        self.remove_unknown(pod, told).await;
    }

    /// A commit freezes what it reads; one that was cut off left it frozen.
    fn thaw_left_frozen(&self, container: &Container) {
        let Ok(group) = self.group(&container.record().cgroup) else { return };
        if group.is_frozen().is_ok_and(|frozen| frozen)
            && let Err(e) = group.thaw()
        {
            tracing::warn!(container = short(container.id()), error = %e, "cannot be thawed");
        }
    }

    /// Containers that the shim has and no record names: their creation was cut off.
    async fn remove_unknown(self: &Arc<Self>, pod: &Arc<Pod>, told: &[strata_wire::state::ContainerState]) {
        for stranger in told.iter().filter(|t| self.containers.get(&t.id).is_none()) {
            let Some(shim) = pod.shim() else { return };
            let removed = shim.done(Request::Remove { id: stranger.id.clone() }, crate::shim::PROMPT).await;
            if let Err(e) = removed {
                tracing::warn!(container = short(&stranger.id), error = %e, "half-made container cannot be removed");
            }
        }
        // The shim may not have come to know of one whose cgroup was made. A parent that others chose may have groups of
        // others in it.
        let record = pod.record();
        if !record.owns_cgroup {
            return;
        }
        let Ok(group) = self.group(&record.cgroup_parent) else { return };
        for child in group.children() {
            let id = names::id_of_leaf(&child);
            if is_id(id)
                && id != pod.id()
                && !self.store.has_container(id)
                && let Ok(group) = group.child(&child)
            {
                let node = self.clone();
                let removed = blocking(move || {
                    group.kill().map_err(|e| Error::internal(e.to_string()))?;
                    node.drop_group(&group)
                });
                if let Err(e) = removed.await {
                    tracing::warn!(cgroup = child, error = %e, "cgroup of a half-made container cannot be removed");
                }
            }
        }
    }
}
