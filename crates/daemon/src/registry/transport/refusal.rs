//! Answers and failures as errors.

use super::Transport;
use crate::error::{Error, Kind};
use http::StatusCode;
use reqwest::{Response, Url};

/// The most bytes of an error's body that are read.
const MAX_ANSWER: usize = 64 << 10;

impl Transport {
    /// The error that an answer is.
    pub(in crate::registry) async fn refusal(&self, url: &Url, response: Response) -> Error {
        let status = response.status();
        let said = match self.body(url, response, MAX_ANSWER).await {
            Ok(body) => said(&body),
            Err(_) => String::new(),
        };
        let (kind, advice) = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (
                Kind::PermissionDenied,
                "the registry refused the credentials, or there is no such repository: check the image's name and the pull secret",
            ),
            StatusCode::NOT_FOUND => (Kind::NotFound, "check the image's name, tag or digest"),
            StatusCode::TOO_MANY_REQUESTS => {
                (Kind::Unavailable, "the registry limits pulls: pull later, with credentials, or by a mirror")
            }
            s if s.is_server_error() => (Kind::Unavailable, "the registry is in trouble: try again later"),
            _ => (Kind::Internal, "is this a registry? check the host, its port and hosts.toml"),
        };
        Error::new(kind, format!("{}: {status}{said}; {advice}", shown(url)))
    }
}

/// The error of a transfer that broke.
pub(in crate::registry) fn broken(url: &Url, error: reqwest::Error) -> Error {
    // Redirects lead to URLs that are signed: they stay out of messages.
    let why = chain(&error.without_url());
    let advice = if why.contains("InvalidContentType") {
        "does it speak plain HTTP? hosts.toml would have to say http:// for it"
    } else if why.contains("certificate") {
        "if it is the right host, name the authority of its certificate in hosts.toml (ca), and the client's certificate if it asks for one (client)"
    } else {
        "check the network, a proxy's settings and the registry"
    };
    Error::new(Kind::Unavailable, format!("{}: {why}; {advice}", shown(url)))
}

/// A URL without what may be secret.
pub(in crate::registry) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    // Neither fails for a URL that has a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// What the body of an error says, in the distribution spec's form; empty if it is something else.
fn said(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    #[serde(default)]
    #[derive(Default)]
    struct One {
        code: String,
        message: String,
    }
    let Ok(errors) = serde_json::from_slice::<Errors>(body) else { return String::new() };
    let all: Vec<_> = errors.errors.iter().take(3).map(|e| format!("{}: {}", e.code, e.message)).collect();
    let text: String = all.join(", ").chars().filter(|c| !c.is_control()).take(400).collect();
    if text.is_empty() { text } else { format!(" ({text})") }
}
