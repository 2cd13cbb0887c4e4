//! Ports of a pod: each connection of a client goes to localhost in the pod's network namespace.
//!
//! What goes wrong with one connection is told on its error stream if it could not be made; kubectl and crictl end their
//! whole session then. A connection that broke later ends its own stream only (kubernetes issue 111825), and so does one of which
//! the pod takes nothing while others wait behind it (see [`super::demux`]).

use super::OPEN_WITHIN;
use super::channel::{Outgoing, PIECE};
use super::demux::{Cut, Incoming, Received};
use super::spdy::{Connection, Opened, value};
use crate::error::{Error, Kind, Result};
use crate::node::Node;
use crate::pod::short;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use strata_sys::ns::{self, NsKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The most ports that one request may name: each has two channels, numbered in a byte.
pub(crate) const MAX_PORTS: usize = 64;

/// How long a port may take to answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// The longest name of a request. Clients number them.
const MAX_REQUEST: usize = 64;

/// How often streams that wait for their other half are looked at.
const TICK: Duration = Duration::from_secs(5);

/// Streams that wait for their other half, by request.
#[derive(Default)]
struct Waiting(HashMap<String, (Instant, Opened)>);

impl Waiting {
    /// Takes a stream; port, data and error stream of a request whose other one is there.
    async fn pair(&mut self, opened: Opened) -> Option<(u16, Opened, Opened)> {
        if value(&opened.headers, "requestid").len() > MAX_REQUEST {
            let _ = opened.outgoing.reset().await;
            return None;
        }
        let kind = value(&opened.headers, "streamtype").to_owned();
        let port = value(&opened.headers, "port").parse::<u16>().ok().filter(|port| *port > 0);
        let (Some(port), "data" | "error") = (port, kind.as_str()) else {
            let _ = opened.outgoing.reset().await;
            return None;
        };
        let request = match (value(&opened.headers, "requestid"), kind.as_str()) {
            // Clients of old number nothing, and open the error stream just before the data stream.
            ("", "data") => format!("stream {}", opened.stream.saturating_sub(2)),
            ("", _) => format!("stream {}", opened.stream),
            (id, _) => format!("request {id}"),
        };
        // Only what is needed is kept while it waits.
        let mut opened = opened;
        opened.headers = vec![("streamtype".into(), kind.clone()), ("port".into(), port.to_string())];
        match self.0.remove(&request) {
            None => {
                self.0.insert(request, (Instant::now(), opened));
                None
            }
            Some((since, first)) if value(&first.headers, "streamtype") == kind => {
                let _ = opened.outgoing.reset().await;
                self.0.insert(request, (since, first));
                None
            }
            Some((_, first)) if kind == "data" => Some((port, opened, first)),
            Some((_, first)) => {
                let port = value(&first.headers, "port").parse().unwrap_or(port);
                Some((port, first, opened))
            }
        }
    }

    /// Gives up streams whose other half has not come.
    async fn expire(&mut self) {
        let old: Vec<_> = self.0.extract_if(|_, (since, _)| since.elapsed() > OPEN_WITHIN).collect();
        for (_, (_, opened)) in old {
            let _ = opened.outgoing.reset().await;
        }
    }
}

/// Forwards what an SPDY client asks for, until it goes.
pub(super) async fn spdy(node: &Arc<Node>, pod: &str, mut connection: Connection) {
    let mut waiting = Waiting::default();
    let mut relays = JoinSet::new();
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            opened = connection.next() => {
                let Some(opened) = opened else { return };
                if let Some((port, data, error)) = waiting.pair(opened).await {
                    let (node, pod) = (node.clone(), pod.to_owned());
                    // Nothing comes on the error stream, which must not count as one that waits for the other.
                    let error = error.outgoing;
                    relays.spawn(async move {
                        let told = forward(&node, &pod, port, data.incoming, data.outgoing, true).await;
                        tell(&pod, port, told, error).await;
                    });
                }
            }
            _ = relays.join_next(), if !relays.is_empty() => {}
            _ = tick.tick() => waiting.expire().await,
        }
    }
}

/// Forwards the ports that were asked for with the request, one connection each, until all of them have ended.
pub(super) async fn channels(node: Arc<Node>, pod: String, ports: Vec<(u16, Incoming, Outgoing, Outgoing)>) {
    let forwards = ports.into_iter().map(|(port, incoming, data, error)| {
        let (node, pod) = (node.clone(), pod.clone());
        async move {
            // Both channels begin with the port.
            for channel in [&data, &error] {
                if channel.write(&port.to_le_bytes()).await.is_err() {
                    return;
                }
            }
            let told = forward(&node, &pod, port, incoming, data, false).await;
            tell(&pod, port, told, error).await;
        }
    });
    futures_util::future::join_all(forwards).await;
}

async fn tell(pod: &str, port: u16, told: Result<()>, error: Outgoing) {
    if let Err(e) = told {
        let text = format!("error forwarding port {port} to pod {}: {e}", short(pod));
        let _ = error.write(text.as_bytes()).await;
    }
    let _ = error.finish().await;
}

/// Forwards one connection. `spdy`: each direction can be ended and reset by itself.
///
/// # Errors
/// If it cannot be made, or was given up and nothing but an error could say so. How it ends otherwise is no error.
async fn forward(
    node: &Node,
    pod: &str,
    port: u16,
    mut incoming: Incoming,
    outgoing: Outgoing,
    spdy: bool,
) -> Result<()> {
    let cut = incoming.cut();
    tokio::pin!(cut);
    let connected = tokio::select! {
        connected = connect(node, pod, port) => connected,
        why = &mut cut => return given_up(pod, port, why, outgoing, spdy).await,
    };
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(e) => {
            let _ = outgoing.finish().await;
            return Err(e);
        }
    };
    let why = tokio::select! {
        () = relay(&mut stream, incoming, outgoing.clone(), spdy) => return Ok(()),
        why = &mut cut => why,
    };
    // What is missing must not look like an end.
    let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
    drop(stream);
    given_up(pod, port, why, outgoing, spdy).await
}

/// Tells the client of a connection that was cut off, unless it was the client who did it.
async fn given_up(pod: &str, port: u16, why: Cut, outgoing: Outgoing, spdy: bool) -> Result<()> {
    if why == Cut::ByClient {
        return Ok(());
    }
    let text = "a forwarded connection was given up: the pod has taken nothing of it, and others of its session waited behind it";
    tracing::warn!(pod = %short(pod), port, "{text}");
    let _ = outgoing.reset().await;
    if spdy { Ok(()) } else { Err(Error::new(Kind::Unavailable, text)) }
}

async fn connect(node: &Node, pod: &str, port: u16) -> Result<TcpStream> {
    let pod = node.find_pod(pod)?;
    node.settled(&pod).await?;
    if !pod.info().is_ready() {
        return Err(Error::precondition(format!("pod {} is not running", short(pod.id()))));
    }
    let netns = pod.record().namespaces.net.map(PathBuf::from);
    let mut failures = Vec::new();
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let address = SocketAddr::new(ip, port);
        let connecting = async { socket(netns.clone(), ip).await?.connect(address).await };
        let failure = match tokio::time::timeout(CONNECT_WITHIN, connecting).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(e)) => e.to_string(),
            Err(_) => format!("no answer within {CONNECT_WITHIN:?}"),
        };
        failures.push(format!("{address}: {failure}"));
    }
    Err(Error::new(Kind::Unavailable, format!("failed to connect: {}", failures.join("; "))))
}

/// A socket of a network namespace; it belongs there wherever it is used.
async fn socket(netns: Option<PathBuf>, ip: IpAddr) -> io::Result<TcpSocket> {
    let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let make = move || -> io::Result<TcpSocket> {
        if let Some(path) = netns {
            let fd = ns::open(&path).map_err(|e| io::Error::other(e.to_string()))?;
            ns::setns(fd, NsKind::Net).map_err(|e| io::Error::other(e.to_string()))?;
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        Ok(TcpSocket::from_std_stream(std::net::TcpStream::from(socket)))
    };
    let (tell, told) = tokio::sync::oneshot::channel();
    // setns(2) changes the calling thread, which ends here.
    std::thread::Builder::new().name("netns-socket".into()).spawn(move || tell.send(make()))?;
    told.await.map_err(|_| io::Error::other("the thread that makes sockets ended early"))?
}

/// How one direction ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    /// At its end; the other direction goes on.
    Closed,
    /// So that the other direction makes no sense any more.
    Broken,
}

/// Moves bytes both ways, and the end of each direction by itself where the transport can say it.
async fn relay(stream: &mut TcpStream, mut incoming: Incoming, outgoing: Outgoing, half_close: bool) {
    let _ = stream.set_nodelay(true);
    let (mut from_pod, mut to_pod) = stream.split();
    let inwards = async {
        loop {
            match incoming.next().await {
                Received::Data(data) => {
                    // The pod reads no more, but may still have something to say.
                    if to_pod.write_all(&data).await.is_err() {
                        drop(incoming);
                        return Half::Closed;
                    }
                }
                Received::End => {
                    let _ = to_pod.shutdown().await;
                    return Half::Closed;
                }
                Received::Reset => return Half::Broken,
            }
        }
    };
    let outwards = async {
        let mut buffer = vec![0; PIECE];
        loop {
            match from_pod.read(&mut buffer).await {
                Ok(0) => {
                    let told = outgoing.finish().await;
                    return if half_close && told.is_ok() { Half::Closed } else { Half::Broken };
                }
                Ok(n) => {
                    if outgoing.write(buffer.get(..n).unwrap_or_default()).await.is_err() {
                        return Half::Broken;
                    }
                }
                Err(_) => {
                    let _ = outgoing.reset().await;
                    return Half::Broken;
                }
            }
        }
    };
    tokio::pin!(inwards, outwards);
    tokio::select! {
        half = &mut inwards => if half == Half::Closed { outwards.await; },
        half = &mut outwards => if half == Half::Closed { inwards.await; },
    }
}
