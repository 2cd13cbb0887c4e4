//! Stop signals that come before a program has its handlers.
//!
//! The kernel drops a signal for the first process of a PID namespace that neither handles nor blocks it, instead of ending the
//! process (pid_namespaces(7)). A container that is stopped while it still starts would so outlive its whole grace period.

use std::time::Duration;

/// How soon a program is looked at again for the first time; then less and less often.
const SOON: Duration = Duration::from_millis(10);
/// How seldom at most.
const SELDOM: Duration = Duration::from_millis(250);

/// Whether a process drops a signal as it is now.
pub(super) fn is_deaf(pid: i32, signal: i32) -> bool {
    look(pid, signal) == Some(true)
}

/// Waits until a process that dropped a signal handles it, and a little longer: it may have begun to just in time, and be
/// ending. For ever if it ends first.
pub(super) async fn hears_at_last(pid: i32, signal: i32) {
    let mut wait = SOON;
    loop {
        tokio::time::sleep(wait).await;
        match look(pid, signal) {
            Some(true) => wait = (wait * 3 / 2).min(SELDOM),
            Some(false) => return tokio::time::sleep(SELDOM).await,
            None => return std::future::pending().await,
        }
    }
}

fn look(pid: i32, signal: i32) -> Option<bool> {
    drops(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?, signal)
}

/// Whether a process drops a signal, by its `/proc/PID/status`; none if that does not tell.
fn drops(status: &str, signal: i32) -> Option<bool> {
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    let first = field("NSpid")?.split_ascii_whitespace().next_back()? == "1";
    let bit = 1u64.checked_shl(u32::try_from(signal).ok()?.checked_sub(1)?)?;
    let has = |name: &str| Some(u64::from_str_radix(field(name)?, 16).ok()? & bit != 0);
    // Who ignores a signal has decided so.
    Some(first && !has("SigCgt")? && !has("SigBlk")? && !has("SigIgn")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(nspid: &str, blocked: u64, ignored: u64, caught: u64) -> String {
        format!(
            "Name:\ttop\nNSpid:\t{nspid}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
        )
    }

    #[test]
    fn only_the_first_process_of_a_namespace_drops_what_it_does_not_handle() {
        let term = 1 << 14;
        assert_eq!(drops(&status("4711\t1", 0, 0, 0), 15), Some(true));
        assert_eq!(drops(&status("4711\t7", 0, 0, 0), 15), Some(false));
        assert_eq!(drops(&status("4711\t1", 0, 0, term), 15), Some(false));
        assert_eq!(drops(&status("4711\t1", term, 0, 0), 15), Some(false));
        assert_eq!(drops(&status("4711\t1", 0, term, 0), 15), Some(false));
        assert_eq!(drops(&status("4711\t1", 0, 0, term << 1), 15), Some(true));
        assert_eq!(drops("", 15), None);
        assert_eq!(drops(&status("1", 0, 0, 0), 0), None);
    }
}
