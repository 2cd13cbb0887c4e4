//! A proxy in front of a registry that misbehaves as a test says, and a server of the test's own.

use crate::Result;
use crate::images::{Registry, Response};
use crate::node::netns::Netns;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, HeaderName, HeaderValue, RANGE};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// How often this method and path were asked for before.
    pub before: usize,
    /// The method.
    pub method: Method,
    /// With the query.
    pub path: String,
    /// The `Range`.
    pub range: Option<String>,
    /// The `Authorization`.
    pub authorization: Option<String>,
    /// The body.
    pub body: Bytes,
}

/// What is done to an answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing.
    Pass,
    /// The connection breaks after half of the body.
    Cut,
    /// Nothing comes after half of the body.
    Stall,
    /// A bit in the middle of the body is another one.
    Corrupt,
    /// The range that was asked for is passed over.
    IgnoreRange,
    /// The answer is for another range than the one asked for.
    WrongRange,
    /// Another answer altogether: status, headers, body.
    Answer(u16, Vec<(&'static str, String)>, String),
}

type Decide = dyn Fn(&Asked) -> Fault + Send + Sync;

struct State {
    upstream: Option<Registry>,
    decide: Mutex<Arc<Decide>>,
    seen: Mutex<Vec<Asked>>,
}

/// A running proxy; dropping ends it.
pub struct Proxy {
    state: Arc<State>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Proxy {
    /// Listens in a network namespace and passes on to a registry there.
    pub fn start(netns: &Netns, listen: &str, upstream: &str) -> Result<Self> {
        Self::run(netns, listen, Some(Registry::new(upstream)), |_| Fault::Pass)
    }

    /// A server that answers everything itself.
    pub fn server(
        netns: &Netns,
        listen: &str,
        decide: impl Fn(&Asked) -> Fault + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::run(netns, listen, None, decide)
    }

    fn run(
        netns: &Netns,
        listen: &str,
        upstream: Option<Registry>,
        decide: impl Fn(&Asked) -> Fault + Send + Sync + 'static,
    ) -> Result<Self> {
        let address: SocketAddr = listen.parse()?;
        let decide: Arc<Decide> = Arc::new(decide);
        let state = Arc::new(State { upstream, decide: Mutex::new(decide), seen: Mutex::default() });
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let served = Arc::clone(&state);
        let thread = netns.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap_or_else(|e| panic!("{e}"));
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind(address).await;
                let _ = tell.send(listener.as_ref().map(drop).map_err(ToString::to_string));
                let Ok(listener) = listener else { return };
                tokio::select! {
                    () = accept(listener, served) => {}
                    _ = stopped => {}
                }
            });
        })?;
        told.recv()?.map_err(|e| format!("{listen}: {e}"))?;
        Ok(Self { state, stop: Some(stop), thread: Some(thread) })
    }

    /// From now on answers are treated as this says; what was seen is forgotten.
    pub fn set(&self, decide: impl Fn(&Asked) -> Fault + Send + Sync + 'static) {
        *lock(&self.state.decide) = Arc::new(decide);
        lock(&self.state.seen).clear();
    }

    /// The requests since then, in their order.
    pub fn seen(&self) -> Vec<Asked> {
        lock(&self.state.seen).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: tokio::net::TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request| answer(Arc::clone(&state), request));
            let connection = hyper::server::conn::http1::Builder::new();
            // A client that goes away, or an answer that is cut off, is what the tests are about.
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    state: Arc<State>,
    request: Request<Incoming>,
) -> std::result::Result<hyper::Response<Sent>, Infallible> {
    let (parts, body) = request.into_parts();
    let text =
        |name: &HeaderName| parts.headers.get(name).and_then(|v| v.to_str().ok()).map(ToOwned::to_owned);
    let path = parts.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let asked = {
        let mut seen = lock(&state.seen);
        let before = seen.iter().filter(|a| a.path == path && a.method == parts.method).count();
        let (range, authorization) = (text(&RANGE), text(&AUTHORIZATION));
        let asked = Asked { before, method: parts.method.clone(), path, range, authorization, body };
        seen.push(asked.clone());
        asked
    };
    let decide = Arc::clone(&*lock(&state.decide));
    let fault = decide(&asked);
    if let Fault::Answer(status, headers, body) = &fault {
        return Ok(own(*status, headers, body));
    }
    let Some(upstream) = &state.upstream else { return Ok(own(404, &[], "")) };
    let mut headers = Vec::new();
    for name in [ACCEPT, AUTHORIZATION, RANGE] {
        let passed = !(name == RANGE && matches!(fault, Fault::IgnoreRange | Fault::WrongRange));
        headers.extend(parts.headers.get(&name).filter(|_| passed).map(|v| (name, v.clone())));
    }
    let answered =
        upstream.request_with(asked.method.clone(), &asked.path, &headers, asked.body.clone()).await;
    Ok(match answered {
        Ok(response) => spoilt(response, &fault, asked.range.is_some()),
        Err(e) => own(502, &[], &e.to_string()),
    })
}

fn own(status: u16, headers: &[(&'static str, String)], body: &str) -> hyper::Response<Sent> {
    let mut response = hyper::Response::new(Sent::whole(Bytes::from(body.to_owned())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).unwrap_or_else(|e| panic!("{name}: {e}"));
        response.headers_mut().insert(*name, value);
    }
    response
}

fn spoilt(upstream: Response, fault: &Fault, ranged: bool) -> hyper::Response<Sent> {
    let half = upstream.body.len() / 2;
    let mut status = upstream.status;
    let mut headers = upstream.headers;
    let body = match fault {
        Fault::Cut => Sent { rest: upstream.body.slice(..half), whole: upstream.body.len(), end: End::Break },
        Fault::Stall => {
            Sent { rest: upstream.body.slice(..half), whole: upstream.body.len(), end: End::Hang }
        }
        Fault::Corrupt => {
            let mut bytes = upstream.body.to_vec();
            if let Some(byte) = bytes.get_mut(half) {
                *byte ^= 0x10;
            }
            Sent::whole(bytes.into())
        }
        Fault::WrongRange if ranged => {
            status = StatusCode::PARTIAL_CONTENT;
            let total = upstream.body.len();
            let range = format!("bytes 7-{}/{total}", total.saturating_sub(1));
            headers.insert(CONTENT_RANGE, HeaderValue::from_str(&range).unwrap_or_else(|e| panic!("{e}")));
            Sent::whole(upstream.body.slice(7.min(total)..))
        }
        _ => Sent::whole(upstream.body),
    };
    let mut response = hyper::Response::new(body);
    *response.status_mut() = status;
    headers.insert(CONTENT_LENGTH, response.body().whole.into());
    *response.headers_mut() = headers;
    response
}

/// A body that may end before its time.
struct Sent {
    rest: Bytes,
    whole: usize,
    end: End,
}

enum End {
    Well,
    Break,
    Hang,
}

impl Sent {
    fn whole(bytes: Bytes) -> Self {
        Self { whole: bytes.len(), rest: bytes, end: End::Well }
    }
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, std::io::Error>>> {
        if !self.rest.is_empty() {
            let size = self.rest.len().min(16 << 10);
            let piece = self.rest.split_to(size);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match self.end {
            End::Well => Poll::Ready(None),
            End::Break => Poll::Ready(Some(Err(std::io::Error::other("cut off")))),
            // The client's going away ends the connection.
            End::Hang => Poll::Pending,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.whole as u64)
    }
}
