//! RemoveContainer: its processes, its cgroup, its writable layer and its record go, and nothing else.

use super::Container;
use super::state::{Change, ContainerState};
use crate::error::{Error, Kind, Result};
use crate::node::Node;
use crate::pod::short;
use crate::request::Origin;
use crate::tasks::{blocking, detached};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use strata_wire::Request;

/// How long a shim may take to see the last process of a container go.
const REMOVE: Duration = Duration::from_secs(30);

impl Node {
    /// Removes a container, and the hidden pod of one of the strata command's; a running one is refused unless forced.
    pub(crate) async fn remove_container(self: &Arc<Self>, id: &str, force: bool) -> Result<()> {
        let container = self.find_container(id)?;
        let node = self.clone();
        detached(async move {
            node.settled(container.pod()).await?;
            node.remove_found(&container, force).await
        })
        .await
    }

    /// [`Self::remove_container`] for a container that ends by itself. Removing a pod ends containers, so the type of this
    /// future must not be part of theirs.
    pub(crate) fn removal(self: Arc<Self>, id: &str) -> BoxFuture<'static, Result<()>> {
        let id = id.to_owned();
        async move { self.remove_container(&id, true).await }.boxed()
    }

    async fn remove_found(self: &Arc<Self>, container: &Arc<Container>, force: bool) -> Result<()> {
        let _turn = container.turn.lock().await;
        if container.state() == ContainerState::Removing {
            // Another removal has been faster, or has failed: then it is repeated.
            return match self.containers.get(container.id()) {
                Some(_) => self.forget_container(container).await,
                None => Ok(()),
            };
        }
        if !(force && container.pod().origin() == Origin::Strata) {
            container.known()?;
        }
        if container.state() == ContainerState::Running {
            if !force {
                return Err(Error::precondition(format!(
                    "cannot remove container \"/{}\": container is running: stop the container before removing or force \
                     remove",
                    container.name()
                )));
            }
            self.stop_found_container(container, Duration::ZERO, None).await?;
        }
        if container.pod().origin() == Origin::Strata {
            return self.remove_pod(container.pod().id()).await;
        }
        container.change(Change::Removing, |_| {})?;
        self.forget_container(container).await
    }

    /// Where the seccomp profile is that was sent with a container of the strata command.
    pub(crate) fn seccomp_file(&self, id: &str) -> PathBuf {
        self.config.root.join("seccomp").join(format!("{id}.json"))
    }

    /// Removes it; absence is fine.
    pub(crate) fn forget_seccomp(&self, id: &str) {
        let path = self.seccomp_file(id);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), error = %e, "a seccomp profile cannot be removed");
            }
            _ => {}
        }
    }

    /// Removes seccomp profiles that no container has: of creations that were cut off.
    pub(crate) fn forget_strange_seccomp(&self) {
        use std::collections::HashSet;
        let profile = |c: Arc<Container>| {
            let context = super::assemble::security_context(&c.record().config);
            context.seccomp.map(|p| PathBuf::from(p.localhost_ref))
        };
        let known: HashSet<PathBuf> = self.containers.all().into_iter().filter_map(profile).collect();
        for entry in std::fs::read_dir(self.config.root.join("seccomp")).into_iter().flatten().flatten() {
            if !known.contains(&entry.path())
                && let Err(e) = std::fs::remove_file(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), error = %e, "a seccomp profile cannot be removed");
            }
        }
    }

    /// Lets go of everything that a container has; repeatable.
    pub(crate) async fn forget_container(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let id = container.id().to_owned();
        let known = container.is_shown();
        if let Some(shim) = container.pod().shim() {
            match shim.done(Request::Remove { id: id.clone() }, REMOVE).await.map_err(Error::from) {
                // Its pod may be stopped at the same time: then the shim has killed it on its way out.
                Err(e) if !(e.kind() == Kind::NotFound || shim.is_closed()) => {
                    return Err(e.context(format!("container {}", short(&id))));
                }
                _ => {}
            }
        }
        let group = self.group(&container.record().cgroup)?;
        let node = self.clone();
        let end = move || {
            // Without its shim it is ours to kill.
            group.kill().map_err(|e| Error::internal(e.to_string()))?;
            node.drop_group(&group)
        };
        let (node, record) = (self.clone(), container.record());
        let owes = record.poststop_owed || !record.injected.net_devices.is_empty();
        let remove = move || {
            node.drop_bundle(&record);
            Ok(node.store.remove_container(&record.id)?)
        };
        if owes {
            blocking(end).await?;
            self.poststop(container).await;
            self.give_back_unused(container.pod(), Some(&id)).await?;
            blocking(remove).await?;
        } else {
            blocking(move || end().and_then(|()| remove())).await?;
        }
        let _ = std::fs::remove_file(container.pod().state_dir().join(format!("{id}.exit")));
        self.containers.forget(&id);
        if known {
            let pod = container.pod();
            self.events.container_deleted(pod.origin(), &id, || pod.info());
        }
        self.forget_seccomp(&id);
        // Whoever waits for its end learns of it.
        let _ = container.change(Change::Removing, |_| {});
        Ok(())
    }
}
