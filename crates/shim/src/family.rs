//! Killing a process with what it has started, where no cgroup holds just these: a container that has made groups of its own on
//! cgroup v2 may leave none for an exec. They are found by their parents and their session then.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use strata_cgroup::Group;
use strata_sys::process::{pidfd_open, pidfd_send_signal};

/// As many generations may begin while the ones before are being stopped.
const ROUNDS: usize = 100;

const SIGKILL: i32 = 9;
const SIGSTOP: i32 = 19;

/// Kills a session's leader, which has not been reaped, all of its session, and all that descends from those, as far as they are in
/// a group. They are stopped before, one after the other, so that none can make another that is not seen.
///
/// Not found is what has left its session and has lost its parent: its container's init is its parent then, as of others.
pub(crate) fn kill(leader: i32, group: &Group) {
    let mut found: BTreeMap<i32, OwnedFd> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let before = found.len();
        let all = group.procs().unwrap_or_default();
        let mut all: Vec<Process> = all.into_iter().filter_map(Process::read).collect();
        while let Some(next) = all.iter().position(|p| !found.contains_key(&p.pid) && p.is_of(leader, &found))
        {
            let next = all.swap_remove(next);
            let Ok(held) = pidfd_open(next.pid) else { continue };
            // Its number may have become another's.
            if Process::read(next.pid).is_some_and(|now| now.begun == next.begun) {
                let _ = pidfd_send_signal(&held, SIGSTOP);
                found.insert(next.pid, held);
            }
        }
        if found.len() == before {
            break;
        }
    }
    for held in found.values() {
        let _ = pidfd_send_signal(held, SIGKILL);
    }
}

/// What /proc/PID/stat says of a process (proc_pid_stat(5)).
struct Process {
    pid: i32,
    parent: i32,
    session: i32,
    /// In ticks since the boot: tells it from another of its number.
    begun: u64,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(pid, &stat)
    }

    fn parse(pid: i32, stat: &str) -> Option<Self> {
        // Anything may be in its name, parentheses too. What follows begins with the third field.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let field = |number: usize| fields.get(number - 3);
        Some(Self {
            pid,
            parent: field(4)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            begun: field(22)?.parse().ok()?,
        })
    }

    fn is_of(&self, leader: i32, found: &BTreeMap<i32, OwnedFd>) -> bool {
        self.pid == leader || self.session == leader || found.contains_key(&self.parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "7 (a) b (c) S 3 7 5 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 1234 99 1\n";
        let read = Process::parse(7, stat).unwrap();
        assert_eq!((read.pid, read.parent, read.session, read.begun), (7, 3, 5, 1234));
        assert!(Process::parse(7, "7 (a) S 3").is_none() && Process::parse(7, "").is_none());
        let own = i32::try_from(std::process::id()).unwrap();
        let parent = Process::read(own).unwrap().parent;
        assert_eq!(parent, i32::try_from(std::os::unix::process::parent_id()).unwrap());
    }
}
