//! The bundle that hooks are told of (OCI runtime specification, bundle.md): a directory below the state directory, with a
//! `config.json` that says what the container was made of, and a directory at which its root file system is to be seen in its mount
//! namespace until `pivot_root`.
//!
//! ```text
//!   <state>/bundles/<container>/config.json     root's, or the root of the pod's user namespace's: it has the environment
//!                              /rootfs/         empty here
//! ```
//!
//! `root.path` is where those hooks find the root that run next: in the node's namespaces that is below the /proc of the container's
//! process.

use crate::container::record::ContainerRecord;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use strata_oci::caps;
use strata_sys::durable;
use strata_wire::ContainerPlan;
use strata_wire::hooks::OCI_VERSION;
use strata_wire::plan::{
    Capabilities, IdMap, IdRange, Mount, MountKind, PidMode, PodNamespaces, Process, Propagation,
};

const CONFIG: &str = "config.json";

/// Where bundles are.
pub(super) fn all(state: &Path) -> PathBuf {
    state.join("bundles")
}

/// A container's bundle.
#[derive(Clone, Debug)]
pub(super) struct Bundle {
    dir: PathBuf,
    /// Whose it is, if its pod has a user namespace.
    owner: Option<(u32, u32)>,
}

impl Bundle {
    pub(super) fn new(state: &Path, id: &str, ids: Option<IdMap>) -> Self {
        Self { dir: all(state).join(id), owner: ids.map(|ids| (ids.uids.outside, ids.gids.outside)) }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the root is attached in the container's mount namespace.
    pub(super) fn root(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// Makes its directories.
    pub(super) fn make(&self) -> Result<()> {
        durable::mkdir_all(&self.root(), 0o711).map_err(|e| Error::internal(format!("bundle: {e}")))
    }

    /// Removes it; absence is fine.
    pub(super) fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::internal(format!("remove {}: {e}", self.dir.display())))
            }
            _ => Ok(()),
        }
    }

    /// Writes what the container is made of.
    pub(super) fn write(&self, config: &Value) -> Result<()> {
        let put = || -> std::io::Result<()> {
            let dir = durable::open_dir(&self.dir)?;
            let json = serde_json::to_vec_pretty(config)?;
            durable::write_file_volatile(&dir, CONFIG.as_ref(), &json, 0o600)?;
            if let Some((uid, gid)) = self.owner {
                std::os::unix::fs::lchown(self.dir.join(CONFIG), Some(uid), Some(gid))?;
            }
            Ok(())
        };
        put().map_err(|e| Error::internal(format!("{}: {e}", self.dir.join(CONFIG).display())))
    }

    /// Says where the hooks that run next find the root. After a reboot, what the record says is all that is known.
    pub(super) fn set_root(&self, root: &Path, record: &ContainerRecord) -> Result<()> {
        let kept = std::fs::read(self.dir.join(CONFIG)).ok();
        let kept = kept.and_then(|json| serde_json::from_slice::<Value>(&json).ok()).filter(Value::is_object);
        let mut config = match kept {
            Some(config) => config,
            None => {
                self.make()?;
                from_record(record)
            }
        };
        let readonly = config.pointer("/root/readonly").and_then(Value::as_bool).unwrap_or(false);
        config["root"] = json!({ "path": root, "readonly": readonly });
        self.write(&config)
    }
}

/// `config.json` of a container whose process, of this ID, waits before `pivot_root`.
pub(super) fn config(
    plan: &ContainerPlan,
    record: &ContainerRecord,
    hostname: &str,
    (namespaces, ids): (&PodNamespaces, Option<IdMap>),
    pid: i32,
) -> Value {
    let mut config = from_record(record);
    config["root"] = json!({ "readonly": plan.rootfs.readonly });
    config["hostname"] = hostname.into();
    config["process"] = process(&plan.process, plan.stdio.tty);
    let root = plan.hooks.as_ref().map(|h| h.root.as_str()).unwrap_or_default();
    config["mounts"] = plan.mounts.iter().map(|m| mount(m, root)).collect();
    let device = |d: &strata_wire::plan::Device| {
        json!({ "path": d.path, "type": d.kind.to_string(), "major": d.major, "minor": d.minor, "fileMode": d.mode,
            "uid": d.uid, "gid": d.gid })
    };
    let mut linux = json!({
        "namespaces": namespaces_of(plan, namespaces, pid),
        "cgroupsPath": plan.cgroup,
        "maskedPaths": plan.masked_paths,
        "readonlyPaths": plan.readonly_paths,
        "rootfsPropagation": propagation(plan.rootfs.propagation),
        "devices": plan.devices.iter().map(device).collect::<Vec<_>>(),
    });
    if let Some(label) = &plan.mount_label {
        linux["mountLabel"] = label.as_str().into();
    }
    if let Some(ids) = ids {
        let range = |r: IdRange| json!([{ "containerID": r.inside, "hostID": r.outside, "size": r.length }]);
        linux["uidMappings"] = range(ids.uids);
        linux["gidMappings"] = range(ids.gids);
    }
    let interfaces = &record.injected.net_devices;
    if !interfaces.is_empty() {
        let each = interfaces.iter().map(|d| (d.host.clone(), json!({ "name": d.name })));
        linux["netDevices"] = Value::Object(each.collect());
    }
    config["linux"] = linux;
    config
}

/// What a container's record tells without anything else.
fn from_record(record: &ContainerRecord) -> Value {
    let own = &record.process;
    let annotations: std::collections::BTreeMap<_, _> = record.config.annotations.iter().collect();
    let mut hooks = Map::new();
    for hook in &record.injected.hooks {
        let mut told = json!({ "path": hook.path, "args": hook.argv(), "env": hook.env });
        if hook.timeout > 0 {
            told["timeout"] = hook.timeout.into();
        }
        if let Value::Array(list) = hooks.entry(hook.point.name()).or_insert_with(|| json!([])) {
            list.push(told);
        }
    }
    let process = Process {
        args: own.args.clone(),
        env: own.env.clone(),
        cwd: own.cwd.clone(),
        uid: own.uid,
        gid: own.gid,
        groups: own.groups.clone(),
        ..Process::default()
    };
    json!({
        "ociVersion": OCI_VERSION,
        "annotations": annotations,
        "hooks": hooks,
        "process": self::process(&process, record.config.tty),
    })
}

fn process(process: &Process, tty: bool) -> Value {
    let rlimit =
        |(name, soft, hard): &(String, u64, u64)| json!({ "type": name, "soft": soft, "hard": hard });
    let mut told = json!({
        "terminal": tty,
        "user": { "uid": process.uid, "gid": process.gid, "additionalGids": process.groups },
        "args": process.args,
        "env": process.env,
        "cwd": process.cwd,
        "capabilities": capabilities(&process.caps),
        "noNewPrivileges": process.no_new_privs,
        "rlimits": process.rlimits.iter().map(rlimit).collect::<Vec<_>>(),
    });
    if let Some(adj) = process.oom_score_adj {
        told["oomScoreAdj"] = adj.into();
    }
    if let Some(profile) = &process.apparmor {
        told["apparmorProfile"] = profile.as_str().into();
    }
    if let Some(label) = &process.selinux {
        told["selinuxLabel"] = label.as_str().into();
    }
    told
}

fn capabilities(sets: &Capabilities) -> Value {
    json!({
        "bounding": caps::names_of(sets.bounding),
        "effective": caps::names_of(sets.effective),
        "permitted": caps::names_of(sets.permitted),
        "inheritable": caps::names_of(sets.inheritable),
        "ambient": caps::names_of(sets.ambient),
    })
}

fn namespaces_of(plan: &ContainerPlan, pod: &PodNamespaces, pid: i32) -> Value {
    let mut all = vec![json!({ "type": "mount" })];
    match plan.pid {
        PidMode::Container => all.push(json!({ "type": "pid" })),
        PidMode::Pod | PidMode::Target => {
            all.push(json!({ "type": "pid", "path": format!("/proc/{pid}/ns/pid") }));
        }
        PidMode::Node => {}
    }
    if plan.cgroup_namespace {
        all.push(json!({ "type": "cgroup" }));
    }
    let joined = [("network", &pod.net), ("ipc", &pod.ipc), ("uts", &pod.uts), ("user", &pod.user)];
    for (kind, path) in joined {
        if let Some(path) = path {
            all.push(json!({ "type": kind, "path": path }));
        }
    }
    all.into()
}

fn propagation(propagation: Propagation) -> &'static str {
    match propagation {
        Propagation::Private => "rprivate",
        Propagation::Slave => "rslave",
        Propagation::Shared => "rshared",
    }
}

fn mount(mount: &Mount, root: &str) -> Value {
    let mut options: Vec<String> = Vec::new();
    let (kind, source) = match &mount.kind {
        MountKind::Bind { source, recursive, propagation: how } => {
            options.push(if *recursive { "rbind" } else { "bind" }.into());
            options.push(propagation(*how).into());
            ("bind", source.clone())
        }
        MountKind::Own => {
            options.push("bind".into());
            ("bind", format!("{root}{}", mount.target))
        }
        MountKind::Fs { fstype, options: own } => {
            let option = |(key, value): &(String, Option<String>)| match value {
                Some(value) => format!("{key}={value}"),
                None => key.clone(),
            };
            options.extend(own.iter().map(option));
            (fstype.as_str(), fstype.clone())
        }
        MountKind::Cgroup => ("cgroup", "cgroup".to_owned()),
        MountKind::Image { lowers, .. } => {
            options.push(format!("lowerdir={}", lowers.join(":")));
            ("overlay", "overlay".to_owned())
        }
    };
    let attrs = mount.attrs;
    let readonly = if attrs.recursive_readonly { "rro" } else { "ro" };
    let set = [
        (attrs.readonly || attrs.recursive_readonly, readonly),
        (attrs.nosuid, "nosuid"),
        (attrs.nodev, "nodev"),
        (attrs.noexec, "noexec"),
        (attrs.strictatime, "strictatime"),
    ];
    options.extend(set.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_owned()));
    json!({ "destination": mount.target, "type": kind, "source": source, "options": options })
}
