//! Exec, Attach and PortForward, by crictl over both of its transports and by a client that speaks the older protocols.

mod forward;
mod left;
mod many;
mod protocol;
mod protocols;
mod raw;
mod spdy;
mod stuck;
mod terminal;

use k8s_cri::v1 as cri;
use raw::Client;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use strata_e2e::command::{Output, finished};
use strata_e2e::eventually;
use strata_e2e::node::{Node, container, pod, process, test, test_with};
use strata_e2e::tls::Authority;
use tonic::{Code, Status};

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

/// A pod with a container; their IDs.
fn running(node: &Node, script: &str, change: impl FnOnce(&mut cri::ContainerConfig)) -> (String, String) {
    node.pull("busybox");
    let pod = pod(node, "stream");
    let pod_id = node.run_pod(&pod);
    let mut config = container(node, "stream", script);
    change(&mut config);
    let id = node.run_container(&pod_id, &pod, &config);
    (pod_id, id)
}

/// crictl in the node's network, with this input.
fn crictl(node: &Node, args: &[&str], input: &[u8]) -> Output {
    let mut command = node.crictl_command();
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = node.netns().run(|| command.spawn()).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feed = std::thread::spawn(move || _ = stdin.write_all(&input));
    let done = child.wait_with_output().unwrap();
    feed.join().unwrap();
    finished(args.join(" "), &done)
}

/// How many processes that a container sees have this in their command line.
fn count(node: &Node, id: &str, what: &str) -> usize {
    let (first, rest) = what.split_at(1);
    let listed = node.exec(id, &format!("ps -o args | grep -c '[{first}]{rest}' || true"));
    listed.trim().parse().unwrap_or_else(|e| panic!("{listed:?}: {e}"))
}

fn exec_url(node: &Node, request: cri::ExecRequest) -> Result<String, Status> {
    node.cri(async |mut c| c.exec(request).await).map(|answer| answer.url)
}

/// A session of a script, with input and both outputs.
fn script_url(node: &Node, id: &str, script: &str) -> String {
    let request = cri::ExecRequest {
        container_id: id.into(),
        cmd: ["sh", "-c", script].map(String::from).to_vec(),
        tty: false,
        stdin: true,
        stdout: true,
        stderr: true,
    };
    exec_url(node, request).unwrap()
}

#[test]
fn exec_over_both_transports() {
    test(|node| {
        let (_, id) = running(node, "sleep 1000", |_| {});
        for transport in TRANSPORTS {
            let run = |flags: &str, script: &str, input: &[u8]| {
                crictl(node, &["exec", "-r", transport, flags, &id, "sh", "-c", script], input)
            };
            let both = run("-q", "echo out; echo err >&2", b"").ok();
            assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\n", "err\n"), "{transport}");
            let failed = run("-q", "echo some; exit 3", b"");
            assert!(failed.stdout == "some\n" && failed.code != 0, "{failed}");
            assert!(failed.stderr.contains("exit code 3"), "{failed}");
            // The input's end reaches the program, which goes on without it.
            let said = run("-i", "cat; sleep 0.2; echo the end", b"a line\n").ok();
            assert_eq!(said.stdout, "a line\nthe end\n", "{transport}");
            // A program that reads nothing ends all the same.
            run("-i", "echo early", &vec![b'x'; 4 << 20]).ok().has(&["early"]);
            let much = vec![b'x'; 20 << 20];
            let counted = run("-i", "wc -c", &much).ok();
            assert_eq!(counted.text(), much.len().to_string(), "{transport}");
            let echoed = run("-i", "cat", &much[..8 << 20]).ok();
            assert_eq!(echoed.stdout.len(), 8 << 20, "{transport}");
            // What it leaves behind with its output open does not hold the session up.
            run("-q", "sleep 1000 & echo left", b"").ok().has(&["left"]);
            let missing = crictl(node, &["exec", "-r", transport, &id, "/no/such"], b"").fails();
            assert!(missing.contains("/no/such"), "{missing}");
        }
    });
}

#[test]
fn what_is_asked_for_wrongly() {
    test(|node| {
        let (pod_id, id) = running(node, "sleep 1000", |_| {});
        let good = || cri::ExecRequest {
            container_id: id.clone(),
            cmd: vec!["true".into()],
            stdout: true,
            ..Default::default()
        };
        exec_url(node, good()).unwrap();
        for (request, code) in [
            (cri::ExecRequest { stdout: false, ..good() }, Code::InvalidArgument),
            (cri::ExecRequest { tty: true, stderr: true, ..good() }, Code::InvalidArgument),
            (cri::ExecRequest { cmd: Vec::new(), ..good() }, Code::InvalidArgument),
            (cri::ExecRequest { container_id: String::new(), ..good() }, Code::InvalidArgument),
            (cri::ExecRequest { container_id: "f00".into(), ..good() }, Code::NotFound),
        ] {
            let text = format!("{request:?}");
            assert_eq!(exec_url(node, request).unwrap_err().code(), code, "{text}");
        }
        let attach = |container_id: &str, stdout| {
            let request =
                cri::AttachRequest { container_id: container_id.into(), stdout, ..Default::default() };
            node.cri(async |mut c| c.attach(request).await)
        };
        assert_eq!(attach(&id, false).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(attach("f00", true).unwrap_err().code(), Code::NotFound);
        let forward = |pod: &str, port: &[i32]| {
            let request = cri::PortForwardRequest { pod_sandbox_id: pod.into(), port: port.into() };
            node.cri(async |mut c| c.port_forward(request).await)
        };
        forward(&pod_id, &[]).unwrap();
        for port in [0, -1, 65536] {
            assert_eq!(forward(&pod_id, &[port]).unwrap_err().code(), Code::InvalidArgument, "{port}");
        }
        assert_eq!(forward("f00", &[80]).unwrap_err().code(), Code::NotFound);
        // What was right when the URL was given may be wrong when it is used.
        let late = exec_url(node, good()).unwrap();
        node.stop_container(&id, 0).unwrap();
        let said = Client::connect(node, &late, "v4.channel.k8s.io").all();
        let status: Value = serde_json::from_str(&said.text(3)).unwrap();
        assert!(status["message"].as_str().unwrap().contains("is not running"), "{status}");
        assert_eq!(exec_url(node, good()).unwrap_err().code(), Code::FailedPrecondition);
        assert_eq!(attach(&id, true).unwrap_err().code(), Code::FailedPrecondition);
        node.stop_pod(&pod_id).unwrap();
        assert_eq!(forward(&pod_id, &[80]).unwrap_err().code(), Code::FailedPrecondition);
    });
}

#[test]
fn tokens_and_protocols() {
    test(|node| {
        let (_, id) = running(node, "sleep 1000", |_| {});
        let url = script_url(node, &id, "echo once");
        assert!(url.starts_with("http://127.0.0.1:"), "{url}");
        let said = Client::connect(node, &url, "v4.channel.k8s.io").all();
        assert_eq!((said.text(1).as_str(), said.closed), ("once\n", Some(1000)));
        assert_eq!(said.text(3), json!({ "metadata": {}, "status": "Success" }).to_string());
        let status = |url: &str, protocol| raw::upgrade(node, url, protocol).0;
        let (refused, mut rest) = raw::upgrade(node, &url, "v4.channel.k8s.io");
        assert_eq!(refused, 404, "a token is good once");
        // And whoever has none gets one try: the connection ends.
        let mut text = String::new();
        std::io::Read::read_to_string(&mut rest, &mut text).unwrap();
        assert!(text.contains("a URL is good once"), "{text}");
        let url = script_url(node, &id, "echo never");
        let (base, token) = url.rsplit_once('/').unwrap();
        let forged: String = token.chars().map(|c| if c == '0' { '1' } else { '0' }).collect();
        assert_eq!(status(&format!("{base}/{forged}"), "v4.channel.k8s.io"), 404);
        assert_eq!(status(&format!("{base}/"), "v4.channel.k8s.io"), 404);
        // A right to one thing is none to another, and is gone after it was tried.
        assert_eq!(status(&url.replace("/exec/", "/attach/"), "v4.channel.k8s.io"), 404);
        assert_eq!(status(&url, "v4.channel.k8s.io"), 404);
        assert_eq!(status(&script_url(node, &id, "true"), "v9.channel.k8s.io"), 403);

        let script = "read -r line; echo got $line; echo err >&2; exit 7";
        for (protocol, ends) in
            [("channel.k8s.io", "exit status 7"), ("v4.channel.k8s.io", "NonZeroExitCode")]
        {
            let mut client = Client::connect(node, &script_url(node, &id, script), protocol);
            client.write(0, b"input\n").unwrap();
            let said = client.all();
            assert_eq!(
                (said.text(1).as_str(), said.text(2).as_str()),
                ("got input\n", "err\n"),
                "{protocol}"
            );
            assert!(said.text(3).contains(ends), "{protocol}: {said:?}");
        }
        let mut client = Client::connect(node, &script_url(node, &id, script), "v4.base64.channel.k8s.io");
        client.send(1, b"0aW5wdXQK").unwrap();
        let mut said = Vec::new();
        while let Some((1, content)) = client.read() {
            said.push(String::from_utf8(content).unwrap());
        }
        assert!(said.contains(&"1Z290IGlucHV0Cg==".to_owned()), "{said:?}");
        // v5: the client ends its input.
        let mut client =
            Client::connect(node, &script_url(node, &id, "cat; echo the end"), "v5.channel.k8s.io");
        client.write(0, b"x\n").unwrap();
        client.send(2, &[255, 0]).unwrap();
        assert_eq!(client.all().text(1), "x\nthe end\n");
    });
}
