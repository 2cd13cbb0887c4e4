//! Every protocol of exec and attach, from its beginning to its end.

use super::protocol::{ERROR, PIPES, PROTOCOLS, Protocol, RESIZE, STDERR, STDIN, STDOUT};
use super::*;

const SIZE: &[u8] = b"{\"Width\":120,\"Height\":40}";
/// A program that ends once its terminal has that size.
const SIZED: &str = "while [ \"$(stty size)\" != '40 120' ]; do sleep 0.05; done; echo sized; exit 4";

/// The channels of a session with a terminal.
fn terminal(protocol: Protocol) -> Vec<usize> {
    if protocol.resizes() { vec![STDIN, STDOUT, RESIZE] } else { vec![STDIN, STDOUT] }
}

fn terminal_url(node: &Node, id: &str, script: &str) -> String {
    let request = cri::ExecRequest {
        container_id: id.into(),
        cmd: ["sh", "-c", script].map(String::from).to_vec(),
        tty: true,
        stdin: true,
        stdout: true,
        stderr: false,
    };
    exec_url(node, request).unwrap()
}

#[test]
fn of_exec() {
    test(|node| {
        let (_, id) = running(node, "exec sleep 1000", |_| {});
        for protocol in PROTOCOLS {
            let begin = |script: &str| protocol.session(node, &script_url(node, &id, script), &PIPES);
            let mut session = begin("read -r line; echo got $line; echo err >&2; exit 7");
            session.write(STDIN, b"input\n").unwrap();
            let said = session.all();
            assert_eq!(
                (said.text(STDOUT).as_str(), said.text(STDERR).as_str()),
                ("got input\n", "err\n"),
                "{protocol:?}"
            );
            assert_eq!(protocol.exit_code(&said.text(ERROR)), 7, "{protocol:?}");
            let said = begin("echo well").all();
            assert_eq!(
                (said.text(STDOUT).as_str(), said.text(STDERR).as_str()),
                ("well\n", ""),
                "{protocol:?}"
            );
            assert_eq!(protocol.exit_code(&said.text(ERROR)), 0, "{protocol:?}");
            if protocol.ends_input() {
                let mut session = begin("cat; echo the end");
                session.write(STDIN, b"x\n").unwrap();
                session.end_input().unwrap();
                assert_eq!(session.all().text(STDOUT), "x\nthe end\n", "{protocol:?}");
            }
            let script = if protocol.resizes() { SIZED } else { "read -r line; tty; exit 4" };
            let mut session = protocol.session(node, &terminal_url(node, &id, script), &terminal(protocol));
            if protocol.resizes() {
                session.write(RESIZE, SIZE).unwrap();
            } else {
                session.write(STDIN, b"line\n").unwrap();
            }
            let said = session.all();
            let wanted = if protocol.resizes() { "sized\r\n" } else { "/dev/pts/0\r\n" };
            assert!(said.text(STDOUT).ends_with(wanted), "{protocol:?}: {said:?}");
            assert_eq!(protocol.exit_code(&said.text(ERROR)), 4, "{protocol:?}");
        }
    });
}

#[test]
fn of_attach() {
    test(|node| {
        let (pod_id, _) = running(node, "exec sleep 1000", |_| {});
        let begin = |n: usize, protocol: Protocol, tty: bool| {
            // Nothing is said before somebody has attached.
            let script = "read -r line; echo out $line; echo err >&2; read -r line; exit 3";
            let mut config = container(node, &format!("{n}-{tty}"), if tty { SIZED } else { script });
            (config.stdin, config.tty) = (true, tty);
            let id = node.run_container(&pod_id, &pod(node, "stream"), &config);
            let request =
                cri::AttachRequest { container_id: id.clone(), stdin: true, tty, stdout: true, stderr: !tty };
            let url = node.cri(async |mut c| c.attach(request).await).unwrap().url;
            let channels = if tty { terminal(protocol) } else { PIPES.to_vec() };
            (id, protocol.session(node, &url, &channels))
        };
        for (n, protocol) in PROTOCOLS.into_iter().enumerate() {
            let (id, mut session) = begin(n, protocol, false);
            session.write(STDIN, b"a line\n").unwrap();
            let mut said = Vec::new();
            while said.len() < 2 {
                said.extend(session.read().filter(|(_, bytes)| !bytes.is_empty()));
            }
            said.sort();
            assert_eq!(
                said,
                [(STDOUT, b"out a line\n".to_vec()), (STDERR, b"err\n".to_vec())],
                "{protocol:?}"
            );
            session.write(STDIN, b"go\n").unwrap();
            // The session has ended well; the container's code is its status'.
            assert_eq!(protocol.exit_code(&session.all().text(ERROR)), 0, "{protocol:?}");
            assert_eq!(node.wait_exit(&id).exit_code, 3, "{protocol:?}");
            if protocol.resizes() {
                let (id, mut session) = begin(n, protocol, true);
                session.write(RESIZE, SIZE).unwrap();
                let said = session.all();
                assert!(said.text(STDOUT).ends_with("sized\r\n"), "{protocol:?}: {said:?}");
                assert_eq!(node.wait_exit(&id).exit_code, 4, "{protocol:?}");
            }
        }
    });
}
