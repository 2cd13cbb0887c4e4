//! What the tests of the bridge run in: network namespaces of their own. Nothing of the machine's is touched.

use super::*;
use crate::net::{PortMapping, Protocol};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkUnspec, LinkVeth};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use strata_sys::ns::{self, NsKind};

pub(super) const WORLD: &str = "203.0.113.2";
pub(super) const NODE: &str = "203.0.113.1";

/// A network namespace that plays the node; one that plays the world, connected to it; and pods'.
pub(super) struct Net {
    pub(super) dir: tempfile::TempDir,
    pins: std::cell::RefCell<Vec<PathBuf>>,
}

impl Drop for Net {
    fn drop(&mut self) {
        for pin in self.pins.borrow().iter() {
            let _ = ns::unpin(pin);
        }
    }
}

/// Runs a test in a thread that is alone in a new network namespace.
pub(super) fn alone<F: Future<Output = ()>>(test: impl FnOnce(Net) -> F + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let run = move || {
        ns::unshare(&[NsKind::Net]).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let net = Net { dir: tempfile::tempdir().unwrap(), pins: std::cell::RefCell::default() };
            net.connect_world().await;
            test(net).await;
        });
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

impl Net {
    /// Pins a new network namespace.
    pub(super) fn netns(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        let at = path.clone();
        let pin = move || {
            ns::unshare(&[NsKind::Net]).unwrap();
            ns::pin(NsKind::Net, &at).unwrap();
        };
        std::thread::spawn(pin).join().unwrap();
        self.pins.borrow_mut().push(path.clone());
        path
    }

    pub(super) fn world(&self) -> PathBuf {
        self.dir.path().join("world")
    }

    async fn connect_world(&self) {
        let world = ns::open(&self.netns("world")).unwrap();
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        let peer = LinkUnspec::new_with_name("up0").setns_by_fd(world.as_raw_fd()).build();
        let veth = LinkVeth::new("up0", "up0").set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
        handle.link().add(veth).execute().await.unwrap();
        handle.link().set(LinkUnspec::new_with_name("lo").up().build()).execute().await.unwrap();
        configure(&handle, NODE).await;
        let runtime = tokio::runtime::Handle::current();
        let enter = move || {
            ns::setns(&world, NsKind::Net).unwrap();
            let _runtime = runtime.enter();
            rtnetlink::new_connection().unwrap()
        };
        let (connection, handle, _) = std::thread::spawn(enter).join().unwrap();
        tokio::spawn(connection);
        configure(&handle, WORLD).await;
    }

    pub(super) async fn pod(&self, bridge: &Bridge, id: &str, ports: &[PortMapping]) -> Result<Attachment> {
        bridge.attach(request(id, &self.netns(id), ports)).await
    }
}

async fn configure(handle: &rtnetlink::Handle, address: &str) {
    let link = handle.link().get().match_name("up0").execute();
    let index = std::pin::pin!(link).try_next().await.unwrap().unwrap().header.index;
    handle.address().add(index, address.parse().unwrap(), 24).execute().await.unwrap();
    handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.unwrap();
}

pub(super) fn request(id: &str, netns: &Path, ports: &[PortMapping]) -> AttachRequest {
    AttachRequest {
        pod_id: id.into(),
        owner: format!("test/{id}"),
        netns: netns.into(),
        ports: ports.to_vec(),
        ..AttachRequest::default()
    }
}

pub(super) fn gone(id: &str) -> DetachRequest {
    DetachRequest { pod_id: id.into(), netns: None, intent: None, attachment: None }
}

/// As a record says it after a restart.
pub(super) fn held(id: &str, attachment: &Attachment) -> Held {
    Held {
        pod_id: id.into(),
        netns: None,
        intent: None,
        attachment: Some(attachment.clone()),
        live: true,
        ready: true,
    }
}

pub(super) fn bridge(subnet: &str) -> Bridge {
    Bridge::new(&config::Network { subnet: subnet.into(), ..config::Network::default() }, None).unwrap()
}

pub(super) fn with_nft(nft: Option<&str>) -> Bridge {
    let subnet = Subnet::parse("10.88.0.0/24").unwrap();
    Bridge::with("strata0".into(), subnet, Firewall::with("strata0", subnet, nft.map(PathBuf::from)))
}

pub(super) fn has_nft() -> bool {
    let there = Firewall::new("x", Subnet::parse("10.88.0.0/24").unwrap()).problem().is_none();
    if !there {
        println!("skipped: needs nft");
    }
    there
}

/// Runs something in a namespace, or in the caller's.
pub(super) fn inside<T: Send + 'static>(netns: Option<&Path>, f: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = netns.map(Path::to_path_buf);
    let run = move || {
        if let Some(netns) = netns {
            ns::setns(ns::open(&netns).unwrap(), NsKind::Net).unwrap();
        }
        f()
    };
    std::thread::spawn(run).join().unwrap()
}

/// Serves, until the test's process ends, who it is and who asks.
pub(super) fn serve(netns: &Path, port: u16, name: &'static str) {
    let listener = inside(Some(netns), move || TcpListener::bind(("0.0.0.0", port)).unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = write!(stream, "{name} {}", peer.ip());
        }
    });
}

pub(super) fn ask(netns: Option<&Path>, address: &str, port: u16) -> std::io::Result<String> {
    let address = SocketAddr::new(address.parse().unwrap(), port);
    inside(netns, move || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

pub(super) fn tcp(host_ip: &str, host_port: i64, container_port: i64) -> PortMapping {
    PortMapping::parse(host_ip, host_port, container_port, Protocol::Tcp).unwrap()
}

pub(super) fn ip(attachment: &Attachment) -> String {
    attachment.ips[0].to_string()
}
