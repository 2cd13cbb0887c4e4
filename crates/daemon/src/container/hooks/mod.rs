//! Hooks of CDI devices (OCI runtime specification, config.md, "POSIX-platform Hooks"; runtime.md, "Lifecycle").
//!
//! Those of the node's namespaces are run here, the others by the shim (`strata_wire::hooks` draws the order):
//!
//! * [`run`]: one hook. [`groups`]: by what all of it is killed.
//! * [`bundle`]: what hooks are told of the container.
//!
//! A failing hook before the container's program fails the creation or the start, a failing poststart hook ends the container again,
//! and a failing poststop hook is warned of. Poststop hooks are owed, durably, from before the first hook on: they run once the
//! container has ended or its creation has failed, whichever daemon is there then, and at the latest when it is removed.

mod bundle;
mod groups;
mod run;

use super::Container;
use super::record::ContainerRecord;
use super::state::ContainerState;
use crate::error::{Error, Kind, Result};
use crate::node::Node;
use crate::pod::{Pod, short, userns};
use crate::shim::Shim;
use crate::tasks::{blocking, detached};
use bundle::Bundle;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strata_wire::hooks::{self, Hook, Hooks, Point, Status};
use strata_wire::{ContainerPlan, Reply, Request};

/// How long a shim may take to give up a container that is not created any further.
const GIVE_UP: Duration = Duration::from_secs(30);

impl Node {
    /// What the shim is told of a container's hooks, if it has any.
    pub(super) fn hooks_of(&self, record: &ContainerRecord) -> Option<Hooks> {
        let all = &record.injected.hooks;
        if all.is_empty() {
            return None;
        }
        let of = |point: Point| all.iter().filter(move |hook| hook.point == point);
        let bundle = Bundle::new(&self.config.state, &record.id, None);
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Some(Hooks {
            bundle: text(bundle.dir()),
            root: text(&bundle.root()),
            hooks: of(Point::CreateContainer).chain(of(Point::StartContainer)).cloned().collect(),
            annotations: record.config.annotations.clone().into_iter().collect(),
        })
    }

    fn bundle(&self, pod: &Pod, id: &str) -> Result<Bundle> {
        Ok(Bundle::new(&self.config.state, id, userns::of_pod(pod.config())?))
    }

    /// Has the shim make a container with hooks, and runs those that come before it is created. On failure the shim gives it up,
    /// and its poststop hooks run.
    pub(super) async fn create_with_hooks(
        self: &Arc<Self>,
        container: &Arc<Container>,
        plan: ContainerPlan,
        deadline: Duration,
    ) -> Result<Reply> {
        let shim = container.pod().need_shim()?;
        know_hooks(shim.version())?;
        let owed = container.record().injected.hooks.iter().any(|hook| hook.point == Point::Poststop);
        container.edit(|record| record.poststop_owed = owed);
        self.put_container(container).await?;
        let bundle = self.bundle(container.pod(), container.id())?;
        let directories = bundle.clone();
        blocking(move || directories.make()).await?;
        let created = self.create_by_points(container, &shim, plan, bundle, deadline).await;
        if created.is_err() {
            let given_up = shim.done(Request::Remove { id: container.id().to_owned() }, GIVE_UP).await;
            match given_up.map_err(Error::from) {
                // Whoever ends it otherwise has them run then.
                Err(e) if e.kind() != Kind::NotFound => {
                    tracing::warn!(container = short(container.id()), error = %e, "the shim cannot give it up");
                }
                _ => self.poststop(container).await,
            }
        }
        created
    }

    async fn create_by_points(
        self: &Arc<Self>,
        container: &Arc<Container>,
        shim: &Shim,
        plan: ContainerPlan,
        bundle: Bundle,
        deadline: Duration,
    ) -> Result<Reply> {
        let pid =
            match shim.call(Request::Create(Box::new(plan.clone())), deadline).await.map_err(Error::from)? {
                Reply::Prepared { pid } => pid,
                other => return Err(Error::internal(format!("the shim answered a creation with {other:?}"))),
            };
        let (pod, record) = (container.pod().record(), container.record());
        let ids = userns::of_pod(&pod.config)?;
        let hostname = crate::pod::run::hostname(&pod);
        let config = bundle::config(&plan, &record, &hostname, (&pod.namespaces, ids), pid);
        blocking(move || bundle.write(&config)).await?;
        let outside = below_process(pid, &self.bundle(container.pod(), container.id())?.root());
        let before = [Point::Prestart, Point::CreateRuntime];
        self.run_points(container, &before, (Status::Creating, pid), Some(outside)).await?;
        // Where the hooks that the shim runs find it.
        let (bundle, record) = (self.bundle(container.pod(), container.id())?, container.record());
        blocking(move || bundle.set_root(&bundle.root(), &record)).await?;
        let id = container.id().to_owned();
        shim.call(Request::Continue { id }, deadline).await.map_err(Error::from)
    }

    /// Runs the hooks that follow the start of a container's program.
    ///
    /// # Errors
    /// The first one's that fails: the caller ends the container (runtime.md, "Lifecycle", step 9).
    pub(super) async fn poststart(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let pid = container.live().pid;
        if container.state() != ContainerState::Running || pid == 0 {
            return Ok(());
        }
        let inside = Some(below_process(pid, Path::new("/")));
        self.run_points(container, &[Point::Poststart], (Status::Running, pid), inside).await
    }

    /// Runs the hooks that follow a container's end, if they are owed. What fails is warned of.
    pub(crate) async fn poststop(self: &Arc<Self>, container: &Arc<Container>) {
        let _one = container.hooks.lock().await;
        if !container.record().poststop_owed {
            return;
        }
        let ran = self.run_points(container, &[Point::Poststop], (Status::Stopped, 0), None).await;
        if let Err(e) = ran {
            tracing::warn!(container = short(container.id()), error = %e, "poststop hooks cannot be run");
        }
        container.edit(|record| record.poststop_owed = false);
        if let Err(e) = self.put_container(container).await {
            tracing::warn!(container = short(container.id()), error = %e, "that its poststop hooks have run cannot be written");
        }
    }

    /// [`Self::poststop`] for a container that has ended; nobody waits for it.
    pub(crate) fn poststop_later(self: &Arc<Self>, container: &Arc<Container>) {
        if container.record().poststop_owed {
            let (node, container) = (self.clone(), container.clone());
            tokio::spawn(detached(async move {
                // Whoever starts it may still be writing its record.
                let _turn = container.turn.lock().await;
                node.poststop(&container).await;
                Ok(())
            }));
        }
    }

    /// Runs the hooks of some points, in order. `root` is where they find the container's root; none: the bundle's, where nothing is.
    async fn run_points(
        self: &Arc<Self>,
        container: &Arc<Container>,
        points: &[Point],
        (status, pid): (Status, i32),
        root: Option<PathBuf>,
    ) -> Result<()> {
        let record = container.record();
        let of = |point: Point| record.injected.hooks.iter().filter(move |hook| hook.point == point).cloned();
        let hooks: Vec<Hook> = points.iter().copied().flat_map(of).collect();
        let Some(told) = self.hooks_of(&record).filter(|_| !hooks.is_empty()) else { return Ok(()) };
        let state = serde_json::to_vec(&told.state(container.id(), status, pid))
            .map_err(|e| Error::internal(format!("state of container {}: {e}", short(container.id()))))?;
        let bundle = self.bundle(container.pod(), container.id())?;
        let until = Instant::now() + self.time_of_hooks();
        let node = self.clone();
        blocking(move || {
            bundle.set_root(&root.unwrap_or_else(|| bundle.root()), &record)?;
            for hook in hooks {
                let limit = hook.limit(until.saturating_duration_since(Instant::now()));
                let group = node.hook_group();
                match run::run(&hook, bundle.dir(), &state, limit, group.as_ref()) {
                    Err(e) if hook.point == Point::Poststop => {
                        tracing::warn!(container = short(&record.id), error = %e, "hook");
                    }
                    other => other?,
                }
            }
            Ok(())
        })
        .await
    }

    /// How long all hooks of a point may take.
    pub(super) fn time_of_hooks(&self) -> Duration {
        match self.config.limits.create_timeout {
            // As the shim reads it.
            0 => Duration::from_secs(120),
            seconds => Duration::from_secs(seconds),
        }
    }

    /// Removes a container's bundle, if it has one.
    pub(super) fn drop_bundle(&self, record: &ContainerRecord) {
        if record.injected.hooks.is_empty() {
            return;
        }
        if let Err(e) = Bundle::new(&self.config.state, &record.id, None).remove() {
            tracing::warn!(container = short(&record.id), error = %e, "its bundle cannot be removed");
        }
    }

    /// Removes bundles that no container has: of creations that were cut off.
    pub(crate) fn forget_strange_bundles(&self) {
        let entries = std::fs::read_dir(bundle::all(&self.config.state)).into_iter().flatten().flatten();
        for id in entries.filter_map(|e| e.file_name().into_string().ok()) {
            if self.containers.get(&id).is_none()
                && let Err(e) = Bundle::new(&self.config.state, &id, None).remove()
            {
                tracing::warn!(container = short(&id), error = %e, "a bundle cannot be removed");
            }
        }
    }
}

/// Where the node's processes find what another one has at a path.
fn below_process(pid: i32, path: &Path) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    match path.strip_prefix("/") {
        Ok(inner) if inner.as_os_str().is_empty() => root,
        Ok(inner) => root.join(inner),
        Err(_) => root.join(path),
    }
}

/// That a shim which speaks this version runs hooks, and does not pass over them.
fn know_hooks(version: u32) -> Result<()> {
    if version >= hooks::SINCE {
        return Ok(());
    }
    Err(Error::precondition(
        "a CDI device needs hooks, which the pod's shim, of an older release, does not run; make the pod anew",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_shim_is_given_no_hooks() {
        assert!(know_hooks(strata_wire::VERSION).is_ok());
        let error = know_hooks(1).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(error.to_string().contains("older release"), "{error}");
    }

    #[test]
    fn paths_below_a_process_are_absolute() {
        assert_eq!(below_process(7, Path::new("/run/b")), Path::new("/proc/7/root/run/b"));
        assert_eq!(below_process(7, Path::new("/")), Path::new("/proc/7/root"));
    }
}
