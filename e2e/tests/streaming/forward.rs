//! Ports of pods.

use super::*;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use strata_e2e::command::limited;
use strata_e2e::node::netns::Netns;

/// A running `crictl port-forward`, killed at the end.
pub(super) struct Forward(std::process::Child);

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Forward {
    pub(super) fn start(node: &Node, transport: &str, pod: &str, ports: &[&str]) -> Self {
        let mut outer = node.crictl_command();
        outer.args(["port-forward", "-r", transport, pod]).args(ports);
        // Without timeout(1) around it, so that it can be killed itself.
        let words: Vec<_> = outer.get_args().map(ToOwned::to_owned).collect();
        let limit = limited("true", 90).get_args().count() - 1;
        let mut command = Command::new(&words[limit]);
        command.args(&words[limit + 1..]).envs(outer.get_envs().filter_map(|(k, v)| Some((k, v?))));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(node.netns().run(|| command.spawn()).unwrap())
    }

    pub(super) fn running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

pub(super) fn connect(node: &Node, port: u16) -> TcpStream {
    eventually(30, "the port is forwarded", || {
        let stream =
            node.netns().run(|| TcpStream::connect(("127.0.0.1", port))).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(strata_e2e::patience(30))).unwrap();
        Ok(stream)
    })
}

pub(super) fn ask(mut stream: TcpStream, text: &[u8]) -> io::Result<Vec<u8>> {
    let mut write = stream.try_clone()?;
    let text = text.to_vec();
    let writing = std::thread::spawn(move || {
        let _ = write.write_all(&text);
        let _ = write.shutdown(Shutdown::Write);
    });
    let mut said = Vec::new();
    stream.read_to_end(&mut said)?;
    writing.join().unwrap();
    Ok(said)
}

/// A server in a pod's network that says what it is told. busybox's nc holds two connections that it has not accepted yet;
/// of more at once some are lost by the kernel, first with SYN cookies and then with resets.
pub(super) struct Echo(TcpListener, Option<std::thread::JoinHandle<()>>);

impl Echo {
    pub(super) fn start(node: &Node, pod: &str, port: u16) -> Self {
        let netns = Netns::pinned(&node.dir("netns").join(format!("strata-{pod}"))).unwrap();
        let listener = netns.run(|| TcpListener::bind(("127.0.0.1", port))).unwrap();
        let accepting = listener.try_clone().unwrap();
        let accept = move || {
            while let Ok((mut from, _)) = accepting.accept() {
                std::thread::spawn(move || {
                    let mut to = from.try_clone()?;
                    io::copy(&mut from, &mut to)
                });
            }
        };
        Self(listener, Some(std::thread::spawn(accept)))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Wakes accept(2).
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
        let _ = self.1.take().map(std::thread::JoinHandle::join);
    }
}

#[test]
fn ports_of_a_pod() {
    test(|node| {
        let script = "nc -ll -p 7001 -e sh -c 'read -r x; echo bye $x' & \
                      nc -ll -p 7002 -e sh -c 'exec sleep 1000' & nc -ll -p 7003 -e sh -c 'read -r x' & wait";
        let (pod_id, id) = running(node, script, |_| {});
        eventually(30, "the servers listen", || {
            let listening = node.exec(&id, "netstat -tln | grep -c ':700[123]' || true");
            if listening.trim() == "3" { Ok(()) } else { Err(listening) }
        });
        let _echo = Echo::start(node, &pod_id, 7000);
        for transport in TRANSPORTS {
            let mut forward = Forward::start(
                node,
                transport,
                &pod_id,
                &["17000:7000", "17001:7001", "17002:7002", "17003:7003"],
            );
            // The end of what the client sends comes through, and so does all that follows it.
            let much = vec![b'x'; 4 << 20];
            assert_eq!(ask(connect(node, 17000), &much).unwrap().len(), much.len(), "{transport}");
            assert_eq!(ask(connect(node, 17001), b"here\n").unwrap(), b"bye here\n", "{transport}");
            // Many at once; one whose pod does not read is in nobody's way.
            let mut stuck = connect(node, 17002);
            stuck.write_all(&[0; 64 << 10]).unwrap();
            for round in 0..5 {
                let many: Vec<_> = (0..20).map(|_| connect(node, 17000)).collect();
                let asking: Vec<_> = many
                    .into_iter()
                    .zip(0..)
                    .map(|(stream, n)| {
                        let text = format!("{round}.{n}");
                        std::thread::spawn(move || (ask(stream, text.as_bytes()), text))
                    })
                    .collect();
                for asked in asking {
                    let (said, text) = asked.join().unwrap();
                    assert_eq!(said.unwrap(), text.as_bytes(), "{transport}");
                }
            }
            // Reset by the client, and then by the pod: the session goes on.
            let reset = socket_linger(stuck);
            drop(reset);
            let mut victim = connect(node, 17003);
            // Its server ends without having read all, for which the kernel answers with a reset.
            victim.write_all(&[b"line\n".as_slice(), &[0; 64 << 10]].concat()).unwrap();
            let mut rest = Vec::new();
            let _ = victim.read_to_end(&mut rest);
            assert!(rest.is_empty());
            assert_eq!(ask(connect(node, 17000), b"still here").unwrap(), b"still here", "{transport}");
            assert!(forward.running(), "{transport}");
        }
    });
}

/// Makes a connection end with a reset.
fn socket_linger(stream: TcpStream) -> TcpStream {
    nix::sys::socket::setsockopt(
        &stream,
        nix::sys::socket::sockopt::Linger,
        &nix::libc::linger { l_onoff: 1, l_linger: 0 },
    )
    .unwrap();
    stream
}

#[test]
fn ports_over_plain_channels() {
    test(|node| {
        let (pod_id, id) = running(node, "nc -ll -p 7000 -e cat", |_| {});
        eventually(30, "the server listens", || {
            let listening = node.exec(&id, "netstat -tln | grep -c :7000 || true");
            if listening.trim() == "1" { Ok(()) } else { Err(listening) }
        });
        let request = cri::PortForwardRequest { pod_sandbox_id: pod_id.clone(), port: vec![7000, 7009] };
        let url = node.cri(async |mut c| c.port_forward(request).await).unwrap().url;
        let mut client = Client::connect(node, &url, "v4.channel.k8s.io");
        client.write(0, b"hello").unwrap();
        let mut said: [Vec<u8>; 4] = Default::default();
        let wanted = [
            &[&7000u16.to_le_bytes()[..], b"hello"].concat()[..],
            &7000u16.to_le_bytes(),
            &7009u16.to_le_bytes(),
        ];
        while said[0] != wanted[0] || said[3].len() < 3 {
            let (kind, content) = client.read().unwrap();
            assert_eq!(kind, 2);
            said[usize::from(content[0])].extend_from_slice(&content[1..]);
        }
        assert_eq!([&said[1][..], &said[2]], wanted[1..]);
        let why = String::from_utf8_lossy(&said[3][2..]).into_owned();
        assert!(why.contains("7009") && why.contains("refused"), "{why}");
        let request = cri::PortForwardRequest { pod_sandbox_id: pod_id, port: Vec::new() };
        let url = node.cri(async |mut c| c.port_forward(request).await).unwrap().url;
        assert_eq!(raw::upgrade(node, &url, "v4.channel.k8s.io").0, 400, "no port is named");
    });
}

#[test]
fn a_pod_in_the_hosts_network() {
    test(|node| {
        node.pull("busybox");
        let mut config = pod(node, "host");
        let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        security.namespace_options = Some(cri::NamespaceOption {
            network: cri::NamespaceMode::Node.into(),
            pid: cri::NamespaceMode::Container.into(),
            ..Default::default()
        });
        let pod_id = node.run_pod(&config);
        // On ::1 alone.
        let listener = node.netns().run(|| std::net::TcpListener::bind("[::1]:7000")).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).unwrap();
            stream.write_all(format!("heard {said}").as_bytes()).unwrap();
        });
        let _forward = Forward::start(node, "spdy", &pod_id, &["17000:7000"]);
        assert_eq!(ask(connect(node, 17000), b"by name").unwrap(), b"heard by name");
    });
}
