//! Standard streams: the log, attached clients, input, terminals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(missing_docs)]

mod common;

use common::{Pod, eventually, plans};
use std::time::Duration;
use strata_wire::attach::{AttachFrame, MAX_LAG, MAX_PAYLOAD};
use strata_wire::{Reply, Request};

#[test]
fn long_lines_are_split_and_an_unfinished_last_line_is_kept() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let mut plan = pod.script("c1", "echo 123456789; printf 'a'; sleep 0.1; printf 'b\\n\\nlast'");
    plan.stdio.log_max_line = 4;
    client.run(&plan);
    client.exited("c1");
    let expected =
        ["stdout P 1234", "stdout P 5678", "stdout F 9", "stdout F ab", "stdout F ", "stdout F last"];
    assert_eq!(pod.log("c1"), expected.map(str::to_owned));
}

#[test]
fn the_log_goes_on_without_any_client() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.run(&pod.script("c1", "seq 1 20000; sleep 0.1; seq 1 20000 >&2; exit 5"));
    drop(client);
    let record = pod.state_dir().join("c1.exit");
    eventually("the exit record appears", || record.exists());
    let log = pod.log("c1");
    assert_eq!(log.len(), 40_000);
    assert_eq!((log[0].as_str(), log[19_999].as_str()), ("stdout F 1", "stdout F 20000"));
    assert_eq!(log[39_999], "stderr F 20000");
    let state = pod.client().container("c1");
    assert_eq!(state.exit.unwrap().exit_code, 5);
}

#[test]
fn a_rotated_log_goes_on_in_a_new_file() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let mut plan = pod.script("c1", "while read line; do echo got $line; done");
    plan.stdio.stdin = true;
    plan.stdio.stdin_once = true;
    client.run(&plan);
    let mut attached = pod.client().attach("c1", true);
    attached.type_in("one\n");
    attached.until("got one\n");
    let rotated = pod.top.join("rotated");
    std::fs::rename(pod.log_path("c1"), &rotated).unwrap();
    client.done(Request::ReopenLog { id: "c1".into() });
    attached.type_in("two\n");
    attached.until("got two\n");
    attached.send(&AttachFrame::StdinEof);
    assert_eq!(attached.until_end(), (String::new(), String::new(), 0));
    client.exited("c1");
    assert_eq!(plans::lines(&std::fs::read_to_string(rotated).unwrap()), ["stdout F got one"]);
    assert_eq!(pod.log("c1"), ["stdout F got two"]);
}

#[test]
fn the_first_attached_client_ends_the_input_that_is_once_only() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let mut plan = pod.plan("c1", &["cat"]);
    plan.stdio.stdin = true;
    plan.stdio.stdin_once = true;
    client.create(&plan);
    // Attached before the start, as `run -i` does, so that nothing is missed.
    let mut first = pod.client().attach("c1", true);
    let mut second = pod.client().attach("c1", true);
    client.start("c1");
    second.type_in("from the second\n");
    first.until("from the second\n");
    second.send(&AttachFrame::StdinEof);
    drop(second);
    // Less than a client may lag behind.
    let big = "x".repeat(MAX_LAG - 4096);
    let written = big.clone();
    let socket = first.socket.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        AttachFrame::Stdin(written.into_bytes()).encode(&mut bytes);
        AttachFrame::StdinEof.encode(&mut bytes);
        std::io::Write::write_all(&mut &socket, &bytes).unwrap();
    });
    let (out, err, code) = first.until_end();
    writer.join().unwrap();
    assert_eq!((out.len(), err.as_str(), code), (big.len(), "", 0));
    assert!(client.container("c1").stdin_closed);
}

#[test]
fn a_client_that_waited_goes_on() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let mut plan = pod.script("c1", "sleep 0.3; wc -c");
    plan.stdio.stdin = true;
    plan.stdio.stdin_once = true;
    client.run(&plan);
    let mut attached = pod.client().attach("c1", true);
    // One frame fills the pipe, the next one what the shim holds, with nothing of it left over.
    for _ in 0..4 {
        attached.send(&AttachFrame::Stdin(vec![b'x'; MAX_PAYLOAD]));
        std::thread::sleep(Duration::from_millis(20));
    }
    attached.send(&AttachFrame::StdinEof);
    assert_eq!(attached.until_end(), (format!("{}\n", 4 * MAX_PAYLOAD), String::new(), 0));
    // All at once, with the end right behind what fills the shim's own store.
    let mut plan = pod.script("c2", "wc -c");
    (plan.stdio.stdin, plan.stdio.stdin_once) = (true, true);
    client.run(&plan);
    let mut attached = pod.client().attach("c2", true);
    let mut bytes = Vec::new();
    AttachFrame::Stdin(vec![b'x'; MAX_PAYLOAD]).encode(&mut bytes);
    AttachFrame::StdinEof.encode(&mut bytes);
    std::io::Write::write_all(&mut attached.socket, &bytes).unwrap();
    assert_eq!(attached.until_end(), (format!("{MAX_PAYLOAD}\n"), String::new(), 0));
}

#[test]
fn a_client_that_goes_away_ends_the_input_too() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let mut plan = pod.script("c1", "sleep 0.2; wc -c; echo eof");
    plan.stdio.stdin = true;
    plan.stdio.stdin_once = true;
    client.run(&plan);
    let mut attached = pod.client().attach("c1", true);
    // More than the pipe and the shim hold before they stop reading.
    attached.type_in(&"t".repeat(250_000));
    drop(attached);
    client.exited("c1");
    assert_eq!(pod.log("c1"), ["stdout F 250000", "stdout F eof"]);
}

#[test]
fn input_stays_open_when_it_is_not_once_only() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let mut plan = pod.script("c1", "read a; read b; echo $a $b");
    plan.stdio.stdin = true;
    client.run(&plan);
    for text in ["one\n", "two\n"] {
        let mut attached = pod.client().attach("c1", true);
        attached.type_in(text);
        attached.send(&AttachFrame::StdinEof);
        // The frames are taken before the end of the connection is.
        drop(attached);
    }
    assert_eq!(client.exited("c1").exit_code, 0);
    assert_eq!(pod.log("c1"), ["stdout F one two"]);
}

#[test]
fn a_container_that_closes_its_input_costs_nothing() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let mut plan = pod.script("c1", "exec <&-; echo closed; sleep 1000");
    plan.stdio.stdin = true;
    client.run(&plan);
    let mut attached = pod.client().attach("c1", true);
    eventually("it has closed its input", || client.container("c1").stdin_closed);
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pod.shim_pid)).unwrap();
        let fields: Vec<u64> = stat
            .rsplit_once(") ")
            .unwrap()
            .1
            .split(' ')
            .skip(11)
            .take(2)
            .map(|n| n.parse().unwrap())
            .collect();
        fields.iter().sum::<u64>()
    };
    let before = ticks();
    attached.type_in(&"lost".repeat(100_000));
    std::thread::sleep(Duration::from_millis(500));
    assert!(ticks() - before < 10, "the shim spins");
}

#[test]
fn a_terminal_takes_input_sizes_and_ends() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let mut plan =
        pod.script("c1", "trap 'stty size' WINCH; tty; stty size; while :; do read a; echo [$a]; done");
    plan.stdio.tty = true;
    plan.stdio.stdin = true;
    plan.stdio.tty_size = Some((24, 80));
    client.create(&plan);
    let mut attached = pod.client().attach("c1", true);
    client.start("c1");
    let seen = attached.until("24 80");
    assert!(seen.contains("/dev/pts/0") || seen.contains("/dev/console"), "{seen}");
    attached.send(&AttachFrame::Resize { rows: 50, cols: 132 });
    attached.until("50 132");
    attached.type_in("hello\n");
    attached.until("[hello]");
    client.done(Request::Resize { id: "c1".into(), rows: 10, cols: 20 });
    attached.until("10 20");
    // A shell that is PID 1 does not die of ^C.
    client.done(Request::Signal { id: "c1".into(), signal: 9, all: true });
    let (_, _, code) = attached.until_end();
    assert_eq!(code, 137);
    client.exited("c1");
    assert!(pod.log("c1").iter().any(|l| l.starts_with("stdout F hello") || l.contains("[hello]")));
}

#[test]
fn output_waits_for_a_client_that_asks_for_it() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    for (id, tty) in [("c1", false), ("c2", true)] {
        let mut plan = pod.script(id, "read go; yes 0123456789abcde | head -n 262144; echo end; exit 3");
        plan.stdio.stdin = true;
        plan.stdio.tty = tty;
        client.create(&plan);
        let mut slow = pod.client().attach_waited_for(id, true);
        client.start(id);
        slow.type_in("go\n");
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(client.container(id).exit, None, "it waits with most of its 4 MiB unwritten");
        let (out, _, code) = slow.until_end();
        assert_eq!((out.matches("abcde").count(), code), (262_144, 3));
        assert!(out.ends_with(if tty { "end\r\n" } else { "end\n" }));
        client.exited(id);
    }
    // The last of it is not lost when the pod goes.
    let mut plan = pod.script("c4", "read go; head -c 500000 /dev/zero; exit 4");
    plan.stdio.stdin = true;
    client.create(&plan);
    let mut slow = pod.client().attach_waited_for("c4", true);
    client.start("c4");
    slow.type_in("go\n");
    client.exited("c4");
    client.remove("c4");
    let mut other = pod.client();
    // It goes on without the client, too.
    let mut plan = pod.script("c3", "yes 0123456789abcde | head -n 262144");
    plan.stdio.log_path = None;
    client.create(&plan);
    let leaving = pod.client().attach_waited_for("c3", false);
    client.start("c3");
    std::thread::sleep(Duration::from_millis(100));
    drop(leaving);
    assert_eq!(client.exited("c3").exit_code, 0);
    assert_eq!(other.call(Request::Shutdown), Reply::Ok);
    drop((other, client));
    let (out, _, code) = slow.until_end();
    assert_eq!((out.len(), code), (500_000, 4));
    eventually("the shim leaves", || !pod.shim_alive());
}

#[test]
fn the_log_does_not_wait_for_a_client_that_lags() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let mut plan = pod.script("c1", "read go; yes 0123456789abcde | head -n 262144; sleep 0.3");
    plan.stdio.stdin = true;
    client.create(&plan);
    let mut lagging = pod.client().attach("c1", true);
    client.start("c1");
    lagging.type_in("go\n");
    // 4 MiB go by without this client reading any of them.
    let record = client.exited("c1");
    assert_eq!((record.exit_code, record.log_bytes_dropped), (0, 0));
    assert_eq!(pod.log("c1").len(), 262_144);
    let mut seen = 0;
    loop {
        match lagging.frame() {
            Some(AttachFrame::Stdout(data)) => seen += data.len(),
            Some(AttachFrame::Lagged) => break,
            other => panic!("{other:?} after {seen} bytes"),
        }
    }
    assert!(seen < MAX_LAG + (1 << 20), "{seen} bytes were kept for it");
    assert_eq!(lagging.frame(), None);
}

/// What comes after frames of which one is none: the client is cut off, and what it said before counts once.
#[test]
fn input_before_a_frame_that_is_none_is_taken_once() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let mut plan = pod.plan("c1", &["cat"]);
    (plan.stdio.stdin, plan.stdio.stdin_once) = (true, true);
    client.run(&plan);
    let mut attached = pod.client().attach("c1", true);
    let mut bytes = Vec::new();
    AttachFrame::Stdin(b"once\n".to_vec()).encode(&mut bytes);
    bytes.extend([99, 0, 0, 0, 0]);
    std::io::Write::write_all(&mut attached.socket, &bytes).unwrap();
    assert_eq!(client.exited("c1").exit_code, 0);
    assert_eq!(pod.log("c1"), ["stdout F once"]);
}

/// One that brings no input does not wait for the container to take other clients'.
#[test]
fn a_client_without_input_is_heard_while_input_waits() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let script = "stty raw -echo; echo ready; while [ ! -e /go ]; do sleep 0.05; done; exec 3<&0; cat <&3 >/dev/null & \
        while :; do stty size; sleep 0.05; done";
    let mut plan = pod.script("c1", script);
    (plan.stdio.tty, plan.stdio.stdin, plan.stdio.tty_size) = (true, true, Some((24, 80)));
    client.create(&plan);
    let mut typing = pod.client().attach("c1", true);
    client.start("c1");
    typing.until("ready");
    let mut watching = pod.client().attach("c1", false);
    // More than the terminal and the shim hold.
    let socket = typing.socket.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        AttachFrame::Stdin(vec![b'x'; MAX_PAYLOAD]).encode(&mut bytes);
        (0..8).for_each(|_| std::io::Write::write_all(&mut &socket, &bytes).unwrap());
    });
    std::thread::sleep(Duration::from_millis(300));
    watching.send(&AttachFrame::Resize { rows: 11, cols: 22 });
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(client.exec_output(&plans::exec("c1", "go", &["touch", "/go"])).2, 0);
    watching.until("11 22");
    watching.send(&AttachFrame::Resize { rows: 33, cols: 44 });
    watching.until("33 44");
    writer.join().unwrap();
    client.done(Request::Signal { id: "c1".into(), signal: 9, all: true });
    client.exited("c1");
}
