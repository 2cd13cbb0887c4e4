//! Answers and failures as errors.

use super::{Ask, Transport};
use crate::error::{Error, Kind};
use crate::registry::auth::Credentials;
use http::StatusCode;
use reqwest::{Response, Url};

/// The most bytes of an error's body that are read.
const MAX_ANSWER: usize = 64 << 10;

/// What was shown to the server that answers: what helps depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Shown {
    /// Nothing.
    Nothing,
    /// Credentials, for content of a repository.
    Credentials,
    /// Credentials, to hear whether they are good.
    Login,
}

impl Ask<'_> {
    /// What the request shows.
    pub(in crate::registry) fn shown(&self) -> Shown {
        match &self.endpoint.credentials {
            _ if self.scope.is_empty() => Shown::Login,
            Credentials::Anonymous => Shown::Nothing,
            _ => Shown::Credentials,
        }
    }
}

impl Shown {
    fn advice(self) -> &'static str {
        match self {
            Self::Nothing => {
                "it wants credentials and got none, or there is no such repository: check the image's name; log in (strata login), or name a pull secret"
            }
            Self::Credentials => {
                "the registry refused the credentials, or there is no such repository: check the image's name and the pull secret"
            }
            Self::Login => "the registry refused the credentials: check user name and password",
        }
    }
}

impl Transport {
    /// The error that an answer is.
    pub(in crate::registry) async fn refusal(&self, url: &Url, response: Response, shown_it: Shown) -> Error {
        let status = response.status();
        let said = match self.body(url, response, MAX_ANSWER).await {
            Ok(body) => said(&body),
            Err(_) => String::new(),
        };
        let (kind, advice) = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (Kind::PermissionDenied, shown_it.advice()),
            // What a server that speaks TLS has to say to plain HTTP.
            StatusCode::BAD_REQUEST if url.scheme() == "http" => {
                (Kind::Internal, "does it speak TLS? hosts.toml would have to say https:// for it")
            }
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
    Error::new(Kind::Unavailable, format!("{}: {why}; {}", shown(url), advice(url, &why)))
}

/// What helps against a failure, which only its text tells: the libraries hide the types. Some kinds of certificate errors
/// are told in words, others by their names.
fn advice(url: &Url, why: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| why.contains(word));
    // HTTP/1's library and HTTP/2's write them in their own ways.
    let cut_off = || {
        let why = why.to_ascii_lowercase();
        ["connection closed", "connection reset", "broken pipe"].iter().any(|word| why.contains(word))
    };
    let certificate = |words: &[&str]| has(&["invalid peer certificate"]) && has(words);
    if has(&["InvalidContentType"]) {
        "does it speak plain HTTP? hosts.toml would have to say http:// for it"
    } else if certificate(&["xpired", "not valid yet", "NotValidYet"]) {
        "check this node's clock, and have the registry's certificate renewed"
    } else if certificate(&["not valid for name", "NotValidForName"]) {
        "use a name that its certificate is for, or have one made for this name"
    } else if has(&["invalid peer certificate"]) {
        "if it is the right host, name the authority of its certificate in hosts.toml (ca)"
    } else if has(&["received fatal alert"]) {
        "it wants a client's certificate, or another one: check client in hosts.toml"
    } else if url.scheme() == "https" && cut_off() {
        // How a missing certificate shows when the request was on its way already (TLS 1.3).
        "try again; if it wants a client's certificate, name one in hosts.toml (client)"
    } else {
        "check the network, a proxy's settings and the registry"
    }
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

/// An error with its causes, but without the layers of the library that only say that there is a cause.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut all = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        all.push(cause.to_string());
        next = cause.source();
    }
    let last = all.len() - 1;
    let says = |(at, text): &(usize, String)| {
        *at == last || !(text.starts_with("error sending request") || text.starts_with("client error ("))
    };
    let said: Vec<_> = all.into_iter().enumerate().filter(says).map(|(_, text)| text).collect();
    said.join(": ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_is_cut_off_may_lack_a_certificate() {
        let url = |scheme: &str| Url::parse(&format!("{scheme}://registry.test/v2/")).unwrap();
        for why in [
            "connection error: stream closed because of a broken pipe",
            "connection error: Broken pipe (os error 32)",
            "Connection reset by peer (os error 104)",
            "connection closed before message completed",
        ] {
            assert!(advice(&url("https"), why).contains("client's certificate"), "{why}");
            assert!(advice(&url("http"), why).contains("check the network"), "{why}");
        }
    }
}
