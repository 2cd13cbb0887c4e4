use super::rpc::{Calls, Measure, Severity, severity};
use crate::error::{Error, Kind};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::sync::Arc;
use tonic::{Code, Status};
use tower::{Layer, Service, service_fn};

const LIST: &str = "/runtime.v1.RuntimeService/ListContainers";

/// What a service answers: data and trailers, or headers alone, as tonic has it.
fn answer(code: Code) -> Response<tonic::body::Body> {
    if code != Code::Ok {
        return Status::new(code, "why: 100%").into_http();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let frames =
        [Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"data"))), Ok(Frame::trailers(trailers))];
    Response::new(tonic::body::Body::new(StreamBody::new(tokio_stream::iter(frames).boxed())))
}

fn request(path: &str) -> Request<()> {
    let mut request = Request::new(());
    *request.uri_mut() = path.parse().unwrap();
    request
}

fn text(calls: &Calls) -> String {
    let mut registry = Registry::with_prefix("strata");
    calls.register(&mut registry);
    super::http::text(&registry).unwrap()
}

/// How many calls of a method have ended with a code.
fn ended(calls: &Calls, service: &str, method: &str, code: &str) -> u64 {
    let labels = format!("{{service=\"{service}\",method=\"{method}\",code=\"{code}\"}} ");
    let text = text(calls);
    let line =
        text.lines().find_map(|l| l.strip_prefix("strata_rpc_duration_seconds_count")?.strip_prefix(&labels));
    line.map_or(0, |n| n.parse().unwrap())
}

fn lists_ended(calls: &Calls, code: &str) -> u64 {
    ended(calls, "runtime.v1.RuntimeService", "ListContainers", code)
}

#[tokio::test]
async fn calls_are_counted_by_their_ends() {
    let calls = Arc::new(Calls::default());
    for (code, name) in [(Code::Ok, "ok"), (Code::NotFound, "not_found"), (Code::Internal, "internal")] {
        let inner = service_fn(move |_: Request<()>| std::future::ready(Ok::<_, Infallible>(answer(code))));
        let mut service = Measure(calls.clone()).layer(inner);
        let answer = service.call(request(LIST)).await.unwrap();
        assert_eq!(calls.running(LIST), i64::from(code == Code::Ok));
        assert_eq!(
            answer.into_body().collect().await.unwrap().to_bytes().len(),
            if code == Code::Ok { 4 } else { 0 }
        );
        assert_eq!((lists_ended(&calls, name), calls.running(LIST)), (1, 0), "{name}");
    }
    assert!(text(&calls).ends_with("# EOF\n"));
}

#[tokio::test]
async fn a_client_that_goes_away_has_cancelled() {
    let calls = Arc::new(Calls::default());
    let inner = service_fn(async |_: Request<()>| {
        std::future::pending::<()>().await;
        Ok::<_, Infallible>(answer(Code::Ok))
    });
    let mut service = Measure(calls.clone()).layer(inner);
    let mut waiting = service.call(request(LIST));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    assert_eq!(calls.running(LIST), 1);
    drop(waiting);
    assert_eq!((lists_ended(&calls, "cancelled"), calls.running(LIST)), (1, 0));
    let inner = service_fn(async |_: Request<()>| Ok::<_, Infallible>(answer(Code::Ok)));
    drop(Measure(calls.clone()).layer(inner).call(request(LIST)).await.unwrap());
    assert_eq!((lists_ended(&calls, "cancelled"), calls.running(LIST)), (2, 0));
}

#[test]
fn errors_in_the_log_are_the_node_s() {
    let gone = "Missing request message.";
    for (code, ours, message, expected) in [
        ("ok", false, "", Severity::Done),
        ("cancelled", true, "", Severity::Done),
        ("internal", false, gone, Severity::Done),
        ("internal", false, "failed to decode Protobuf message", Severity::Asked),
        ("unknown", false, "", Severity::Asked),
        ("unimplemented", false, "", Severity::Asked),
        ("invalid_argument", true, "", Severity::Asked),
        ("not_found", true, "", Severity::Asked),
        ("failed_precondition", true, "", Severity::Asked),
        ("unavailable", true, "", Severity::Node),
        ("internal", true, gone, Severity::Ours),
        ("data_loss", true, "", Severity::Ours),
    ] {
        assert_eq!(severity(code, ours, message), expected, "{code} {ours} {message}");
    }
}

#[tokio::test]
async fn paths_that_are_not_served_make_no_labels() {
    let calls = Arc::new(Calls::default());
    for path in ["/a/b", "/runtime.v1.RuntimeService/Nothing", "/runtime.v1.RuntimeService", "/"] {
        let inner = service_fn(async |_: Request<()>| Ok::<_, Infallible>(answer(Code::Unimplemented)));
        Measure(calls.clone()).layer(inner).call(request(path)).await.unwrap();
    }
    assert_eq!(ended(&calls, "unknown", "unknown", "unimplemented"), 4);
    assert!(!text(&calls).contains("Nothing"));
    // Both services are known, and the debug one.
    for (service, method) in [("runtime.v1.ImageService", "PullImage"), ("strata.debug.v1.Debug", "Info")] {
        let known = format!("/{service}/{method}");
        let inner = service_fn(async |_: Request<()>| Ok::<_, Infallible>(answer(Code::NotFound)));
        Measure(calls.clone()).layer(inner).call(request(&known)).await.unwrap();
        assert_eq!(ended(&calls, service, method, "not_found"), 1, "{known}");
    }
    assert_eq!(ended(&calls, "unknown", "unknown", "not_found"), 0);
}

#[test]
fn pulls_are_counted_by_their_results() {
    let pulls = super::Pulls::default();
    pulls.begin().ended(&Ok(()));
    pulls.begin().ended::<()>(&Err(Error::new(Kind::Unavailable, "no registry")));
    drop(pulls.begin());
    let mut registry = Registry::default();
    registry.register("d", "durations", pulls.durations.clone());
    let text = super::http::text(&registry).unwrap();
    for result in ["ok", "unavailable", "cancelled"] {
        assert!(text.contains(&format!("d_count{{result=\"{result}\"}} 1\n")), "{text}");
    }
    pulls.received(7);
    assert_eq!((pulls.bytes.get(), pulls.running.get()), (7, 0));
}
