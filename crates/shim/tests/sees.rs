//! What a container sees of the node: names, cgroups, devices, terminals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(missing_docs)]

mod common;

use common::plans::exec;
use common::{Client, Pod};
use strata_cgroup::{DeviceRule, Resources};
use strata_wire::plan::{ContainerPlan, Device};

fn pod() -> Option<(Pod, Client)> {
    let pod = Pod::new()?;
    let mut client = pod.client();
    client.subscribe();
    Some((pod, client))
}

/// Runs a container to its end and gives its log's contents as one text.
fn output(pod: &Pod, client: &mut Client, plan: &ContainerPlan) -> String {
    client.run(plan);
    client.exited(&plan.id);
    let log = pod.log(&plan.id);
    log.iter().map(|l| l.split(' ').skip(2).collect::<Vec<_>>().join(" ") + "\n").collect()
}

#[test]
fn names_sysctls_and_the_root_are_the_pods() {
    let Some((pod, mut client)) = pod() else { return };
    let script =
        "hostname; cat /proc/sys/kernel/msgmax; df -P / | tail -n 1 | head -c 8; ls /proc/self/fd | wc -l";
    let mut plan = pod.script("c1", script);
    plan.sysctls = vec![("kernel/msgmax".into(), "12345".into())];
    // ls itself opens one more than the standard streams.
    assert_eq!(output(&pod, &mut client, &plan), format!("{}\n12345\noverlay 4\n", pod.id));
}

#[test]
fn only_its_own_cgroups_can_be_seen() {
    let Some((pod, mut client)) = pod() else { return };
    let plan = pod.script(
        "c1",
        "cat /proc/self/cgroup; cat /sys/fs/cgroup/pids/pids.max; ls -d /sys/fs/cgroup/*/exec-*",
    );
    let limited = pod.has("pids");
    if limited {
        let limit = Resources { pids_limit: Some(99), ..Resources::default() };
        pod.group("c1").apply(&limit).unwrap();
    }
    let seen = output(&pod, &mut client, &plan);
    assert!(!seen.contains("strata-shim-test"), "{seen}");
    assert!(seen.contains("\n99\n") || !limited || pod.cgroups.v1_dir("pids").is_none(), "{seen}");
}

fn devices() -> Vec<Device> {
    let device = |path: &str, major, minor, mode, uid, gid| Device {
        path: path.into(),
        kind: 'c',
        major,
        minor,
        mode,
        uid,
        gid,
    };
    vec![device("/dev/mine", 1, 3, 0o640, 7, 8), device("/dev/sub/denied", 1, 4, 0o666, 0, 0)]
}

/// As the daemon has them: every node may be made, few may be used.
fn rules() -> Vec<DeviceRule> {
    let rule = |kind, major, minor, access: &str| DeviceRule { kind, major, minor, access: access.into() };
    let mut rules = vec![rule('c', None, None, "m"), rule('b', None, None, "m")];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        rules.push(rule('c', Some(major), Some(minor), "rwm"));
    }
    rules.push(rule('c', Some(136), None, "rwm"));
    rules
}

#[test]
fn devices_are_made_and_only_the_allowed_ones_work() {
    let Some((pod, mut client)) = pod() else { return };
    let script = "echo > /dev/null && echo > /dev/mine && stat -c '%n %t:%T %a %u:%g' /dev/null /dev/mine; \
        readlink /dev/fd; readlink /dev/ptmx; head -c 1 /dev/sub/denied 2>/dev/null || echo denied; \
        head -c 3 /dev/zero | wc -c";
    let mut plan = pod.script("c1", script);
    plan.devices.extend(devices());
    pod.group("c1").apply(&Resources { devices: Some(rules()), ..Resources::default() }).unwrap();
    let expected = "/dev/null 1:3 666 0:0\n/dev/mine 1:3 640 7:8\n/proc/self/fd\npts/ptmx\ndenied\n3\n";
    assert_eq!(output(&pod, &mut client, &plan), expected);
}

#[test]
fn a_user_owns_its_terminal() {
    let Some((pod, mut client)) = pod() else { return };
    let mut plan = pod.script("c1", "stat -c %u $(tty); echo console > /dev/console; echo out > /dev/stdout");
    plan.stdio.tty = true;
    plan.process.uid = 1000;
    pod.group("c1").apply(&Resources { devices: Some(rules()), ..Resources::default() }).unwrap();
    assert_eq!(output(&pod, &mut client, &plan), "1000\nconsole\nout\n");
}

#[test]
fn nobody_inherits_what_keeps_the_shim_alive() {
    let Some((pod, mut client)) = pod() else { return };
    let mut plan = pod.plan("c1", &["sleep", "1000"]);
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let pid = client.run(&plan);
    assert_eq!(read(&format!("/proc/{pid}/oom_score_adj")), "0\n");
    plan = pod.plan("c2", &["sleep", "1000"]);
    plan.process.oom_score_adj = Some(321);
    client.run(&plan);
    let look = exec("c2", "e1", &["cat", "/proc/self/oom_score_adj"]);
    assert_eq!(client.exec_output(&look).0, "321\n");
    // Nor is the shim in the containers' cgroups, or they in its.
    let own = pod.cgroups.child("shims").unwrap().procs().unwrap();
    assert_eq!(own, [pod.shim_pid]);
}

#[test]
fn nothing_is_left_of_many_containers() {
    let Some((pod, mut client)) = pod() else { return };
    let count = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", pod.shim_pid)).unwrap().count();
    let children = || {
        let path = format!("/proc/{0}/task/{0}/children", pod.shim_pid);
        std::fs::read_to_string(path).unwrap().split_whitespace().count()
    };
    let before = count("fd");
    for n in 0..15 {
        let mut plan = pod.plan(&format!("c{n}"), &["sleep", "1000"]);
        plan.stdio.tty = n % 3 == 0;
        plan.stdio.stdin = n % 2 == 0;
        client.create(&plan);
        let attached = pod.client().attach(&plan.id, true);
        if n % 5 == 0 {
            client.remove(&plan.id);
            continue;
        }
        client.start(&plan.id);
        assert_eq!(client.exec_output(&exec(&plan.id, "e1", &["true"])).2, 0);
        client.exec(&exec(&plan.id, "e2", &["no-such-program"])).err().unwrap();
        drop(attached);
        client.exec(&exec(&plan.id, "e3", &["sleep", "1000"])).unwrap();
        client.remove(&plan.id);
    }
    common::eventually("all descriptors are closed", || count("fd") == before);
    assert_eq!(children(), 0);
}
