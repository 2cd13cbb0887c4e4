//! Taking a pod apart, whatever is left of it. Every step is fine with there being nothing to do, so that it can be repeated
//! until all have succeeded.

use super::record::PodRecord;
use super::state::PodState;
use super::{Pod, files, namespaces, short};
use crate::cgroups::names;
use crate::error::{Error, Result};
use crate::net::{DetachRequest, Provider};
use crate::node::Node;
use crate::shim::process;
use crate::tasks::blocking;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use strata_cgroup::Group;
use strata_sys::ns;
use strata_wire::Request;

/// How long a shim may take to kill everything and leave.
const SHUTDOWN: Duration = Duration::from_secs(15);

/// Pauses between attempts to pay what a pod owes that is stopped or discarded.
pub(crate) const RETRY: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_secs(2), Duration::from_secs(15), Duration::from_secs(60)];

impl Node {
    /// Where a pod's sockets, pins and files are.
    pub(crate) fn pod_dir(&self, id: &str) -> PathBuf {
        self.config.state.join("pods").join(id)
    }

    /// Where a pod's network namespace is pinned.
    pub(crate) fn netns_of(&self, id: &str) -> PathBuf {
        self.config.network.netns_dir.join(format!("strata-{id}"))
    }

    /// A cgroup by its name.
    pub(crate) fn group(&self, name: &str) -> Result<Group> {
        self.cgroups.group(name).map_err(|e| Error::invalid(e.to_string()))
    }

    /// Who attached a pod; `None` if nobody has to.
    pub(crate) fn provider_of(&self, record: &PodRecord) -> Result<Option<Arc<dyn Provider>>> {
        let Some(name) = &record.network.provider else { return Ok(None) };
        [&self.cni, &self.bridge].into_iter().find(|p| p.name() == name).cloned().map(Some).ok_or_else(|| {
            Error::precondition(format!(
                "pod {} was attached by the network {name:?}, which is not configured any more",
                short(&record.id)
            ))
        })
    }

    /// Kills what runs, gives back the network, lets go of namespaces, cgroups and files. The record and the containers'
    /// writable layers stay.
    pub(crate) async fn take_down(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        if let Some(shim) = pod.shim() {
            match shim.done(Request::Shutdown, SHUTDOWN).await {
                Ok(()) => process::let_go(pod.state_dir()),
                Err(e) => {
                    tracing::warn!(pod = short(pod.id()), error = %e, "shim did not shut down; killing what is left");
                }
            }
            pod.set_shim(None);
        }
        // One that lives and cannot be told to leave would be there for ever.
        process::kill(pod.state_dir());
        let (node, own) = (self.clone(), pod.clone());
        blocking(move || node.kill_groups(&own)).await?;
        // Before the namespace goes, which would take virtual ones with it.
        let given = self.give_back_all(pod).await;
        self.detach(pod).await?;
        given?;
        let (node, own) = (self.clone(), pod.clone());
        blocking(move || node.remove_leftovers(&own)).await
    }

    async fn detach(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        let record = pod.record();
        let Some(provider) = self.provider_of(&record)?.filter(|_| record.network.owed) else {
            return Ok(());
        };
        let request = DetachRequest {
            pod_id: record.id.clone(),
            netns: record.namespaces.net.as_ref().map(PathBuf::from).filter(|p| ns::is_pinned(p)),
            intent: record.network.intent.clone(),
            attachment: record.network.attachment.clone(),
        };
        self.metrics
            .networks
            .timed(provider.name(), "detach", provider.detach(request))
            .await
            .map_err(|e| e.context(format!("network of pod {}", short(&record.id))))?;
        pod.edit(|r| {
            r.network.owed = false;
            r.network.intent = None;
            r.network.attachment = None;
        });
        Ok(())
    }

    /// Kills everything below a pod's cgroups, without its shim's help.
    fn kill_groups(&self, pod: &Pod) -> Result<()> {
        for name in self.groups_of(pod) {
            let group = self.group(&name)?;
            if group.exists() {
                group.kill().map_err(|e| Error::internal(e.to_string()))?;
            }
        }
        Ok(())
    }

    fn groups_of(&self, pod: &Pod) -> Vec<String> {
        let record = pod.record();
        let containers = self.containers.of_pod(pod.id());
        let mut all: Vec<String> = containers.iter().map(|c| c.record().cgroup.clone()).collect();
        all.push(names::leaf(&record.cgroup_parent, &record.id));
        if record.owns_cgroup {
            all.push(record.cgroup_parent);
        }
        all
    }

    fn remove_leftovers(&self, pod: &Pod) -> Result<()> {
        for name in self.groups_of(pod) {
            self.drop_group(&self.group(&name)?)?;
        }
        namespaces::release(&pod.record().namespaces);
        remove_state_dir(pod.state_dir())
    }

    /// Takes a pod apart for good, record and containers included; what fails is tried again in the background.
    pub(crate) async fn discard_pod(self: &Arc<Self>, pod: &Arc<Pod>) {
        if let Err(e) = self.try_discard(pod).await {
            tracing::warn!(pod = short(pod.id()), error = %e, "pod cannot be taken apart yet; trying again");
            let (node, pod) = (self.clone(), pod.clone());
            tokio::spawn(async move {
                for pause in RETRY.iter().chain(std::iter::repeat(&RETRY[RETRY.len() - 1])) {
                    tokio::time::sleep(*pause).await;
                    match node.try_discard(&pod).await {
                        Ok(()) => return,
                        Err(e) => tracing::debug!(pod = short(pod.id()), error = %e, "still not taken apart"),
                    }
                }
            });
        }
    }

    /// Goes on with a stop that failed, until it succeeds or the pod is removed.
    pub(crate) fn stop_later(self: &Arc<Self>, pod: &Arc<Pod>) {
        if pod.stopping_later.swap(true, Ordering::SeqCst) {
            return;
        }
        let (node, pod) = (self.clone(), pod.clone());
        tokio::spawn(async move {
            for pause in RETRY.iter().chain(std::iter::repeat(&RETRY[RETRY.len() - 1])) {
                tokio::time::sleep(*pause).await;
                // Removed: whoever removes it goes on. Started again: it owes for what it uses now.
                if !matches!(pod.state(), PodState::Stopping | PodState::NotReady) {
                    break;
                }
                match node.stop_found(&pod).await {
                    Ok(()) => break,
                    Err(e) => tracing::debug!(pod = short(pod.id()), error = %e, "still not stopped"),
                }
            }
            pod.stopping_later.store(false, Ordering::SeqCst);
        });
    }

    async fn try_discard(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        self.take_down(pod).await?;
        for container in self.containers.of_pod(pod.id()) {
            self.forget_container(&container).await?;
        }
        pod.tell_deleted();
        let (store, id) = (self.store.clone(), pod.id().to_owned());
        blocking(move || Ok(store.remove_pod(&id)?)).await?;
        self.pods.forget(pod.id());
        Ok(())
    }
}

/// Removes a pod's directory below the state directory, with what is mounted in it.
pub(crate) fn remove_state_dir(dir: &Path) -> Result<()> {
    files::unmount_shm(dir);
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::internal(format!("remove {}: {e}", dir.display())))
        }
        _ => Ok(()),
    }
}
