//! Plugins that a daemon has left running: it was killed, or somebody killed the plugin that had started them. One that went
//! on with an ADD would take an address after the DEL.

use crate::error::{Error, Kind, Result};
use crate::tasks::blocking;
use std::path::Path;
use std::time::{Duration, Instant};

/// What every plugin has in its environment, and hands down to those that it runs: a pod's ID, which is unique.
pub(super) const VARIABLE: &str = "CNI_CONTAINERID";
/// How long killed ones may take to end.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Kills the plugins that run for a pod and waits until they are gone. Those that have become daemons (setsid(2)) were meant
/// to stay, and do.
///
/// # Errors
/// [`Kind::Unavailable`] if one does not end, as it hangs in the kernel.
pub(super) async fn end(pod_id: &str) -> Result<()> {
    if pod_id.is_empty() {
        return Ok(());
    }
    let needle = format!("{VARIABLE}={pod_id}");
    // Reading an environment can hang as well, in a thread of its own then.
    match tokio::time::timeout(PATIENCE * 2, blocking(move || end_all(needle.as_bytes()))).await {
        Ok(ended) => ended,
        Err(_) => Err(Error::new(
            Kind::Unavailable,
            "whether a CNI plugin still runs for the pod cannot be seen: a process of this node that hangs in the kernel keeps \
             /proc/<pid>/environ from being read",
        )),
    }
}

fn end_all(needle: &[u8]) -> Result<()> {
    let begun = Instant::now();
    loop {
        let found = find(Path::new("/proc"), needle);
        let Some(first) = found.first() else { return Ok(()) };
        if begun.elapsed() > PATIENCE {
            return Err(stuck(*first));
        }
        for pid in found {
            // By a descriptor, looked at again: the number could be somebody else's by now.
            if let Ok(fd) = strata_sys::process::pidfd_open(pid)
                && is_ours(&Path::new("/proc").join(pid.to_string()), needle)
            {
                let _ = strata_sys::process::pidfd_send_signal(&fd, 9);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Says that a plugin's process was killed and goes on.
pub(super) fn stuck(pid: i32) -> Error {
    Error::new(
        Kind::Unavailable,
        format!(
            "process {pid} of the plugin was killed and does not end: it hangs in the kernel, as on a file system that does not \
             answer (/proc/{pid}/stack may say where); the pod's network is given back once it has ended"
        ),
    )
}

fn find(proc: &Path, needle: &[u8]) -> Vec<i32> {
    let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| Some((e.file_name().to_str()?.parse::<i32>().ok()?, e.path())));
    pids.filter(|(_, path)| is_ours(path, needle)).map(|(pid, _)| pid).collect()
}

/// Whether a process has this in its environment and is no daemon: the leader of a session has its group's number, and what
/// it starts stays in that group. A process that has ended has no environment.
fn is_ours(process: &Path, needle: &[u8]) -> bool {
    let Ok(environment) = std::fs::read(process.join("environ")) else { return false };
    if !environment.split(|b| *b == 0).any(|variable| variable == needle) {
        return false;
    }
    let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    // proc_pid_stat(5): the name is in parentheses and may hold anything; then state, parent, group, session.
    let mut fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace()).into_iter().flatten();
    let (state, _, group, session) = (fields.next(), fields.next(), fields.next(), fields.next());
    group.is_some() && group != session && !matches!(state, Some("Z" | "X"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[tokio::test]
    async fn those_of_the_pod_are_ended_and_no_others() {
        let start = |pod: &str, program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            command.args(args).env(VARIABLE, pod).process_group(0).spawn().unwrap()
        };
        let mut own = start("stray-test-1", "sh", &["-c", "sleep 1000 & wait"]);
        let mut other = start("stray-test-2", "sleep", &["1000"]);
        // In the environment of what setsid runs as well: a daemon.
        let mut daemon = start("stray-test-1", "setsid", &["-w", "sleep", "1000"]);
        let until = Instant::now() + Duration::from_secs(60);
        while !find_daemon().into_iter().any(leads_a_session) {
            assert!(Instant::now() < until, "there is no daemon");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        end("stray-test-1").await.unwrap();
        assert!(!own.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        let left = find_daemon();
        assert_eq!(left.len(), 1, "{left:?}");
        let _ = other.kill().and_then(|()| other.wait());
        for pid in left {
            let _ = strata_sys::process::kill(pid, 9);
        }
        // setsid itself has stayed in the pod's group.
        assert!(!daemon.wait().unwrap().success());
    }

    /// Whether a process has left those that started it: pid and session of proc_pid_stat(5).
    fn leads_a_session(pid: i32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let session = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(3)?.parse().ok());
        session == Some(pid)
    }

    /// What has the variable, daemon or not.
    fn find_daemon() -> Vec<i32> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| {
                let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environment.windows(12).any(|w| w == b"stray-test-1")
            })
            .collect()
    }
}
