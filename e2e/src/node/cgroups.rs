//! A node's cgroups, in every hierarchy, by their files: independent of Strata's own code on purpose.

use crate::Result;
use std::path::{Path, PathBuf};

/// Every hierarchy's mount point.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let (mount, fs) = line.split_once(" - ")?;
            fs.starts_with("cgroup").then(|| PathBuf::from(mount.split(' ').nth(4).unwrap_or_default()))
        })
        .collect()
}

/// Where `path`, relative to a hierarchy's root, exists.
fn existing(path: &str) -> Vec<PathBuf> {
    let relative = path.trim_start_matches('/');
    hierarchies().into_iter().map(|mount| mount.join(relative)).filter(|dir| dir.is_dir()).collect()
}

/// A cgroup and all below it, the deepest first.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.extend(tree(&entry.path()));
        }
    }
    all.push(dir.into());
    all
}

/// Every cgroup below `root`, in every hierarchy.
pub fn below(root: &str) -> Vec<PathBuf> {
    existing(root).iter().flat_map(|dir| tree(dir)).collect()
}

/// Every process in a cgroup below `root`.
pub fn processes(root: &str) -> Vec<i32> {
    let mut pids: Vec<i32> = below(root)
        .iter()
        .filter_map(|dir| std::fs::read_to_string(dir.join("cgroup.procs")).ok())
        .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>())
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Ends every process below `root`, frozen ones too.
pub fn kill(root: &str) {
    for _ in 0..250 {
        for dir in below(root) {
            let _ = std::fs::write(dir.join("freezer.state"), "THAWED");
            let _ = std::fs::write(dir.join("cgroup.freeze"), "0");
        }
        let pids = processes(root);
        if pids.is_empty() {
            return;
        }
        for pid in pids {
            super::process::kill(pid);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Makes a cgroup, and those above it, in every hierarchy.
pub fn create(path: &str) -> Result<()> {
    for mount in hierarchies() {
        let dir = mount.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    Ok(())
}

/// Removes `root` and all below it.
pub fn remove(root: &str) {
    for dir in below(root) {
        let _ = std::fs::remove_dir(dir);
    }
}

/// The value of a controller's file in the cgroup called `name` below `root`: v1's or v2's file, whichever is there.
#[track_caller]
pub fn read(root: &str, name: &str, files: [&str; 2]) -> String {
    let found = below(root)
        .iter()
        .filter(|dir| dir.ends_with(name))
        .flat_map(|dir| files.map(|file| dir.join(file)))
        .find_map(|file| std::fs::read_to_string(file).ok());
    found.unwrap_or_else(|| panic!("no {files:?} in a cgroup {name} below {root}")).trim().to_owned()
}

/// Whether cgroups can be made here.
pub fn probe(name: &str) -> Result<()> {
    let all = hierarchies();
    if all.is_empty() {
        return Err("no cgroup file system is mounted".into());
    }
    for mount in all {
        let dir = mount.join(name.trim_start_matches('/'));
        std::fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        std::fs::remove_dir(&dir)?;
    }
    Ok(())
}
