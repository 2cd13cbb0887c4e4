//! What a node left behind.

use super::{cgroups, process};
use std::path::{Path, PathBuf};

/// Every mount point below a directory, the newest first.
pub fn mounts(dir: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut all: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(path.replace("\\040", " ")))
        .filter(|path| path.starts_with(dir))
        .collect();
    all.reverse();
    all
}

/// The names in a directory; none if it is not there.
pub fn names(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// One line for each thing that is still there although everything was removed and the daemon stopped.
pub fn find(dir: &Path, cgroup: &str) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(process::naming(dir).into_iter().map(|(pid, line)| format!("process {pid}: {line}")));
    found.extend(
        cgroups::processes(cgroup).into_iter().map(|pid| {
            format!("process {pid} in a cgroup: {}", process::command_line(pid).unwrap_or_default())
        }),
    );
    found.extend(mounts(dir).into_iter().map(|path| format!("mount {}", path.display())));
    // Those that belong to the node itself may stay for its next start.
    let own =
        [cgroup.to_owned(), format!("{cgroup}/shims"), format!("{cgroup}/pods"), format!("{cgroup}/hooks")];
    found.extend(
        cgroups::below(cgroup)
            .into_iter()
            .filter(|path| !own.iter().any(|own| path.ends_with(own.trim_start_matches('/'))))
            .map(|path| format!("cgroup {}", path.display())),
    );
    for (below, what) in [
        ("root/pods", "pod record"),
        ("root/containers", "container record"),
        ("state/pods", "pod's state"),
        ("state/bundles", "container's bundle"),
        ("netns", "network namespace"),
    ] {
        found.extend(names(&dir.join(below)).into_iter().map(|name| format!("{what} {name}")));
    }
    found
}

/// What lies in the store's directories for things that are being written and deleted.
pub fn unfinished(dir: &Path) -> Vec<String> {
    ["tmp", "trash"]
        .into_iter()
        .flat_map(|below| {
            names(&dir.join("root").join(below)).into_iter().map(move |name| format!("{below}/{name}"))
        })
        .collect()
}

/// Ends and removes everything of a node, however it looks.
pub fn wipe(dir: &Path, cgroup: &str) {
    for (pid, _) in process::naming(dir) {
        process::kill(pid);
    }
    cgroups::kill(cgroup);
    for _ in 0..3 {
        for mount in mounts(dir) {
            let _ = nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH);
        }
    }
    cgroups::remove(cgroup);
    let _ = std::fs::remove_dir_all(dir);
}
