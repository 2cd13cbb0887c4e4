//! `strata` at a terminal, and its standard streams without one.

use k8s_cri::v1::ContainerState;
use std::io::Write as _;
use std::process::Stdio;
use strata_e2e::command::finished;
use strata_e2e::node::{Node, container, pod, test};
use strata_e2e::pty::Session;

fn session(node: &Node, args: &[&str]) -> Session {
    let mut command = node.strata_plain();
    command.args(args);
    Session::start(&command).unwrap()
}

#[test]
fn a_shell_session() {
    test(|node| {
        let image = node.pull("stacked");
        let mut shell = session(node, &["run", "-it", "--name", "play", "--hostname", "sandbox", &image]);
        shell.expect("# ");
        shell.send("hostname; tty; stty size\n");
        let said = shell.expect("24 80");
        assert!(said.contains("sandbox") && said.contains("/dev/"), "{said}");
        shell.resize(40, 120).unwrap();
        // The program is told of its new size.
        shell.send("while [ \"$(stty size)\" != '40 120' ]; do sleep 0.05; done; echo resi''zed\n");
        shell.expect("resized");
        // ^C is for the program inside, not for strata; it has the terminal when it says so.
        shell.send("sh -c 'echo star\"\"ted; exec sleep 1000'\n");
        shell.expect("started");
        shell.send("\x03");
        shell.expect("# ");
        shell.send("echo made > made; rm old; echo 'more' >> readme\n");
        shell.send("echo done-$((40+2))\n");
        shell.expect("done-42");
        shell.send("exit 9\n");
        assert_eq!(shell.wait().code(), Some(9), "{}", shell.output());
        node.strata(&["diff", "play"]).ok().has(&[
            "A /opt/strata/made",
            "D /opt/strata/old",
            "C /opt/strata/readme",
        ]);
        node.strata(&["ps", "-a"]).ok().has(&["play", "Exited (9)"]);
        node.strata(&["rm", "play"]).ok();
    });
}

#[test]
fn detaching_leaves_it_running() {
    test(|node| {
        let image = node.pull("busybox");
        let mut shell = session(node, &["run", "-it", "--name", "stay", &image]);
        shell.expect("# ");
        shell.send("echo first\n");
        shell.expect("first");
        shell.expect("first");
        shell.send("\x10\x11");
        assert!(shell.wait().success(), "{}", shell.output());
        node.strata(&["ps"]).ok().has(&["stay", "Up"]);
        // The session's end of it is with the shim: the daemon may come and go.
        let mut again = session(node, &["attach", "stay"]);
        again.send("echo second-$((1+1))\n");
        again.expect("second-2");
        node.crash();
        again.send("echo third-$((1+2))\n");
        again.expect("third-3");
        let mut beside = session(node, &["exec", "-it", "stay", "sh"]);
        beside.expect("# ");
        beside.send("tty; exit 4\n");
        assert_eq!(beside.wait().code(), Some(4));
        again.send("exit\n");
        again.wait();
        node.strata(&["rm", "stay"]).ok();
    });
}

#[test]
fn pipes_go_through() {
    test(|node| {
        let image = node.pull("busybox");
        let piped = |args: &[&str], input: &[u8]| {
            let mut command = node.strata_command();
            command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    let _ = stdin.write_all(input);
                });
                finished(args.join(" "), &child.wait_with_output().unwrap())
            })
        };
        let done =
            piped(&["run", "-i", "--rm", &image, "sh", "-c", "cat; echo err >&2; exit 3"], b"through\n");
        assert_eq!((done.stdout.as_str(), done.stderr.trim(), done.code), ("through\n", "err", 3), "{done}");
        // More than any pipe holds, byte for byte.
        let noise: Vec<u8> =
            (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let done = piped(&["run", "-i", "--rm", &image, "sha256sum"], &noise).ok();
        assert!(done.stdout.starts_with(&strata_e2e::images::digest(&noise)[7..]), "{done}");
        node.strata(&["run", "-d", "--name", "bg", &image, "sleep", "1000"]).ok();
        let done = piped(&["exec", "-i", "bg", "wc", "-c"], &noise).ok();
        assert_eq!(done.text(), "3000000");
        let done = node.strata(&["exec", "bg", "sh", "-c", "echo out; echo err >&2; exit 5"]);
        assert_eq!((done.stdout.as_str(), done.stderr.trim(), done.code), ("out\n", "err", 5), "{done}");
        node.strata(&["exec", "bg", "/no/such/program"]).fails();
        node.strata(&["rm", "-f", "bg"]).ok();
    });
}

#[test]
fn a_pods_container_with_a_terminal_can_be_attached() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "tty");
        let pod_id = node.run_pod(&config);
        let mut wanted = container(node, "shell", "exec sh");
        wanted.tty = true;
        wanted.stdin = true;
        let id = node.run_container(&pod_id, &config, &wanted);
        let mut shell = session(node, &["attach", &id]);
        shell.send("echo from-$((6*7)); test -t 0 && echo terminal\n");
        shell.expect("from-42");
        shell.expect("terminal");
        shell.send("exit 6\n");
        shell.wait();
        let status = node.wait_exit(&id);
        assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 6));
        let logged: Vec<String> = node.log(&id).into_iter().map(|line| line.text).collect();
        assert!(logged.iter().any(|line| line.contains("from-42")), "{logged:?}");
        node.strata(&["ps", "-a"]).ok().has(&["k8s_shell_tty_e2e"]);
    });
}

#[test]
fn the_command_lines_everyday_life() {
    test(|node| {
        let image = node.image("busybox");
        let pulled = node.strata(&["pull", &image]).ok();
        assert!(pulled.stdout.contains("sha256:") || pulled.stderr.contains("sha256:"), "{pulled}");
        node.strata(&["images"]).ok().has(&["127.0.0.1:5000/e2e/busybox", "latest"]);
        let id =
            node.strata(&["run", "-d", "--name", "daily", &image, "sh", "-c", "echo up; sleep 1000"]).ok();
        node.strata(&["ps"]).ok().has(&["daily", &id.text()[..12], "Up"]);
        // `strata run` is hidden from Kubernetes.
        assert_eq!(node.crictl(&["pods", "-q"]).ok().text(), "");
        assert_eq!(node.crictl(&["ps", "-aq"]).ok().text(), "");
        node.strata(&["run", "-d", "--name", "daily", &image, "true"]).fails();
        let inspected = node.strata(&["inspect", "daily"]).ok().json();
        assert_eq!(inspected[0]["State"]["Running"], true, "{inspected}");
        strata_e2e::eventually(10, "the log is there", || {
            let logs = node.strata(&["logs", "daily"]).ok();
            if logs.stdout == "up\n" { Ok(()) } else { Err(logs.to_string()) }
        });
        node.strata(&["stop", "-t", "1", "daily"]).ok();
        node.strata(&["ps"]).ok().lacks(&["daily"]);
        node.strata(&["ps", "-a"]).ok().has(&["daily", "Exited (137)"]);
        node.strata(&["start", "daily"]).ok();
        node.strata(&["ps"]).ok().has(&["daily"]);
        node.strata(&["kill", "daily"]).ok();
        node.strata(&["wait", "daily"]).ok().has(&["137"]);
        node.strata(&["tag", &image, "other:name"]).ok();
        node.strata(&["rmi", "other:name"]).ok();
        node.strata(&["rm", "daily"]).ok();
        node.strata(&["rm", "daily"]).fails();
        assert_eq!(node.strata(&["run", "--rm", &image, "sh", "-c", "exit 33"]).code, 33);
        node.strata(&["run", "--rm", "127.0.0.1:5000/e2e/absent", "true"]).fails();
        node.strata(&["info"]).ok();
        node.strata(&["rmi", &image]).ok();
    });
}
