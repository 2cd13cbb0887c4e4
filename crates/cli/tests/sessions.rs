//! Sessions of the command line, against stand-ins for stratad and the shim, with real processes, pipes and terminals.

// Clippy knows functions of tests, but not the files and helpers beside them.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Node, Phase, State};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|threads| {
        // The output waits for its reader, and so does the input.
        threads.spawn(move || {
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().unwrap()
    })
}

/// Waits for what must become true.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn run_attaches_before_it_starts_and_ends_as_the_container() {
    let node = Node::running("echo out; echo err >&2; exit 42");
    let out = node.strata(&["run", "--rm", "busybox", "sh", "-c", "x"]).output().unwrap();
    assert_eq!(out.status.code(), Some(42));
    assert_eq!(text(&out.stdout), "out\n");
    assert_eq!(text(&out.stderr), "WARNING: something was clamped\nerr\n");
    let calls = node.calls();
    assert_eq!(
        calls,
        [
            "CreateContainer [\"sh\", \"-c\", \"x\"] tty=false stdin=false",
            "PrepareAttach",
            "Attach stdin=false",
            "StartContainer",
            "WaitContainer",
            "RemoveContainer c0ff",
        ]
    );
}

#[test]
fn input_reaches_the_container_and_ends() {
    let node = Node::running("cat; echo end");
    let mut big = vec![b'x'; 3 << 20];
    big.push(b'\n');
    let out = with_input(node.strata(&["run", "-i", "busybox"]), &big);
    assert!(out.status.success());
    assert!(out.stdout.len() == big.len() + 4 && out.stdout.ends_with(b"\nend\n"));
}

#[test]
fn a_missing_image_is_pulled() {
    let node = Node::new(State { script: "true".into(), image_missing: true.into(), ..State::default() });
    let out = node.strata(&["run", "busybox"]).output().unwrap();
    assert!(out.status.success());
    let shown = text(&out.stderr);
    let wanted = "Unable to find image 'busybox:latest' locally\nlatest: Pulling from library/busybox\n\
                  cdcdcdcdcdcd: Pulling fs layer\ncdcdcdcdcdcd: Download complete\ncdcdcdcdcdcd: Pull complete\n";
    assert!(shown.starts_with(wanted), "{shown}");
    assert!(shown.contains("Status: Downloaded newer image for busybox:latest\n"), "{shown}");
    let never = Node::new(State { image_missing: true.into(), ..State::default() });
    let out = never.strata(&["run", "--pull", "never", "busybox"]).output().unwrap();
    assert_eq!(out.status.code(), Some(125));
    assert_eq!(
        text(&out.stderr),
        "strata: Error response from daemon: No such image: busybox:latest\n\nRun 'strata run --help' for more information\n"
    );
}

#[test]
fn a_program_that_cannot_start_ends_with_a_shells_code() {
    let fails = Some("exec nosuch: execve: ENOENT: No such file or directory");
    let node = Node::new(State { start_fails: fails, ..State::default() });
    let out = node.strata(&["run", "busybox", "nosuch"]).output().unwrap();
    assert_eq!(out.status.code(), Some(127));
    let node = Node::running("");
    let code = |program: &str| node.strata(&["exec", "x", program]).output().unwrap().status.code();
    assert_eq!((code("/nosuch"), code("/etc")), (Some(127), Some(126)));
}

#[test]
fn signals_are_the_containers() {
    let node = Node::running("trap 'echo caught; exit 7' USR1; echo ready; while :; do sleep 0.05; done");
    let mut child = node.strata(&["run", "busybox"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut ready = [0; 6];
    out.read_exact(&mut ready).unwrap();
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGUSR1).unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("caught\n", Some(7)));
    assert!(node.calls().contains(&"KillContainer SIGUSR1".to_owned()));
}

#[test]
fn a_detached_run_prints_the_id() {
    let node = Node::running("true");
    let out = node.strata(&["run", "-d", "busybox"]).output().unwrap();
    assert_eq!(text(&out.stdout), format!("{}\n", common::ID));
    assert!(!node.calls().contains(&"PrepareAttach".to_owned()));
}

#[test]
fn exec_moves_all_three_streams() {
    let node = Node::running("");
    let script = "cat; echo err >&2; exit 3";
    let mut input = b"line\n".repeat(200_000);
    let out = with_input(node.strata(&["exec", "-i", "x", "sh", "-c", script]), &input);
    assert_eq!(out.status.code(), Some(3));
    assert_eq!(out.stdout.len(), input.len());
    assert_eq!(text(&out.stderr), "err\n");
    // Without -i there is no input, whatever stands there.
    input.truncate(5);
    let out = with_input(node.strata(&["exec", "x", "cat"]), &input);
    assert_eq!((out.status.code(), out.stdout.len()), (Some(0), 0));
}

#[test]
fn exec_ends_although_something_holds_its_output() {
    let node = Node::running("");
    let mut command = node.strata(&["exec", "x", "sh", "-c", "sleep 100 & echo $!; exit 5"]);
    let out = command.output().unwrap();
    assert_eq!(out.status.code(), Some(5));
    kill(Pid::from_raw(text(&out.stdout).trim().parse().unwrap()), Signal::SIGKILL).unwrap();
}

#[test]
fn signals_end_an_exec() {
    let node = Node::running("");
    let mut command = node.strata(&["exec", "x", "sh", "-c", "echo ready; exec sleep 100"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
}

/// A terminal of the test's own.
struct Terminal {
    master: File,
    slave: OwnedFd,
}

impl Terminal {
    fn new() -> Self {
        let size = nix::pty::Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        Self { master: File::from(pty.master), slave: pty.slave }
    }

    fn run(&self, mut command: Command) -> Child {
        let end = || self.slave.try_clone().unwrap();
        command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(self.slave.as_fd()).unwrap().local_flags.contains(LocalFlags::ICANON)
    }

    /// Reads until the text has come; everything read.
    fn expect(&mut self, wanted: &str) -> String {
        let (mut seen, mut buffer) = (String::new(), [0; 1024]);
        while !seen.contains(wanted) {
            let n = self.master.read(&mut buffer).unwrap();
            seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        seen
    }
}

#[test]
fn a_terminal_is_raw_for_an_exec_and_as_before_afterwards() {
    let node = Node::running("");
    let mut terminal = Terminal::new();
    let script = "stty size; read x; echo got-$x; exit 9";
    let mut child = terminal.run(node.strata(&["exec", "-it", "x", "sh", "-c", script]));
    terminal.expect("33 99");
    until("the terminal is raw", || terminal.is_raw());
    terminal.master.write_all(b"hello\r").unwrap();
    terminal.expect("got-hello");
    assert_eq!(child.wait().unwrap().code(), Some(9));
    assert!(!terminal.is_raw());
}

#[test]
fn keys_leave_a_session_and_its_container_goes_on() {
    let node = Node::new(State { script: "echo ready; cat".into(), tty: true, ..State::default() });
    let mut terminal = Terminal::new();
    let mut child = terminal.run(node.strata(&["run", "-it", "busybox"]));
    terminal.expect("ready");
    until("the terminal is raw", || terminal.is_raw());
    terminal.master.write_all(b"abc\x10\x11").unwrap();
    terminal.expect("read escape sequence");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!terminal.is_raw());
    let Phase::Running(pid) = *node.state.phase.lock().unwrap() else { panic!("the container has ended") };
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    let node = Node::new(State { script: "echo ready; cat".into(), tty: true, ..State::default() });
    let mut terminal = Terminal::new();
    let mut child = terminal.run(node.strata(&["run", "-it", "--sig-proxy=false", "busybox"]));
    terminal.expect("ready");
    until("the terminal is raw", || terminal.is_raw());
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGHUP).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 1));
    assert!(!terminal.is_raw());
    let Phase::Running(pid) = *node.state.phase.lock().unwrap() else { panic!("the container has ended") };
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

#[test]
fn a_terminal_is_needed_for_a_terminal() {
    let node = Node::running("");
    let out = with_input(node.strata(&["run", "-it", "busybox"]), b"");
    assert_eq!(out.status.code(), Some(125));
    assert!(text(&out.stderr).starts_with("strata: the input device is not a TTY\n"));
    let out = with_input(node.strata(&["exec", "-it", "x", "sh"]), b"");
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("because stdin is not a terminal"));
    assert!(node.calls().is_empty());
}

#[test]
fn a_followed_log_ends_with_its_container() {
    let node = Node::running("");
    let log = node.dir.path().join("0.log");
    std::fs::write(&log, "2026-11-21T10:00:00Z stdout F one\n2026-11-21T10:00:00Z stderr F two\n").unwrap();
    let mut child =
        node.strata(&["logs", "-f", "x"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 4]).unwrap();
    std::fs::rename(&log, node.dir.path().join("0.log.1")).unwrap();
    std::fs::write(&log, "2026-11-21T10:00:01Z stdout P thr\n2026-11-21T10:00:01Z stdout F ee\n").unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    node.state.set(Phase::Exited(0));
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    assert_eq!((text(&out.stdout), text(&out.stderr)), ("", "two\n"));
    let out = node.strata(&["logs", "--tail", "1", "-t", "x"]).output().unwrap();
    assert_eq!(text(&out.stdout), "2026-11-21T10:00:01Z three\n");
}

#[test]
fn sessions_and_waits_outlive_the_daemon() {
    let mut node = Node::running("echo ready; read x; exit 6");
    let mut run = node.strata(&["run", "-i", "busybox"]);
    let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    run.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    let wait = node.strata(&["wait", "x"]).stdout(Stdio::piped()).spawn().unwrap();
    until("the wait has begun", || node.calls().contains(&"WaitContainer".to_owned()));
    node.kill_daemon();
    // No daemon: the session is the shim's.
    run.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(6));
    node.start_daemon();
    assert_eq!(text(&wait.wait_with_output().unwrap().stdout), "6\n");
}

#[test]
fn attaching_to_an_ended_container_is_refused() {
    let node = Node::running("");
    node.state.set(Phase::Exited(0));
    let out = node.strata(&["attach", "x"]).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(text(&out.stderr), "strata: you cannot attach to a stopped container, start it first\n");
    assert!(node.calls().is_empty());
}

#[test]
fn several_things_are_all_tried() {
    let node = Node::running("");
    let out = node.strata(&["rm", "a", "gone", "b"]).output().unwrap();
    assert_eq!((out.status.code(), text(&out.stdout)), (Some(1), "a\nb\n"));
    assert_eq!(text(&out.stderr), "Error response from daemon: No such container: gone\n");
    let out = node.strata(&["inspect", "busybox", "nope"]).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stdout).starts_with("[\n    {\n        \"Id\": \"sha256:1\",\n"));
    assert_eq!(text(&out.stderr), "Error: No such object: nope\n");
    let out =
        node.strata(&["image", "inspect", "-f", "{{.Id}} {{json .Config.Env}}", "busybox"]).output().unwrap();
    assert_eq!(text(&out.stdout), "sha256:1 [\"A=1\"]\n");
}

#[test]
fn a_daemon_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("x".repeat(100)).join("strata.sock");
    let strata =
        Command::new(env!("CARGO_BIN_EXE_strata")).arg("--socket").arg(&socket).arg("ps").output().unwrap();
    assert_eq!(strata.status.code(), Some(1));
    assert!(text(&strata.stderr).contains("Is stratad running?"), "{}", text(&strata.stderr));
}
