//! Which protocol a client gets: by its request's headers.

use super::Ticket;
use super::status::Form;
use base64::Engine as _;
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Response, StatusCode};

/// What SPDY clients list their protocols in, one header or more.
const VERSIONS: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What they are told when none of those is spoken.
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const PORT_FORWARD: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const SPDY: &str = "SPDY/3.1";

/// How bytes and channel numbers lie in a WebSocket message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// A byte of channel number, and bytes.
    Binary,
    /// A digit, and base64, as text.
    Base64,
}

/// What has been agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// SPDY; for exec and attach the protocol's number.
    Spdy {
        /// 1 to 5.
        version: u8,
    },
    /// Channels in WebSocket messages.
    Channels {
        /// How.
        encoding: Encoding,
        /// 1, 4 or 5.
        version: u8,
    },
    /// SPDY in WebSocket messages.
    Tunnel,
}

impl Transport {
    /// How this protocol tells a session's end.
    pub(super) fn form(self) -> Form {
        match self {
            Self::Spdy { version } | Self::Channels { version, .. } if version < 4 => Form::Text,
            _ => Form::Json,
        }
    }
}

/// The answer to a request: what was agreed upon and the response that says so, or the refusal.
pub(super) fn agree(
    ticket: &Ticket,
    headers: &HeaderMap,
) -> Result<(Transport, Response<String>), Box<Response<String>>> {
    let upgrade = list(headers, &UPGRADE);
    let upgrades = list(headers, &CONNECTION).iter().any(|c| c.eq_ignore_ascii_case("upgrade"));
    let asks = |what: &str| upgrades && upgrade.iter().any(|u| u.eq_ignore_ascii_case(what));
    if asks("websocket") {
        websocket(ticket, headers)
    } else if asks(SPDY) {
        spdy(ticket, headers)
    } else {
        Err(refusal(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: ask for SPDY/3.1 or websocket in the headers Connection and Upgrade",
        ))
    }
}

fn spdy(
    ticket: &Ticket,
    headers: &HeaderMap,
) -> Result<(Transport, Response<String>), Box<Response<String>>> {
    let offered = list(headers, &VERSIONS);
    let known: &[(&str, u8)] = match ticket {
        Ticket::Forward { .. } => &[(PORT_FORWARD, 1)],
        _ => &[
            ("v5.channel.k8s.io", 5),
            ("v4.channel.k8s.io", 4),
            ("v3.channel.k8s.io", 3),
            ("v2.channel.k8s.io", 2),
            ("channel.k8s.io", 1),
        ],
    };
    let found = offered.iter().find_map(|o| known.iter().find(|(name, _)| name == o));
    if found.is_none() && !offered.is_empty() {
        let mut refused = refusal(
            StatusCode::FORBIDDEN,
            &format!("unable to negotiate a protocol: the client speaks {}", offered.join(", ")),
        );
        for (name, _) in known {
            refused.headers_mut().append(ACCEPTED, HeaderValue::from_static(name));
        }
        return Err(refused);
    }
    let mut response = switching(SPDY);
    // A client that names no protocol speaks the first one.
    if let Some((name, _)) = found {
        response.headers_mut().insert(VERSIONS, HeaderValue::from_static(name));
    }
    Ok((Transport::Spdy { version: found.map_or(1, |(_, version)| *version) }, response))
}

const WS_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const WS_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");
const WS_PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");
const WS_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
/// What a key is hashed with (RFC 6455, section 1.3).
const WS_MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

fn websocket(
    ticket: &Ticket,
    headers: &HeaderMap,
) -> Result<(Transport, Response<String>), Box<Response<String>>> {
    let Some(key) = headers.get(WS_KEY).filter(|k| k.len() == 24) else {
        return Err(refusal(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing or not a key"));
    };
    if headers.get(WS_VERSION).is_none_or(|v| v != "13") {
        let mut refused = refusal(StatusCode::UPGRADE_REQUIRED, "WebSocket version 13 is spoken");
        refused.headers_mut().insert(WS_VERSION, HeaderValue::from_static("13"));
        return Err(refused);
    }
    let offered = list(headers, &WS_PROTOCOL);
    let channels = |encoding, version| Transport::Channels { encoding, version };
    let forward = matches!(ticket, Ticket::Forward { .. });
    let of = |name: &str| match name {
        TUNNEL if forward => Some((TUNNEL, Transport::Tunnel)),
        "v5.channel.k8s.io" if !forward => Some(("v5.channel.k8s.io", channels(Encoding::Binary, 5))),
        "v4.channel.k8s.io" => Some(("v4.channel.k8s.io", channels(Encoding::Binary, 4))),
        "v4.base64.channel.k8s.io" => Some(("v4.base64.channel.k8s.io", channels(Encoding::Base64, 4))),
        "channel.k8s.io" if !forward => Some(("channel.k8s.io", channels(Encoding::Binary, 1))),
        "base64.channel.k8s.io" if !forward => Some(("base64.channel.k8s.io", channels(Encoding::Base64, 1))),
        _ => None,
    };
    let found = offered.iter().find_map(|o| of(o));
    if found.is_none() && !offered.is_empty() {
        let text = format!("none of the protocols {} is spoken here", offered.join(", "));
        return Err(refusal(StatusCode::FORBIDDEN, &text));
    }
    let mut response = switching("websocket");
    let accept = HeaderValue::from_str(&accept_key(key.as_bytes()));
    let Ok(accept) = accept else { return Err(refusal(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key")) };
    response.headers_mut().insert(WS_ACCEPT, accept);
    if let Some((name, _)) = found {
        response.headers_mut().insert(WS_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok((found.map_or_else(|| channels(Encoding::Binary, 1), |(_, transport)| transport), response))
}

/// RFC 6455, section 4.2.2: that SHA-1 is broken does not matter there.
fn accept_key(key: &[u8]) -> String {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(WS_MAGIC.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(hash.finish())
}

/// The elements of a header that is a list, over all its lines.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let lines = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn switching(to: &'static str) -> Response<String> {
    let mut response = Response::new(String::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(to));
    response
}

/// An answer of text.
pub(super) fn refusal(status: StatusCode, text: &str) -> Box<Response<String>> {
    let mut response = Response::new(format!("{text}\n"));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    // One try a connection: without a token nobody keeps one of the places.
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Box::new(response)
}

#[cfg(test)]
mod tests;
