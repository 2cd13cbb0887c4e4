//! What only /proc tells of a container's processes: their descriptors and limits.

use std::path::Path;

/// Of all processes of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Processes {
    /// How many there are.
    pub(crate) count: u64,
    /// Their open descriptors.
    pub(crate) descriptors: u64,
    /// Of them, sockets.
    pub(crate) sockets: u64,
    /// How many descriptors the first process may open (RLIMIT_NOFILE, soft); `None`: as many as it likes.
    pub(crate) max_open_files: Option<u64>,
}

/// Looks at processes by their IDs. One that ends meanwhile counts as far as it was seen.
pub(crate) fn read(pids: &[i32], init: i32) -> Processes {
    let mut found = Processes { count: pids.len() as u64, ..Processes::default() };
    for pid in pids {
        let directory = format!("/proc/{pid}/fd");
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            found.descriptors += 1;
            let target = std::fs::read_link(entry.path());
            found.sockets += u64::from(target.is_ok_and(|t| t.to_string_lossy().starts_with("socket:")));
        }
    }
    let limits = std::fs::read_to_string(Path::new("/proc").join(init.to_string()).join("limits"));
    found.max_open_files = limits.ok().as_deref().and_then(soft_open_files);
    found
}

/// The line `Max open files  soft  hard  files` of /proc/PID/limits (proc_pid_limits(5)).
fn soft_open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_counted() {
        let own = i32::try_from(std::process::id()).unwrap();
        let _socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let found = read(&[own], own);
        assert!(found.count == 1 && found.descriptors > 3 && found.sockets >= 1, "{found:?}");
        assert!(read(&[-1], -1) == Processes { count: 1, ..Processes::default() });
    }

    #[test]
    fn the_limit_of_open_files_is_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 524288               files     \n";
        assert_eq!(soft_open_files(text), Some(1024));
        assert_eq!(soft_open_files(&text.replace("1024  ", "unlimited")), None);
    }
}
