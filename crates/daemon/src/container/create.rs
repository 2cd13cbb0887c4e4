//! CreateContainer: from a request to a process that waits at the barrier before its program.

use super::plan::command::{self, ImageDefaults};
use super::plan::mounts::{self, PodFiles, Wanted};
use super::plan::user::{self, User};
use super::plan::{caps, databases, devices, image_defaults, resources, security};
use super::record::{ContainerRecord, ProcessRecord, VERSION};
use super::state::{Change, ContainerState};
use super::{Container, Live};
use crate::error::{Error, Kind, Result};
use crate::ids::{new_id, now};
use crate::node::Node;
use crate::pod::run::namespace_options;
use crate::pod::state::PodState;
use crate::pod::{Pod, files, short};
use crate::request::{ContainerRequest, Origin, PodRequest};
use crate::tasks::{blocking, detached};
use futures_util::FutureExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strata_api::cri;
use strata_store::{Image, Lease, Snapshot};
use strata_wire::plan::{PidMode, Process, Rootfs, Stdio};
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
        let (node, same, flight) = (self.clone(), request.clone(), key.clone());
        let making = self.making_containers.join(&key, &request, move || {
            async move {
                let made = node.make_container(&pod, same).await;
                node.making_containers.done(&flight);
                made
            }
            .boxed()
        });
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
        let id = new_id()?;
        if let Some(name) = &request.extras.name {
            self.containers.reserve(name, &id)?;
        }
        let made = self.make_named(pod, &id, request).await;
        if made.is_err() {
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
        let Prepared { record, plan, lease, image } =
            blocking(move || node.prepare_container(&own, &wanted, request)).await?;
        let container = Container::new(pod.clone(), record, Live::creating());
        self.containers.insert(container.clone());
        let made = self.set_up(&container, plan, &image).await;
        drop(lease);
        if let Err(e) = made {
            if let Err(left) = self.forget_container(&container).await {
                tracing::warn!(container = short(id), error = %left, "what a failed creation left cannot be removed");
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
        image: &Arc<Image>,
    ) -> Result<()> {
        let shim = container.pod().need_shim()?;
        let deadline = Duration::from_millis(plan.create_timeout_ms) + crate::shim::PROMPT;
        let pid = match shim.call(Request::Create(Box::new(plan)), deadline).await.map_err(Error::from)? {
            Reply::Created { pid, warnings } => {
                for warning in warnings {
                    self.warn_once(&warning);
                }
                pid
            }
            other => return Err(Error::internal(format!("the shim answered a creation with {other:?}"))),
        };
        let revived = container.state() == ContainerState::Exited;
        self.put_container(container, image).await?;
        container.change(if revived { Change::Revived } else { Change::Created }, |live| {
            *live = Live { pid, ..Live::at(ContainerState::Created) };
        })?;
        Ok(())
    }

    /// Writes a container's record durably.
    pub(crate) async fn put_container(&self, container: &Container, image: &Arc<Image>) -> Result<()> {
        let (store, record, image) = (self.store.clone(), container.record(), image.clone());
        blocking(move || {
            let json = serde_json::to_vec(&*record)
                .map_err(|e| Error::internal(format!("container record: {e}")))?;
            Ok(store.put_container(&record.id, &image, &json)?)
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
        let record = self.record(pod, id, request, &image)?;
        let snapshot = self.store.create_snapshot(&lease, id, &image)?;
        let planned = self.plan(pod, &record, &snapshot).and_then(|plan| {
            self.make_group(&record)?;
            Ok(plan)
        });
        match planned {
            Ok(plan) => Ok(Prepared { record, plan, lease, image }),
            Err(e) => {
                let _ = self.group(&record.cgroup).map(|g| g.remove());
                self.store.remove_container(id)?;
                Err(e)
            }
        }
    }

    fn record(
        &self,
        pod: &Pod,
        id: &str,
        request: ContainerRequest,
        image: &Image,
    ) -> Result<ContainerRecord> {
        let ContainerRequest { config, extras } = request;
        let name = config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
        let defaults = image_defaults(&name, &image.config);
        let view = self.store.image_view(image)?;
        let context = security_context(&config);
        let user = resolve_user(&context, &extras, &defaults, &databases(view.root())?)?;
        let process = process_record(pod, &config, &extras, &defaults, &user)?;
        let stop_signal =
            command::stop_signal(extras.stop_signal.as_deref(), config.stop_signal(), &defaults)?;
        let log_path = self.log_path(pod, id, &config)?;
        Ok(ContainerRecord {
            version: VERSION,
            id: id.to_owned(),
            pod_id: pod.id().to_owned(),
            origin: pod.origin(),
            created_at: now(),
            image_id: image.id.to_string(),
            image_ref: image.repo_digests.first().cloned().unwrap_or_else(|| image.id.to_string()),
            process,
            stop_signal,
            log_path,
            cgroup: format!("{}/{id}", pod.record().cgroup_parent),
            // What can be started again is mounted again, which `volatile` forbids.
            volatile: pod.origin() == Origin::Kubernetes,
            runs: 0,
            complete: true,
            config,
            extras,
        })
    }

    fn log_path(&self, pod: &Pod, id: &str, config: &cri::ContainerConfig) -> Result<Option<String>> {
        if pod.origin() == Origin::Strata {
            // It goes with the container.
            let path = self.store.root().join("containers").join(id).join("container.log");
            return Ok(Some(path.to_string_lossy().into_owned()));
        }
        let directory = &pod.config().log_directory;
        if directory.is_empty() || config.log_path.is_empty() {
            return Ok(None);
        }
        let path = Path::new(directory).join(&config.log_path);
        let leaves = path.components().any(|c| c == std::path::Component::ParentDir);
        if !path.is_absolute() || leaves {
            return Err(Error::invalid(format!(
                "log path {}: must be absolute, without \"..\"",
                path.display()
            )));
        }
        Ok(Some(path.to_string_lossy().into_owned()))
    }

    /// Makes a container's cgroup with its limits.
    pub(crate) fn make_group(&self, record: &ContainerRecord) -> Result<()> {
        let group = self.group(&record.cgroup)?;
        let limits = resources::resources(&linux_resources(&record.config), record.extras.pids_limit)?;
        let context = security_context(&record.config);
        let rules = devices::devices(&record.config.devices, context.privileged)?.rules;
        let (limits, left_out) = resources::fit(limits, &self.cgroups, rules);
        for warning in left_out {
            self.warn_once(&warning);
        }
        // Anew: into a group that has been killed no process can be born (strata_cgroup, `kill_now`).
        let made = group.remove().and_then(|()| group.create()).and_then(|()| group.apply(&limits));
        made.map_err(|e| {
            let _ = group.remove();
            match e {
                strata_cgroup::Error::Value { .. } => Error::invalid(e.to_string()),
                strata_cgroup::Error::NoController(..) => Error::precondition(e.to_string()),
                _ => Error::internal(e.to_string()),
            }
        })
    }

    /// What the shim is given.
    pub(crate) fn plan(
        &self,
        pod: &Pod,
        record: &ContainerRecord,
        snapshot: &Snapshot,
    ) -> Result<ContainerPlan> {
        let config = &record.config;
        let context = security_context(config);
        check(pod, config, &context)?;
        let text = |p: &Path| p.to_string_lossy().into_owned();
        let wanted = Wanted {
            mounts: &config.mounts,
            tmpfs: &record.extras.tmpfs,
            volumes: Vec::new(),
            privileged: context.privileged,
            readonly_rootfs: context.readonly_rootfs,
        };
        let (mounts, propagation) = mounts::mounts(&wanted, &self.pod_files(pod))?;
        let own = |list: &[String], default: &[&str]| match record.origin {
            _ if context.privileged => Vec::new(),
            Origin::Kubernetes => list.to_vec(),
            Origin::Strata => default.iter().map(|p| (*p).to_owned()).collect(),
        };
        Ok(ContainerPlan {
            id: record.id.clone(),
            rootfs: Rootfs {
                lowers: snapshot.lowers.iter().map(|p| text(p)).collect(),
                upper: text(&snapshot.upper),
                work: text(&snapshot.work),
                volatile: record.volatile,
                readonly: context.readonly_rootfs,
                propagation,
            },
            mounts,
            devices: devices::devices(&config.devices, context.privileged)?.nodes,
            masked_paths: own(&context.masked_paths, &mounts::MASKED),
            readonly_paths: own(&context.readonly_paths, &mounts::READONLY),
            pid: pid_mode(&context)?,
            cgroup_namespace: !context.privileged,
            cgroup: record.cgroup.clone(),
            sysctls: Vec::new(),
            process: self.process(record, &context)?,
            stdio: Stdio {
                tty: config.tty,
                tty_size: record.extras.tty_size,
                stdin: config.stdin,
                stdin_once: config.stdin_once,
                log_path: record.log_path.clone(),
                log_max_line: self.config.limits.log_line,
            },
            create_timeout_ms: self.config.limits.create_timeout.saturating_mul(1000),
        })
    }

    fn pod_files(&self, pod: &Pod) -> PodFiles {
        files::paths(pod.state_dir(), pod.record().namespaces.ipc.is_some())
    }

    /// The container's own process; an exec begins with it.
    pub(crate) fn process(
        &self,
        record: &ContainerRecord,
        context: &cri::LinuxContainerSecurityContext,
    ) -> Result<Process> {
        let wanted = context.capabilities.clone().unwrap_or_default();
        let mut set = caps::capabilities(&wanted, context.privileged, self.bounding)?;
        if record.process.uid != 0 {
            // As execve(2) would do it for a user that is not root.
            set.effective = set.ambient;
            set.permitted = set.ambient;
        }
        let choice = security::choose(context, &self.config.runtime.seccomp_dir)?;
        let own = &record.process;
        Ok(Process {
            args: own.args.clone(),
            env: own.env.clone(),
            cwd: own.cwd.clone(),
            uid: own.uid,
            gid: own.gid,
            groups: own.groups.clone(),
            umask: None,
            seccomp: self.filters.filter(&choice, set.bounding)?,
            caps: set,
            no_new_privs: context.no_new_privs,
            rlimits: record.extras.rlimits.clone(),
            oom_score_adj: Some(i32::try_from(linux_resources(&record.config).oom_score_adj).unwrap_or(0)),
            apparmor: None,
            selinux: None,
        })
    }
}

struct Prepared {
    record: ContainerRecord,
    plan: ContainerPlan,
    lease: Lease,
    image: Arc<Image>,
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

/// CRI's security context; an empty one if there is none.
pub(crate) fn security_context(config: &cri::ContainerConfig) -> cri::LinuxContainerSecurityContext {
    config.linux.as_ref().and_then(|l| l.security_context.clone()).unwrap_or_default()
}

/// CRI's limits; empty ones if there are none.
pub(crate) fn linux_resources(config: &cri::ContainerConfig) -> cri::LinuxContainerResources {
    config.linux.as_ref().and_then(|l| l.resources.clone()).unwrap_or_default()
}

fn resolve_user(
    context: &cri::LinuxContainerSecurityContext,
    extras: &crate::request::Extras,
    image: &ImageDefaults,
    databases: &user::Databases,
) -> Result<User> {
    let mut wanted = match &extras.user {
        Some(text) => user::Wanted::parse(text),
        None => user::Wanted::of_cri(context, &image.user)?,
    };
    wanted.more.extend(extras.groups.iter().cloned());
    wanted.resolve(databases)
}

fn process_record(
    pod: &Pod,
    config: &cri::ContainerConfig,
    extras: &crate::request::Extras,
    image: &ImageDefaults,
    user: &User,
) -> Result<ProcessRecord> {
    let hostname = crate::pod::run::hostname(&pod.record());
    Ok(ProcessRecord {
        args: command::arguments(config, extras.entrypoint.as_deref(), image)?,
        env: command::environment(config, image, &hostname, &user.home)?,
        cwd: command::working_dir(&config.working_dir, image)?,
        uid: user.uid,
        gid: user.gid,
        groups: user.groups.clone(),
    })
}

fn pid_mode(context: &cri::LinuxContainerSecurityContext) -> Result<PidMode> {
    // Without options Kubernetes' default holds, a namespace of its own, although the message's default is the pod's.
    let Some(options) = &context.namespace_options else { return Ok(PidMode::Container) };
    match options.pid() {
        cri::NamespaceMode::Container => Ok(PidMode::Container),
        cri::NamespaceMode::Pod => Ok(PidMode::Pod),
        cri::NamespaceMode::Node => Ok(PidMode::Node),
        cri::NamespaceMode::Target => Err(Error::unimplemented(
            "joining another container's PID namespace (TARGET) is not built yet; share the pod's instead",
        )),
    }
}

/// Refuses what is not built, and what the pod does not allow.
fn check(
    pod: &Pod,
    config: &cri::ContainerConfig,
    context: &cri::LinuxContainerSecurityContext,
) -> Result<()> {
    security::check_modules(context)?;
    if !config.cdi_devices.is_empty() {
        return Err(Error::unimplemented("CDI devices are not built yet; name the device nodes instead"));
    }
    let of_pod = pod.config().linux.as_ref().and_then(|l| l.security_context.as_ref());
    if context.privileged && pod.origin() == Origin::Kubernetes && !of_pod.is_some_and(|c| c.privileged) {
        return Err(Error::precondition(
            "a privileged container needs a privileged pod; set it in the pod's configuration",
        ));
    }
    let wants_pod_pid =
        context.namespace_options.as_ref().is_some_and(|o| o.pid() == cri::NamespaceMode::Pod);
    let has_pod_pid = of_pod.is_some() && namespace_options(pod.config()).pid() == cri::NamespaceMode::Pod;
    if wants_pod_pid && !has_pod_pid {
        return Err(Error::invalid(
            "the container asks for the pod's PID namespace, but the pod was made without one",
        ));
    }
    Ok(())
}
