//! What callers ask of a [`crate::node::Node`]: CRI's own configuration, and what CRI cannot say.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use strata_api::cri;

/// A value of one of CRI's enumerations, by its number. One that is not known must not become the default one, which may be less
/// strict.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for a number that CRI v1 has not got, with the name of its field.
pub(crate) fn known<T: TryFrom<i32>>(number: i32, field: impl fmt::Display) -> Result<T> {
    T::try_from(number)
        .map_err(|_| Error::invalid(format!("{field} {number}: there is no such value in CRI v1")))
}

/// Who asked for a pod. Kubernetes sees and touches its own only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// The kubelet or another CRI client.
    #[default]
    Kubernetes,
    /// The strata command: one container in a pod of its own, which can be started again after it has ended.
    Strata,
}

/// What network a pod gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NetworkMode {
    /// The one configured for CRI, or the host's if the pod asks for that (`NamespaceMode::NODE`).
    #[default]
    Cri,
    /// The built-in bridge.
    Bridge,
    /// The host's.
    Host,
    /// A namespace with a loopback interface only.
    None,
}

/// A pod to be run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodRequest {
    /// As CRI says it.
    pub(crate) config: cri::PodSandboxConfig,
    /// The RuntimeClass handler; the empty one is `strata`.
    pub(crate) handler: String,
    /// Who asks.
    pub(crate) origin: Origin,
    /// Its network.
    pub(crate) network: NetworkMode,
}

/// A container to be created.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ContainerRequest {
    /// As CRI says it.
    pub(crate) config: cri::ContainerConfig,
    /// What CRI cannot say; its default changes nothing.
    pub(crate) extras: Extras,
}

/// What CRI's container configuration has no field for. Kept in container.json beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Extras {
    /// The name that the strata command knows it by, without a slash; unique among containers that have one.
    pub(crate) name: Option<String>,
    /// Remove the container, its pod included, once it has ended.
    pub(crate) auto_remove: bool,
    /// Replaces the image's ENTRYPOINT; an empty one clears it. The image's CMD is then dropped, as Docker does.
    pub(crate) entrypoint: Option<Vec<String>>,
    /// `user[:group]`, names or numbers; wins over CRI's `run_as_*`.
    pub(crate) user: Option<String>,
    /// Supplementary groups by name or number.
    pub(crate) groups: Vec<String>,
    /// tmpfs mounts: `target` or `target:size=64m,mode=1777,ro`.
    pub(crate) tmpfs: Vec<String>,
    /// The most processes and threads; 0 or less: no limit.
    pub(crate) pids_limit: i64,
    /// Resource limits: name (`nofile` or `RLIMIT_NOFILE`), soft, hard (`u64::MAX`: unlimited).
    pub(crate) rlimits: Vec<(String, u64, u64)>,
    /// The stop signal by name or number; wins over CRI's.
    pub(crate) stop_signal: Option<String>,
    /// How long `stop` waits before it kills, in seconds; 10 if unset.
    pub(crate) stop_timeout: Option<i64>,
    /// Without an SELinux label for its processes.
    pub(crate) unlabelled: bool,
    /// Where mounts are, in the container, that are relabelled for every container and not for this one alone.
    pub(crate) shared_mounts: Vec<String>,
    /// The terminal's first size, rows and columns.
    pub(crate) tty_size: Option<(u16, u16)>,
    /// What was asked for: the image as typed.
    pub(crate) image_name: String,
}

/// A process to be run in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExecRequest {
    /// argv
    pub(crate) command: Vec<String>,
    /// A terminal.
    pub(crate) tty: bool,
    /// The terminal's first size, rows and columns.
    pub(crate) tty_size: Option<(u16, u16)>,
    /// `user[:group]`, looked up in the running container; `None`: the container's own.
    pub(crate) user: Option<String>,
    /// Working directory; empty: the container's.
    pub(crate) workdir: String,
    /// `NAME=value`, over the container's environment.
    pub(crate) env: Vec<String>,
    /// With every capability, and without seccomp.
    pub(crate) privileged: bool,
    /// Killed after this long, in milliseconds; 0: never.
    pub(crate) timeout_ms: u64,
}

/// Where an attach session goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AttachTarget {
    /// The shim's socket.
    pub(crate) socket: std::path::PathBuf,
    /// The container.
    pub(crate) container_id: String,
    /// Whether it has a terminal.
    pub(crate) tty: bool,
    /// Whether its stdin is open.
    pub(crate) stdin: bool,
}
