//! A container's life: create, start, exit, log, exec, remove.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(missing_docs)]

mod common;

use common::plans::{self, exec};
use common::{Pod, eventually};
use strata_wire::message::FailureKind;
use strata_wire::state::{ExitRecord, Phase};
use strata_wire::{Reply, Request};

#[test]
fn a_container_is_created_started_logged_and_removed() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    assert!(client.subscribe().is_empty());
    let plan = pod.script("c1", "echo out; echo err >&2; exit 7");
    let pid = client.create(&plan);
    assert!(pid > 1);
    let state = client.container("c1");
    assert_eq!((state.phase, state.pid, state.started_at), (Phase::Created, pid, 0));
    client.start("c1");
    let record = client.exited("c1");
    assert_eq!((record.exit_code, record.signal, record.oom_killed), (7, None, false));
    assert!(record.started_at > 0 && record.finished_at >= record.started_at);
    let mut log = pod.log("c1");
    log.sort();
    assert_eq!(log, ["stderr F err", "stdout F out"]);
    let left = std::fs::read(pod.state_dir().join("c1.exit")).unwrap();
    assert_eq!(serde_json::from_slice::<ExitRecord>(&left).unwrap(), record);
    let state = client.container("c1");
    assert_eq!((state.phase, state.pid, state.exit), (Phase::Exited, 0, Some(record)));
    client.remove("c1");
    assert!(client.containers().is_empty());
    pod.group("c1").remove().unwrap();
}

#[test]
fn commands_run_in_a_running_container() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    client.run(&pod.plan("c1", &["sleep", "1000"]));
    let script = "cat; echo err >&2; hostname; readlink /proc/1/exe; exit 3";
    let plan = exec("c1", "e1", &["sh", "-c", script]);
    let mut piped = client.exec(&plan).unwrap();
    std::io::Write::write_all(&mut piped.stdin.take().unwrap(), b"typed\n").unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    std::io::Read::read_to_string(&mut piped.stdout, &mut out).unwrap();
    std::io::Read::read_to_string(&mut piped.stderr, &mut err).unwrap();
    assert_eq!(out, format!("typed\n{}\n/bin/busybox\n", pod.id));
    assert_eq!(err, "err\n");
    assert_eq!(client.exec_exited("e1"), (3, false));
    let failure = client.exec(&exec("c1", "e2", &["no-such-program"])).err().unwrap();
    assert_eq!(failure.kind, FailureKind::ExecNotFound, "{failure}");
    let failure = client.exec(&exec("c1", "e3", &["/etc/not-a-program"])).err().unwrap();
    assert_eq!(failure.kind, FailureKind::ExecFailed, "{failure}");
    client.done(Request::Signal { id: "c1".into(), signal: 9, all: false });
    let record = client.exited("c1");
    assert_eq!((record.exit_code, record.signal), (137, Some(9)));
    client.remove("c1");
}

#[test]
fn a_program_that_is_missing_fails_the_start_and_leaves_an_exit_code() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    for (id, program, kind, code) in [
        ("c1", "no-such-program", FailureKind::ExecNotFound, 127),
        ("c2", "/no/such/path", FailureKind::ExecNotFound, 127),
        ("c3", "/etc/not-a-program", FailureKind::ExecFailed, 126),
    ] {
        client.create(&pod.plan(id, &[program]));
        client.fails_with(Request::Start { id: id.into() }, kind);
        assert_eq!(client.exited(id).exit_code, code);
        let state = client.container(id);
        assert_eq!((state.phase, state.started_at), (Phase::Exited, 0));
        client.fails_with(Request::Start { id: id.into() }, FailureKind::WrongState);
        client.remove(id);
    }
}

#[test]
fn shutdown_kills_everything_and_the_shim_leaves() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.run(&pod.plan("c1", &["sleep", "1000"]));
    client.create(&pod.plan("c2", &["sleep", "1000"]));
    assert_eq!(client.call(Request::Shutdown), Reply::Ok);
    eventually("the shim leaves", || !pod.shim_alive());
    assert!(pod.cgroups.procs().unwrap().is_empty());
    let record = std::fs::read(pod.state_dir().join("c1.exit")).unwrap();
    assert_eq!(serde_json::from_slice::<ExitRecord>(&record).unwrap().exit_code, 137);
    assert_eq!(plans::DEFAULT_CAPS & 1, 1);
}
