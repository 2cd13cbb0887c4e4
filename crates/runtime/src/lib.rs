//! One container from a prepared plan: namespaces, mounts, rights, and the program.
//!
//! Sync and threadless: the caller has one thread, one event loop, and never waits here for a container. The new
//! process reports on a [`Channel`], which the caller watches:
//!
//! ```text
//!  caller (shim)                     child
//!     │ ── clone3 ───────────────────▶ │ enter cgroups, join namespaces, mounts, pivot_root, …
//!     │ ◀─ Mounted ──────────────────── │ (only with hooks,
//!     │ ── one byte: go on ───────────▶ │  before pivot_root)
//!     │ ◀─ Ready{warnings} [+ master] ─ │ (or Failed, and it exits)
//!     │ ── one byte: go ─────────────▶ │ user, capabilities, seccomp, execve      (exec: does not wait for it)
//!     │ ◀─ end of file ─────────────── │ execve has closed the channel: the program runs
//!     │ ◀─ Failed ──────────────────── │ (instead, and it exits)
//! ```
//!
//! If the caller goes away before the byte, the child exits.
//!
//! * [`create`], [`exec`]: the two ways to make a process.
//! * [`hook`]: a program of the node's at a point of a container's life.
//! * `rootfs`, `mounts`, `image`, `devices`, `protect`: the file system, from layers to masked paths.
//! * `identity`: limits, user, capabilities, labels, seccomp.
//! * `program`: finding and running it.
//! * `userns`: what is different in a user namespace.

mod child;
mod create;
mod devices;
mod exec;
mod hook;
mod identity;
mod image;
mod init;
mod mounts;
mod program;
mod protect;
mod rootfs;
mod userns;

pub use child::{Channel, Report, Spawned, StandardFds, exit_code};
pub use create::{CreateContext, Namespaces, create};
pub use exec::{CHILD_CONTROLLERS, ExecContext, exec};
pub use hook::{Place, hook};
pub use init::reaping_init;
pub use userns::User;

use strata_wire::message::{Failure, FailureKind};

/// A failed step.
pub(crate) fn failure(
    kind: FailureKind,
    step: impl Into<String>,
    message: impl std::fmt::Display,
) -> Failure {
    Failure { kind, step: step.into(), message: message.to_string(), errno: None }
}

/// Names the step that a system call belongs to.
pub(crate) trait Step<T> {
    /// Turns a failed call into a typed failure of this step.
    fn step(self, step: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T> Step<T> for strata_sys::Result<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|e| Failure {
            kind: FailureKind::Internal,
            step: step(),
            errno: Some(e.errno.raw_os_error()),
            message: e.to_string(),
        })
    }
}

impl<T> Step<T> for strata_cgroup::Result<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|e| failure(FailureKind::Internal, step(), e))
    }
}
