//! One group in every hierarchy.

use crate::hierarchy::{Hierarchy, Mode};
use crate::{Error, Result, file};
use rustix::fs::{Mode as Perm, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use strata_sys::CallExt;

/// A group: one name in every hierarchy of the node. Holding one keeps nothing open.
#[derive(Clone, Debug)]
pub struct Group {
    hierarchy: Hierarchy,
    relative: String,
}

/// The controllers of cgroup v2 that limit something.
pub(crate) const CONTROLLERS: [&str; 6] = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];

/// How long [`Group::remove`] waits for the kernel to let go of processes that have ended.
const REMOVE_FOR: Duration = Duration::from_secs(2);

impl Group {
    pub(crate) fn new(hierarchy: Hierarchy, relative: String) -> Self {
        Self { hierarchy, relative }
    }

    /// The name, from each hierarchy's root.
    pub fn name(&self) -> String {
        format!("/{}", self.relative)
    }

    /// The node's hierarchies.
    pub fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// A group directly below.
    pub fn child(&self, name: &str) -> Result<Self> {
        self.hierarchy.group(&format!("/{}/{name}", self.relative))
    }

    /// The directory below a v1 controller's mount.
    pub fn v1_dir(&self, controller: &str) -> Option<PathBuf> {
        self.hierarchy.v1_mount(controller).map(|mount| mount.join(&self.relative))
    }

    /// The directory below the unified mount.
    pub fn v2_dir(&self) -> Option<PathBuf> {
        self.hierarchy.unified().map(|mount| mount.join(&self.relative))
    }

    /// Whether it is there in any hierarchy.
    pub fn exists(&self) -> bool {
        self.dirs().iter().any(|dir| dir.is_dir())
    }

    pub(crate) fn dirs(&self) -> Vec<PathBuf> {
        self.hierarchy.mounts().into_iter().map(|mount| mount.join(&self.relative)).collect()
    }

    /// Makes it, with its parents, in every hierarchy. One that is there is left as it is.
    pub fn create(&self) -> Result<()> {
        for mount in self.hierarchy.v1_mounts() {
            let cpuset = self.hierarchy.v1_mount("cpuset") == Some(mount);
            self.make_below(mount, |dir, parent| if cpuset { inherit_cpuset(dir, parent) } else { Ok(()) })?;
        }
        if let Some(mount) = self.hierarchy.unified() {
            let v2 = self.hierarchy.mode() == Mode::V2;
            let name = |dir: &Path| format!("/{}", dir.strip_prefix(mount).unwrap_or(dir).display());
            self.make_below(
                mount,
                |_, parent| {
                    if v2 { enable_controllers(parent, &name(parent)) } else { Ok(()) }
                },
            )?;
        }
        Ok(())
    }

    /// As [`Self::create`], in those v1 hierarchies only that carry one of these controllers, and in the unified one.
    /// Its parent exists.
    pub fn create_in(&self, controllers: &[&str]) -> Result<()> {
        let mounts = controllers.iter().filter_map(|c| self.hierarchy.v1_mount(c));
        for mount in mounts.chain(self.hierarchy.unified()) {
            let dir = mount.join(&self.relative);
            match rustix::fs::mkdir(&dir, Perm::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => Err(e).call(|| format!("mkdir({dir:?})"))?,
            }
        }
        Ok(())
    }

    /// Removes it where it has neither processes nor groups below: `false` if it is still there somewhere.
    pub fn remove_if_empty(&self) -> bool {
        let gone = |dir: &PathBuf| matches!(rustix::fs::rmdir(dir), Ok(()) | Err(Errno::NOENT));
        self.dirs().iter().filter(|dir| !gone(dir)).count() == 0
    }

    /// Makes the directories below one mount from the top down; `made` sees each with its parent.
    fn make_below(&self, mount: &Path, made: impl Fn(&Path, &Path) -> Result<()>) -> Result<()> {
        let mut parent = mount.to_path_buf();
        for part in self.relative.split('/') {
            let dir = parent.join(part);
            match rustix::fs::mkdir(&dir, Perm::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => Err(e).call(|| format!("mkdir({dir:?})"))?,
            }
            made(&dir, &parent)?;
            parent = dir;
        }
        Ok(())
    }

    /// Opens what a child needs to be in this group from its first instruction on.
    pub fn join(&self) -> Result<Join> {
        self.join_some(|_| true)
    }

    /// As [`Self::join`], in those v1 hierarchies only that carry one of these controllers, and in the unified one.
    pub fn join_controllers(&self, controllers: &[&str]) -> Result<Join> {
        let mounts: Vec<_> = controllers.iter().filter_map(|c| self.hierarchy.v1_mount(c)).collect();
        self.join_some(|mount| mounts.contains(&mount))
    }

    /// Opens what a new process of one thread enters this group by: it writes `0` to each, of those v1 hierarchies that carry one of
    /// these controllers and of the unified one.
    pub fn entrances(&self, controllers: &[&str]) -> Result<Vec<OwnedFd>> {
        let v1 = controllers.iter().filter_map(|c| self.v1_dir(c)).map(|dir| dir.join("tasks"));
        let v2 = self.v2_dir().map(|dir| dir.join("cgroup.procs"));
        let open = |path: PathBuf| {
            Ok(rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Perm::empty())
                .call(|| format!("open({path:?}, O_WRONLY)"))?)
        };
        v1.chain(v2).map(open).collect()
    }

    /// Moves what is left in it to another group, and removes it, in each hierarchy that has both. What makes processes faster than
    /// they are moved keeps it.
    pub fn leave_to(&self, other: &Self) {
        for (from, to) in self.dirs().iter().zip(other.dirs()).filter(|(from, _)| from.is_dir()) {
            for _ in 0..100 {
                let left = file::read(&from.join("cgroup.procs")).unwrap_or_default();
                // One that has ended meanwhile cannot be moved, and need not be.
                left.lines().for_each(|pid| _ = file::write(&to.join("cgroup.procs"), pid));
                match rustix::fs::rmdir(from) {
                    // One that is ending leaves a moment later.
                    Err(Errno::BUSY) => std::thread::sleep(Duration::from_millis(1)),
                    _ => break,
                }
            }
        }
    }

    fn join_some(&self, wanted: impl Fn(&Path) -> bool) -> Result<Join> {
        let mut tasks = Vec::new();
        for mount in self.hierarchy.v1_mounts().into_iter().filter(|m| wanted(m)) {
            let path = mount.join(&self.relative).join("tasks");
            let fd = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Perm::empty())
                .call(|| format!("open({path:?}, O_WRONLY)"))?;
            tasks.push((fd, path));
        }
        let unified = match self.v2_dir() {
            None => None,
            Some(dir) => Some(
                rustix::fs::open(&dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Perm::empty())
                    .call(|| format!("open({dir:?}, O_PATH)"))?,
            ),
        };
        Ok(Join { tasks, unified })
    }

    /// Moves a process with all its threads here. Slow (6 to 9 ms): [`Self::join`] is for new processes.
    pub fn add(&self, pid: i32) -> Result<()> {
        for dir in self.dirs() {
            let path = dir.join("cgroup.procs");
            file::write(&path, &pid.to_string()).call(|| format!("write({path:?}, {pid})"))?;
        }
        Ok(())
    }

    /// The names of the groups directly below it, from all hierarchies; none if it is not there.
    pub fn children(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for entry in self.dirs().iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The processes in it and below it, from all hierarchies.
    pub fn procs(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        for dir in self.dirs() {
            collect_procs(&dir, &mut pids)?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Removes it and what is below it, in every hierarchy; absence is success. Its processes must have ended.
    ///
    /// # Errors
    /// `EBUSY` if there still are processes after two seconds.
    pub fn remove(&self) -> Result<()> {
        for dir in self.dirs() {
            let deadline = Instant::now() + REMOVE_FOR;
            let mut pause = Duration::from_micros(200);
            loop {
                match remove_tree(&dir) {
                    // A process that has ended leaves its cgroup a little later.
                    Err(Errno::BUSY) if Instant::now() < deadline => {
                        std::thread::sleep(pause);
                        pause = (pause * 2).min(Duration::from_millis(20));
                    }
                    other => break other.call(|| format!("rmdir({dir:?})"))?,
                }
            }
        }
        Ok(())
    }
}

fn remove_tree(dir: &Path) -> std::result::Result<(), Errno> {
    match rustix::fs::rmdir(dir) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        Err(e) => return Err(e),
    }
    for child in child_dirs(dir) {
        remove_tree(&child)?;
    }
    match rustix::fs::rmdir(dir) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Groups directly below a directory; none if it has just gone.
pub(crate) fn child_dirs(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

fn collect_procs(dir: &Path, pids: &mut Vec<i32>) -> Result<()> {
    if let Some(text) = file::read_if_there(&dir.join("cgroup.procs"))? {
        // 0 stands for a process that this PID namespace cannot see.
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    }
    child_dirs(dir).iter().try_for_each(|child| collect_procs(child, pids))
}

/// A new v1 cpuset has no CPUs and no memory nodes, and takes no process until it has.
fn inherit_cpuset(dir: &Path, parent: &Path) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let own = dir.join(name);
        if file::read(&own)?.trim().is_empty() {
            let value = file::read(&parent.join(name))?;
            file::write(&own, value.trim()).call(|| format!("write({own:?}, {:?})", value.trim()))?;
        }
    }
    Ok(())
}

/// Lets the children of a v2 group have controllers: top down, each that the parent itself has.
fn enable_controllers(parent: &Path, name: &str) -> Result<()> {
    let (has, gives) = (parent.join("cgroup.controllers"), parent.join("cgroup.subtree_control"));
    let given = file::read(&gives)?;
    let missing: Vec<String> = file::read(&has)?
        .split_whitespace()
        .filter(|c| CONTROLLERS.contains(c))
        .filter(|c| !given.split_whitespace().any(|g| g == *c))
        .map(|c| format!("+{c}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    match file::write(&gives, &missing.join(" ")) {
        Ok(()) => return Ok(()),
        Err(Errno::BUSY) => return Err(Error::Inner(name.to_owned())),
        Err(_) => {}
    }
    // All or none: one that cannot be had, as cpu while real-time processes run, must not cost the others. Its lack shows where
    // a limit needs it.
    let all: Vec<_> = missing.iter().map(|one| file::write(&gives, one)).collect();
    match all.into_iter().all(|done| done.is_err()) {
        true => {
            Ok(file::write(&gives, &missing.join(" ")).call(|| format!("write({gives:?}, {missing:?})"))?)
        }
        false => Ok(()),
    }
}

/// What a child needs to enter a group: opened by the parent, used by the single-threaded child.
#[derive(Debug)]
pub struct Join {
    tasks: Vec<(OwnedFd, PathBuf)>,
    unified: Option<OwnedFd>,
}

impl Join {
    /// Moves the calling process, which must be single-threaded, into the v1 groups: `0` into each `tasks` file,
    /// which is 0.2 ms for eight hierarchies where `cgroup.procs` takes milliseconds for each.
    pub fn enter(&self) -> Result<()> {
        for (fd, path) in &self.tasks {
            rustix::io::write(fd, b"0").call(|| format!("write({path:?}, 0)"))?;
        }
        Ok(())
    }

    /// The descriptors that [`Self::enter`] writes to.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.tasks.iter().map(|(fd, _)| fd.as_fd())
    }

    /// The unified directory, for `CLONE_INTO_CGROUP`.
    pub fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }
}
