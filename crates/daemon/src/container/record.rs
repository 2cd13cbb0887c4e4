//! What is kept of a container: `<root>/containers/<id>/container.json`, and its exit record beside it.
//!
//! Fields are only ever added, with a default; [`VERSION`] goes up when a meaning changes, and a newer record is refused.
//! `runs` goes up, durably, before the container's program is let loose. An exit record counts if it is of that run: so
//! after a reboot it is known which containers ran and which were only created.

use crate::cdi::Injected;
use crate::request::{Extras, Origin};
use crate::selinux::Labels;
use serde::{Deserialize, Serialize};
use strata_api::cri;

/// The records' version.
pub(crate) const VERSION: u32 = 1;

/// A container's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    /// [`VERSION`] of the writer.
    pub(crate) version: u32,
    /// Its ID.
    pub(crate) id: String,
    /// Its pod's ID.
    pub(crate) pod_id: String,
    /// Who asked for it.
    pub(crate) origin: Origin,
    /// What was asked for, with the limits as last updated.
    pub(crate) config: cri::ContainerConfig,
    /// What CRI cannot say.
    pub(crate) extras: Extras,
    /// When, in nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// The image's ID, `sha256:…`.
    pub(crate) image_id: String,
    /// The image's digest reference, if it came from a registry; else its ID.
    pub(crate) image_ref: String,
    /// What runs: argv, environment, directory, user; decided at creation, the base of every exec.
    pub(crate) process: ProcessRecord,
    /// The image's VOLUMEs.
    #[serde(default)]
    pub(crate) volumes: Vec<String>,
    /// The IDs of the images that are mounted in it, in the order of the mounts.
    #[serde(default)]
    pub(crate) mounted: Vec<String>,
    /// What CDI devices bring.
    #[serde(default)]
    pub(crate) injected: Injected,
    /// The AppArmor profile that all its processes run under, or `unconfined`; none where the kernel runs no AppArmor.
    #[serde(default)]
    pub(crate) apparmor: Option<String>,
    /// Its SELinux labels, if it has any.
    #[serde(default)]
    pub(crate) selinux: Option<Labels>,
    /// The stop signal's number: the request's, the image's, or SIGTERM.
    pub(crate) stop_signal: i32,
    /// The log file, if there is one.
    pub(crate) log_path: Option<String>,
    /// Its cgroup, relative to each hierarchy's root.
    pub(crate) cgroup: String,
    /// Whether `upper` is mounted volatile: once only.
    pub(crate) volatile: bool,
    /// How often its program has been let loose.
    #[serde(default)]
    pub(crate) runs: u32,
    /// Whether its poststop hooks have to be run: from before the first hook of a run on, until they have ended.
    #[serde(default)]
    pub(crate) poststop_owed: bool,
    /// Whether creation has ended: a record without it is of a half-made container.
    #[serde(default)]
    pub(crate) complete: bool,
}

/// What runs in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ProcessRecord {
    /// argv
    pub(crate) args: Vec<String>,
    /// `NAME=value`
    pub(crate) env: Vec<String>,
    /// Working directory.
    pub(crate) cwd: String,
    /// User.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
}

/// How a run of a container ended, as kept beside its record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// Which of [`ContainerRecord::runs`]; 0: it ended without having been started.
    pub(crate) run: u32,
    /// Exit code, or 128 and the signal's number.
    pub(crate) code: i32,
    /// Completed, Error, OOMKilled, StartError or Unknown.
    pub(crate) reason: String,
    /// A sentence where the reason does not say it all.
    #[serde(default)]
    pub(crate) message: String,
    /// In nanoseconds since 1970; 0: it never ran.
    pub(crate) started_at: i64,
    /// In nanoseconds since 1970.
    pub(crate) finished_at: i64,
    /// Whether the kernel killed a process of it for memory.
    #[serde(default)]
    pub(crate) oom_killed: bool,
}

impl Exit {
    /// From what the shim says.
    pub(crate) fn of_shim(run: u32, exit: &strata_wire::state::ExitRecord) -> Self {
        let reason = match exit.exit_code {
            _ if exit.oom_killed => "OOMKilled",
            0 => "Completed",
            _ => "Error",
        };
        let message = match exit.log_bytes_dropped {
            0 => String::new(),
            n => format!("{n} bytes of its output could not be written to its log"),
        };
        Self {
            run,
            code: exit.exit_code,
            reason: reason.into(),
            message,
            started_at: exit.started_at,
            finished_at: exit.finished_at,
            oom_killed: exit.oom_killed,
        }
    }
}
