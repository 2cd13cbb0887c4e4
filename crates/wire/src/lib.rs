//! What `stratad`, `strata-shim` and `strata` say to each other over the per-pod unix socket.
//!
//! ```text
//!  client (stratad, strata)                     strata-shim
//!      │ ── Envelope{id, Request, fds} ───────────▶ │
//!      │ ◀─ Envelope{id, Reply, fds} ────────────── │   exactly one per request, in any order
//!      │ ◀─ Envelope{0, Event} ──────────────────── │   only after Subscribe, or for an exec of this connection
//!      │                                            │
//!      │ ── Attach ───────────────────────────────▶ │
//!      │ ◀─ Attached ────────────────────────────── │   from here on this connection carries attach frames only
//!      │ ◀═ AttachFrame ══════════════════════════▶ │
//! ```
//!
//! A frame is a little-endian `u32` length and that many bytes of JSON (an [`Envelope`]); file descriptors travel
//! as `SCM_RIGHTS` with the frame that names them (`Envelope::fds`). Fields are only ever added, with a serde default,
//! so that a daemon can talk to the shim of an older release. [`VERSION`] goes up when a meaning changes, and both sides
//! then speak the newest version that both know ([`agree`]): a shim lives as long as its pod, through many upgrades and a
//! return to an older release.
//!
//! * [`plan`]: what the daemon has prepared for the shim: no OCI spec, no name that must be looked up.
//! * [`message`]: requests, replies, events.
//! * [`hooks`]: programs that are run at points of a container's life.
//! * [`attach`]: the frames of an attached connection.
//! * [`frame`]: encoding, with descriptors, for blocking and event-driven callers.
//! * [`state`]: what the shim leaves in `/run/strata` for a daemon that was not there.

pub mod attach;
pub mod frame;
pub mod hooks;
pub mod message;
pub mod plan;
pub mod state;

/// The protocol's newest version.
///
/// * 1: the first.
/// * 2: hooks ([`ContainerPlan::hooks`](plan::ContainerPlan::hooks)), which a shim of version 1 would pass over in silence.
/// * 3: SELinux labels of mounts ([`ContainerPlan::mount_label`](plan::ContainerPlan::mount_label)), likewise.
pub const VERSION: u32 = 3;

/// The first version in which the shim labels what it mounts.
pub const LABELS_SINCE: u32 = 3;

/// The oldest version that is still spoken. It goes up only when no pod can be left that was begun by a release before it.
pub const OLDEST: u32 = 1;

/// The version to speak with somebody who knows these: the newest that both know, if there is one.
#[must_use]
pub fn agree(oldest: u32, newest: u32) -> Option<u32> {
    let version = newest.min(VERSION);
    (version >= oldest.max(OLDEST)).then_some(version)
}

/// The longest frame that either side accepts, in bytes.
///
/// `execve` itself caps arguments and environment at 6 MiB (`ARG_MAX`, execve(2)), so a larger plan could not run.
pub const MAX_FRAME: usize = 16 << 20;

pub use message::{Envelope, Event, Reply, Request};
pub use plan::{ContainerPlan, ExecPlan, PodPlan};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_both_know_is_spoken() {
        assert_eq!(agree(OLDEST, VERSION), Some(VERSION));
        assert_eq!(agree(OLDEST, VERSION + 5), Some(VERSION), "an older shim with a newer daemon");
        assert_eq!(agree(OLDEST - 1, OLDEST), Some(OLDEST), "a newer shim with an older daemon");
        assert_eq!(agree(VERSION + 1, VERSION + 5), None);
        assert_eq!(agree(0, OLDEST - 1), None);
    }
}
