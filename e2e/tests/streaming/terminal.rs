//! Terminals, attaching, and TLS.

use super::*;
use strata_e2e::pty::Session;

fn session(node: &Node, args: &[&str]) -> Session {
    let mut command = node.crictl_command();
    command.args(args);
    node.netns().run(|| Session::start(&command)).unwrap()
}

/// Waits in a shell until its terminal has this size: a client says it on a channel of its own, which what is typed may overtake.
fn sized(shell: &mut Session, size: &str) {
    shell.send(&format!("while [ \"$(stty size)\" != '{size}' ]; do sleep 0.05; done; echo si''zed\n"));
    shell.expect("sized");
}

#[test]
fn a_terminal_over_both_transports() {
    test(|node| {
        let (_, id) = running(node, "sleep 1000", |_| {});
        for transport in TRANSPORTS {
            let mut shell = session(node, &["exec", "-r", transport, "-it", &id, "sh"]);
            shell.expect("# ");
            shell.send("tty; echo $TERM\n");
            shell.expect("/dev/pts/");
            shell.expect("xterm");
            sized(&mut shell, "24 80");
            shell.resize(40, 120).unwrap();
            sized(&mut shell, "40 120");
            // It has the terminal when it says so.
            shell.send("sh -c 'echo star\"\"ted; exec sleep 1000'\n");
            shell.expect("started");
            shell.send("\x03");
            shell.expect("# ");
            shell.send("exit 9\n");
            shell.expect("exit code 9");
            assert!(!shell.wait().success());
        }
    });
}

#[test]
fn a_client_that_goes_hangs_up() {
    test(|node| {
        let (_, id) = running(node, "sleep 1000", |_| {});
        // Without a word, as when a laptop is closed: kill -9 of all that has the connection.
        let mut shell = session(node, &["exec", "-it", &id, "sh", "-c", "echo up; exec sleep 2345"]);
        shell.expect("up");
        eventually(30, "it runs", || match count(node, &id, "sleep 2345") {
            1 => Ok(()),
            n => Err(n.to_string()),
        });
        for (pid, line) in process::naming(node.socket().parent().unwrap()) {
            if line.contains("sleep 2345") {
                process::kill(pid);
            }
        }
        eventually(30, "the terminal's program is hung up", || match count(node, &id, "sleep 2345") {
            0 => Ok(()),
            n => Err(n.to_string()),
        });
        let there = |file: &str| {
            let found = node.exec(&id, &format!("ls /tmp/{file} 2>&1 || true"));
            if found == format!("/tmp/{file}\n") { Ok(()) } else { Err(found) }
        };
        let script = "touch /tmp/up; cat > /tmp/got; touch /tmp/over";
        let client = Client::connect(node, &script_url(node, &id, script), "v4.channel.k8s.io");
        eventually(30, "it runs", || there("up"));
        assert!(there("over").is_err());
        drop(client);
        eventually(30, "its input has ended", || there("over"));
    });
}

#[test]
fn attaching_over_both_transports() {
    test(|node| {
        let script =
            "while read -r line; do echo out $line; echo err $line >&2; [ \"$line\" = end ] && exit 4; done";
        let (pod_id, id) = running(node, script, |config| config.stdin = true);
        let url = || {
            let request = cri::AttachRequest { container_id: id.clone(), stdout: true, ..Default::default() };
            node.cri(async |mut c| c.attach(request).await).unwrap().url
        };
        let mut watcher = Client::connect(node, &url(), "v4.channel.k8s.io");
        // Its first message says that the session is there.
        assert_eq!(watcher.read(), Some((2, vec![1])));
        for transport in TRANSPORTS {
            let mut command = node.crictl_command();
            command.args(["attach", "-i", "-r", transport, &id]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = node.netns().run(|| command.spawn()).unwrap();
            let mut stdin = child.stdin.take().unwrap();
            writeln!(stdin, "one over {transport}").unwrap();
            let mut line = [0; 128];
            let n = child.stdout.as_mut().unwrap().read(&mut line).unwrap();
            assert_eq!(String::from_utf8_lossy(&line[..n]), format!("out one over {transport}\n"));
            let n = child.stderr.as_mut().unwrap().read(&mut line).unwrap();
            assert_eq!(String::from_utf8_lossy(&line[..n]), format!("err one over {transport}\n"));
            // The client goes, the container stays.
            child.kill().unwrap();
            child.wait().unwrap();
            for (pid, line) in process::naming(node.socket().parent().unwrap()) {
                if line.contains(" attach -i ") {
                    process::kill(pid);
                }
            }
            assert_eq!(node.status(&id).state(), cri::ContainerState::ContainerRunning);
        }
        let ended = crictl(node, &["attach", "-i", &id], b"end\n").ok();
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("out end\n", "err end\n"));
        assert_eq!(node.wait_exit(&id).exit_code, 4);
        let said = watcher.all();
        assert!(
            said.text(1).ends_with("out one over websocket\nout end\n") && said.text(2).is_empty(),
            "{said:?}"
        );
        assert!(said.text(3).contains("Success"), "{said:?}");

        let pod = pod(node, "stream");
        let mut config = container(node, "shell", "exec sh");
        (config.stdin, config.tty) = (true, true);
        let id = node.run_container(&pod_id, &pod, &config);
        for transport in TRANSPORTS {
            let mut shell = session(node, &["attach", "-it", "-r", transport, &id]);
            sized(&mut shell, "24 80");
            if transport == "websocket" {
                shell.send("exit\n");
                assert!(shell.wait().success(), "{}", shell.output());
            }
        }
    });
}

#[test]
fn keys_detach_from_a_terminal() {
    test(|node| {
        let (_, id) = running(node, "exec sh", |config| (config.stdin, config.tty) = (true, true));
        for transport in TRANSPORTS {
            let mut shell = session(node, &["attach", "-it", "-r", transport, &id]);
            shell.send(&format!("echo over ''{transport}\n"));
            shell.expect(&format!("over {transport}"));
            // crictl's keys, ctrl-p and ctrl-q: it ends its input, and waits for the rest to end.
            shell.send("\x10\x11");
            assert!(shell.wait().success(), "{}", shell.output());
            assert_eq!(node.status(&id).state(), cri::ContainerState::ContainerRunning);
        }
    });
}

#[test]
fn over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path().join("pki")).unwrap();
    let (server, client) = (authority.server().unwrap(), authority.client().unwrap());
    let config = format!(
        "[streaming]\ntls_cert = \"{}\"\ntls_key = \"{}\"\n",
        server.cert.display(),
        server.key.display()
    );
    test_with(&config, |node| {
        let (_, id) = running(node, "sleep 1000", |_| {});
        let url = script_url(node, &id, "true");
        assert!(url.starts_with("https://127.0.0.1:"), "{url}");
        let (ca, cert, key) = (authority.ca(), client.cert.clone(), client.key.clone());
        let tls = [
            "--tls-ca",
            ca.to_str().unwrap(),
            "--tls-cert",
            cert.to_str().unwrap(),
            "--tls-key",
            key.to_str().unwrap(),
        ];
        for transport in TRANSPORTS {
            let args =
                [&["exec", "-r", transport, "-i"][..], &tls, &[&id, "sh", "-c", "cat; exit 5"]].concat();
            let said = crictl(node, &args, b"sealed\n");
            assert!(said.stdout == "sealed\n" && said.stderr.contains("exit code 5"), "{said}");
        }
        // Another authority's word is not taken.
        let other = Authority::new(dir.path().join("other")).unwrap();
        let args =
            ["exec", "--tls-ca", other.ca().to_str().unwrap(), tls[2], tls[3], tls[4], tls[5], &id, "true"]
                .map(ToOwned::to_owned);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        assert!(crictl(node, &args, b"").fails().contains("certificate"));
        // Without TLS nothing is said.
        let plain = url.replace("https://", "http://");
        let (host, _) = plain.trim_start_matches("http://").split_once('/').unwrap();
        let mut stream = node.netns().run(|| std::net::TcpStream::connect(host)).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(!said.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&said));
    });
}
