//! Prepared plans: everything that policy decides is decided, everything that has a name is a number or a path.

use base64::Engine as _;
use serde::{Deserialize, Serialize};

/// What a shim is started with: written by stratad to `<state>/pods/<id>/plan.json` before the shim runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodPlan {
    /// The pod's ID, 64 hex digits.
    pub id: String,
    /// The pod's directory below the state directory (`/run/strata/pods/<id>`): socket, exit records.
    pub state_dir: String,
    /// The cgroup the shim itself lives in, relative to each hierarchy's root; empty: stay where it was started.
    #[serde(default)]
    pub shim_cgroup: String,
    /// The pinned namespaces that every container of this pod joins.
    #[serde(default)]
    pub namespaces: PodNamespaces,
    /// What the pod's user namespace maps, if it has one of its own.
    #[serde(default)]
    pub ids: Option<IdMap>,
    /// Whether the pod shares one PID namespace: the shim then forks a reaping init into `pause_cgroup`.
    #[serde(default)]
    pub shared_pid: bool,
    /// The cgroup of that init, relative to each hierarchy's root.
    #[serde(default)]
    pub pause_cgroup: String,
    /// oom_score_adj of the shim (proc_pid_oom_score_adj(5)); clamped where the node does not allow it.
    #[serde(default)]
    pub oom_score_adj: Option<i32>,
}

/// Paths of pinned namespaces; `None`: the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNamespaces {
    /// The network namespace.
    pub net: Option<String>,
    /// The IPC namespace.
    pub ipc: Option<String>,
    /// The UTS namespace.
    pub uts: Option<String>,
    /// The user namespace, which owns the others.
    #[serde(default)]
    pub user: Option<String>,
}

/// One range of user IDs and one of group IDs, as a user namespace maps them (user_namespaces(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// User IDs.
    pub uids: IdRange,
    /// Group IDs.
    pub gids: IdRange,
}

/// A range of IDs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first one in the namespace, or on the disk below an ID-mapped mount.
    pub inside: u32,
    /// What that one is on the host.
    pub outside: u32,
    /// How many.
    pub length: u32,
}

impl IdRange {
    /// What an ID of the namespace is on the host; `None`: it is not mapped.
    pub fn to_host(self, id: u32) -> Option<u32> {
        let offset = id.checked_sub(self.inside).filter(|offset| *offset < self.length)?;
        self.outside.checked_add(offset)
    }
}

/// Which PID namespace a container gets (CRI `NamespaceMode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// One of its own.
    #[default]
    Container,
    /// The pod's ([`PodPlan::shared_pid`]).
    Pod,
    /// The host's.
    Node,
    /// That of another container of the pod ([`ContainerPlan::pid_target`]).
    Target,
}

/// One container, ready to be created.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// The container's ID, 64 hex digits.
    pub id: String,
    /// The root file system.
    pub rootfs: Rootfs,
    /// Mounts, in order, after the root file system.
    pub mounts: Vec<Mount>,
    /// Device nodes to make in /dev.
    pub devices: Vec<Device>,
    /// Paths hidden behind /dev/null or an empty read-only tmpfs, where they exist.
    pub masked_paths: Vec<String>,
    /// Paths remounted read-only, where they exist.
    pub readonly_paths: Vec<String>,
    /// Which PID namespace.
    pub pid: PidMode,
    /// The container whose PID namespace it joins, for [`PidMode::Target`].
    #[serde(default)]
    pub pid_target: Option<String>,
    /// Whether the container gets a cgroup namespace of its own.
    pub cgroup_namespace: bool,
    /// The container's cgroup, made by stratad, relative to each hierarchy's root.
    pub cgroup: String,
    /// sysctls, as paths below /proc/sys and values, for namespaces that belong to this container.
    pub sysctls: Vec<(String, String)>,
    /// The process.
    pub process: Process,
    /// Standard streams and the log.
    pub stdio: Stdio,
    /// How long setting the container up may take before the shim kills it, in milliseconds; 0: two minutes.
    #[serde(default)]
    pub create_timeout_ms: u64,
    /// The SELinux label of everything that it finds mounted and that is made for it; not for a shim that speaks a version before
    /// [`crate::LABELS_SINCE`].
    #[serde(default)]
    pub mount_label: Option<String>,
    /// Its hooks, if it has any; not for a shim that speaks a version before [`crate::hooks::SINCE`].
    #[serde(default)]
    pub hooks: Option<crate::hooks::Hooks>,
}

/// An overlay of read-only layers and one writable one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    /// Layer directories, topmost first.
    pub lowers: Vec<String>,
    /// The writable layer.
    pub upper: String,
    /// overlayfs' work directory, on the same file system as `upper`.
    pub work: String,
    /// Mount with `volatile`: never synced, never to be mounted again (overlayfs.rst, "Volatile mount").
    pub volatile: bool,
    /// Remount the root read-only once everything is mounted.
    pub readonly: bool,
    /// Mount propagation of the container's root.
    #[serde(default)]
    pub propagation: Propagation,
}

/// Mount propagation (mount_namespaces(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// No events either way.
    #[default]
    Private,
    /// Events from the host only.
    Slave,
    /// Events both ways.
    Shared,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, inside the container; made if missing (a file for a file, else a directory).
    pub target: String,
    /// What.
    pub kind: MountKind,
    /// Attributes.
    #[serde(default)]
    pub attrs: MountAttrs,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A directory or file of the host.
    Bind {
        /// Its path on the host; symlinks are followed on the host.
        source: String,
        /// With the mounts below it (`rbind`).
        recursive: bool,
        /// Propagation of the bind.
        #[serde(default)]
        propagation: Propagation,
    },
    /// A new instance of a file system: `proc`, `sysfs`, `tmpfs`, `mqueue`, `devpts`.
    Fs {
        /// The file system's type.
        fstype: String,
        /// fsconfig(2) parameters; a value of `None` is a flag.
        options: Vec<(String, Option<String>)>,
    },
    /// The cgroup file system as this container sees it.
    Cgroup,
    /// An image's layers, merged; nobody writes to them.
    Image {
        /// Directories, topmost first. The first one is empty and this mount's alone.
        lowers: Vec<String>,
        /// What of it is mounted, relative to the image's root and without `..`; empty: all of it.
        #[serde(default)]
        subpath: String,
    },
    /// What the container has at this path anyway, as a mount of its own: it stays writable below a read-only root. Made as
    /// a directory if missing.
    Own,
}

/// Mount attributes (mount_setattr(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountAttrs {
    /// `MOUNT_ATTR_RDONLY`
    #[serde(default)]
    pub readonly: bool,
    /// Read-only for every mount below too.
    #[serde(default)]
    pub recursive_readonly: bool,
    /// `MOUNT_ATTR_NOSUID`
    #[serde(default)]
    pub nosuid: bool,
    /// `MOUNT_ATTR_NODEV`
    #[serde(default)]
    pub nodev: bool,
    /// `MOUNT_ATTR_NOEXEC`
    #[serde(default)]
    pub noexec: bool,
    /// `MOUNT_ATTR_RELATIME` is the kernel's default; this one asks for `MOUNT_ATTR_STRICTATIME`.
    #[serde(default)]
    pub strictatime: bool,
    /// `MOUNT_ATTR_IDMAP`, for binds: what is `inside` on the disk is shown as `outside`.
    #[serde(default)]
    pub ids: Option<IdMap>,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its path inside the container.
    pub path: String,
    /// `c`, `b`, or `p` for a FIFO, which has no numbers.
    pub kind: char,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The program and the rights it runs with; the same for a container's init and for an exec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// argv; the program is looked up in the PATH of `env` inside the container.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory; made for a container's init if missing.
    pub cwd: String,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// umask; 0o022 if `None`.
    #[serde(default)]
    pub umask: Option<u32>,
    /// Capability sets (capabilities(7)).
    pub caps: Capabilities,
    /// prctl(PR_SET_NO_NEW_PRIVS).
    pub no_new_privs: bool,
    /// Resource limits: name as in setrlimit(2) (`RLIMIT_NOFILE`), soft, hard (`u64::MAX`: unlimited).
    pub rlimits: Vec<(String, u64, u64)>,
    /// oom_score_adj (proc_pid_oom_score_adj(5)); `None`: 0, or in an exec that of the container's init.
    #[serde(default)]
    pub oom_score_adj: Option<i32>,
    /// A compiled seccomp filter: `struct sock_filter[]` in base64.
    #[serde(default)]
    pub seccomp: Option<Seccomp>,
    /// AppArmor profile to change to on exec.
    #[serde(default)]
    pub apparmor: Option<String>,
    /// SELinux label to change to on exec, and that of its session keyring.
    #[serde(default)]
    pub selinux: Option<String>,
}

/// Capability sets as bit masks (bit n: capability n).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Bounding set.
    pub bounding: u64,
    /// Effective set.
    pub effective: u64,
    /// Permitted set.
    pub permitted: u64,
    /// Inheritable set.
    pub inheritable: u64,
    /// Ambient set.
    pub ambient: u64,
}

/// A compiled filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seccomp {
    /// `struct sock_filter[]`, native byte order, base64.
    pub filter: String,
    /// `SECCOMP_FILTER_FLAG_*`.
    #[serde(default)]
    pub flags: u32,
}

impl Seccomp {
    /// A filter of these instructions.
    pub fn new(instructions: &[u8], flags: u32) -> Self {
        Self { filter: base64::engine::general_purpose::STANDARD.encode(instructions), flags }
    }

    /// The instructions.
    ///
    /// # Errors
    /// If it is not base64.
    pub fn instructions(&self) -> Result<Vec<u8>, base64::DecodeError> {
        base64::engine::general_purpose::STANDARD.decode(&self.filter)
    }
}

/// Standard streams and the log of a container's init.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    /// A pseudo-terminal instead of pipes.
    pub tty: bool,
    /// The terminal's first size, rows and columns.
    #[serde(default)]
    pub tty_size: Option<(u16, u16)>,
    /// Keep stdin open for attach; otherwise /dev/null.
    pub stdin: bool,
    /// Close stdin when the first attached client ends its input.
    pub stdin_once: bool,
    /// The CRI log file, written by the shim; `None`: output goes to attached clients only.
    pub log_path: Option<String>,
    /// The longest payload of one log line, in bytes, before it is split with the CRI tag `P`; 0: 16 KiB.
    #[serde(default)]
    pub log_max_line: u32,
}

/// One exec in a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecPlan {
    /// The container.
    pub container_id: String,
    /// Names the exec's child cgroup; unique in the container.
    pub exec_id: String,
    /// The process.
    pub process: Process,
    /// A pseudo-terminal of the container's devpts; its master is handed to the client.
    pub tty: bool,
    /// The terminal's first size, rows and columns.
    #[serde(default)]
    pub tty_size: Option<(u16, u16)>,
    /// Kill the exec's whole cgroup after this long, in milliseconds; 0: never.
    #[serde(default)]
    pub timeout_ms: u64,
}
