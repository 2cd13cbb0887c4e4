//! What is there and has no record that can be read. Nobody can ask for its removal, so it is ended and cleaned here; its
//! record goes last, so that a daemon that ends meanwhile is followed by one that goes on.

use super::load::{Loaded, LostPod};
use crate::cgroups::names;
use crate::error::{Error, Result};
use crate::ids::is_id;
use crate::net::{DetachRequest, devices};
use crate::node::Node;
use crate::pod::teardown::{self, RETRY};
use crate::pod::{namespaces, short};
use crate::shim::{Connected, Shim};
use crate::tasks::blocking;
use std::path::PathBuf;
use std::sync::Arc;
use strata_sys::ns;
use strata_wire::Request;
use strata_wire::plan::PodNamespaces;

impl Node {
    /// Begins to clean what cannot be read, and what no record names.
    pub(super) fn end_lost(self: &Arc<Self>, loaded: &Loaded) {
        for pod in &loaded.lost_pods {
            let (node, pod) = (self.clone(), pod.clone());
            tokio::spawn(async move {
                for pause in RETRY.iter().chain(std::iter::repeat(&RETRY[RETRY.len() - 1])) {
                    match node.end_lost_pod(&pod).await {
                        Ok(to) => {
                            tracing::warn!(
                                pod = short(&pod.id),
                                record = to,
                                "a pod whose record could not be read has been ended"
                            );
                            return;
                        }
                        Err(e) => {
                            tracing::warn!(pod = short(&pod.id), error = %e, "a pod whose record cannot be read cannot be ended yet; trying again");
                        }
                    }
                    tokio::time::sleep(*pause).await;
                }
            });
        }
        if !loaded.lost_containers.is_empty() {
            let (node, ids) = (self.clone(), loaded.lost_containers.clone());
            tokio::spawn(async move {
                // Their shims end them as strangers; what is left then is ended without.
                node.recovered().await;
                if let Err(e) = node.end_lost_containers(ids).await {
                    tracing::warn!(error = %e, "containers whose records cannot be read cannot be ended; restart stratad to try again");
                }
            });
        }
        self.remove_strangers(loaded);
    }

    /// State directories of pods that no record names: a shim may live in one whose creation was cut off.
    fn remove_strangers(self: &Arc<Self>, loaded: &Loaded) {
        let dir = self.config.state.join("pods");
        let known = |id: &str| {
            loaded.pods.iter().any(|p| p.id() == id) || loaded.lost_pods.iter().any(|p| p.id == id)
        };
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !is_id(&name) || known(&name) {
                continue;
            }
            let node = self.clone();
            tokio::spawn(async move {
                let removed = async {
                    node.end_processes(&name, Vec::new()).await?;
                    node.release_pod(&name).await
                };
                if let Err(e) = removed.await {
                    tracing::warn!(pod = short(&name), error = %e, "what is left of a half-made pod cannot be removed");
                }
            });
        }
    }

    /// Ends a pod of which only the ID is certain; where its record is then.
    async fn end_lost_pod(self: &Arc<Self>, pod: &LostPod) -> Result<String> {
        let mut names = pod.containers.clone();
        names.push(pod.id.clone());
        self.end_processes(&pod.id, names).await?;
        let netns = self.netns_of(&pod.id);
        if ns::is_pinned(&netns) {
            for lent in devices::found(&pod.id, &netns).await? {
                devices::give_back(&pod.id, Some(&netns), &lent).await?;
            }
        }
        self.detach_lost(pod).await?;
        self.release_pod(&pod.id).await?;
        let (store, pod) = (self.store.clone(), pod.clone());
        blocking(move || {
            for id in pod.containers.iter().filter(|id| store.has_container(id)) {
                let to = store.put_container_away(id)?;
                tracing::warn!(
                    container = short(id),
                    files = to,
                    "a container's pod is lost; what it wrote is kept"
                );
            }
            Ok(store.put_pod_away(&pod.id)?)
        })
        .await
    }

    /// Ends a pod's shim with all that it runs, and whatever lives in cgroups of these names.
    async fn end_processes(self: &Arc<Self>, id: &str, ids: Vec<String>) -> Result<()> {
        if let Ok(Connected { shim, .. }) = Shim::connect(&self.pod_dir(id), id).await
            && let Err(e) = shim.done(Request::Shutdown, crate::shim::PROMPT).await
        {
            tracing::warn!(pod = short(id), error = %e, "shim did not shut down; killing what is left");
        }
        let own = self.group(&names::inner(&self.pods_cgroup(""), id))?;
        let node = self.clone();
        blocking(move || {
            // Of a parent that others chose only the record would tell.
            let named = if ids.is_empty() { Vec::new() } else { node.cgroups.find(&names::leaves(&ids)) };
            for group in named.into_iter().chain([own]) {
                group.kill().map_err(|e| Error::internal(e.to_string()))?;
                node.drop_group(&group)?;
            }
            Ok(())
        })
        .await
    }

    /// Lets go of a pod's namespaces and of its state directory.
    async fn release_pod(&self, id: &str) -> Result<()> {
        let (dir, netns) = (self.pod_dir(id), self.netns_of(id));
        blocking(move || {
            let text = |p: PathBuf| Some(p.to_string_lossy().into_owned());
            namespaces::release(&PodNamespaces {
                net: text(netns),
                ipc: text(dir.join("ipc")),
                uts: text(dir.join("uts")),
                user: text(dir.join("user")),
            });
            teardown::remove_state_dir(&dir)
        })
        .await
    }

    /// Gives back the network by what the record says of it, or by what can be done without.
    async fn detach_lost(&self, pod: &LostPod) -> Result<()> {
        let network = pod.says.get("network");
        let said = |name: &str| network.and_then(|n| n.get(name)).filter(|v| !v.is_null()).cloned();
        let provider = said("provider");
        let used = |name: &str| {
            let of_handlers = self.config.runtime.handlers.values().filter_map(|h| self.cri_network(h));
            of_handlers.chain([self.network.name(), self.bridge.name()]).any(|used| used == name)
        };
        for known in [&self.bridge, &self.cni] {
            match &provider {
                Some(said) if said != known.name() => continue,
                None if !used(known.name()) => continue,
                _ => {}
            }
            let request = DetachRequest {
                pod_id: pod.id.clone(),
                netns: Some(self.netns_of(&pod.id)).filter(|p| ns::is_pinned(p)),
                intent: said("intent"),
                attachment: said("attachment").and_then(|a| serde_json::from_value(a).ok()),
            };
            known.detach_lost(request).await?;
        }
        Ok(())
    }

    async fn end_lost_containers(self: &Arc<Self>, ids: Vec<String>) -> Result<()> {
        let node = self.clone();
        blocking(move || {
            for group in node.cgroups.find(&names::leaves(&ids)) {
                group.kill().map_err(|e| Error::internal(e.to_string()))?;
                node.drop_group(&group)?;
            }
            for id in ids.iter().filter(|id| node.store.has_container(id)) {
                let to = node.store.put_container_away(id)?;
                tracing::warn!(
                    container = short(id),
                    files = to,
                    "a container whose record could not be read has been ended"
                );
            }
            Ok(())
        })
        .await
    }
}
