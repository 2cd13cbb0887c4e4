//! Processes, as /proc shows them.

use std::path::Path;

/// Kills a process; one that has gone is fine.
pub fn kill(pid: i32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

/// Kills a process with all of its group.
pub fn kill_group(pid: i32) {
    use nix::unistd::{Pid, getpgid};
    if let Ok(group) = getpgid(Some(Pid::from_raw(pid))) {
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    }
}

/// Whether a process is there and not a zombie.
pub fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X'])))
}

/// Every process whose command line names something below `dir`: its ID and command line.
pub fn naming(dir: &Path) -> Vec<(i32, String)> {
    // With the slash: one node's directory may have another's name as its beginning.
    let needle = format!("{}/", dir.display());
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own && runs(*pid))
        .filter_map(|pid| Some((pid, command_line(pid)?)))
        .filter(|(_, line)| line.contains(&needle))
        .collect()
}

/// A process's command line, its words separated by spaces.
pub fn command_line(pid: i32) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned())
}

/// What `/proc/<pid>/status` says of a process's memory (`VmRSS`, `VmHWM`…), in KiB.
pub fn memory(pid: i32, field: &str) -> crate::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|rest| rest.split_whitespace().next()).ok_or("no such field")?;
    Ok(number.parse()?)
}

/// Lets a process's peak of memory begin anew (proc_pid_clear_refs(5)).
pub fn reset_peak(pid: i32) -> crate::Result<()> {
    Ok(std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}
