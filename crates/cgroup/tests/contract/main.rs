//! What every hierarchy must keep, on this node's real one, in a private subtree.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(missing_docs)]

mod devices;
mod limits;
mod updates;

use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use strata_cgroup::{Error, Group, Hierarchy, Mode};

/// Says why a test does nothing here. Where everything is there that any test needs, `TEST_SKIPS=fail` says so: a test that would
/// do nothing fails.
#[track_caller]
fn skip(why: &str) {
    let refused = std::env::var_os("TEST_SKIPS").is_some_and(|value| value == "fail");
    assert!(!refused, "skipped, where no test is to be: {why}");
    eprintln!("skipped: {why}");
}

/// A private group, removed with all that is in it.
struct Private(Group);

impl Private {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("needs root");
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("/strata-test-{}-{}/a", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let group = Hierarchy::detect().unwrap().group(&name).unwrap();
        group.create().unwrap();
        Some(Self(group))
    }

    fn spawn(&self, script: &str) -> Guard {
        Self::spawn_in(&self.0, script)
    }

    fn spawn_in(group: &Group, script: &str) -> Guard {
        // It forks nothing before it is in the group.
        let script = format!("read go; {script}");
        let mut child = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
        group.add(i32::try_from(child.id()).unwrap()).unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        Guard(child)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let parent = self.0.name().rsplit_once('/').unwrap().0.to_owned();
        let _ = self.0.kill();
        let _ = self.0.hierarchy().group(&parent).unwrap().remove();
    }
}

struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Private {
    fn v2(&self) -> bool {
        self.0.hierarchy().mode() == Mode::V2
    }

    /// The same, if this node has cgroup v2 only.
    fn if_v2(self) -> Option<Self> {
        if !self.v2() {
            skip("cgroup v2 is not the only hierarchy here");
        }
        Some(self).filter(Self::v2)
    }

    /// A file of its: v1's controller and name, and v2's name.
    fn reads(&self, controller: &str, v1: &str, v2: &str) -> String {
        let path = match self.v2() {
            true => self.0.v2_dir().unwrap().join(v2),
            false => self.0.v1_dir(controller).unwrap().join(v1),
        };
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    }
}

/// Moves a process to a group that is not in every hierarchy.
fn move_to(group: &Group, process: &Guard) {
    let dirs = [group.v1_dir("freezer"), group.v1_dir("pids"), group.v2_dir()];
    for dir in dirs.into_iter().flatten() {
        std::fs::write(dir.join("cgroup.procs"), process.0.id().to_string()).unwrap();
    }
}

/// Waits for something that the kernel does a moment later.
#[track_caller]
fn soon(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_group_is_made_listed_and_removed() {
    let Some(private) = Private::new() else { return };
    let group = &private.0;
    group.create().unwrap();
    assert!(group.exists());
    let child = private.spawn("exec sleep 100");
    assert_eq!(group.procs().unwrap(), [i32::try_from(child.0.id()).unwrap()]);
    assert!(group.remove().is_err(), "a group with processes stays");
    drop(child);
    group.remove().unwrap();
    group.remove().unwrap();
    assert!(!group.exists());
    assert_eq!(group.oom_kills().unwrap(), 0);
    group.kill().unwrap();
}

#[test]
fn killing_takes_all_children_below_too() {
    let Some(private) = Private::new() else { return };
    let below = private.0.child("exec-1").unwrap();
    below.create_in(&["freezer", "pids"]).unwrap();
    let _one = private.spawn("sleep 100 & sleep 101 & wait");
    let two = private.spawn("while :; do sleep 0.01 & done");
    move_to(&below, &two);
    soon("processes above and below", || private.0.procs().unwrap().len() >= 5);
    private.0.kill().unwrap();
    let left = private.0.procs().unwrap();
    assert!(left.iter().all(|pid| strata_cgroup::control::describe(*pid).contains("state Z")), "{left:?}");
}

#[test]
fn killing_what_is_below_leaves_what_is_above() {
    let Some(private) = Private::new() else { return };
    let below = private.0.child("exec-1").unwrap();
    below.create_in(&["freezer", "pids"]).unwrap();
    let mut one = private.spawn("exec sleep 100");
    let moved = "until grep -q exec-1 /proc/self/cgroup; do sleep 0.01; done";
    let two = private.spawn(&format!("{moved}; sleep 100 & sleep 101 & wait"));
    move_to(&below, &two);
    soon("its children", || below.procs().unwrap().len() >= 3);
    below.kill().unwrap();
    assert!(one.0.try_wait().unwrap().is_none(), "the container's own process was killed with an exec's");
    drop(two);
    soon("an empty group goes", || below.remove_if_empty());
}

#[test]
fn a_frozen_group_stands_still() {
    let Some(private) = Private::new() else { return };
    let child = private.spawn("while :; do :; done");
    private.0.freeze().unwrap();
    assert!(private.0.is_frozen().unwrap());
    let before = private.0.stats().unwrap().cpu_usage_ns;
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(private.0.stats().unwrap().cpu_usage_ns, before);
    private.0.thaw().unwrap();
    assert!(!private.0.is_frozen().unwrap());
    private.0.freeze().unwrap();
    private.0.kill().unwrap();
    drop(child);
}

#[test]
fn what_a_child_joins_is_opened_beforehand() {
    let Some(private) = Private::new() else { return };
    let join = private.0.join().unwrap();
    let fd = join.unified().map(|fd| fd.as_raw_fd());
    assert_eq!(fd.is_some(), private.0.v2_dir().is_some());
}

#[test]
fn controllers_are_enabled_from_the_top_down_and_never_below_processes() {
    let Some(private) = Private::new().and_then(Private::if_v2) else { return };
    let deep = private.0.child("b").unwrap().child("c").unwrap();
    deep.create().unwrap();
    let has = std::fs::read_to_string(deep.v2_dir().unwrap().join("cgroup.controllers")).unwrap();
    for controller in ["cpuset", "cpu", "io", "memory", "pids"] {
        assert!(has.split_whitespace().any(|c| c == controller), "{controller} is not among {has}");
    }
    let leaf = deep.child("leaf").unwrap();
    leaf.create().unwrap();
    let inner = leaf.child("d").unwrap();
    let child = Private::spawn_in(&leaf, "exec sleep 100");
    let error = inner.create().unwrap_err();
    assert!(matches!(&error, Error::Inner(name) if *name == leaf.name()), "{error}");
    drop(child);
}

#[test]
fn what_is_used_is_told() {
    let Some(private) = Private::new() else { return };
    let _child = private.spawn("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exec sleep 100");
    soon("CPU time is counted", || private.0.cpu_usage_ns().unwrap().is_some_and(|ns| ns > 1_000_000));
    let stats = private.0.stats().unwrap();
    assert!(stats.cpu_usage_ns.is_some() && stats.cpu_user_ns.is_some() && stats.throttling.is_some());
    assert!(stats.memory_usage.is_some_and(|bytes| bytes > 0) && stats.memory_working_set.is_some());
    assert!(stats.memory_rss.is_some() && stats.memory_kernel.is_some() && stats.memory_peak.is_some());
    assert_eq!(stats.pids, Some(1));
    assert_eq!(private.0.processes().unwrap().len(), 1);
    if private.v2() {
        assert!(
            stats.cpu_pressure.is_some() && stats.memory_pressure.is_some() && stats.io_pressure.is_some()
        );
    }
}

#[test]
fn a_process_is_found_where_its_container_has_put_it() {
    let Some(private) = Private::new() else { return };
    let group = &private.0;
    if group.v2_dir().is_none() {
        return skip("no unified hierarchy");
    }
    let child = private.spawn("exec sleep 100");
    let pid = i32::try_from(child.0.id()).unwrap();
    let place = || group.hierarchy().unified_of(pid).unwrap().map(|group| group.name());
    assert_eq!(place(), Some(group.name()));
    // As an init system does that gives its services controllers: its own group takes no process any more.
    let below = group.child("init.scope").unwrap();
    below.create_in(&["freezer", "pids"]).unwrap();
    move_to(&below, &child);
    assert_eq!(place(), Some(below.name()));
    if private.v2() {
        std::fs::write(group.v2_dir().unwrap().join("cgroup.subtree_control"), "+pids").unwrap();
        assert!(std::fs::write(group.v2_dir().unwrap().join("cgroup.procs"), pid.to_string()).is_err());
    }
    drop(child);
    assert_eq!(group.hierarchy().unified_of(i32::MAX).unwrap().map(|group| group.name()), None);
}

#[test]
fn a_command_enters_a_group_and_what_it_leaves_goes_to_the_one_above() {
    let Some(private) = Private::new() else { return };
    let controllers = ["freezer", "pids"];
    let own = private.0.child("own").unwrap();
    own.create_in(&controllers).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 100 >/dev/null 2>&1 & echo $!"]);
    strata_sys::process::enter_groups(&mut command, own.entrances(&controllers).unwrap());
    let said = command.output().unwrap();
    let left: i32 = String::from_utf8(said.stdout).unwrap().trim().parse().unwrap();
    assert_eq!(own.procs().unwrap(), [left]);
    own.leave_to(&private.0);
    assert!(!own.exists());
    assert_eq!(private.0.procs().unwrap(), [left]);
    own.leave_to(&private.0);
}
