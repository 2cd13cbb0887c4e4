//! What every hierarchy must keep, on this node's real one, in a private subtree.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(missing_docs)]

use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use strata_cgroup::{DeviceRule, Error, Group, Hierarchy, Mode, Resources};

/// A private group, removed with all that is in it.
struct Private(Group);

impl Private {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
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
            eprintln!("skipped: cgroup v2 is not the only hierarchy here");
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

fn unified(name: &str, value: &str) -> Resources {
    Resources { unified: [(name.to_owned(), value.to_owned())].into(), ..Resources::default() }
}

/// Whether a shell in the unified group can do something.
fn may(group: &Group, script: &str) -> bool {
    let procs = group.v2_dir().unwrap().join("cgroup.procs");
    let script = format!("echo 0 > {} && ({script}) >/dev/null 2>&1", procs.display());
    Command::new("sh").args(["-c", &script]).status().unwrap().success()
}

#[test]
fn a_device_filter_of_the_unified_hierarchy_holds() {
    let Some(private) = Private::new() else { return };
    let group = &private.0;
    if group.v2_dir().is_none() {
        eprintln!("skipped: no unified hierarchy");
        return;
    }
    let rule = |kind, major, minor, access: &str| DeviceRule { kind, major, minor, access: access.into() };
    let null = rule('c', Some(1), Some(3), "rwm");
    let zero = |access| rule('c', Some(1), Some(5), access);
    let (read, write) = ("head -c 1 /dev/zero", "echo x > /dev/zero");
    group.filter_devices(&[null.clone(), zero("r")]).unwrap();
    assert!(may(group, read) && !may(group, write) && !may(group, "head -c 1 /dev/urandom"));
    // A later filter takes the place of the earlier one.
    group.filter_devices(&[null.clone(), zero("rw")]).unwrap();
    assert!(may(group, read) && may(group, write));
    group.filter_devices(&[null, rule('b', None, None, "rwm"), rule('c', Some(1), None, "m")]).unwrap();
    assert!(!may(group, read));
    let node = format!("mknod {0} c 1 5 && rm {0}", "/tmp/strata-node-$$");
    assert!(may(group, &node) && !may(group, &node.replace("c 1 5", "c 5 1")));
    group.filter_devices(&[rule('a', None, None, "rwm")]).unwrap();
    assert!(may(group, read) && may(group, &node.replace("c 1 5", "c 5 1")));
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
fn limits_go_up_and_down_while_processes_run() {
    let Some(private) = Private::new() else { return };
    let group = &private.0;
    let _child = private.spawn("exec sleep 100");
    for memory in [64 << 20, 256 << 20, 32 << 20] {
        let limits = Resources {
            cpu_shares: Some(512),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            memory_limit: Some(memory),
            memory_swap_limit: Some(memory),
            pids_limit: Some(20),
            cpuset_cpus: Some("0".into()),
            ..Resources::default()
        };
        group.apply(&limits).unwrap();
        assert_eq!(group.stats().unwrap().memory_limit, Some(u64::try_from(memory).unwrap()));
    }
    let error =
        group.apply(&Resources { cpuset_cpus: Some("4000".into()), ..Resources::default() }).unwrap_err();
    assert!(error.to_string().contains("cpuset.cpus cannot be set to \"4000\""), "{error}");
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
fn devices_are_denied_and_allowed_while_processes_run() {
    let Some(private) = Private::new() else { return };
    let device = |minor| DeviceRule { kind: 'c', major: Some(1), minor: Some(minor), access: "rw".into() };
    let allow = |minors: &[u32]| {
        let devices = Some(minors.iter().copied().map(device).collect());
        private.0.apply(&Resources { devices, ..Resources::default() }).unwrap();
    };
    let _child = private.spawn("exec sleep 100");
    let in_group = |script: &str| {
        let mut guard = private.spawn(&format!("{{ {script}; }} >/dev/null 2>&1"));
        guard.0.wait().unwrap().success()
    };
    allow(&[3]);
    assert!(!in_group("head -c 1 /dev/zero"));
    allow(&[3, 5]);
    assert!(in_group("head -c 1 /dev/zero"));
    allow(&[3]);
    assert!(!in_group("head -c 1 /dev/zero"));
}

#[test]
fn the_kernel_s_oom_kills_are_counted() {
    let Some(private) = Private::new() else { return };
    let limit = 16 << 20;
    private
        .0
        .apply(&Resources {
            memory_limit: Some(limit),
            memory_swap_limit: Some(limit),
            ..Resources::default()
        })
        .unwrap();
    let mut child = private.spawn("sleep 0.2; exec tail /dev/zero");
    let status = child.0.wait().unwrap();
    assert!(!status.success());
    assert_eq!(private.0.oom_kills().unwrap(), 1);
}

#[test]
fn what_a_child_joins_is_opened_beforehand() {
    let Some(private) = Private::new() else { return };
    let join = private.0.join().unwrap();
    let fd = join.unified().map(|fd| fd.as_raw_fd());
    assert_eq!(fd.is_some(), private.0.v2_dir().is_some());
}

#[test]
fn an_oom_kill_is_counted_when_its_victim_is_reaped() {
    let Some(private) = Private::new() else { return };
    let limit = Some(16 << 20);
    let limits = Resources { memory_limit: limit, memory_swap_limit: limit, ..Resources::default() };
    private.0.apply(&limits).unwrap();
    for nth in 1..=5 {
        let mut child = private.spawn("exec tail /dev/zero");
        child.0.wait().unwrap();
        assert_eq!(private.0.oom_kills().unwrap(), nth);
    }
}

#[test]
fn with_oom_group_one_that_takes_too_much_takes_all_with_it() {
    let Some(private) = Private::new().and_then(Private::if_v2) else { return };
    let limit = Some(16 << 20);
    let limits =
        Resources { memory_limit: limit, memory_swap_limit: limit, ..unified("memory.oom.group", "1") };
    private.0.apply(&limits).unwrap();
    let mut innocent = private.spawn("exec sleep 1000");
    let mut greedy = private.spawn("exec tail /dev/zero");
    assert!(!greedy.0.wait().unwrap().success());
    assert!(!innocent.0.wait().unwrap().success());
    // The kernel counts the one that it has chosen once more.
    assert!(private.0.oom_kills().unwrap() >= 2);
}

#[test]
fn processes_beyond_the_limit_cannot_be_made() {
    let Some(private) = Private::new() else { return };
    let limit = |n| private.0.apply(&Resources { pids_limit: Some(n), ..Resources::default() }).unwrap();
    limit(1);
    let mut child = private.spawn("(:) 2>/dev/null");
    assert!(!child.0.wait().unwrap().success());
    limit(-1);
    let mut child = private.spawn("(:)");
    assert!(child.0.wait().unwrap().success());
    assert_eq!(private.0.stats().unwrap().pids_limit, None);
}

#[test]
fn cpu_limits_arrive_in_the_kernel_s_words() {
    let Some(private) = Private::new() else { return };
    let _child = private.spawn("exec sleep 100");
    let set = |quota, period| Resources { cpu_quota: quota, cpu_period: period, ..Resources::default() };
    private.0.apply(&Resources { cpu_shares: Some(1024), ..Resources::default() }).unwrap();
    let want = if private.v2() { "100" } else { "1024" };
    assert_eq!(private.reads("cpu", "cpu.shares", "cpu.weight"), want);
    private.0.apply(&set(Some(20_000), Some(50_000))).unwrap();
    let want = if private.v2() { "20000 50000" } else { "20000" };
    assert_eq!(private.reads("cpu", "cpu.cfs_quota_us", "cpu.max"), want);
    private.0.apply(&set(Some(-1), Some(100_000))).unwrap();
    let want = if private.v2() { "max 100000" } else { "-1" };
    assert_eq!(private.reads("cpu", "cpu.cfs_quota_us", "cpu.max"), want);
}

#[test]
fn an_idle_group_has_no_weight_until_it_is_none_any_more() {
    let Some(private) = Private::new().and_then(Private::if_v2) else { return };
    let weight = Resources { cpu_shares: Some(512), ..Resources::default() };
    private.0.apply(&Resources { cpu_shares: Some(2), ..unified("cpu.idle", "1") }).unwrap();
    private.0.apply(&weight).unwrap();
    assert_eq!(private.reads("", "", "cpu.idle"), "1");
    private.0.apply(&Resources { cpu_shares: Some(262_144), ..unified("cpu.idle", "0") }).unwrap();
    assert_eq!(private.reads("", "", "cpu.weight"), "10000");
}

#[test]
fn memory_is_limited_in_each_of_v2_s_ways() {
    let Some(private) = Private::new().and_then(Private::if_v2) else { return };
    let _child = private.spawn("exec sleep 100");
    let more = [("memory.high", "50331648"), ("memory.low", "8388608"), ("memory.min", "4194304")];
    let limits = Resources {
        memory_limit: Some(64 << 20),
        memory_swap_limit: Some(96 << 20),
        unified: more.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..Resources::default()
    };
    private.0.apply(&limits).unwrap();
    for (name, value) in more {
        assert_eq!(private.reads("", "", name), value, "{name}");
    }
    assert_eq!(private.reads("", "", "memory.max"), (64 << 20).to_string());
    assert_eq!(private.reads("", "", "memory.swap.max"), (32 << 20).to_string());
    // Against the memory that was given before.
    private.0.apply(&Resources { memory_swap_limit: Some(64 << 20), ..Resources::default() }).unwrap();
    assert_eq!(private.reads("", "", "memory.swap.max"), "0");
    private
        .0
        .apply(&Resources {
            memory_limit: Some(-1),
            memory_swap_limit: Some(-1),
            ..unified("memory.high", "max")
        })
        .unwrap();
    assert_eq!(private.reads("", "", "memory.max"), "max");
    assert_eq!(private.reads("", "", "memory.swap.max"), "max");
}

#[test]
fn huge_pages_and_their_reservations_are_limited() {
    let Some(private) = Private::new() else { return };
    let dir = private.0.v1_dir("hugetlb").or_else(|| private.0.v2_dir()).unwrap();
    let suffix = if private.0.v1_dir("hugetlb").is_some() { "limit_in_bytes" } else { "max" };
    let limits = Resources { hugepages: vec![("2MB".into(), 4 << 20)], ..Resources::default() };
    match private.0.apply(&limits) {
        Err(e) if !private.v2() => return eprintln!("skipped: no hugetlb controller here: {e}"),
        done => done.unwrap(),
    }
    for name in [format!("hugetlb.2MB.{suffix}"), format!("hugetlb.2MB.rsvd.{suffix}")] {
        assert_eq!(std::fs::read_to_string(dir.join(&name)).unwrap().trim(), (4 << 20).to_string(), "{name}");
    }
}

#[test]
fn transfers_are_limited_by_device() {
    let Some(private) = Private::new().and_then(Private::if_v2) else { return };
    // A whole disk: partitions have no limits of their own.
    let disks = std::fs::read_dir("/sys/block").unwrap().flatten();
    let Some(disk) = disks.map(|e| e.path()).find(|disk| disk.join("device").exists()) else {
        return eprintln!("skipped: no disk");
    };
    let number = std::fs::read_to_string(disk.join("dev")).unwrap().trim().to_owned();
    private.0.apply(&unified("io.max", &format!("{number} wbps=1048576"))).unwrap();
    assert!(private.reads("", "", "io.max").contains("wbps=1048576"));
    private.0.apply(&unified("io.max", &format!("{number} wbps=max"))).unwrap();
    assert_eq!(private.reads("", "", "io.max"), "");
}

#[test]
fn settings_that_are_none_are_refused_by_name() {
    let Some(private) = Private::new().and_then(Private::if_v2) else { return };
    for name in ["memory.hihg", "../cpu.max", "nonsense"] {
        let error = private.0.apply(&unified(name, "1")).unwrap_err();
        assert!(matches!(&error, Error::NoFile(_, file) if file == name), "{error}");
    }
    let error = private.0.apply(&unified("memory.high", "many")).unwrap_err().to_string();
    assert!(error.contains("memory.high cannot be set to \"many\""), "{error}");
    // A group below one that has processes has no controllers.
    let below = private.0.child("below").unwrap();
    below.create_in(&[]).unwrap();
    let error = below.apply(&Resources { pids_limit: Some(5), ..Resources::default() }).unwrap_err();
    assert!(matches!(error, Error::NoController("pids", _)), "{error}");
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
