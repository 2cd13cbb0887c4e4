//! From a request, an image and a pod to a container's record, its cgroup and the plan that the shim is given.

use super::labels;
use super::plan::command::{self, ImageDefaults};
use super::plan::mounts::{self, PodFiles, Wanted};
use super::plan::user::{self, User};
use super::plan::{caps, databases, devices, image_defaults, modules, resources, security};
use super::record::{ContainerRecord, ProcessRecord, VERSION};
use crate::cdi;
use crate::cgroups::{Held, names};
use crate::error::{Error, Result};
use crate::handlers;
use crate::ids::now;
use crate::node::Node;
use crate::pod::run::namespace_options;
use crate::pod::{Pod, files, userns};
use crate::request::{ContainerRequest, Origin, known};
use crate::selinux;
use std::path::Path;
use std::sync::Arc;
use strata_api::cri;
use strata_store::{Image, Snapshot};
use strata_wire::ContainerPlan;
use strata_wire::plan::{Capabilities, PidMode, Process, Rootfs, Stdio};

impl Node {
    pub(super) fn record(
        &self,
        pod: &Pod,
        id: &str,
        request: ContainerRequest,
        image: &Image,
        mounted: &[Arc<Image>],
    ) -> Result<ContainerRecord> {
        let ContainerRequest { config, extras } = request;
        let name = config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
        let defaults = image_defaults(&name, &image.config);
        let context = security_context(&config);
        let users =
            self.users.of_image(image.id.as_str(), || databases(self.store.image_view(image)?.root()))?;
        let user = resolve_user(&context, &extras, &defaults, &users)?;
        let mut process = process_record(pod, &config, &extras, &defaults, &user)?;
        let directories = &self.config.runtime.cdi_spec_dirs;
        let devices = cdi::changes(&config, directories, &user, |text| self.warn_once(text))?;
        devices.env.into_iter().for_each(|line| command::put(&mut process.env, line));
        let more: Vec<u32> = devices.groups.into_iter().filter(|g| !process.groups.contains(g)).collect();
        process.groups.extend(more);
        userns::check_user(userns::of_pod(pod.config())?, process.uid, process.gid, &process.groups)?;
        let asked = known(config.stop_signal, "stop_signal")?;
        let stop_signal = command::stop_signal(extras.stop_signal.as_deref(), asked, &defaults)?;
        let log_path = self.log_path(pod, id, &config)?;
        let apparmor = modules::confine(&self.apparmor, &context, |text| self.warn_once(text))?;
        let selinux = modules::label(&self.selinux, &pod.record(), &context, extras.unlabelled)?;
        for mount in labels::to_relabel(&config, selinux.as_ref()) {
            selinux::check_relabel(Path::new(&mount.host_path))?;
        }
        Ok(ContainerRecord {
            version: VERSION,
            id: id.to_owned(),
            pod_id: pod.id().to_owned(),
            origin: pod.origin(),
            created_at: now(),
            image_id: image.id.to_string(),
            image_ref: image.repo_digests.first().cloned().unwrap_or_else(|| image.id.to_string()),
            process,
            volumes: defaults.volumes,
            mounted: mounted.iter().map(|i| i.id.to_string()).collect(),
            injected: devices.injected,
            apparmor,
            selinux,
            stop_signal,
            log_path,
            cgroup: names::leaf(&pod.record().cgroup_parent, id),
            // What can be started again is mounted again, which `volatile` forbids.
            volatile: pod.origin() == Origin::Kubernetes,
            runs: 0,
            poststop_owed: false,
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
    pub(crate) fn make_group(&self, record: &ContainerRecord) -> Result<Held> {
        let pids_limit = match record.extras.pids_limit {
            0 => self.defaults_of(&record.pod_id).pids_limit.into(),
            own => own,
        };
        let limits = resources::resources(&linux_resources(&record.config), pids_limit)?;
        let context = security_context(&record.config);
        let rules = devices_of(record, &context)?.rules;
        let (limits, left_out) = resources::fit(limits, &self.cgroups, Some(rules));
        for warning in left_out {
            self.warn_once(&warning);
        }
        self.make_leaf(&record.cgroup, &limits, &format!("Strata container {}", record.id))
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
        check(pod, &context)?;
        let text = |p: &Path| p.to_string_lossy().into_owned();
        let mounts = match pod.record().asked {
            Some(_) => handlers::mapped_mounts(&config.mounts, pod.config()),
            None => config.mounts.clone(),
        };
        let wanted = Wanted {
            mounts: &mounts,
            tmpfs: &record.extras.tmpfs,
            images: &self.store.mounted_images(&record.id)?,
            volumes: &record.volumes,
            injected: &record.injected.mounts,
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
            devices: devices_of(record, &context)?.nodes,
            masked_paths: own(&context.masked_paths, &mounts::MASKED),
            readonly_paths: own(&context.readonly_paths, &mounts::READONLY),
            pid: pid_mode(&context),
            pid_target: self.pid_target(pod, &context)?,
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
            mount_label: record.selinux.as_ref().and_then(|labels| labels.file.clone()),
            hooks: self.hooks_of(record),
        })
    }

    /// The container of the same pod whose PID namespace is joined.
    fn pid_target(&self, pod: &Pod, context: &cri::LinuxContainerSecurityContext) -> Result<Option<String>> {
        let options = context.namespace_options.clone().unwrap_or_default();
        if pid_mode(context) != PidMode::Target {
            return Ok(None);
        }
        let id = &options.target_id;
        if id.is_empty() {
            return Err(Error::invalid("target_id is missing, which PID namespace mode TARGET needs"));
        }
        let target = self.find_container(id).map_err(|e| e.context("target_id"))?;
        if target.pod().id() != pod.id() {
            return Err(Error::invalid(format!("target_id: container {id} is of another pod")));
        }
        if !target.live().running() {
            return Err(Error::precondition(format!("target_id: container {id} is not running")));
        }
        Ok(Some(target.id().to_owned()))
    }

    fn pod_files(&self, pod: &Pod) -> PodFiles {
        files::paths(pod.state_dir(), pod.record().namespaces.ipc.is_some())
    }

    /// What a user's process may do.
    pub(super) fn capabilities_of(
        &self,
        context: &cri::LinuxContainerSecurityContext,
        uid: u32,
    ) -> Result<Capabilities> {
        let wanted = context.capabilities.clone().unwrap_or_default();
        let mut set = caps::capabilities(&wanted, context.privileged, self.bounding)?;
        if uid != 0 {
            // As execve(2) would do it for a user that is not root.
            set.effective = set.ambient;
            set.permitted = set.ambient;
        }
        Ok(set)
    }

    /// The container's own process; an exec begins with it.
    pub(crate) fn process(
        &self,
        record: &ContainerRecord,
        context: &cri::LinuxContainerSecurityContext,
    ) -> Result<Process> {
        let set = self.capabilities_of(context, record.process.uid)?;
        let profiles = &self.config.runtime.seccomp_dir;
        let choice = self.defaults_of(&record.pod_id).seccomp(security::choose(context, profiles)?, profiles);
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
            apparmor: record.apparmor.clone().filter(|p| p != modules::UNCONFINED),
            selinux: record.selinux.as_ref().and_then(|labels| labels.process.clone()),
        })
    }
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

/// The devices of a container, those that CDI brings included.
fn devices_of(
    record: &ContainerRecord,
    context: &cri::LinuxContainerSecurityContext,
) -> Result<devices::Devices> {
    Ok(devices::devices(&record.config.devices, context.privileged)?.with(&record.injected))
}

fn pid_mode(context: &cri::LinuxContainerSecurityContext) -> PidMode {
    // Without options Kubernetes' default holds, a namespace of its own, although the message's default is the pod's.
    let Some(options) = &context.namespace_options else { return PidMode::Container };
    match options.pid() {
        cri::NamespaceMode::Container => PidMode::Container,
        cri::NamespaceMode::Pod => PidMode::Pod,
        cri::NamespaceMode::Node => PidMode::Node,
        cri::NamespaceMode::Target => PidMode::Target,
    }
}

/// Refuses what is not built, and what the pod does not allow.
fn check(pod: &Pod, context: &cri::LinuxContainerSecurityContext) -> Result<()> {
    if pod.record().asked.is_none() || !handlers::container_leaves_it(context) {
        userns::check_container(pod.config(), context)?;
    }
    let of_pod = pod.config().linux.as_ref().and_then(|l| l.security_context.as_ref());
    if context.privileged && pod.origin() == Origin::Kubernetes && !of_pod.is_some_and(|c| c.privileged) {
        return Err(Error::precondition(
            "a privileged container needs a privileged pod; set it in the pod's configuration",
        ));
    }
    let handler = pod.record();
    handler.defaults.check_privileged(&handler.handler, context.privileged, "containers")?;
    let asked = context.namespace_options.clone().unwrap_or_default();
    let own = pod.record().namespaces;
    for (mode, has, which) in [(asked.network(), &own.net, "network"), (asked.ipc(), &own.ipc, "IPC")] {
        if mode == cri::NamespaceMode::Node && has.is_some() {
            return Err(Error::invalid(format!(
                "the container asks for the node's {which} namespace, but its pod has one of its own; ask for it in the \
                 pod's configuration"
            )));
        }
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
