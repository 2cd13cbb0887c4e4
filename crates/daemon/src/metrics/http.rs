//! Where Prometheus asks: `GET /metrics` over plain HTTP, on a TCP address or a unix socket.

use super::registry;
use crate::config::MetricsAddress;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::tasks::blocking;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

/// OpenMetrics' text format, which Prometheus reads since 2.5 (openmetrics.io, "Content type").
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How many may ask at a time: one Prometheus, and some people.
const CONNECTIONS: usize = 16;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(10);
/// How long to wait after a connection could not be taken, as when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(200);

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Listens where the configuration says, if it does, and serves in the background until the daemon ends.
///
/// # Errors
/// If the address cannot be had.
pub(crate) async fn start(node: &Arc<Node>) -> Result<()> {
    let address =
        node.config.metrics.parse().map_err(|why| Error::invalid(format!("metrics.address: {why}")))?;
    let fail = |e: std::io::Error| {
        let address = &node.config.metrics.address;
        Error::internal(format!("metrics.address {address:?}: {e}; choose another one, or none"))
    };
    let listener = match &address {
        None => return Ok(()),
        Some(MetricsAddress::Tcp(address)) => Listener::Tcp(TcpListener::bind(address).await.map_err(fail)?),
        Some(MetricsAddress::Unix(path)) => Listener::Unix(bind(path).map_err(fail)?),
    };
    tracing::info!(address = node.config.metrics.address, "metrics");
    tokio::spawn(serve(listener, Arc::new(registry(node))));
    Ok(())
}

/// A socket for root only. What an earlier daemon left under its name is replaced; a file that is no socket is not.
fn bind(path: &Path) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve(listener: Listener, registry: Arc<Registry>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let accepted = match &listener {
            Listener::Tcp(tcp) => {
                tcp.accept().await.map(|(stream, _)| spawn(stream, registry.clone(), place))
            }
            Listener::Unix(unix) => {
                unix.accept().await.map(|(stream, _)| spawn(stream, registry.clone(), place))
            }
        };
        if let Err(e) = accepted {
            tracing::debug!(error = %e, "a connection for metrics cannot be taken");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn spawn(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    registry: Arc<Registry>,
    place: tokio::sync::OwnedSemaphorePermit,
) {
    tokio::spawn(async move {
        let _place = place;
        let answers = service_fn(move |request| answer(request, registry.clone()));
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEAD);
        if let Err(e) = server.serve_connection(TokioIo::new(stream), answers).await {
            tracing::debug!(error = %e, "metrics");
        }
    });
}

async fn answer(request: Request<Incoming>, all: Arc<Registry>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET | &Method::HEAD) => match blocking(move || text(&all)).await {
            Ok(text) => reply(StatusCode::OK, FORMAT, text),
            Err(e) => reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{e}\n")),
        },
        ("/metrics", _) => {
            let mut refused = reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "use GET\n".into());
            refused.headers_mut().insert(ALLOW, http::HeaderValue::from_static("GET, HEAD"));
            refused
        }
        _ => reply(StatusCode::NOT_FOUND, "text/plain", "there is only /metrics\n".into()),
    })
}

/// Everything, in OpenMetrics' text format.
pub(super) fn text(all: &Registry) -> Result<String> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, all)
        .map_err(|e| Error::internal(format!("metrics cannot be written: {e}")))?;
    Ok(text)
}

fn reply(status: StatusCode, format: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::new(Bytes::from(text)));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(format));
    reply
}
