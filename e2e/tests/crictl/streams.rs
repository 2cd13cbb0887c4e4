//! exec, attach, port-forward, by both transports.

use super::{container_with, file, pod_file, running};
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use strata_e2e::command::finished;
use strata_e2e::node::{Node, test};
use strata_e2e::pty::Session;

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

/// crictl without the time limit around it, which would take it from its terminal.
fn plain(node: &Node, args: &[&str]) -> Command {
    let limited = node.crictl_command();
    let mut words = limited.get_args().skip(3);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(args);
    for (name, value) in limited.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command
}

/// Runs crictl with something to read.
#[track_caller]
fn fed(node: &Node, args: &[&str], input: &str) -> strata_e2e::command::Output {
    let mut command = node.crictl_command();
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = node.within(|| command.spawn()).unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    finished(format!("crictl {args:?}"), &child.wait_with_output().unwrap())
}

/// Waits in a shell until its terminal has this size, of which it is told beside what is typed.
fn sized(shell: &mut Session, size: &str) {
    shell.send(&format!("while [ \"$(stty size)\" != '{size}' ]; do sleep 0.05; done; echo si''zed\r"));
    shell.expect("sized");
}

#[test]
fn exec_with_and_without_a_terminal() {
    test(|node| {
        let (_, id) = running(node, "shell", "exec sleep 1000");
        for transport in TRANSPORTS {
            let exec =
                |more: &[&str], input: &str| fed(node, &[&["exec", "-r", transport], more].concat(), input);
            let both = exec(&[&id, "sh", "-c", "echo out; echo err >&2"], "").ok();
            assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\n", "err\n"), "{transport}");
            let failed = exec(&[&id, "sh", "-c", "exit 3"], "").fails();
            assert!(failed.contains("exit code 3"), "{transport}: {failed}");
            assert_eq!(exec(&["-i", &id, "wc", "-c"], "twelve bytes").ok().text(), "12", "{transport}");
            let missing = exec(&[&id, "/nonexistent"], "").fails();
            assert!(missing.contains("/nonexistent"), "{transport}: {missing}");

            let shell = plain(node, &["exec", "-r", transport, "-it", &id, "sh"]);
            let mut session = node.within(|| Session::start(&shell)).unwrap();
            session.expect("#");
            session.send("echo typed $((20 + 22)); tty\r");
            session.expect("typed 42");
            session.expect("/dev/pts/");
            sized(&mut session, "24 80");
            session.resize(30, 100).unwrap();
            sized(&mut session, "30 100");
            session.send("exit 7\r");
            assert!(!session.wait().success(), "{transport}: {}", session.output());
        }
        // Several at once, and in one go.
        node.crictl(&["exec", "-s", "--name", "shell", "-x", "hostname"]).ok().has(&["shell"]);
        let late = node.crictl(&["exec", "-s", "--timeout", "1", &id, "sleep", "100"]).fails();
        assert!(late.contains("DeadlineExceeded") || late.contains("timed out"), "{late}");
    });
}

#[test]
fn attach_to_what_runs() {
    test(|node| {
        node.pull("busybox");
        for transport in TRANSPORTS {
            let name = format!("cat-{transport}");
            let open = json!({ "stdin": true, "stdin_once": true });
            let container =
                container_with(node, &name, "while read -r line; do echo got $line; done; echo end", &open);
            let id = node.crictl(&["run", &container, &pod_file(node, &name)]).ok().text().to_owned();
            let attached = fed(node, &["attach", "-r", transport, "-i", &id], "one\ntwo\n").ok();
            assert_eq!(attached.stdout, "got one\ngot two\nend\n", "{transport}");
            node.wait_exit(&id);

            let name = format!("tty-{transport}");
            let open = json!({ "stdin": true, "tty": true });
            let container = container_with(node, &name, "exec sh", &open);
            let id = node.crictl(&["run", &container, &pod_file(node, &name)]).ok().text().to_owned();
            let shell = plain(node, &["attach", "-r", transport, "-it", &id]);
            let mut session = node.within(|| Session::start(&shell)).unwrap();
            session.send("echo typed $((20 + 22))\r");
            session.expect("typed 42");
            session.send("exit 0\r");
            session.wait();
            assert_eq!(node.wait_exit(&id).exit_code, 0, "{transport}");
        }
    });
}

#[test]
fn a_port_of_a_pod_is_a_port_of_ones_own() {
    test(|node| {
        let serve = "echo served > /index.html; exec httpd -f -p 8080 -h /";
        let (pod_id, _) = running(node, "web", serve);
        for (transport, port) in [("spdy", 18080), ("websocket", 18081)] {
            let ports = format!("{port}:8080");
            let mut command = node.crictl_command();
            command.args(["port-forward", "-r", transport, &pod_id, &ports]);
            let mut child = node.within(|| command.stdout(Stdio::null()).spawn()).unwrap();
            let fetch = || -> std::io::Result<String> {
                let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
                stream.set_read_timeout(Some(strata_e2e::patience(30)))?;
                stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                Ok(answer)
            };
            let fetched = || match node.within(fetch) {
                Ok(answer) if answer.ends_with("served\n") => Ok(()),
                other => Err(format!("{transport}: {other:?}")),
            };
            strata_e2e::eventually(20, "the pod answers on the node's port", fetched);
            for _ in 0..5 {
                fetched().unwrap();
            }
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
            child.wait().unwrap();
        }
        let absent = file(node, "absent.json", &json!({}));
        node.crictl(&["port-forward", &absent, "1:2"]).fails();
    });
}
