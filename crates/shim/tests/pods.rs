//! PID namespaces, and mounts that propagate.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(missing_docs)]

mod common;

use common::plans::{self, exec};
use common::{Pod, PodOptions, eventually};
use std::path::{Path, PathBuf};
use strata_wire::plan::{Mount, MountAttrs, MountKind, PidMode, Propagation};
use strata_wire::{Reply, Request};

#[test]
fn a_pod_can_share_one_pid_namespace() {
    let Some(pod) = Pod::with(PodOptions { shared_pid: true, ..PodOptions::default() }) else { return };
    let mut client = pod.client();
    let Reply::State { pause_pid: Some(pause), .. } = client.call(Request::Subscribe) else {
        panic!("no pause process")
    };
    let mut first = pod.plan("c1", &["sleep", "1234"]);
    first.pid = PidMode::Pod;
    client.run(&first);
    // Orphans become the pod's init's, which reaps them.
    let mut second = pod.script(
        "c2",
        "(sh -c 'sleep 0.05 &' &); sleep 0.3; ps -o pid,comm,stat; ls /proc/1/root/ | wc -l; ls -l /proc/1/fd | wc -l; \
         grep CapPrm /proc/1/status; hostname",
    );
    second.pid = PidMode::Pod;
    second.process.caps = plans::full_caps();
    client.run(&second);
    assert_eq!(client.exited("c2").exit_code, 0);
    let log = pod.log("c2").join("\n");
    assert_eq!(log.matches("sleep ").count(), 1, "an orphan is left: {log}");
    assert!(log.contains("strata-init"), "{log}");
    assert!(log.contains("stdout F 0\nstdout F 1\nstdout F CapPrm:\t0000000000000000"), "{log}");
    let mut look = exec("c1", "e1", &["sh", "-c", "readlink /proc/1/ns/pid; readlink /proc/self/ns/pid"]);
    look.process.caps = plans::full_caps();
    let (out, _, _) = client.exec_output(&look);
    let inodes: Vec<&str> = out.lines().collect();
    assert_eq!(inodes[0], inodes[1]);
    // The end of one container is not the end of another.
    client.done(Request::Signal { id: "c1".into(), signal: 15, all: false });
    assert_eq!(client.exited("c1").exit_code, 143);
    // The end of the init is the end of all.
    let mut third = pod.plan("c3", &["sleep", "1000"]);
    third.pid = PidMode::Pod;
    client.run(&third);
    strata_sys::process::kill(pause, 9).unwrap();
    assert_eq!(client.exited("c3").exit_code, 137);
    eventually("the init is gone", || {
        matches!(client.call(Request::State), Reply::State { pause_pid: None, .. })
    });
}

#[test]
fn a_container_in_the_nodes_pid_namespace_ends_whole() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let mut plan = pod.script("c1", "setsid sleep 1000 & echo $$; readlink /proc/self/ns/pid; exit 6");
    plan.pid = PidMode::Node;
    let pid = client.run(&plan);
    assert_eq!(client.exited("c1").exit_code, 6);
    let own = std::fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(pod.log("c1"), [format!("stdout F {pid}"), format!("stdout F {}", own.display())]);
    eventually("what it left running is killed", || pod.group("c1").procs().unwrap().is_empty());
    client.remove("c1");
}

/// A shared mount of the host, unmounted with all below it.
struct SharedMount(PathBuf);

impl SharedMount {
    fn new(at: PathBuf) -> Self {
        std::fs::create_dir(&at).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &at, "tmpfs", flags, None).unwrap();
        strata_sys::mount::set_propagation(&at, strata_sys::mount::Propagation::Shared).unwrap();
        Self(at)
    }
}

impl Drop for SharedMount {
    fn drop(&mut self) {
        let _ = strata_sys::mount::unmount(&self.0);
    }
}

fn bind(source: &Path, target: &str, propagation: Propagation) -> Mount {
    let kind = MountKind::Bind { source: source.to_str().unwrap().to_owned(), recursive: true, propagation };
    Mount { target: target.into(), kind, attrs: MountAttrs::default() }
}

fn is_mount(path: &Path) -> bool {
    let text = std::fs::read_to_string("/proc/self/mounts").unwrap();
    text.lines().any(|l| l.split(' ').nth(1) == path.to_str())
}

#[test]
fn mounts_propagate_as_asked_and_not_otherwise() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let host = SharedMount::new(pod.top.join("shared"));
    for name in ["private", "slave", "both", "late"] {
        std::fs::create_dir(host.0.join(name)).unwrap();
    }
    let mut plan = pod.plan("c1", &["sleep", "1000"]);
    plan.process.caps = plans::full_caps();
    plan.mounts.push(bind(&host.0, "/private", Propagation::Private));
    plan.mounts.push(bind(&host.0, "/slave", Propagation::Slave));
    plan.mounts.push(bind(&host.0, "/both", Propagation::Shared));
    client.run(&plan);
    let mut run = |n: &str, script: &str| {
        let mut plan = exec("c1", n, &["sh", "-c", script]);
        plan.process.caps = plans::full_caps();
        let (out, err, code) = client.exec_output(&plan);
        assert_eq!((err.as_str(), code), ("", 0), "{script}");
        out
    };
    run("e1", "for n in private slave both; do mount -t tmpfs tmpfs /$n/$n; done");
    assert!(is_mount(&host.0.join("both")), "what is mounted below a shared bind reaches the host");
    assert!(!is_mount(&host.0.join("slave")) && !is_mount(&host.0.join("private")));
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", host.0.join("late"), "tmpfs", flags, None).unwrap();
    std::fs::write(host.0.join("late/file"), "").unwrap();
    let seen = run("e2", "for n in private slave both; do test -e /$n/late/file && echo $n; done; true");
    assert_eq!(seen, "slave\nboth\n");
}

#[test]
fn read_only_binds_leave_what_is_mounted_below_unless_asked() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let host = SharedMount::new(pod.top.join("shared"));
    let below = SharedMount::new(host.0.join("below"));
    assert!(is_mount(&below.0));
    let mut plan = pod.script(
        "c1",
        "for d in /plain /plain/below /deep /deep/below; do touch $d/x 2>/dev/null && echo $d; done; touch /file",
    );
    let readonly =
        |recursive| MountAttrs { readonly: true, recursive_readonly: recursive, ..Default::default() };
    plan.mounts.push(Mount { attrs: readonly(false), ..plans::bind(&host.0, "/plain") });
    plan.mounts.push(Mount { attrs: readonly(true), ..plans::bind(&host.0, "/deep") });
    let file = pod.top.join("a-file");
    std::fs::write(&file, "of the host").unwrap();
    plan.mounts.push(Mount { attrs: readonly(false), ..plans::bind(&file, "/file") });
    client.run(&plan);
    assert_eq!(client.exited("c1").exit_code, 1, "the last touch fails");
    let log: Vec<String> = pod.log("c1").into_iter().filter(|l| l.starts_with("stdout")).collect();
    assert_eq!(log, ["stdout F /plain/below"]);
}
