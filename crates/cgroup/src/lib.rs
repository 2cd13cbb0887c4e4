//! cgroup v1, hybrid and v2 by files (cgroups(7), cgroup-v2.rst).
//!
//! A [`Group`] is one name in every hierarchy of the node at once: `/kubepods/pod1/c1` is a directory below each v1
//! controller's mount and, where there is one, below the unified mount.
//!
//! ```text
//!   mode     controllers' limits         kill and freeze        born into
//!   v2       unified                     unified                CLONE_INTO_CGROUP
//!   hybrid   v1 mounts, rest unified     unified kill, v1 freezer   tasks files, and CLONE_INTO_CGROUP
//!   v1       v1 mounts                   v1 freezer             tasks files
//! ```
//!
//! * [`hierarchy`]: what this node has.
//! * [`group`]: making, joining, listing, removing.
//! * [`limits`]: limits, and their change while processes run; [`cpu_max`], and [`before`] to take a change back.
//! * [`devices`]: which devices may be used.
//! * [`control`]: freezing and killing.
//! * [`stats`]: usage, pressure and OOM counters.

pub mod before;
pub mod control;
pub mod cpu_max;
pub mod devices;
mod file;
pub mod group;
pub mod hierarchy;
pub mod limits;
pub mod stats;

pub use cpu_max::CpuMax;
pub use group::{Group, Join};
pub use hierarchy::{Hierarchy, Mode};
pub use limits::{DeviceRule, Resources};
pub use stats::Stats;

/// Why something could not be done to a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    Sys(#[from] strata_sys::Error),
    /// The node has no such controller, and a limit needs it.
    #[error(
        "this node has no {0} cgroup controller, which {1} needs; enable it on the kernel command line or drop the limit"
    )]
    NoController(&'static str, String),
    /// There is no such setting.
    #[error(
        "cgroup {0} has no file {1}: cgroup v2 of this kernel has no such setting; look for its name in cgroup-v2.rst, or drop it"
    )]
    NoFile(String, String),
    /// A group that has processes gives its children no controllers.
    #[error(
        "cgroup {0} has processes of its own, so the kernel lets it give its children no controllers (cgroup-v2.rst, \"No Internal \
         Process Constraint\"): move them into a child of it, or choose another parent"
    )]
    Inner(String),
    /// The kernel refused a value.
    #[error("cgroup {group}: {file} cannot be set to {value:?}: {errno}")]
    Value {
        /// The group's name.
        group: String,
        /// The file.
        file: String,
        /// What was written.
        value: String,
        /// Why not.
        errno: rustix::io::Errno,
    },
    /// A file does not hold what the kernel's documentation says.
    #[error("cgroup file {0} holds {1:?}, which is not understood")]
    Content(String, String),
    /// A name that would leave the hierarchy or is not absolute.
    #[error("{0:?} is no cgroup name: it must be absolute, without empty parts, `.` and `..`")]
    Name(String),
    /// Processes would not go.
    #[error(
        "cgroup {group} still has processes: {stuck}; a process in uninterruptible sleep waits for a device or a network file system"
    )]
    Stuck {
        /// The group's name.
        group: String,
        /// Their IDs, names, states and kernel functions.
        stuck: String,
    },
    /// Freezing took too long.
    #[error("cgroup {0} did not freeze in time; a process of it does not reach a point where it can stop")]
    Freeze(String),
    /// A device filter of cgroup v2 could not be made.
    #[error(
        "cgroup {0}: devices cannot be limited: {1}; the kernel needs CONFIG_CGROUP_BPF, and stratad CAP_BPF and CAP_NET_ADMIN"
    )]
    Devices(String, String),
}

/// The result of cgroup operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;
