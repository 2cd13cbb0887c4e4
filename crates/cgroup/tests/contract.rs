//! What every hierarchy must keep, on this node's real one, in a private subtree.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(missing_docs)]

use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use strata_cgroup::{DeviceRule, Group, Hierarchy, Resources};

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
        // It forks nothing before it is in the group.
        let script = format!("read go; {script}");
        let mut child = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
        self.0.add(i32::try_from(child.id()).unwrap()).unwrap();
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
    below.create().unwrap();
    let _one = private.spawn("sleep 100 & sleep 101 & wait");
    let two = private.spawn("while :; do sleep 0.01 & done");
    below.add(i32::try_from(two.0.id()).unwrap()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(private.0.procs().unwrap().len() >= 4);
    private.0.kill().unwrap();
    let left = private.0.procs().unwrap();
    assert!(left.iter().all(|pid| strata_cgroup::control::describe(*pid).contains("state Z")), "{left:?}");
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
fn denied_devices_cannot_be_opened() {
    let Some(private) = Private::new() else { return };
    let Some(dir) = private.0.v1_dir("devices") else {
        eprintln!("skipped: device rules of cgroup v2 are BPF filters");
        return;
    };
    let null = DeviceRule { kind: 'c', major: Some(1), minor: Some(3), access: "rw".into() };
    private.0.apply(&Resources { devices: Some(vec![null]), ..Resources::default() }).unwrap();
    let list = std::fs::read_to_string(dir.join("devices.list")).unwrap();
    assert_eq!(list.trim(), "c 1:3 rw");
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
