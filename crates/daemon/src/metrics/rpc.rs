//! A layer around the gRPC services: each call is timed, counted and logged once, whoever answers it and however it ends.

use super::durations;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use prost::Message as _;
use std::collections::HashSet;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;
use tonic::{Code, Status};
use tower::{Layer, Service};

/// gRPC calls.
#[derive(Debug)]
pub(crate) struct Calls {
    durations: Family<EndLabels, Histogram>,
    running: Family<MethodLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    service: String,
    method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    service: String,
    method: String,
    code: &'static str,
}

impl Default for Calls {
    fn default() -> Self {
        Self { durations: Family::new_with_constructor(durations), running: Family::default() }
    }
}

impl Calls {
    pub(super) fn register(&self, all: &mut Registry) {
        let help = "How long gRPC calls took, streams to their end";
        all.register_with_unit("rpc_duration", help, Unit::Seconds, self.durations.clone());
        all.register("rpc_in_flight", "gRPC calls under way", self.running.clone());
    }

    fn begin(self: &Arc<Self>, path: &str) -> Call {
        let method = MethodLabels::of(path);
        self.running.get_or_create(&method).inc();
        Call { calls: self.clone(), method, begun: Instant::now(), about: Arc::default(), over: false }
    }
}

/// `/package.Service/Method` of everything that is served: other paths must not make labels.
static KNOWN: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let all = prost_types::FileDescriptorSet::decode(strata_api::DESCRIPTORS).unwrap_or_default();
    let paths = |file: prost_types::FileDescriptorProto| {
        let package = file.package().to_owned();
        file.service.into_iter().flat_map(move |service| {
            let path = format!("/{package}.{}", service.name());
            service.method.into_iter().map(move |m| format!("{path}/{}", m.name())).collect::<Vec<_>>()
        })
    };
    all.file.into_iter().flat_map(paths).collect()
});

impl MethodLabels {
    fn of(path: &str) -> Self {
        let known = KNOWN.contains(path).then(|| path.strip_prefix('/')?.split_once('/')).flatten();
        let (service, method) = known.unwrap_or(("unknown", "unknown"));
        Self { service: service.to_owned(), method: method.to_owned() }
    }
}

/// What a call is about, as far as it has said so.
#[derive(Debug, Default)]
struct About(Mutex<Subject>);

#[derive(Clone, Debug, Default)]
struct Subject {
    pod: Option<String>,
    container: Option<String>,
    /// Whether the error that it ends with is stratad's own, and not tonic's about a request that stratad never saw.
    ours: bool,
}

tokio::task_local! {
    static ABOUT: Arc<About>;
}

fn about(change: impl FnOnce(&mut Subject)) {
    let _ = ABOUT.try_with(|a| change(&mut a.0.lock().unwrap_or_else(PoisonError::into_inner)));
}

/// The call being worked on ends with an error of stratad's.
pub(crate) fn answered() {
    about(|subject| subject.ours = true);
}

/// The call being worked on is about this pod: its log line shall say so.
pub(crate) fn about_pod(id: &str) {
    about(|subject| subject.pod = Some(crate::pod::short(id).to_owned()));
}

/// The call being worked on is about this container of this pod: its log line shall say so.
pub(crate) fn about_container(id: &str, pod: &str) {
    about(|subject| {
        subject.container = Some(crate::pod::short(id).to_owned());
        subject.pod = Some(crate::pod::short(pod).to_owned());
    });
}

/// A call under way. Dropped without an end it was cancelled: its client has gone.
#[derive(Debug)]
struct Call {
    calls: Arc<Calls>,
    method: MethodLabels,
    begun: Instant,
    about: Arc<About>,
    over: bool,
}

impl Call {
    fn end(&mut self, code: Code, message: &str) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let took = self.begun.elapsed();
        self.calls.running.get_or_create(&self.method).dec();
        let MethodLabels { service, method } = self.method.clone();
        let labels = EndLabels { service, method, code: code_name(code) };
        self.calls.durations.get_or_create(&labels).observe(took.as_secs_f64());
        let subject = self.about.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (method, code) = (self.method.method.as_str(), labels.code);
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let (pod, container) = (subject.pod.as_deref(), subject.container.as_deref());
        match severity(code, subject.ours, message) {
            Severity::Done => tracing::debug!(method, code, ms, pod, container, "call"),
            Severity::Asked => {
                tracing::info!(method, code, ms, pod, container, error = message, "call failed");
            }
            Severity::Node => {
                tracing::warn!(method, code, ms, pod, container, error = message, "call failed");
            }
            Severity::Ours => {
                tracing::error!(method, code, ms, pod, container, error = message, "call failed");
            }
        }
    }

    /// Ends it if headers or trailers say how.
    fn told(&mut self, headers: &HeaderMap) -> bool {
        let Some(status) = Status::from_header_map(headers) else { return false };
        self.end(status.code(), status.message());
        true
    }

    /// Ends it by a fault of stratad's.
    fn broke(&mut self, how: &str) {
        self.is_ours();
        self.end(Code::Internal, how);
    }

    fn is_ours(&self) {
        self.about.0.lock().unwrap_or_else(PoisonError::into_inner).ours = true;
    }

    /// As [`Self::told`] of trailers, whose errors are all stratad's: where they come, the request has been read.
    fn told_late(&mut self, trailers: &HeaderMap) {
        self.is_ours();
        self.told(trailers);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled, "the client has gone");
    }
}

/// Whose business an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// Nobody's, unless one is looking for something.
    Done,
    /// The caller's.
    Asked,
    /// Of whoever runs the node.
    Node,
    /// A fault, here or of the disk.
    Ours,
}

/// An error in the log is the node's: whoever asks for what cannot be had, sends what is no message or goes away makes none.
pub(super) fn severity(code: &str, ours: bool, message: &str) -> Severity {
    match code {
        "ok" | "cancelled" => Severity::Done,
        // tonic's word for a client that has gone, or ended its request, before its message was sent.
        "internal" if !ours && message.starts_with("Missing request message") => Severity::Done,
        "unavailable" | "resource_exhausted" | "deadline_exceeded" => Severity::Node,
        "internal" | "unknown" | "data_loss" if ours => Severity::Ours,
        _ => Severity::Asked,
    }
}

/// A code's name, as gRPC writes it, in small letters.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// The layer.
#[derive(Clone, Debug)]
pub(crate) struct Measure(pub(crate) Arc<Calls>);

impl<S> Layer<S> for Measure {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured { inner, calls: self.0.clone() }
    }
}

/// The services with the layer around them.
#[derive(Clone, Debug)]
pub(crate) struct Measured<S> {
    inner: S,
    calls: Arc<Calls>,
}

impl<S, Q, A> Service<Request<Q>> for Measured<S>
where
    S: Service<Request<Q>, Response = Response<A>>,
    S::Future: Send + 'static,
    A: Body<Data = Bytes> + Unpin,
{
    type Response = Response<Watched<A>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let mut call = self.calls.begin(request.uri().path());
        let answering = self.inner.call(request);
        Box::pin(async move {
            let answer = ABOUT.scope(call.about.clone(), answering).await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(e) => {
                    call.broke("the service broke down");
                    return Err(e);
                }
            };
            // An error without an answer is in the headers already.
            let call = if call.told(answer.headers()) { None } else { Some(call) };
            Ok(answer.map(|body| Watched { body, call }))
        })
    }
}

/// An answer whose end is waited for: its trailers say how the call went.
#[derive(Debug)]
pub(crate) struct Watched<A> {
    body: A,
    call: Option<Call>,
}

impl<A: Body<Data = Bytes> + Unpin> Body for Watched<A> {
    type Data = Bytes;
    type Error = A::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, A::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let (Poll::Ready(frame), Some(call)) = (&polled, &mut this.call) {
            match frame {
                Some(Ok(frame)) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        call.told_late(trailers);
                    }
                }
                Some(Err(_)) => call.broke("the answer broke off"),
                None => call.end(Code::Ok, ""),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
impl Calls {
    /// How many calls of a method are under way.
    pub(super) fn running(&self, path: &str) -> i64 {
        self.running.get(&MethodLabels::of(path)).map_or(0, |g| g.get())
    }
}
