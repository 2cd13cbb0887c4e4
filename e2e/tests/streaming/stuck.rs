//! One connection of a port forward of which the pod takes nothing, and the others of its session.

use super::forward::{Echo, Forward, ask, connect};
use super::*;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;
use strata_e2e::node::netns::Netns;

/// How long stratad waits, in seconds; the kernel tells of what is taken slowly only now and then.
const CONFIG: &str = "[streaming]\nstall_timeout = 5\n";

/// More than all buffers on the way hold.
const ENDLESS: usize = 96 << 20;

fn inside(node: &Node, pod: &str) -> Netns {
    Netns::pinned(&node.dir("netns").join(format!("strata-{pod}"))).unwrap()
}

fn listen(node: &Node, pod: &str, port: u16) -> TcpListener {
    inside(node, pod).run(|| TcpListener::bind(("127.0.0.1", port))).unwrap()
}

fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let (stream, _) =
        eventually(30, "the pod is connected to", || listener.accept().map_err(|e| e.to_string()));
    stream.set_nonblocking(false).unwrap();
    stream
}

/// Counts what a connection brings, with a pause after each so many bytes.
fn slowly(mut stream: TcpStream) -> io::Result<usize> {
    let (mut buffer, mut all) = (vec![0; 128 << 10], 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(all),
            n => all += n,
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What comes until a connection breaks.
fn until_broken(mut stream: TcpStream) -> (usize, io::Error) {
    stream.set_read_timeout(Some(strata_e2e::patience(30))).unwrap();
    let (mut buffer, mut all) = (vec![0; 128 << 10], 0);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => panic!("{all} bytes and an end, as if that had been all"),
            Ok(n) => all += n,
            Err(e) => return (all, e),
        }
    }
}

/// By crictl, whose part it is to be one connection for many.
#[test]
fn one_that_is_never_read_does_not_stop_the_others() {
    test_with(CONFIG, |node| {
        let (pod, _) = running(node, "exec sleep 1000", |_| {});
        let _echo = Echo::start(node, &pod, 7000);
        let (never, slow) = (listen(node, &pod, 7001), listen(node, &pod, 7002));
        for transport in TRANSPORTS {
            let mut forward =
                Forward::start(node, transport, &pod, &["17000:7000", "17001:7001", "17002:7002"]);
            let mut idle = connect(node, 17000);
            idle.write_all(b"x").unwrap();
            idle.read_exact(&mut [0]).unwrap();
            let mut stuck = connect(node, 17001);
            let stuck_inside = accept(&never);
            let stuck = std::thread::spawn(move || stuck.write_all(&vec![0; ENDLESS]));
            let mut uploading = connect(node, 17002);
            let slow_inside = accept(&slow);
            let counted = std::thread::spawn(|| slowly(slow_inside));
            let uploaded = std::thread::spawn(move || uploading.write_all(&vec![0; 8 << 20]));
            let much = vec![b'x'; 4 << 20];
            for round in 0..3 {
                let said =
                    ask(connect(node, 17000), &much).unwrap_or_else(|e| panic!("{transport} {round}: {e}"));
                assert!(said == much, "{transport} {round}: {} bytes", said.len());
            }
            // That one ended, and as what it is: not as an upload that has come to its end.
            assert!(stuck.join().unwrap().is_err(), "{transport}");
            let (came, broken) = until_broken(stuck_inside);
            assert_eq!(broken.kind(), io::ErrorKind::ConnectionReset, "{transport}, after {came}");
            assert!(came < ENDLESS);
            // What is taken slowly is taken whole.
            uploaded.join().unwrap().unwrap();
            assert_eq!(counted.join().unwrap().unwrap(), 8 << 20, "{transport}");
            idle.write_all(b"y").unwrap();
            idle.read_exact(&mut [0]).unwrap();
            assert!(forward.running(), "{transport}");
        }
    });
}

/// One that has the session to itself is waited for, as it would be without a session.
#[test]
fn one_that_is_alone_is_waited_for() {
    test_with("[streaming]\nstall_timeout = 1\n", |node| {
        let (pod, _) = running(node, "exec sleep 1000", |_| {});
        let listener = listen(node, &pod, 7001);
        let _forward = Forward::start(node, "spdy", &pod, &["17001:7001"]);
        let mut alone = connect(node, 17001);
        let mut inside = accept(&listener);
        let written = std::thread::spawn(move || alone.write_all(&vec![7; ENDLESS]));
        std::thread::sleep(Duration::from_secs(3));
        assert!(!written.is_finished());
        assert_eq!(io::copy(&mut inside, &mut io::sink()).unwrap(), ENDLESS as u64);
        written.join().unwrap().unwrap();
    });
}

/// Plain channels have no resets: the port's error channel says it.
#[test]
fn a_port_of_plain_channels_is_given_up_alone() {
    test_with("[streaming]\nstall_timeout = 2\n", |node| {
        let (pod, _) = running(node, "exec sleep 1000", |_| {});
        let _echo = Echo::start(node, &pod, 7000);
        let never = listen(node, &pod, 7001);
        let request = cri::PortForwardRequest { pod_sandbox_id: pod.clone(), port: vec![7001, 7000] };
        let url = node.cri(async |mut c| c.port_forward(request).await).unwrap().url;
        let mut client = Client::connect(node, &url, "v4.channel.k8s.io");
        let mut writing = client.another();
        let _kept = accept(&never);
        let written = std::thread::spawn(move || {
            for _ in 0..ENDLESS >> 20 {
                writing.write(0, &[0; 1 << 20])?;
            }
            writing.write(2, b"and the other one")
        });
        let mut said: [Vec<u8>; 4] = Default::default();
        while said[1].len() < 3 || said[2].len() < 2 + 17 {
            let (kind, content) = client.read().unwrap();
            assert_eq!(kind, 2);
            said[usize::from(content[0])].extend_from_slice(&content[1..]);
        }
        written.join().unwrap().unwrap();
        assert_eq!(&said[2][2..], b"and the other one");
        let why = String::from_utf8_lossy(&said[1][2..]).into_owned();
        assert!(why.contains("7001") && why.contains("given up"), "{why}");
    });
}
