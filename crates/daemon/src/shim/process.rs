//! The process of a pod's shim, by the file that names it: what can be known and done without the shim's help.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::path::Path;

/// The file in a pod's state directory that holds the process ID of its shim, until that has been told to leave.
pub(crate) const PID: &str = "shim.pid";

/// Its process ID, if the file is there.
pub(crate) fn pid(dir: &Path) -> Option<i32> {
    std::fs::read_to_string(dir.join(PID)).ok()?.trim().parse().ok()
}

/// Whether the process that a pod's directory names runs, and is its shim: its ID may be another's by now. One that has
/// ended has no command line.
pub(crate) fn lives(dir: &Path) -> bool {
    let Some(pid) = pid(dir) else { return false };
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let plan = dir.join("plan.json");
    line.split(|b| *b == 0).any(|word| word == plan.as_os_str().as_encoded_bytes())
}

/// Kills the shim of a pod's state directory, if it lives and has not been let go.
pub(crate) fn kill(dir: &Path) {
    let Some(pid) = pid(dir).and_then(Pid::from_raw) else { return };
    // Held first: its number may not become another's between the look and the signal.
    let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    if lives(dir)
        && let Err(e) = pidfd_send_signal(held, Signal::KILL)
    {
        tracing::warn!(shim = pid.as_raw_nonzero(), error = %e, "the pod's shim cannot be killed");
    }
}

/// A shim that has been told to leave does so by itself. It may stay for clients that read what its containers said last: nobody
/// kills it for that.
pub(crate) fn let_go(dir: &Path) {
    if let Err(e) = std::fs::remove_file(dir.join(PID))
        && e.kind() != std::io::ErrorKind::NotFound
    {
        tracing::debug!(dir = %dir.display(), error = %e, "{PID} cannot be removed");
    }
}
