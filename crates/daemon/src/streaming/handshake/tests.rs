use super::*;
use crate::streaming::Wanted;

fn exec() -> Ticket {
    Ticket::Exec { container: "c".into(), command: vec!["sh".into()], wanted: Wanted::default() }
}

fn forward() -> Ticket {
    Ticket::Forward { pod: "p".into(), ports: Vec::new() }
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
    }
    map
}

fn ws(protocols: &[&str]) -> HeaderMap {
    let mut lines = vec![
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    lines.extend(protocols.iter().map(|p| ("sec-websocket-protocol", *p)));
    headers(&lines)
}

fn spdy(protocols: &[&str]) -> HeaderMap {
    let mut lines = vec![("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];
    lines.extend(protocols.iter().map(|p| ("X-Stream-Protocol-Version", *p)));
    headers(&lines)
}

#[test]
fn spdy_clients_get_the_first_protocol_of_theirs_that_is_spoken() {
    let client = ["v9.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io"];
    let (transport, response) = agree(&exec(), &spdy(&client)).unwrap();
    assert_eq!((transport, transport.form()), (Transport::Spdy { version: 4 }, Form::Json));
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
    assert_eq!(response.headers()["upgrade"], "SPDY/3.1");
    let (transport, response) = agree(&exec(), &spdy(&[])).unwrap();
    assert_eq!((transport, transport.form()), (Transport::Spdy { version: 1 }, Form::Text));
    assert!(!response.headers().contains_key("x-stream-protocol-version"));
    let refused = agree(&forward(), &spdy(&client)).unwrap_err();
    assert_eq!(refused.status(), 403);
    assert_eq!(refused.headers()["x-accepted-stream-protocol-versions"], "portforward.k8s.io");
    agree(&forward(), &spdy(&["portforward.k8s.io"])).unwrap();
}

#[test]
fn websocket_clients_get_channels_or_the_tunnel() {
    let (transport, response) = agree(&exec(), &ws(&["v5.channel.k8s.io"])).unwrap();
    assert_eq!(transport, Transport::Channels { encoding: Encoding::Binary, version: 5 });
    // The example of RFC 6455, section 1.3.
    assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    let (transport, response) = agree(&exec(), &ws(&[])).unwrap();
    assert_eq!(transport, Transport::Channels { encoding: Encoding::Binary, version: 1 });
    assert!(!response.headers().contains_key("sec-websocket-protocol"));
    let (transport, _) = agree(&exec(), &ws(&["unknown, base64.channel.k8s.io", "channel.k8s.io"])).unwrap();
    assert_eq!(
        (transport, transport.form()),
        (Transport::Channels { encoding: Encoding::Base64, version: 1 }, Form::Text)
    );
    let (transport, _) = agree(&forward(), &ws(&["SPDY/3.1+portforward.k8s.io"])).unwrap();
    assert_eq!(transport, Transport::Tunnel);
    assert_eq!(agree(&exec(), &ws(&["SPDY/3.1+portforward.k8s.io"])).unwrap_err().status(), 403);
    assert_eq!(agree(&forward(), &ws(&["v5.channel.k8s.io"])).unwrap_err().status(), 403);
}

#[test]
fn requests_that_are_no_upgrades_are_refused() {
    for (lines, status) in [
        (vec![], 400),
        (vec![("upgrade", "websocket")], 400),
        (vec![("connection", "upgrade"), ("upgrade", "h2c")], 400),
        (vec![("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")], 400),
        (
            vec![
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-version", "8"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ],
            426,
        ),
    ] {
        assert_eq!(agree(&exec(), &headers(&lines)).unwrap_err().status(), status, "{lines:?}");
    }
}
