//! A hundred at once, and those that are slow.

use super::forward::Echo;
use super::protocol::{ERROR, PIPES, Protocol, STDIN, STDOUT};
use super::spdy::{Frame, Spdy};
use super::*;
use std::net::TcpListener;
use std::time::Duration;
use strata_e2e::node::netns::Netns;

/// The newest one of each transport.
const NEWEST: [Protocol; 2] =
    [Protocol { spdy: true, name: "v4.channel.k8s.io" }, Protocol { spdy: false, name: "v5.channel.k8s.io" }];

#[test]
fn a_hundred_sessions_at_once() {
    test(|node| {
        let (_, id) = running(node, "sleep 1000", |_| {});
        for protocol in NEWEST {
            let mut sessions: Vec<_> = (0..100)
                .map(|n| {
                    let url = script_url(node, &id, &format!("echo {n}; cat; echo bye"));
                    protocol.session(node, &url, &PIPES)
                })
                .collect();
            // All of them live: each has said its number before any is let go.
            for (n, session) in sessions.iter_mut().enumerate() {
                assert_eq!(session.until(STDOUT, "\n"), format!("{n}\n"), "{protocol:?}");
            }
            for session in &mut sessions {
                session.write(STDIN, b"all\n").unwrap();
                session.end_input().unwrap();
            }
            for session in &mut sessions {
                let said = session.all();
                assert_eq!(said.text(STDOUT), "all\nbye\n", "{protocol:?}: {said:?}");
                assert_eq!(protocol.exit_code(&said.text(ERROR)), 0, "{protocol:?}");
            }
        }
    });
}

fn forward_url(node: &Node, pod: &str) -> String {
    let request = cri::PortForwardRequest { pod_sandbox_id: pod.into(), port: Vec::new() };
    node.cri(async |mut c| c.port_forward(request).await).unwrap().url
}

/// Opens a connection to a port: its error stream and its data stream.
fn open(spdy: &mut Spdy, port: u16, request: usize) -> [u32; 2] {
    let (port, request) = (port.to_string(), request.to_string());
    ["error", "data"].map(|kind| spdy.open(&[("streamtype", kind), ("port", &port), ("requestid", &request)]))
}

/// The next data on a stream; that all else is still in order.
fn next(spdy: &mut Spdy) -> (u32, Vec<u8>, bool) {
    loop {
        match spdy.read().expect("the session goes on") {
            Frame::Data { stream, bytes, last } => return (stream, bytes, last),
            Frame::Reset(stream) => panic!("stream {stream} was reset"),
            Frame::Reply(_) | Frame::Other => {}
        }
    }
}

#[test]
fn a_hundred_streams_and_a_hundred_connections_of_port_forwards() {
    test(|node| {
        let (pod, _) = running(node, "exec sleep 1000", |_| {});
        let _echo = Echo::start(node, &pod, 7000);
        // One with a hundred, then a hundred with one each.
        for (connections, each) in [(1, 100), (100, 1)] {
            let mut forwards: Vec<_> = (0..connections)
                .map(|_| {
                    let mut spdy = Spdy::connect(node, &forward_url(node, &pod), "portforward.k8s.io");
                    let pairs: Vec<_> = (0..each).map(|n| open(&mut spdy, 7000, n)).collect();
                    (spdy, pairs)
                })
                .collect();
            // All of them live: each has been answered before any is ended.
            for ended in [false, true] {
                for (spdy, pairs) in &mut forwards {
                    for [_, data] in pairs {
                        spdy.data(*data, format!("{data} {ended}.").as_bytes(), ended).unwrap();
                    }
                }
                for (spdy, pairs) in &mut forwards {
                    // A stream that ends says so, and so does its error stream, which says nothing else.
                    let mut ends = if ended { 2 * each } else { 0 };
                    let mut said = std::collections::BTreeMap::<u32, String>::new();
                    let wanted = pairs.iter().map(|[_, data]| (*data, format!("{data} {ended}."))).collect();
                    while said != wanted || ends > 0 {
                        let (stream, bytes, last) = next(spdy);
                        if !bytes.is_empty() {
                            said.entry(stream).or_default().push_str(&String::from_utf8_lossy(&bytes));
                        }
                        if last {
                            ends -= 1;
                        }
                    }
                }
            }
        }
    });
}

/// stratad's memory, in bytes.
fn memory(node: &Node) -> usize {
    let pid = node.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

const MUCH: usize = 64 << 20;

#[test]
fn slow_readers_and_writers_are_waited_for() {
    test(|node| {
        let (_, id) = running(node, "sleep 1000", |_| {});
        let before = memory(node);
        for protocol in NEWEST {
            let script = format!("head -c {MUCH} /dev/zero; touch /tmp/written");
            let mut slow = protocol.session(node, &script_url(node, &id, &script), &PIPES);
            // A program that does not read for now, and a client that does not care.
            let reader = "while [ ! -e /tmp/read-now ]; do sleep 0.05; done; wc -c";
            let mut eager = protocol.session(node, &script_url(node, &id, reader), &PIPES);
            let mut writing = eager.another();
            let written = std::thread::spawn(move || {
                for _ in 0..MUCH >> 20 {
                    writing.write(STDIN, &[0; 1 << 20]).unwrap();
                }
                writing.end_input().unwrap();
            });
            std::thread::sleep(Duration::from_millis(1500));
            assert!(!written.is_finished(), "the client waits for its reader");
            let grown = memory(node).saturating_sub(before);
            assert!(grown < 24 << 20, "{protocol:?}: {grown} bytes more for clients that wait");
            assert_eq!(node.exec(&id, "ls /tmp"), "", "the writer waits for its reader");
            assert_eq!(slow.all().channels[STDOUT].len(), MUCH);
            node.exec(&id, "touch /tmp/read-now; ls /tmp/written");
            written.join().unwrap();
            assert_eq!(eager.all().text(STDOUT).trim(), MUCH.to_string());
            node.exec(&id, "rm /tmp/read-now /tmp/written");
        }
    });
}

#[test]
fn slow_clients_of_ports_are_waited_for() {
    test(|node| {
        let (pod, _) = running(node, "exec sleep 1000", |_| {});
        let inside = Netns::pinned(&node.dir("netns").join(format!("strata-{pod}"))).unwrap();
        let listener = inside.run(|| TcpListener::bind(("127.0.0.1", 7000))).unwrap();
        let before = memory(node);
        let mut spdy = Spdy::connect(node, &forward_url(node, &pod), "portforward.k8s.io");
        let [error, data] = open(&mut spdy, 7000, 0);
        let mut server = listener.accept().unwrap().0;
        let served = std::thread::spawn(move || server.write_all(&vec![7; MUCH]));
        std::thread::sleep(Duration::from_millis(1000));
        assert!(!served.is_finished(), "the pod waits for the client");
        let grown = memory(node).saturating_sub(before);
        assert!(grown < 16 << 20, "{grown} bytes more for a client that waits");
        // A client that gives one up at last leaves the others as they are.
        let mut all = 0;
        loop {
            let (stream, bytes, last) = next(&mut spdy);
            assert!(stream == data && !last, "{stream}");
            all += bytes.len();
            if all >= MUCH / 2 {
                break;
            }
        }
        spdy.reset(data).unwrap();
        let [_, second] = open(&mut spdy, 7000, 1);
        // Meanwhile the client reads: what it is told of the second one comes behind what was sent of the first.
        let served_again = std::thread::spawn(move || listener.accept()?.0.write_all(&vec![8; MUCH]));
        let (mut all, mut ended) = (0, false);
        while !ended {
            let (stream, bytes, last) = next(&mut spdy);
            match stream {
                stream if stream == second => (all, ended) = (all + bytes.len(), last),
                // What was under way of the first one.
                stream => assert!(stream == data || (stream == error && bytes.is_empty()), "{stream}"),
            }
        }
        assert_eq!(all, MUCH);
        served_again.join().unwrap().unwrap();
        assert!(served.join().unwrap().is_err(), "the pod is told that nobody listens");
    });
}
