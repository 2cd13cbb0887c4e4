//! CreateContainer: from a request to a process that waits at the barrier before its program.

use super::labels;
use super::plan::images;
use super::record::ContainerRecord;
use super::state::{Change, ContainerState};
use super::{Container, Live};
use crate::cgroups::Held;
use crate::error::{Error, Kind, Result};
use crate::ids::{is_id, new_id};
use crate::node::Node;
use crate::pod::state::PodState;
use crate::pod::{Pod, short, userns};
use crate::request::{ContainerRequest, Origin, PodRequest};
use crate::tasks::{blocking, detached};
use futures_util::FutureExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strata_api::cri;
use strata_store::{IdShift, Image, Lease};
use strata_wire::plan::IdMap;
use strata_wire::{ContainerPlan, Reply, Request};

impl Node {
    /// Makes a container in a pod, or finds the one that the same request has made.
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        pod: &str,
        request: ContainerRequest,
    ) -> Result<String> {
        let pod = self.find_pod(pod)?;
        self.settled(&pod).await?;
        let metadata = request
            .config
            .metadata
            .clone()
            .ok_or_else(|| Error::invalid("the container's metadata are missing"))?;
        if metadata.name.is_empty() {
            return Err(Error::invalid("the container's metadata need a name"));
        }
        let key = format!("{} {} {}", pod.id(), metadata.name, metadata.attempt);
        let (node, same) = (self.clone(), request.clone());
        let making = self
            .making_containers
            .join(&key, &request, move || async move { node.make_container(&pod, same).await }.boxed());
        match making {
            Some(making) => making.await,
            None => Err(taken(&metadata, "another request for it is being worked on")),
        }
    }

    /// Makes a container in a hidden pod of its own, under the name that its extras reserve. On failure nothing stays.
    pub(crate) async fn create_standalone(
        self: &Arc<Self>,
        pod: PodRequest,
        container: ContainerRequest,
    ) -> Result<String> {
        let node = self.clone();
        detached(async move {
            // The name is reserved before anything is made, so that its holder is known by its own ID.
            let pod = node.run_pod(pod).await?;
            match node.create_container(&pod, container).await {
                Ok(id) => Ok(id),
                Err(e) => {
                    node.remove_pod(&pod).await?;
                    Err(e)
                }
            }
        })
        .await
    }

    async fn make_container(self: &Arc<Self>, pod: &Arc<Pod>, request: ContainerRequest) -> Result<String> {
        let _shared = pod.gate.read().await;
        if let Some(same) = self.existing(pod, &request)? {
            return Ok(same);
        }
        if pod.state() != PodState::Ready {
            return Err(Error::precondition(format!(
                "pod {} is {}: containers can be made in ready pods only",
                short(pod.id()),
                pod.state().word()
            )));
        }
        let id = container_id(pod)?;
        if let Some(name) = &request.extras.name {
            self.containers.reserve(name, &id)?;
        }
        let made = self.make_named(pod, &id, request).await;
        if made.is_err() && self.containers.get(&id).is_none_or(|c| c.state() != ContainerState::Removing) {
            self.containers.forget(&id);
        }
        made.map(|()| id)
    }

    /// The container that the same request has made before.
    fn existing(&self, pod: &Pod, request: &ContainerRequest) -> Result<Option<String>> {
        let wanted = request.config.metadata.clone().unwrap_or_default();
        for container in self.containers.of_pod(pod.id()) {
            let record = container.record();
            if record.config.metadata.as_ref() != Some(&wanted)
                || container.state() == ContainerState::Removing
            {
                continue;
            }
            return if record.config == request.config && record.extras == request.extras {
                Ok(Some(container.id().to_owned()))
            } else {
                Err(taken(&wanted, &format!("container {}", short(container.id()))))
            };
        }
        Ok(None)
    }

    async fn make_named(self: &Arc<Self>, pod: &Arc<Pod>, id: &str, request: ContainerRequest) -> Result<()> {
        let (node, own, wanted) = (self.clone(), pod.clone(), id.to_owned());
        let Prepared { record, plan, held, lease } =
            blocking(move || node.prepare_container(&own, &wanted, request)).await?;
        let container = Container::new(pod.clone(), record, Live::creating());
        self.containers.insert(container.clone());
        let made = self.set_up(&container, plan, held).await;
        drop(lease);
        if let Err(e) = made {
            if let Err(left) = self.forget_container(&container).await {
                tracing::warn!(container = short(id), error = %left, "what a failed creation left goes with its pod");
                // It stays known, so that its removal and its pod's try again.
                let _ = container.change(Change::Removing, |live| live.failed = true);
            }
            return Err(e.context(format!("container {}", short(id))));
        }
        Ok(())
    }

    /// Has the shim make the process, and writes the record.
    pub(crate) async fn set_up(
        self: &Arc<Self>,
        container: &Arc<Container>,
        plan: ContainerPlan,
        held: Held,
    ) -> Result<()> {
        let shim = container.pod().need_shim()?;
        labels::know_labels(&plan, shim.version())?;
        self.lend_devices(container).await?;
        let deadline = Duration::from_millis(plan.create_timeout_ms) + crate::shim::PROMPT;
        let revived = container.state() == ContainerState::Exited;
        let (answer, written) = if plan.hooks.is_some() {
            (self.create_with_hooks(container, plan, deadline).await, Ok(()))
        } else {
            // At once: what is recorded without being there is found out at the next start of stratad.
            let create = shim.call(Request::Create(Box::new(plan)), deadline);
            let (answer, written) = tokio::join!(create, self.put_container(container));
            (answer.map_err(Error::from), written)
        };
        // Its own process is in its cgroup now, or never will be.
        drop(held);
        let pid = match answer? {
            Reply::Created { pid, warnings } => {
                for warning in warnings {
                    self.warn_once(&warning);
                }
                pid
            }
            other => return Err(Error::internal(format!("the shim answered a creation with {other:?}"))),
        };
        written?;
        container.change(if revived { Change::Revived } else { Change::Created }, |live| {
            *live = Live { pid, ..Live::at(ContainerState::Created) };
        })?;
        Ok(())
    }

    /// Writes a container's record durably.
    pub(crate) async fn put_container(&self, container: &Container) -> Result<()> {
        let (store, record) = (self.store.clone(), container.record());
        blocking(move || {
            let json = serde_json::to_vec(&*record)
                .map_err(|e| Error::internal(format!("container record: {e}")))?;
            Ok(store.put_container(&record.id, &json)?)
        })
        .await
    }

    /// Everything before the shim: image, user, writable layer, cgroup, plan.
    fn prepare_container(&self, pod: &Arc<Pod>, id: &str, request: ContainerRequest) -> Result<Prepared> {
        let asked = request.config.image.as_ref().map(|i| i.image.as_str()).unwrap_or_default();
        if asked.is_empty() {
            return Err(Error::invalid("the container's image is missing"));
        }
        let image = self.images.resolve(asked).map_err(|e| match e.kind() {
            Kind::NotFound => e.context("the image must be pulled before a container is made of it"),
            _ => e,
        })?;
        let lease = self.store.lease(&format!("creation of container {id}"))?;
        // What is read of it before the container counts as its user must not go meanwhile.
        self.store.hold_image(&lease, &image)?;
        let mounted = self.images_to_mount(&lease, &request.config)?;
        let record = self.record(pod, id, request, &image, &mounted)?;
        make_log_directory(&record)?;
        let snapshot = self.store.create_shifted_snapshot(&lease, id, &image, shift(pod)?)?;
        let kept = mounted.iter().try_for_each(|i| Ok(self.store.add_mounted_image(&lease, id, i)?));
        let planned = kept
            .and_then(|()| self.plan(pod, &record, &snapshot))
            .and_then(|plan| self.label_files(pod, &record).map(|()| plan))
            .and_then(|plan| Ok((plan, self.make_group(&record)?)));
        match planned {
            Ok((plan, held)) => Ok(Prepared { record, plan, held, lease }),
            Err(e) => {
                self.store.remove_container(id)?;
                Err(e)
            }
        }
    }
}

impl Node {
    /// The images that a container's mounts name, in their order, held until they are its own. Errors begin as CRI has it for
    /// image volumes (k8s.io/cri-api/pkg/errors).
    fn images_to_mount(&self, lease: &Lease, config: &cri::ContainerConfig) -> Result<Vec<Arc<Image>>> {
        self.find_images(lease, config).map_err(|e| e.context("ImageVolumeMountFailed"))
    }

    fn find_images(&self, lease: &Lease, config: &cri::ContainerConfig) -> Result<Vec<Arc<Image>>> {
        let mut found = Vec::new();
        for mount in &config.mounts {
            let Some(name) = images::image_of(mount)? else { continue };
            let image = self.images.resolve(name).map_err(|e| {
                e.context(format!(
                    "the image must be pulled before it is mounted on {}",
                    mount.container_path
                ))
            })?;
            self.store.hold_image(lease, &image)?;
            found.push(image);
        }
        Ok(found)
    }
}

/// How the IDs in a container's writable layer are shifted, in a pod with a user namespace.
fn shift(pod: &Pod) -> Result<Option<IdShift>> {
    let shift =
        |ids: IdMap| IdShift { uid: ids.uids.outside, gid: ids.gids.outside, length: ids.uids.length };
    Ok(userns::of_pod(pod.config())?.map(shift))
}

/// The kubelet makes the directory of a container's log; other clients leave it to the runtime.
fn make_log_directory(record: &ContainerRecord) -> Result<()> {
    let directory = record.log_path.as_ref().and_then(|p| Path::new(p).parent());
    match directory.filter(|_| record.origin == Origin::Kubernetes) {
        None => Ok(()),
        Some(dir) => strata_sys::durable::mkdir_all(dir, 0o755)
            .map_err(|e| Error::precondition(format!("directory of the log: {e}"))),
    }
}

/// A new ID. A pod of the strata command was named after the one container that it is for, whose host name shows it.
fn container_id(pod: &Pod) -> Result<String> {
    let uid = pod.config().metadata.as_ref().map(|m| m.uid.clone()).unwrap_or_default();
    if pod.origin() == Origin::Strata && is_id(&uid) { Ok(uid) } else { new_id() }
}

struct Prepared {
    record: ContainerRecord,
    plan: ContainerPlan,
    held: Held,
    lease: Lease,
}

fn taken(metadata: &cri::ContainerMetadata, why: &str) -> Error {
    Error::new(
        Kind::AlreadyExists,
        format!(
            "container {} (attempt {}) exists already in this pod: {why}; remove it, or use another attempt number",
            metadata.name, metadata.attempt
        ),
    )
}
