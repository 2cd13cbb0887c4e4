//! Processes, as /proc shows them.

use std::path::Path;

/// Kills a process; one that has gone is fine.
pub fn kill(pid: i32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
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
