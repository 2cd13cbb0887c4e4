//! What goes wrong: plans that cannot be carried out, memory that runs out, requests that make no sense.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(missing_docs)]

mod common;

use common::{Pod, eventually, plans};
use std::os::fd::AsFd;
use std::path::Path;
use strata_wire::message::FailureKind;
use strata_wire::state::Phase;
use strata_wire::{ContainerPlan, Reply, Request};

fn create(plan: &ContainerPlan) -> Request {
    Request::Create(Box::new(plan.clone()))
}

/// How many mounts of the host's mount namespace are below a directory.
fn mounts_below(dir: &Path) -> usize {
    let text = std::fs::read_to_string("/proc/self/mounts").unwrap();
    text.lines().filter(|l| l.split(' ').nth(1).is_some_and(|at| Path::new(at).starts_with(dir))).count()
}

#[test]
fn a_plan_that_cannot_be_carried_out_leaves_nothing_behind() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let before = mounts_below(&pod.top);
    let mut bad: Vec<(ContainerPlan, FailureKind, &str)> = Vec::new();
    let mut plan = pod.plan("c1", &["true"]);
    plan.mounts.push(plans::bind(Path::new("/no/such/source"), "/data"));
    bad.push((plan.clone(), FailureKind::Internal, "/no/such/source"));
    plan.mounts.pop();
    plan.rootfs.lowers = vec!["/no/such/layer".into()];
    bad.push((plan.clone(), FailureKind::Internal, "root file system"));
    plan.rootfs.lowers.clear();
    bad.push((plan, FailureKind::Invalid, "root file system"));
    let mut plan = pod.plan("c1", &["true"]);
    plan.sysctls = vec![("kernel/no_such_thing".into(), "1".into())];
    bad.push((plan, FailureKind::Internal, "kernel/no_such_thing"));
    let mut plan = pod.plan("c1", &["true"]);
    plan.process.rlimits = vec![("RLIMIT_NONE".into(), 1, 1)];
    bad.push((plan, FailureKind::Invalid, "RLIMIT_NONE"));
    let mut plan = pod.plan("c1", &["true"]);
    plan.cgroup = "/no/such/group".into();
    bad.push((plan, FailureKind::Internal, "cgroup"));
    let mut plan = pod.plan("c1", &["true"]);
    plan.stdio.log_path = Some("/no/such/directory/log".into());
    bad.push((plan, FailureKind::Internal, "standard streams"));
    for (plan, kind, step) in bad {
        let failure = client.fails_with(create(&plan), kind);
        assert!(failure.step.contains(step), "{failure}");
        assert!(client.containers().is_empty());
    }
    eventually("no process is left", || pod.group("c1").procs().unwrap().is_empty());
    assert_eq!(mounts_below(&pod.top), before);
    let mut plan = pod.plan("c2", &["true"]);
    plan.rootfs.volatile = true;
    client.run(&plan);
    client.remove("c2");
    // A killed group takes no new process on some kernels.
    pod.group("c2").remove().unwrap();
    pod.group("c2");
    let failure = client.fails(create(&plan));
    assert!(failure.message.contains("volatile"), "{failure}");
    // The same ID is free for a plan that works.
    client.run(&pod.plan("c1", &["true"]));
    assert_eq!(client.exited("c1").exit_code, 0);
}

#[test]
fn every_removal_is_answered() {
    let Some(pod) = Pod::new() else { return };
    let (mut first, mut second) = (pod.client(), pod.client());
    first.run(&pod.plan("c1", &["sleep", "1000"]));
    let remove = || Request::Remove { id: "c1".into() };
    let one = first.send(remove(), &[]);
    let two = second.send(remove(), &[]);
    assert_eq!(first.reply(one).0, Reply::Ok);
    // It may have been gone before the second was read.
    match second.reply(two).0 {
        Reply::Ok => {}
        Reply::Error(failure) => assert_eq!(failure.kind, FailureKind::NotFound, "{failure}"),
        other => panic!("{other:?}"),
    }
}

/// CPU time of a process, in clock ticks (proc_pid_stat(5), utime and stime).
fn cpu_ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let rest = stat.rsplit_once(") ").unwrap().1;
    rest.split(' ').skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum()
}

#[test]
fn without_descriptors_it_waits_and_loses_nothing() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    client.run(&pod.plan("c1", &["sleep", "1000"]));
    let shim = rustix::process::Pid::from_raw(pod.shim_pid);
    let resource = rustix::process::Resource::Nofile;
    let usual = rustix::process::getrlimit(resource);
    let fds = format!("/proc/{}/fd", pod.shim_pid);
    let free = (0_u64..).find(|n| std::fs::read_link(Path::new(&fds).join(n.to_string())).is_err()).unwrap();
    // One number is left below the limit, and an exec hands over three.
    let few = rustix::process::Rlimit { current: Some(free + 1), maximum: usual.maximum };
    rustix::process::prlimit(shim, resource, few).unwrap();
    let plan = plans::exec("c1", "e1", &["true"]);
    let (reader, writer) = std::io::pipe().unwrap();
    let fds = [reader.as_fd(), writer.as_fd(), writer.as_fd()];
    match client.call_with(Request::Exec(Box::new(plan.clone())), &fds).0 {
        Reply::Error(failure) => assert!(failure.message.contains("too many open files"), "{failure}"),
        other => panic!("{other:?}"),
    }
    // None is left: connections wait, and the shim does not spin over them.
    let none = rustix::process::Rlimit { current: Some(free), maximum: usual.maximum };
    rustix::process::prlimit(shim, resource, none).unwrap();
    let waiting = std::os::unix::net::UnixStream::connect(pod.socket()).unwrap();
    let before = cpu_ticks(pod.shim_pid);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let used = cpu_ticks(pod.shim_pid) - before;
    assert!(used < 50, "{used} ticks of 10 ms in 1.5 s without anything to do");
    rustix::process::prlimit(shim, resource, usual).unwrap();
    drop(waiting);
    // The first connection has not been lost, and others are taken again.
    let (_, _, code) = client.exec_output(&plan);
    assert_eq!(code, 0);
    pod.client().remove("c1");
}

#[test]
fn a_mount_target_cannot_leave_the_root() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let outside = pod.top.join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, pod.lower().join("link")).unwrap();
    std::os::unix::fs::symlink("no/such/dir", pod.lower().join("link2")).unwrap();
    let source = pod.top.join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "mounted\n").unwrap();
    let mut plan = pod.plan("c1", &["cat", "/link/file"]);
    // Inside the root, the link leads to a path that is not there and is made.
    plan.mounts.push(plans::bind(&source, "/link"));
    plan.mounts.push(plans::bind(&source, "/../../data"));
    plan.mounts.push(plans::bind(&source.join("file"), "/link2/new"));
    plan.process.args.push("/data/file".into());
    plan.process.args.push("/no/such/dir/new".into());
    client.run(&plan);
    assert_eq!(client.exited("c1").exit_code, 0);
    assert_eq!(pod.log("c1"), ["stdout F mounted"; 3]);
    assert_eq!(std::fs::read_dir(outside).unwrap().count(), 0);
}

#[test]
fn memory_that_runs_out_is_told() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    if !pod.has("memory") {
        return;
    }
    let plan = pod.plan("c1", &["tail", "-c", "200000000", "/dev/zero"]);
    let limit = strata_cgroup::Resources {
        memory_limit: Some(16 << 20),
        memory_swap_limit: Some(16 << 20),
        ..Default::default()
    };
    pod.group("c1").apply(&limit).unwrap();
    client.run(&plan);
    let record = client.exited("c1");
    assert_eq!((record.exit_code, record.signal, record.oom_killed), (137, Some(9), true));
    assert_eq!(client.container("c1").phase, Phase::Exited);
}

#[test]
fn setting_up_has_a_deadline() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    let mut plan = pod.plan("c1", &["true"]);
    // A frozen group stops the child as soon as it enters it.
    let group = pod.group("c1");
    group.freeze().unwrap();
    plan.create_timeout_ms = 200;
    let number = client.send(create(&plan), &[]);
    let mut other = pod.client();
    assert!(other.containers().is_empty(), "others are served meanwhile");
    let (reply, _) = client.reply(number);
    let Reply::Error(failure) = reply else { panic!("{reply:?}") };
    assert_eq!(failure.kind, FailureKind::Timeout, "{failure}");
    group.thaw().unwrap();
    eventually("the child is gone", || group.procs().unwrap().is_empty());
    // Removing what is still being created answers both.
    group.freeze().unwrap();
    plan.create_timeout_ms = 0;
    let number = client.send(create(&plan), &[]);
    eventually("it has been taken up", || other.call(Request::State) != Reply::Ok);
    let removal = other.send(Request::Remove { id: "c1".into() }, &[]);
    group.thaw().unwrap();
    assert!(matches!(client.reply(number).0, Reply::Error(_) | Reply::Created { .. }));
    assert_eq!(other.reply(removal).0, Reply::Ok);
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    let id = || "c1".to_owned();
    for request in [
        Request::Start { id: id() },
        Request::Remove { id: id() },
        Request::Signal { id: id(), signal: 9, all: true },
        Request::ReopenLog { id: id() },
        Request::Resize { id: id(), rows: 1, cols: 1 },
        Request::Attach { id: id(), stdin: true, stdout: true, stderr: true, wait: false },
    ] {
        client.fails_with(request, FailureKind::NotFound);
    }
    let plan = pod.plan("c1", &["sleep", "1000"]);
    client.create(&plan);
    client.fails_with(create(&plan), FailureKind::AlreadyExists);
    client.fails_with(Request::Resize { id: id(), rows: 1, cols: 1 }, FailureKind::WrongState);
    client.start("c1");
    client.fails_with(Request::Start { id: id() }, FailureKind::WrongState);
    client.fails_with(Request::Signal { id: id(), signal: 99, all: false }, FailureKind::Invalid);
    let versions = |oldest, version| Request::Hello { oldest, version };
    let (oldest, newest) = (strata_wire::OLDEST, strata_wire::VERSION);
    client.fails_with(versions(newest + 1, newest + 1), FailureKind::Invalid);
    client.fails_with(versions(0, oldest - 1), FailureKind::Invalid);
    // Whoever also knows newer ones, or older ones, is spoken with.
    for (theirs, spoken) in [(versions(oldest, newest + 1), newest), (versions(0, oldest), oldest)] {
        let reply = client.call(theirs);
        assert!(matches!(reply, Reply::Hello { version, .. } if version == spoken), "{reply:?}");
    }
    // A container that was never started can be removed.
    client.create(&pod.plan("c2", &["true"]));
    client.remove("c2");
    client.remove("c1");
    // Nonsense on one connection is that connection's affair.
    let mut nonsense = pod.client();
    std::io::Write::write_all(&mut nonsense.socket, b"\x02\0\0\0{}").unwrap();
    assert!(client.containers().is_empty());
}

#[test]
fn the_shim_leaves_with_its_state_directory() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.run(&pod.plan("c1", &["sleep", "1000"]));
    std::fs::remove_file(pod.state_dir().join("shim.sock")).unwrap();
    assert_eq!(client.containers().len(), 1, "a socket alone is no pod's end");
    std::fs::remove_file(pod.state_dir().join("plan.json")).unwrap();
    eventually("the shim leaves", || !pod.shim_alive());
    assert!(pod.group("c1").procs().unwrap().is_empty());
}
