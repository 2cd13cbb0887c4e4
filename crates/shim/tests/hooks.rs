//! Hooks: when they run, what they find and may do, and what becomes of a container whose hooks fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(missing_docs)]

mod common;

use common::{Client, Pod, PodOptions, eventually, plans};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use strata_wire::hooks::{Hook, Hooks, Point};
use strata_wire::message::FailureKind;
use strata_wire::plan::{IdMap, IdRange, PidMode};
use strata_wire::state::Phase;
use strata_wire::{ContainerPlan, Reply, Request};

/// A shell's script as a hook, with a marker in its environment.
fn hook(point: Point, script: &str) -> Hook {
    let args = ["sh", "-c", script, "hook-name"].map(str::to_owned).to_vec();
    Hook {
        point,
        path: "/bin/sh".into(),
        args,
        env: vec!["PATH=/bin:/usr/bin".into(), "OWN=1".into()],
        timeout: 0,
    }
}

fn bundle(pod: &Pod) -> PathBuf {
    pod.top.join("bundle")
}

/// A container with these hooks, whose bundle exists.
fn with(pod: &Pod, mut plan: ContainerPlan, hooks: Vec<Hook>) -> ContainerPlan {
    let root = bundle(pod).join("rootfs");
    std::fs::create_dir_all(&root).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let annotations = [("vendor.example/a".to_owned(), "b".to_owned())].into();
    plan.hooks = Some(Hooks { bundle: text(&bundle(pod)), root: text(&root), hooks, annotations });
    plan
}

fn prepared(client: &mut Client, plan: &ContainerPlan) -> i32 {
    match client.call(Request::Create(Box::new(plan.clone()))) {
        Reply::Prepared { pid } => pid,
        other => panic!("create {}: {other:?}", plan.id),
    }
}

fn go_on(id: &str) -> Request {
    Request::Continue { id: id.into() }
}

fn created(client: &mut Client, plan: &ContainerPlan) -> i32 {
    let prepared = prepared(client, plan);
    match client.call(go_on(&plan.id)) {
        Reply::Created { pid, .. } => assert_eq!(pid, prepared),
        other => panic!("continue {}: {other:?}", plan.id),
    }
    prepared
}

fn said(pod: &Pod, name: &str) -> String {
    std::fs::read_to_string(bundle(pod).join(name)).unwrap_or_default()
}

fn namespace(pid: &str, kind: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().to_str().unwrap().to_owned()
}

fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
fn they_run_in_order_each_where_it_belongs() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let first = "cat > state; for n in mnt net uts ipc pid cgroup; do readlink /proc/self/ns/$n; done > namespaces; \
        { pwd; id -u; echo $0 $OWN ${HOME-none}; ls /proc/self/fd | tr '\\n' ' '; echo; cat /proc/self/oom_score_adj; \
          cat rootfs/etc/from-image; } > found; \
        cat /proc/self/cgroup > cgroup; ln -s /etc/from-image rootfs/etc/link; echo first >> order";
    let hooks = vec![
        hook(Point::CreateContainer, first),
        hook(Point::CreateContainer, "echo second >> order; echo made > rootfs/made"),
        hook(
            Point::StartContainer,
            "cat > /state; { cat /made; readlink /proc/self/ns/pid; pwd; grep CapEff /proc/self/status; \
             echo $0 $OWN ${HOME-none}; test -e /etc/link && echo linked; } > /inside",
        ),
    ];
    let script =
        "cat /inside /state; echo; readlink /proc/self/ns/pid; grep CapEff /proc/self/status; cat /etc/link";
    let mut plan = with(&pod, pod.script("c1", script), hooks);
    plan.process.oom_score_adj = Some(321);
    let pid = prepared(&mut client, &plan);
    assert!(client.containers().is_empty(), "nobody is told of it yet");
    assert!(said(&pod, "order").is_empty());
    let of_init = ["mnt", "net", "uts", "ipc", "pid", "cgroup"].map(|kind| namespace(&pid.to_string(), kind));
    match client.call(go_on("c1")) {
        Reply::Created { pid: same, .. } => assert_eq!(same, pid),
        other => panic!("{other:?}"),
    }
    assert_eq!(said(&pod, "order"), "first\nsecond\n");
    let state: serde_json::Value = serde_json::from_str(&said(&pod, "state")).unwrap();
    let dir = bundle(&pod);
    let expected = serde_json::json!({ "ociVersion": "1.3.0", "id": "c1", "status": "creating", "pid": 1,
        "bundle": dir, "annotations": { "vendor.example/a": "b" } });
    assert_eq!(state, expected);
    let namespaces = said(&pod, "namespaces");
    let namespaces: Vec<&str> = namespaces.lines().collect();
    assert_eq!(namespaces[..4], of_init[..4]);
    assert_eq!(namespaces[5], of_init[5]);
    // No process of a container's PID namespace could see it.
    assert_eq!(namespaces[4], namespace("self", "pid"));
    let found = said(&pod, "found");
    let found: Vec<&str> = found.lines().collect();
    assert_eq!(found[..4], [dir.to_str().unwrap(), "0", "hook-name 1 none", "0 1 2 3 "], "{found:?}");
    assert_eq!(found[4..6], ["321", "image"], "{found:?}");
    // Its own, below what it sees as the root.
    assert!(said(&pod, "cgroup").contains(":/hook-"), "{}", said(&pod, "cgroup"));
    client.start("c1");
    assert_eq!(client.exited("c1").exit_code, 0);
    let log = pod.log("c1");
    let out: Vec<&str> = log.iter().map(|line| line.trim_start_matches("stdout F ")).collect();
    assert_eq!(out[0], "made", "{out:?}");
    assert_eq!((out[1], out[2]), (out[7], "/"), "{out:?}");
    assert_eq!((out[3], out[4], out[5]), (out[8], "hook-name 1 none", "linked"), "{out:?}");
    let state: serde_json::Value = serde_json::from_str(out[6]).unwrap();
    assert_eq!((state["status"].as_str(), state["pid"].as_i64()), (Some("created"), Some(1)));
    assert_eq!(out[9], "image");
    // What was made before pivot_root is in the writable layer.
    let upper = Path::new(&plan.rootfs.upper);
    assert_eq!(std::fs::read_link(upper.join("etc/link")).unwrap(), Path::new("/etc/from-image"));
    client.remove("c1");
    assert!(pod.cgroups.child("c1").unwrap().children().is_empty(), "groups of hooks are left");
}

#[test]
fn one_that_fails_before_the_root_takes_the_container_back() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let missing = Hook { path: "/no/such/hook".into(), args: Vec::new(), ..hook(Point::CreateContainer, "") };
    let slow =
        Hook { timeout: 4, ..hook(Point::CreateContainer, "echo begun; sleep 1000 & echo $! > slow; wait") };
    let cases = [
        (
            hook(Point::CreateContainer, "echo why >&2; exit 3"),
            FailureKind::Internal,
            "exit code 3; it wrote: why",
        ),
        (hook(Point::CreateContainer, "kill -9 $$"), FailureKind::Internal, "killed by SIGKILL"),
        (missing, FailureKind::Internal, "/no/such/hook"),
        (slow, FailureKind::Timeout, "was killed; it wrote: begun"),
        (
            hook(
                Point::CreateContainer,
                "head -c 1000000 /dev/zero | tr '\\0' x; echo; echo the end; exit 1",
            ),
            FailureKind::Internal,
            "the end",
        ),
    ];
    for (bad, kind, text) in cases {
        let name = bad.path.clone();
        let hooks = vec![bad, hook(Point::CreateContainer, "echo > never")];
        let plan = with(&pod, pod.plan("c1", &["true"]), hooks);
        prepared(&mut client, &plan);
        let failure = client.fails_with(go_on("c1"), kind);
        let message = failure.to_string();
        assert!(message.contains(text) && message.contains(&name), "{message}");
        assert!(message.contains("createContainer") && message.len() < 4096, "{message}");
        assert!(client.containers().is_empty());
        eventually("no process is left", || pod.group("c1").procs().unwrap().is_empty());
        pod.group("c1").remove().unwrap();
    }
    eventually("what it has started is killed with it", || !runs(&said(&pod, "slow")));
    assert!(!bundle(&pod).join("never").exists());
    client.run(&pod.plan("c2", &["true"]));
    assert_eq!(client.exited("c2").exit_code, 0);
}

#[test]
fn one_that_fails_before_the_program_ends_the_container() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let slow = Hook { timeout: 1, ..hook(Point::StartContainer, "sleep 1000") };
    let none = Hook { path: "/usr/bin/env".into(), ..hook(Point::StartContainer, "") };
    for (n, (bad, kind, text)) in [
        (hook(Point::StartContainer, "echo no; exit 9"), FailureKind::Internal, "exit code 9; it wrote: no"),
        (slow, FailureKind::Timeout, "was killed"),
        // On the host, but not in the container.
        (none, FailureKind::Internal, "/usr/bin/env"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("c{n}");
        let plan = with(&pod, pod.script(&id, "echo ran"), vec![bad]);
        created(&mut client, &plan);
        let failure = client.fails_with(Request::Start { id: id.clone() }, kind);
        assert!(
            failure.to_string().contains(text) && failure.to_string().contains("startContainer"),
            "{failure}"
        );
        assert_ne!(client.exited(&id).exit_code, 0);
        assert!(pod.log(&id).is_empty(), "its program ran");
        client.remove(&id);
    }
}

#[test]
fn what_a_hook_leaves_running_ends_with_it_and_a_killed_container_with_its_hooks() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let left = hook(Point::CreateContainer, "sleep 1000 & echo $! > left");
    let waits = hook(Point::StartContainer, "touch /waiting; sleep 1000");
    let plan = with(&pod, pod.script("c1", "echo ran"), vec![left, waits]);
    created(&mut client, &plan);
    eventually("it ends", || !runs(&said(&pod, "left")));
    let start = client.send(Request::Start { id: "c1".into() }, &[]);
    eventually("the hook runs", || Path::new(&plan.rootfs.upper).join("waiting").exists());
    let mut other = pod.client();
    assert_eq!(other.container("c1").phase, Phase::Created);
    other.done(Request::Signal { id: "c1".into(), signal: 9, all: true });
    match client.reply(start).0 {
        Reply::Error(failure) => assert_ne!(failure.kind, FailureKind::Timeout, "{failure}"),
        other => panic!("{other:?}"),
    }
    client.exited("c1");
    eventually("nothing of it runs", || pod.group("c1").procs().unwrap().is_empty());
    assert!(pod.log("c1").is_empty());
}

#[test]
fn one_that_waits_for_the_node_s_hooks_can_be_removed_and_gives_up_by_itself() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    let plan = with(&pod, pod.plan("c1", &["true"]), Vec::new());
    prepared(&mut client, &plan);
    client.fails_with(Request::Start { id: "c1".into() }, FailureKind::WrongState);
    client.remove("c1");
    client.fails_with(go_on("c1"), FailureKind::NotFound);
    pod.group("c1").remove().unwrap();
    let mut plan = with(&pod, pod.plan("c2", &["true"]), Vec::new());
    plan.create_timeout_ms = 300;
    prepared(&mut client, &plan);
    eventually("it is given up", || pod.group("c2").procs().unwrap().is_empty());
    client.fails_with(go_on("c2"), FailureKind::NotFound);
    // One without hooks needs nobody to say so.
    client.fails_with(go_on("c3"), FailureKind::NotFound);
    client.create(&pod.plan("c3", &["true"]));
    client.fails_with(go_on("c3"), FailureKind::WrongState);
}

#[test]
fn in_a_shared_pid_namespace_the_others_do_not_see_them() {
    let Some(pod) = Pod::with(PodOptions { shared_pid: true, ..PodOptions::default() }) else { return };
    let mut client = pod.client();
    client.subscribe();
    let slow =
        hook(Point::CreateContainer, "touch running; while [ ! -e done ]; do sleep 0.05; done; cat > state");
    let mut plan = with(&pod, pod.plan("c1", &["sleep", "1000"]), vec![slow]);
    plan.pid = PidMode::Pod;
    prepared(&mut client, &plan);
    let waiting = client.send(go_on("c1"), &[]);
    eventually("the hook runs", || bundle(&pod).join("running").exists());
    let mut other = pod.client();
    other.subscribe();
    let mut looks = pod.script("c2", "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done");
    looks.pid = PidMode::Pod;
    other.run(&looks);
    assert_eq!(other.exited("c2").exit_code, 0);
    let seen = pod.log("c2").join("\n");
    assert!(seen.contains("cmdline") && !seen.contains("running"), "{seen}");
    std::fs::write(bundle(&pod).join("done"), "").unwrap();
    assert!(matches!(client.reply(waiting).0, Reply::Created { .. }));
    let state: serde_json::Value = serde_json::from_str(&said(&pod, "state")).unwrap();
    assert!(state["pid"].as_i64().unwrap() > 1, "{state}");
}

const IDS: IdMap = IdMap {
    uids: IdRange { inside: 0, outside: 200_000, length: 65_536 },
    gids: IdRange { inside: 0, outside: 300_000, length: 65_536 },
};

#[test]
fn in_a_user_namespace_they_are_its_root_s() {
    let Some(pod) = Pod::with(PodOptions { ids: Some(IDS), ..PodOptions::default() }) else { return };
    let mut client = pod.client();
    client.subscribe();
    let script = "{ id -u; cat /proc/self/uid_map; cat rootfs/etc/from-image; cat /etc/shadow || echo refused; } > report/found 2>&1; \
        echo made > rootfs/made; mount -t tmpfs tmpfs rootfs/etc && echo own > rootfs/etc/own";
    let start = hook(Point::StartContainer, "id -u > /inside; cat /etc/own >> /inside");
    let mut plan =
        with(&pod, pod.script("c1", "cat /inside"), vec![hook(Point::CreateContainer, script), start]);
    plan.process.caps = plans::full_caps();
    chown(&plan.rootfs.upper, Some(IDS.uids.outside), Some(IDS.gids.outside)).unwrap();
    let report = bundle(&pod).join("report");
    std::fs::create_dir(&report).unwrap();
    chown(&report, Some(IDS.uids.outside), Some(IDS.gids.outside)).unwrap();
    for dir in [&pod.top, &bundle(&pod)] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711)).unwrap();
    }
    created(&mut client, &plan);
    let found = said(&pod, "report/found");
    let lines: Vec<&str> = found.lines().collect();
    assert_eq!(lines[0], "0", "{found}");
    assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["0", "200000", "65536"], "{found}");
    assert!(lines[2] == "image" && lines.last() == Some(&"refused"), "{found}");
    let made = std::fs::metadata(Path::new(&plan.rootfs.upper).join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (200_000, 300_000));
    client.start("c1");
    assert_eq!(client.exited("c1").exit_code, 0);
    assert_eq!(pod.log("c1"), ["stdout F 0", "stdout F own"]);
}
