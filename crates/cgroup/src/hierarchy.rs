//! What cgroup file systems this node has.

use crate::group::Group;
use crate::{Error, Result, file};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How controllers are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// cgroup v1 only.
    V1,
    /// v1 controllers, and a unified mount beside them.
    Hybrid,
    /// cgroup v2 only.
    V2,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::Hybrid => "hybrid",
            Self::V2 => "v2",
        })
    }
}

/// The mounts of this node's cgroup file systems.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    v1: BTreeMap<String, PathBuf>,
    unified: Option<PathBuf>,
}

/// The v1 controllers that a container is placed in. A named hierarchy (`name=systemd`) belongs to its maker.
const V1_CONTROLLERS: [&str; 12] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
];

/// What statfs(2) calls cgroup v1 and v2 (linux/magic.h).
const CGROUP_MAGIC: rustix::fs::FsWord = 0x0027_e0eb;
const CGROUP2_MAGIC: rustix::fs::FsWord = 0x6367_7270;

impl Hierarchy {
    /// Finds them in /proc/self/mountinfo.
    ///
    /// # Errors
    /// If there is none: containers could be neither limited nor killed reliably.
    pub fn detect() -> Result<Self> {
        Self::from_mountinfo(&file::read(Path::new("/proc/self/mountinfo"))?)
    }

    fn from_mountinfo(mountinfo: &str) -> Result<Self> {
        let (mut v1, mut unified) = (BTreeMap::new(), None);
        for line in mountinfo.lines() {
            // ID parent major:minor root mountpoint options [optional fields] - type source super-options
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (mut left, mut right) = (left.split(' ').skip(3), right.split(' '));
            let (root, at) = (left.next(), left.next());
            let (Some(fstype), Some(at)) = (right.next(), at.map(PathBuf::from)) else { continue };
            // A bind mount of a part of a hierarchy is somebody else's view.
            if root != Some("/") {
                continue;
            }
            match fstype {
                "cgroup2" => unified = unified.or(Some(at)),
                "cgroup" => {
                    let options = right.nth(1).unwrap_or_default();
                    for controller in options.split(',').filter(|o| V1_CONTROLLERS.contains(o)) {
                        v1.entry(controller.to_owned()).or_insert_with(|| at.clone());
                    }
                }
                _ => {}
            }
        }
        if v1.is_empty() && unified.is_none() {
            return Err(Error::NoController("(any)", "every container".into()));
        }
        Ok(Self { v1, unified })
    }

    /// How controllers are mounted.
    pub fn mode(&self) -> Mode {
        match (self.v1.is_empty(), self.unified.is_some()) {
            (true, _) => Mode::V2,
            (false, true) => Mode::Hybrid,
            (false, false) => Mode::V1,
        }
    }

    /// Every controller that can limit something here.
    pub fn controllers(&self) -> Vec<String> {
        let mut all: Vec<String> = self.v1.keys().cloned().collect();
        if let Some(unified) = &self.unified
            && let Ok(text) = file::read(&unified.join("cgroup.controllers"))
        {
            all.extend(text.split_whitespace().map(str::to_owned));
        }
        all.sort();
        all.dedup();
        all
    }

    /// A mount point of those that were found that has no cgroup file system any more.
    pub fn gone(&self) -> Option<&Path> {
        let is_one = |at: &Path| {
            rustix::fs::statfs(at).is_ok_and(|fs| [CGROUP_MAGIC, CGROUP2_MAGIC].contains(&fs.f_type))
        };
        self.mounts().into_iter().find(|at| !is_one(at))
    }

    /// The group of this name, which need not exist.
    ///
    /// # Errors
    /// [`Error::Name`] if it is not absolute, has empty parts, `.` or `..`.
    pub fn group(&self, name: &str) -> Result<Group> {
        let bad = || Error::Name(name.to_owned());
        let relative = name.strip_prefix('/').ok_or_else(bad)?;
        if relative.split('/').any(|part| matches!(part, "" | "." | "..") || part.contains('\0')) {
            return Err(bad());
        }
        Ok(Group::new(self.clone(), relative.to_owned()))
    }

    /// The group of the unified hierarchy that a process is in; `None` without one, or for a process that cannot be seen.
    pub fn unified_of(&self, pid: i32) -> Result<Option<Group>> {
        let text = file::read_if_there(Path::new(&format!("/proc/{pid}/cgroup")))?.unwrap_or_default();
        let path = text.lines().find_map(|line| line.strip_prefix("0::"));
        match path.filter(|path| self.unified.is_some() && *path != "/") {
            Some(path) => self.group(path).map(Some),
            None => Ok(None),
        }
    }

    /// Every group, wherever it is, whose last name is one of these: for names that nobody else gives.
    pub fn find(&self, names: &[String]) -> Vec<Group> {
        let mut found = std::collections::BTreeSet::new();
        for mount in self.mounts() {
            let mut todo = vec![mount.to_path_buf()];
            while let Some(dir) = todo.pop() {
                for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                    if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                        continue;
                    }
                    let relative = entry.path();
                    let relative = relative.strip_prefix(mount).ok().and_then(Path::to_str);
                    match (relative, entry.file_name().to_str()) {
                        (Some(relative), Some(name)) if names.iter().any(|n| n == name) => {
                            found.insert(relative.to_owned());
                        }
                        _ => todo.push(entry.path()),
                    }
                }
            }
        }
        found.into_iter().map(|relative| Group::new(self.clone(), relative)).collect()
    }

    pub(crate) fn v1_mount(&self, controller: &str) -> Option<&Path> {
        self.v1.get(controller).map(PathBuf::as_path)
    }

    /// Each v1 mount once, though it may carry several controllers.
    pub(crate) fn v1_mounts(&self) -> Vec<&Path> {
        let mut mounts: Vec<&Path> = self.v1.values().map(PathBuf::as_path).collect();
        mounts.sort();
        mounts.dedup();
        mounts
    }

    pub(crate) fn unified(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// Each mount of any sort.
    pub(crate) fn mounts(&self) -> Vec<&Path> {
        self.v1_mounts().into_iter().chain(self.unified()).collect()
    }

    /// The mount points of v1 controllers by the name of their directory, and of the unified hierarchy: what a
    /// container's own view of cgroups is made of.
    pub fn mount_points(&self) -> impl Iterator<Item = &Path> {
        self.mounts().into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
35 30 0:28 /docker/x /mnt/memory rw - cgroup cgroup rw,memory
";

    #[test]
    fn modes_are_told_apart() {
        let hybrid = Hierarchy::from_mountinfo(HYBRID).unwrap();
        assert_eq!(hybrid.mode(), Mode::Hybrid);
        assert_eq!(hybrid.v1_mount("memory"), Some(Path::new("/sys/fs/cgroup/memory")));
        assert_eq!(hybrid.v1_mounts().len(), 2);
        let v2 = Hierarchy::from_mountinfo("30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw").unwrap();
        assert_eq!(v2.mode(), Mode::V2);
        assert!(Hierarchy::from_mountinfo("1 1 0:1 / / rw - ext4 /dev/vda rw").is_err());
    }

    #[test]
    fn a_mount_that_has_gone_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let line = format!("30 24 0:26 / {} rw - cgroup2 cgroup2 rw", dir.path().display());
        assert_eq!(Hierarchy::from_mountinfo(&line).unwrap().gone(), Some(dir.path()));
        if let Ok(here) = Hierarchy::detect() {
            assert_eq!(here.gone(), None);
        }
    }

    #[test]
    fn names_that_leave_the_hierarchy_are_refused() {
        let hybrid = Hierarchy::from_mountinfo(HYBRID).unwrap();
        for bad in ["", "/", "a/b", "/a/../b", "/a//b", "/a/.", "/a/"] {
            assert!(hybrid.group(bad).is_err(), "{bad}");
        }
        assert_eq!(hybrid.group("/a/b").unwrap().name(), "/a/b");
    }
}
