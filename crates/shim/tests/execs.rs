//! Execs: pipes, terminals, deadlines, clients that go away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(missing_docs)]

mod common;

use common::plans::exec;
use common::{Client, Pod, eventually, skip};
use std::io::{Read, Write};
use strata_wire::message::FailureKind;
use strata_wire::{Reply, Request};

fn running() -> Option<(Pod, Client)> {
    let pod = Pod::new()?;
    let mut client = pod.client();
    client.subscribe();
    client.run(&pod.plan("c1", &["sleep", "1000"]));
    Some((pod, client))
}

/// Children in sessions of their own, which no signal to a group or a terminal reaches, and one without its parent.
const FAMILY: &str =
    "setsid sleep 900 & setsid sh -c 'sleep 901 & sleep 902' & (sleep 903 &); echo made; sleep 904";

/// Whatever group it is in.
fn all_of_an_exec_is_killed(pod: &Pod, client: &mut Client) {
    let mut piped = client.exec(&exec("c1", "family", &["sh", "-c", FAMILY])).unwrap();
    let group = pod.group("c1");
    let mut said = [0; 5];
    piped.stdout.read_exact(&mut said).unwrap();
    // With the init; a shell may become the last program that it runs.
    eventually("all of them are there", || group.procs().unwrap().len() >= 6);
    client.done(Request::KillExec { container_id: "c1".into(), exec_id: "family".into(), signal: 9 });
    assert_eq!(client.exec_exited("family"), (137, false));
    eventually("only the container's init is left", || group.procs().unwrap().len() == 1);
    // All writers are dead, so the output has an end.
    let mut more = String::new();
    piped.stdout.read_to_string(&mut more).unwrap();
    assert_eq!((&said, more.as_str()), (b"made\n", ""));
}

#[test]
fn a_deadline_kills_everything_that_the_exec_started() {
    let Some((pod, mut client)) = running() else { return };
    all_of_an_exec_is_killed(&pod, &mut client);
    let mut plan = exec("c1", "e1", &["sh", "-c", FAMILY]);
    plan.timeout_ms = 300;
    let mut piped = client.exec(&plan).unwrap();
    assert_eq!(client.exec_exited("e1"), (137, true));
    let group = pod.group("c1");
    eventually("only the container's init is left", || group.procs().unwrap().len() == 1);
    piped.stdout.read_to_end(&mut Vec::new()).unwrap();
    eventually("its group goes", || {
        let _ = client.containers();
        !pod.cgroups.child("c1").unwrap().child("exec-e1").unwrap().exists()
    });
}

/// As KubeVirt's does for the threads of its virtual CPUs: a group beside it would take no process.
#[test]
fn a_container_that_made_threaded_groups_takes_execs() {
    let Some((pod, mut client)) = running() else { return };
    let Some(own) = pod.group("c1").v2_dir() else { return skip("no unified hierarchy") };
    std::fs::create_dir(own.join("threads")).unwrap();
    std::fs::write(own.join("threads/cgroup.type"), "threaded").unwrap();
    let (out, _, code) = client.exec_output(&exec("c1", "e1", &["cat", "/proc/self/cgroup"]));
    assert_eq!(code, 0);
    assert!(out.lines().any(|line| line == "0::/"), "it is in its init's group: {out}");
    eventually("nothing is left of it", || {
        let _ = client.containers();
        !own.join("exec-e1").exists()
    });
    all_of_an_exec_is_killed(&pod, &mut client);
    client.done(Request::Signal { id: "c1".into(), signal: 9, all: false });
    client.exited("c1");
    client.remove("c1");
}

/// As an init system does that gives its services controllers, in a container that may not have more groups.
#[test]
fn a_container_that_leaves_no_room_takes_execs_where_its_init_is() {
    let Some((pod, mut client)) = running() else { return };
    if pod.cgroups.hierarchy().mode() != strata_cgroup::Mode::V2 {
        return skip("cgroup v2 is not the only hierarchy here");
    }
    let own = pod.group("c1").v2_dir().unwrap();
    let write = |file: &str, text: &str| std::fs::write(own.join(file), text).unwrap();
    std::fs::create_dir(own.join("init.scope")).unwrap();
    write("init.scope/cgroup.procs", &client.container("c1").pid.to_string());
    write("cgroup.subtree_control", "+pids");
    write("cgroup.max.descendants", "1");
    let (out, _, code) = client.exec_output(&exec("c1", "e1", &["cat", "/proc/self/cgroup"]));
    assert_eq!((out.as_str(), code), ("0::/init.scope\n", 0));
    all_of_an_exec_is_killed(&pod, &mut client);
}

#[test]
fn a_terminal_is_handed_to_the_client() {
    let Some((_pod, mut client)) = running() else { return };
    let script = "tty; stty size; read a; echo [$a]; stty size; exit 4";
    let mut plan = exec("c1", "e1", &["sh", "-c", script]);
    plan.tty = true;
    plan.tty_size = Some((24, 80));
    let (reply, mut fds) = client.call_with(Request::Exec(Box::new(plan)), &[]);
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    let master = fds.pop().unwrap();
    let mut terminal = std::fs::File::from(master);
    let until = |terminal: &mut std::fs::File, text: &str| {
        let mut seen = String::new();
        while !seen.contains(text) {
            let mut chunk = [0; 4096];
            let n = terminal.read(&mut chunk).unwrap();
            seen.push_str(&String::from_utf8_lossy(&chunk[..n]));
        }
        seen
    };
    assert!(until(&mut terminal, "24 80").contains("/dev/pts/"));
    strata_sys::tty::set_size(&terminal, 40, 100).unwrap();
    terminal.write_all(b"hi\n").unwrap();
    until(&mut terminal, "40 100");
    assert_eq!(client.exec_exited("e1"), (4, false));
    // Nobody holds the other end any more.
    let end = std::io::copy(&mut terminal, &mut std::io::sink());
    assert_eq!(end.unwrap_err().raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
}

#[test]
fn an_exec_outlives_its_client_and_is_found_by_another() {
    let Some((pod, mut client)) = running() else { return };
    let mut leaving = pod.client();
    leaving.exec(&exec("c1", "e1", &["sleep", "1000"])).unwrap();
    drop(leaving);
    let group = pod.group("c1");
    assert_eq!(group.procs().unwrap().len(), 2);
    let kill = |exec_id: &str, signal| Request::KillExec {
        container_id: "c1".into(),
        exec_id: exec_id.into(),
        signal,
    };
    client.done(kill("e1", 15));
    eventually("it is gone", || group.procs().unwrap().len() == 1);
    // It has left the group a moment before it is reaped.
    eventually("it is forgotten", || client.call(kill("e1", 9)) != Reply::Ok);
    client.fails_with(kill("e1", 9), FailureKind::NotFound);
    assert_eq!(client.exec_output(&exec("c1", "e2", &["echo", "still here"])).0, "still here\n");
}

#[test]
fn a_client_that_disappears_while_an_exec_is_made_does_no_harm() {
    let Some((pod, mut client)) = running() else { return };
    for n in 0..20 {
        let mut leaving = pod.client();
        let plan = exec("c1", &format!("gone-{n}"), &["true"]);
        leaving.send(Request::Exec(Box::new(plan)), &[]);
        drop(leaving);
        // Half a frame, too.
        let mut torn = pod.client();
        torn.socket.write_all(&[200, 0, 0, 0, b'{']).unwrap();
    }
    assert_eq!(client.exec_output(&exec("c1", "e1", &["echo", "ok"])).0, "ok\n");
    let group = pod.group("c1");
    eventually("all of them are gone", || group.procs().unwrap().len() == 1);
}

#[test]
fn two_clients_work_at_once() {
    let Some((pod, _client)) = running() else { return };
    std::thread::scope(|scope| {
        for t in 0..4 {
            let pod = &pod;
            scope.spawn(move || {
                let mut client = pod.client();
                for n in 0..10 {
                    let id = format!("e-{t}-{n}");
                    let plan = exec("c1", &id, &["sh", "-c", "echo $0; exit 9", &id]);
                    assert_eq!(client.exec_output(&plan), (format!("{id}\n"), String::new(), 9));
                }
            });
        }
    });
}

#[test]
fn execs_are_refused_where_they_make_no_sense() {
    let Some((pod, mut client)) = running() else { return };
    let id = |kind, failed: strata_wire::message::Failure| assert_eq!(failed.kind, kind, "{failed}");
    id(FailureKind::NotFound, client.exec(&exec("c9", "e", &["true"])).err().unwrap());
    id(FailureKind::Invalid, client.exec(&exec("c1", "../x", &["true"])).err().unwrap());
    client.exec(&exec("c1", "e1", &["sleep", "100"])).unwrap();
    id(FailureKind::AlreadyExists, client.exec(&exec("c1", "e1", &["true"])).err().unwrap());
    client.create(&pod.plan("c2", &["true"]));
    id(FailureKind::WrongState, client.exec(&exec("c2", "e1", &["true"])).err().unwrap());
    let mut elsewhere = exec("c1", "e2", &["true"]);
    elsewhere.process.cwd = "/nowhere".into();
    let failure = client.exec(&elsewhere).err().unwrap();
    assert!(failure.step.contains("/nowhere"), "{failure}");
    client.done(Request::Signal { id: "c1".into(), signal: 9, all: false });
    client.exited("c1");
    id(FailureKind::WrongState, client.exec(&exec("c1", "e3", &["true"])).err().unwrap());
}

#[test]
fn execs_end_with_their_container() {
    let Some((pod, mut client)) = running() else { return };
    client.exec(&exec("c1", "e1", &["sleep", "1000"])).unwrap();
    client.remove("c1");
    assert_eq!(client.exec_exited("e1"), (137, false));
    assert!(pod.group("c1").procs().unwrap().is_empty());
    assert!(client.containers().is_empty());
}
