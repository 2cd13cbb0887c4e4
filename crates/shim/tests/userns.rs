//! Containers in their pod's user namespace, and in another container's PID namespace.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(missing_docs)]

mod common;

use common::plans::{self, exec};
use common::{Pod, PodOptions, eventually};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use strata_wire::message::FailureKind;
use strata_wire::plan::{IdMap, IdRange, Mount, MountAttrs, PidMode};
use strata_wire::{ContainerPlan, Reply, Request};

const IDS: IdMap = IdMap {
    uids: IdRange { inside: 0, outside: 200_000, length: 65_536 },
    gids: IdRange { inside: 0, outside: 300_000, length: 65_536 },
};

fn pod(shared_pid: bool) -> Option<Pod> {
    Pod::with(PodOptions { shared_pid, ids: Some(IDS) })
}

/// As the daemon makes its upper directory: the pod's root's.
fn mapped(mut plan: ContainerPlan) -> ContainerPlan {
    plan.process.caps = plans::full_caps();
    chown(&plan.rootfs.upper, Some(IDS.uids.outside), Some(IDS.gids.outside)).unwrap();
    plan
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = std::fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

fn out(pod: &Pod, id: &str) -> Vec<String> {
    let strip = |line: String| line.trim_start_matches("stdout F ").to_owned();
    pod.log(id).into_iter().map(strip).collect()
}

#[test]
fn root_inside_is_nobody_outside() {
    let Some(pod) = pod(false) else { return };
    let mut client = pod.client();
    client.subscribe();
    std::fs::write(pod.lower().join("etc/web"), "web\n").unwrap();
    chown(pod.lower().join("etc/web"), Some(33), Some(44)).unwrap();
    let script = "id -u; cat /proc/self/uid_map /proc/self/gid_map; stat -c %u:%g /etc/from-image /etc/web; \
        echo x >> /etc/web; touch /made; chmod 600 /etc/from-image; stat -c %u:%g /etc/web; \
        hostname own && hostname; echo 1 > /proc/sys/net/ipv4/ip_forward && cat /proc/sys/net/ipv4/ip_forward; \
        mount -t tmpfs tmpfs /root && echo mounted; echo x > /dev/null && echo null; stat -c %u:%t:%T /dev/null; \
        cat /proc/self/status | grep ^NSpid | wc -w; grep -c ' /sys/fs/cgroup' /proc/self/mounts | grep -qv '^0' && echo cgroups; \
        ls /sys/class/net; echo done";
    std::fs::create_dir(pod.lower().join("root")).unwrap();
    let plan = mapped(pod.script("c1", script));
    client.run(&plan);
    assert_eq!(client.exited("c1").exit_code, 0, "{:?}", pod.log("c1"));
    let said: Vec<String> =
        out(&pod, "c1").iter().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let expected = [
        "0",
        "0 200000 65536",
        "0 300000 65536",
        "0:0",
        "33:44",
        "33:44",
        "own",
        "1",
        "mounted",
        "null",
        "0:1:3",
        "2",
        "cgroups",
        "lo",
        "done",
    ];
    assert_eq!(said, expected);
    // What was changed has the pod's numbers, what was not has the image's.
    let upper = Path::new(&plan.rootfs.upper);
    assert_eq!(owner(&upper.join("made")), (200_000, 300_000));
    assert_eq!(owner(&upper.join("etc/web")), (200_033, 300_044));
    assert_eq!(owner(&pod.lower().join("etc/web")), (33, 44));
    assert_eq!(std::fs::metadata(pod.lower().join("etc/from-image")).unwrap().mode() & 0o777, 0o644);
    client.remove("c1");
}

#[test]
fn processes_are_joined_signalled_and_told_apart() {
    let Some(pod) = pod(false) else { return };
    let mut client = pod.client();
    client.subscribe();
    let mut plan = mapped(pod.script("c1", "trap 'echo got; exit 7' TERM; while :; do sleep 0.05; done"));
    plan.process.uid = 1000;
    plan.process.gid = 1000;
    plan.process.caps = plans::caps(0);
    let pid = client.run(&plan);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t201000\t201000"), "{status}");
    let mut look = exec(
        "c1",
        "e1",
        &["sh", "-c", "id -u; echo $$ > /dev/stdout; cat /proc/1/comm; readlink /proc/self/ns/user"],
    );
    look.process.caps = plans::full_caps();
    let (text, err, code) = client.exec_output(&look);
    assert_eq!((err.as_str(), code), ("", 0), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[2]), ("0", "sh"));
    let of_init = std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_eq!(Path::new(lines[3]), of_init);
    assert_ne!(std::fs::read_link("/proc/self/ns/user").unwrap(), of_init);
    let mut tty = exec("c1", "e2", &["sh", "-c", "test -t 0 && echo x > /dev/tty && exit 5"]);
    tty.tty = true;
    tty.process.uid = 1000;
    assert!(matches!(client.call(Request::Exec(Box::new(tty))), Reply::ExecStarted { .. }));
    client.done(Request::Signal { id: "c1".into(), signal: 15, all: false });
    assert_eq!(client.exited("c1").exit_code, 7);
    assert_eq!(out(&pod, "c1"), ["got"]);
    client.remove("c1");
}

#[test]
fn a_terminal_and_a_read_only_root_work_in_it_too() {
    let Some(pod) = pod(false) else { return };
    let mut client = pod.client();
    client.subscribe();
    let mut plan = mapped(pod.script("c1", "test -t 1 && tty; touch /x || echo read-only; ls /proc/sys >/dev/null; echo x > /proc/sys/kernel/domainname || echo ro; stat -c %u /dev/console"));
    plan.stdio.tty = true;
    plan.rootfs.readonly = true;
    plan.readonly_paths = vec!["/proc/sys".into()];
    plan.masked_paths = vec!["/proc/keys".into(), "/sys/firmware".into()];
    client.run(&plan);
    assert_eq!(client.exited("c1").exit_code, 0, "{:?}", pod.log("c1"));
    let text = out(&pod, "c1").join("\n");
    for word in ["/dev/pts/0", "read-only", "\nro", "\n0"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn volumes_are_shown_as_their_maps_say() {
    let Some(pod) = pod(false) else { return };
    let mut client = pod.client();
    client.subscribe();
    let volume = pod.top.join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("f"), "of root\n").unwrap();
    let with = |ids, target: &str| Mount {
        attrs: MountAttrs { ids, ..MountAttrs::default() },
        ..plans::bind(&volume, target)
    };
    let other = IdMap { uids: IdRange { inside: 0, outside: 200_005, length: 10 }, ..IDS };
    let mut plan = mapped(pod.script(
        "c1",
        "stat -c %u:%g /mapped/f /other/f /plain/f; touch /mapped/new && echo made; touch /plain/no 2>/dev/null || echo refused",
    ));
    plan.mounts.push(with(Some(IDS), "/mapped"));
    plan.mounts.push(with(Some(other), "/other"));
    plan.mounts.push(with(None, "/plain"));
    client.run(&plan);
    assert_eq!(client.exited("c1").exit_code, 0, "{:?}", pod.log("c1"));
    assert_eq!(out(&pod, "c1"), ["0:0", "5:0", "65534:65534", "made", "refused"]);
    assert_eq!(owner(&volume.join("new")), (0, 0));
    // A file system that cannot: the answer says which, and what to do.
    let mut plan = mapped(pod.plan("c2", &["true"]));
    plan.mounts.push(Mount {
        attrs: MountAttrs { ids: Some(IDS), ..MountAttrs::default() },
        ..plans::bind(Path::new("/proc"), "/host-proc")
    });
    let Reply::Error(failure) = client.call(Request::Create(Box::new(plan))) else { panic!("it was made") };
    assert_eq!(failure.kind, FailureKind::WrongState);
    assert!(failure.to_string().contains("/proc") && failure.to_string().contains("0x9fa0"), "{failure}");
    eventually("nothing is left of it", || pod.group("c2").procs().unwrap().is_empty());
}

#[test]
fn a_mapped_volume_needs_no_user_namespace() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let volume = pod.top.join("volume");
    std::fs::create_dir(&volume).unwrap();
    chown(&volume, Some(7), Some(7)).unwrap();
    let ids = IdMap {
        uids: IdRange { inside: 0, outside: 1000, length: 10 },
        gids: IdRange { inside: 0, outside: 2000, length: 10 },
    };
    let mut plan = pod.script("c1", "stat -c %u:%g /v");
    plan.mounts.push(Mount {
        attrs: MountAttrs { ids: Some(ids), ..MountAttrs::default() },
        ..plans::bind(&volume, "/v")
    });
    client.run(&plan);
    assert_eq!(client.exited("c1").exit_code, 0);
    assert_eq!(out(&pod, "c1"), ["1007:2007"]);
}

#[test]
fn what_fails_in_either_stage_is_told_and_leaves_nothing() {
    let Some(pod) = pod(false) else { return };
    let mut client = pod.client();
    client.subscribe();
    let mut unmapped = mapped(pod.plan("c1", &["true"]));
    unmapped.process.uid = 70_000;
    let mut first = mapped(pod.plan("c2", &["true"]));
    first.mounts.push(plans::bind(Path::new("/no/such/directory"), "/x"));
    let mut second = mapped(pod.plan("c3", &["true"]));
    second.process.cwd = "relative".into();
    let mut node = mapped(pod.plan("c4", &["true"]));
    node.pid = PidMode::Node;
    for (plan, kind, word) in [
        (unmapped, FailureKind::Invalid, "70000"),
        (first, FailureKind::Internal, "/no/such/directory"),
        (second, FailureKind::Invalid, "not absolute"),
        (node, FailureKind::Invalid, "node's PID namespace"),
    ] {
        let id = plan.id.clone();
        let Reply::Error(failure) = client.call(Request::Create(Box::new(plan))) else {
            panic!("{id} was made")
        };
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.to_string().contains(word), "{failure}");
        eventually("nothing is left of it", || pod.group(&id).procs().unwrap().is_empty());
    }
    let missing = mapped(pod.plan("c5", &["no-such-program"]));
    assert!(matches!(client.call(Request::Create(Box::new(missing))), Reply::Created { .. }));
    let Reply::Error(failure) = client.call(Request::Start { id: "c5".into() }) else { panic!("it runs") };
    assert_eq!(failure.kind, FailureKind::ExecNotFound);
    assert_eq!(client.exited("c5").exit_code, 127);
    assert_eq!(pod.shim_log(), "");
}

#[test]
fn a_shared_pid_namespace_belongs_to_it() {
    let Some(pod) = pod(true) else { return };
    let mut client = pod.client();
    let Reply::State { pause_pid: Some(pause), .. } = client.call(Request::Subscribe) else {
        panic!("no pause process")
    };
    let status = std::fs::read_to_string(format!("/proc/{pause}/status")).unwrap();
    assert!(status.contains("Uid:\t265534\t"), "{status}");
    let mut plan = mapped(pod.script("c1", "sleep 0.01 & wait; cat /proc/1/comm; ls /proc/1/root | wc -l"));
    plan.pid = PidMode::Pod;
    client.run(&plan);
    assert_eq!(client.exited("c1").exit_code, 0, "{:?}", pod.log("c1"));
    assert_eq!(out(&pod, "c1")[0], "strata-init");
}

#[test]
fn a_container_can_look_at_anothers_processes() {
    for ids in [None, Some(IDS)] {
        let Some(pod) = Pod::with(PodOptions { shared_pid: false, ids }) else { return };
        let mut client = pod.client();
        client.subscribe();
        let ready = |plan| if ids.is_some() { mapped(plan) } else { plan };
        client.run(&ready(pod.plan("c1", &["sleep", "1000"])));
        let mut look = ready(
            pod.script("c2", "cat /proc/1/comm; kill -9 1 2>/dev/null; setsid sleep 1000 & echo $(($$ > 1))"),
        );
        look.pid = PidMode::Target;
        look.pid_target = Some("c1".into());
        client.run(&look);
        assert_eq!(client.exited("c2").exit_code, 0, "{:?}", pod.log("c2"));
        assert_eq!(out(&pod, "c2"), ["sleep", "1"]);
        eventually("what it left is killed, the target is not", || {
            pod.group("c2").procs().unwrap().is_empty() && pod.group("c1").procs().unwrap().len() == 1
        });
        // It ends with its target.
        let mut third = ready(pod.plan("c3", &["sleep", "1000"]));
        (third.pid, third.pid_target) = (PidMode::Target, Some("c1".into()));
        client.run(&third);
        client.done(Request::Signal { id: "c1".into(), signal: 9, all: false });
        // Both ends are told, in whichever order.
        let mut ends = std::collections::BTreeMap::new();
        while ends.len() < 2 {
            if let strata_wire::Event::Exited(record) = client.event() {
                ends.insert(record.id, record.exit_code);
            }
        }
        assert_eq!(ends.into_iter().collect::<Vec<_>>(), [("c1".into(), 137), ("c3".into(), 137)]);
        let mut late = ready(pod.plan("c4", &["true"]));
        (late.pid, late.pid_target) = (PidMode::Target, Some("c1".into()));
        let Reply::Error(failure) = client.call(Request::Create(Box::new(late))) else {
            panic!("it was made")
        };
        assert_eq!(failure.kind, FailureKind::WrongState, "{failure}");
    }
}

/// Its init may be ending while it is joined: no process can be made there any more, or what was made is killed.
#[test]
fn a_target_that_is_just_ending_is_blamed() {
    for ids in [None, Some(IDS)] {
        let Some(pod) = Pod::with(PodOptions { shared_pid: false, ids }) else { return };
        let (mut client, mut other) = (pod.client(), pod.client());
        client.subscribe();
        let ready = |plan| if ids.is_some() { mapped(plan) } else { plan };
        for n in 0..10 {
            let (target, late) = (format!("target{n}"), format!("late{n}"));
            client.run(&ready(pod.plan(&target, &["sleep", "1000"])));
            let mut plan = ready(pod.plan(&late, &["true"]));
            (plan.pid, plan.pid_target) = (PidMode::Target, Some(target.clone()));
            let signal = client.send(Request::Signal { id: target.clone(), signal: 9, all: false }, &[]);
            let create = client.send(Request::Create(Box::new(plan)), &[]);
            let exec = other.send(Request::Exec(Box::new(exec(&target, "late", &["true"]))), &[]);
            assert!(matches!(client.reply(signal).0, Reply::Ok));
            match client.reply(create).0 {
                Reply::Error(failure) => {
                    assert_eq!(failure.kind, FailureKind::WrongState, "{failure}");
                    assert!(failure.message.contains(&target), "{failure}");
                }
                // It was set up before the kernel got there.
                Reply::Created { .. } => client.remove(&late),
                other => panic!("{other:?}"),
            }
            match other.reply(exec).0 {
                Reply::Error(failure) => assert_eq!(failure.kind, FailureKind::WrongState, "{failure}"),
                Reply::ExecStarted { .. } => {}
                other => panic!("{other:?}"),
            }
            client.exited(&target);
            client.remove(&target);
        }
    }
}

#[test]
fn nothing_of_the_hosts_is_reached_through_a_device() {
    let Some(pod) = pod(false) else { return };
    let mut client = pod.client();
    client.subscribe();
    let mut plan = mapped(pod.script("c1", "test -c /dev/mine && stat -c %u:%g:%a /dev/mine; echo x > /dev/mine && echo written; mknod /tmp/n c 1 3 || echo refused"));
    std::fs::create_dir(pod.lower().join("tmp")).unwrap();
    std::fs::set_permissions(pod.lower().join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::symlink("busybox", pod.lower().join("bin/mknod")).unwrap();
    plan.devices.push(strata_wire::plan::Device {
        path: "/dev/mine".into(),
        kind: 'c',
        major: 1,
        minor: 3,
        mode: 0o600,
        uid: 5,
        gid: 6,
    });
    client.run(&plan);
    client.exited("c1");
    let lines: Vec<String> = out(&pod, "c1").into_iter().filter(|l| !l.starts_with("stderr")).collect();
    assert_eq!(lines, ["5:6:600", "written", "refused"]);
}
