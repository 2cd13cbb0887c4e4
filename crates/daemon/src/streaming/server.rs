//! The HTTP server: takes tokens, and upgrades.

use super::channel::Outgoing;
use super::demux::Incoming;
use super::handshake::{Transport, agree, refusal};
use super::streams::{Session, of_spdy, of_websocket};
use super::{Activity, Ticket, attach, exec, forward, spdy, tls, tunnel, websocket};
use crate::node::Node;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming as Body;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a client may take for TLS, and again for its request and for taking the answer.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// How many connections may be without a session: those of clients that have shown no token.
const MAX_NEW: usize = 256;

/// The longest request head, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// Accepts connections for ever.
pub(super) async fn accept(node: Arc<Node>, listener: TcpListener) {
    let new = Arc::new(Semaphore::new(MAX_NEW));
    loop {
        let Ok(place) = Arc::clone(&new).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (node, tls) = (node.clone(), node.streaming.tls.clone());
                let respond = move |request| respond(&node, request);
                tokio::spawn(serve(stream, tls, place, HEAD_WITHIN, respond));
            }
            Err(e) => {
                // Of descriptors, for example: others may be closed meanwhile.
                tracing::warn!(error = %e, "a streaming connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one connection until it is upgraded or done; its place is given up then. TLS may take no longer than `within`, and
/// nor may the request and the answer together.
async fn serve(
    stream: TcpStream,
    tls: Option<tls::Acceptor>,
    place: OwnedSemaphorePermit,
    within: Duration,
    respond: impl Fn(Request<Body>) -> Response<String>,
) {
    // Keys that are typed go out one by one.
    let _ = stream.set_nodelay(true);
    match tls {
        None => http(stream, within, respond).await,
        Some(tls) => match tokio::time::timeout(within, tls.0.accept(stream)).await {
            Ok(Ok(stream)) => http(stream, within, respond).await,
            Ok(Err(error)) => tracing::debug!(%error, "a streaming connection without TLS"),
            Err(_) => {}
        },
    }
    drop(place);
}

async fn http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    within: Duration,
    respond: impl Fn(Request<Body>) -> Response<String>,
) {
    let service = service_fn(|request| {
        let response = respond(request);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(within)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // It ends with the upgrade: a session is not in it.
    if let Ok(Err(error)) = tokio::time::timeout(within, served).await {
        tracing::debug!(%error, "a streaming connection ended");
    }
}

/// Redeems the token in a request's path and begins its session.
fn respond(node: &Arc<Node>, mut request: Request<Body>) -> Response<String> {
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return *refusal(StatusCode::METHOD_NOT_ALLOWED, "GET and POST are answered");
    }
    let Some(ticket) = node.streaming.redeem(request.uri().path()) else {
        let text = "there is no such session: a URL is good once, and for a minute; ask stratad for another";
        return *refusal(StatusCode::NOT_FOUND, text);
    };
    let (transport, response) = match agree(&ticket, request.headers()) {
        Ok(agreed) => agreed,
        Err(refused) => return *refused,
    };
    let portless = matches!(&ticket, Ticket::Forward { ports, .. } if ports.is_empty());
    if portless && matches!(transport, Transport::Channels { .. }) {
        return *refusal(StatusCode::BAD_REQUEST, "no ports were named in the PortForward request");
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(session(node.clone(), ticket, transport, upgrade));
    response
}

/// A session from the upgrade to its end.
async fn session(node: Arc<Node>, ticket: Ticket, transport: Transport, upgrade: OnUpgrade) {
    let io: TokioIo<Upgraded> = match upgrade.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => return tracing::debug!(%error, "a streaming connection was not upgraded"),
    };
    let activity = Activity::new(node.streaming.idle);
    let patience = node.streaming.patience(&ticket);
    match transport {
        Transport::Spdy { version } => {
            let (connection, work) = spdy::connection(io, patience, activity);
            tokio::join!(work, over_spdy(&node, ticket, connection, version));
        }
        Transport::Tunnel => {
            let (io, tunnelling) = tunnel::tunnel(websocket::over(io).await);
            let (connection, work) = spdy::connection(io, patience, activity);
            tokio::join!(tunnelling, work, over_spdy(&node, ticket, connection, 1));
        }
        Transport::Channels { encoding, version } => {
            let socket = websocket::over(io).await;
            if let Ticket::Forward { pod, ports } = &ticket {
                let form = websocket::Form { encoding, closes: false };
                let (work, relays) = over_channels(&node, pod, ports, socket, form, activity);
                tokio::join!(work, relays);
                return;
            }
            let Some(wanted) = wanted(&ticket) else { return };
            let (streams, work) = of_websocket(socket, wanted, encoding, version, activity).await;
            tokio::join!(work, run(&node, ticket, streams));
        }
    }
}

fn wanted(ticket: &Ticket) -> Option<super::Wanted> {
    match ticket {
        Ticket::Exec { wanted, .. } | Ticket::Attach { wanted, .. } => Some(*wanted),
        Ticket::Forward { .. } => None,
    }
}

async fn over_spdy(node: &Arc<Node>, ticket: Ticket, connection: spdy::Connection, version: u8) {
    if let Ticket::Forward { pod, .. } = &ticket {
        return forward::spdy(node, pod, connection).await;
    }
    let Some(wanted) = wanted(&ticket) else { return };
    match of_spdy(connection, wanted, version).await {
        Some(streams) => run(node, ticket, streams).await,
        None => tracing::debug!("a client did not open its session's streams"),
    }
}

async fn run(node: &Arc<Node>, ticket: Ticket, streams: Session) {
    match ticket {
        Ticket::Exec { container, command, wanted } => {
            exec::run(node, &container, command, wanted, streams).await;
        }
        Ticket::Attach { container, wanted } => attach::run(node, &container, wanted, streams).await,
        Ticket::Forward { .. } => {}
    }
}

/// The plain channels of a port forward: for the n-th port, 2n carries its data and 2n+1 what went wrong.
fn over_channels<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    node: &Arc<Node>,
    pod: &str,
    ports: &[u16],
    socket: tokio_tungstenite::WebSocketStream<S>,
    form: websocket::Form,
    activity: Activity,
) -> (impl Future<Output = ()> + Send, impl Future<Output = ()> + Send) {
    let numbers: Vec<u32> = (0..).step_by(2).take(ports.len()).collect();
    let patience = node.streaming.patience;
    let (incoming, packets, work) = websocket::channels(socket, form, &numbers, patience, activity);
    let pairs: Vec<(u16, Incoming, Outgoing, Outgoing)> = ports
        .iter()
        .zip(numbers.iter().zip(incoming))
        .map(|(port, (number, incoming))| {
            let out = |n| Outgoing::new(n, packets.clone());
            (*port, incoming, out(*number), out(number + 1))
        })
        .collect();
    drop(packets);
    (work, forward::channels(node.clone(), pod.to_owned(), pairs))
}

#[cfg(test)]
mod tests;
