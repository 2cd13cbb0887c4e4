//! Requests to registries: authentication, redirects, patience with busy servers, and errors that say what to do.
//!
//! ```text
//!   send ─▶ exchange   again and again while the answer is "later" (patience.rs)
//!             └─▶ hops      redirects: what only the endpoint may see goes to the endpoint only
//!                   └─▶ client.rs   a TLS client per way to connect
//!     └─▶ authorise (token.rs)   once, upon 401 from the endpoint itself
//! ```

mod client;
mod refusal;
mod token;

use super::auth::{TokenKey, Tokens};
use super::hosts::{Endpoint, Link};
use super::patience::{Pauses, Timing, retry_after};
use crate::error::{Error, Kind, Result};
use client::Clients;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use reqwest::{RequestBuilder, Response, Url};
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) use refusal::{Shown, broken, shown};

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 10;

/// One request to an endpoint.
pub(super) struct Ask<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) method: Method,
    pub(super) url: Url,
    /// Beside the endpoint's own and `Authorization`: what servers after a redirect see too.
    pub(super) headers: HeaderMap,
    /// What a token must allow: `repository:team/app:pull` (distribution's "Token Scope Documentation").
    pub(super) scope: String,
    /// Of a request whose body is long; see [`Uploaded`].
    pub(super) upload: Option<&'a Uploaded>,
}

/// How many bytes of a body have gone out. As long as it grows, the server is not silent; and such a request is not sent
/// again, since the server may have kept a part of it.
pub(super) type Uploaded = AtomicU64;

/// Adds a body to a request; called for each try.
pub(super) type Fill<'a> = &'a (dyn Fn(RequestBuilder) -> RequestBuilder + Sync);

/// Sends requests.
#[derive(Default)]
pub(super) struct Transport {
    clients: Clients,
    tokens: Tokens,
    pub(super) timing: Timing,
}

/// A request on its way.
struct Parcel<'a> {
    url: &'a Url,
    method: &'a Method,
    headers: &'a HeaderMap,
    /// For the first URL's host only: the endpoint's headers and `Authorization`.
    private: &'a HeaderMap,
    link: &'a Link,
    fill: Fill<'a>,
    upload: Option<&'a Uploaded>,
}

/// Why there is no answer.
enum Failure {
    /// Another try would end the same way.
    Final(Error),
    /// Another try may help; a little one, or a patient one.
    Again { error: Error, hurry: bool },
}

impl<'a> Ask<'a> {
    /// A request for content of a repository.
    pub(super) fn get(endpoint: &'a Endpoint, url: Url, repository: &str) -> Self {
        let scope = format!("repository:{repository}:pull");
        Self { endpoint, method: Method::GET, url, headers: HeaderMap::new(), scope, upload: None }
    }
}

impl Transport {
    /// A transport that waits as long as `timing` says.
    pub(super) fn new(timing: Timing) -> Self {
        Self { timing, ..Self::default() }
    }

    /// Sends a request without a body until it succeeds, authenticating if asked to; redirects are followed without the
    /// credentials.
    ///
    /// # Errors
    /// Naming URL, status and what to do. [`Kind::Unavailable`] if a later attempt may succeed.
    pub(super) async fn send(&self, ask: &Ask<'_>) -> Result<Response> {
        self.send_with(ask, &|request| request).await
    }

    /// The same with a body, which must be there again for every try.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(super) async fn send_with(&self, ask: &Ask<'_>, fill: Fill<'_>) -> Result<Response> {
        let response = self.answer(ask, fill).await?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self.refusal(&ask.url, response, ask.shown()).await)
        }
    }

    /// The same, but any answer that a further try would not change is one: 404 too, or 401 where the credentials were
    /// not good enough.
    ///
    /// # Errors
    /// If there is no answer, or no token.
    pub(super) async fn answer(&self, ask: &Ask<'_>, fill: Fill<'_>) -> Result<Response> {
        let credentials = &ask.endpoint.credentials;
        let key = TokenKey {
            base: ask.endpoint.base.to_string(),
            scope: ask.scope.clone(),
            credentials: credentials.fingerprint(),
        };
        let mut private = ask.endpoint.headers.clone();
        if let Some(header) = self.tokens.get(&key) {
            private.insert(AUTHORIZATION, header);
        }
        let mut asked = false;
        loop {
            let parcel = Parcel {
                url: &ask.url,
                method: &ask.method,
                headers: &ask.headers,
                private: &private,
                link: &ask.endpoint.link,
                fill,
                upload: ask.upload,
            };
            let response = self.exchange(&parcel).await?;
            // Who a redirect led to may not ask for credentials: they are the endpoint's.
            if response.status() != StatusCode::UNAUTHORIZED
                || asked
                || !same_origin(response.url(), &ask.url)
            {
                return Ok(response);
            }
            asked = true;
            self.tokens.forget(&key);
            let Some(grant) = self.authorise(ask, &response).await? else { return Ok(response) };
            self.tokens.put(key.clone(), &grant);
            private.insert(AUTHORIZATION, grant.header);
        }
    }

    /// Reads a body of at most `max` bytes.
    pub(super) async fn body(&self, url: &Url, mut response: Response, max: usize) -> Result<Vec<u8>> {
        let too_large = || {
            let url = shown(url);
            let why = format!(
                "{url}: the answer is larger than {max} bytes, which is not read; check what was pushed"
            );
            Error::new(Kind::ResourceExhausted, why)
        };
        if response.content_length().is_some_and(|n| n > max as u64) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        loop {
            let chunk = tokio::time::timeout(self.timing.stall, response.chunk()).await;
            match chunk.map_err(|_| self.stalled(url))?.map_err(|e| broken(url, e))? {
                Some(chunk) if bytes.len() + chunk.len() > max => {
                    drop(chunk);
                    return Err(too_large());
                }
                Some(chunk) => bytes.extend_from_slice(&chunk),
                None => return Ok(bytes),
            }
        }
    }

    /// The error of a server that went silent.
    pub(super) fn stalled(&self, url: &Url) -> Error {
        let (url, s) = (shown(url), self.timing.stall.as_secs_f64());
        Error::new(
            Kind::Unavailable,
            format!("{url}: nothing came for {s} s; check the network and try again"),
        )
    }

    /// Sends until the answer is not "later": connection failures, 429 and 5xx are tried again.
    async fn exchange(&self, parcel: &Parcel<'_>) -> Result<Response> {
        let mut pauses = Pauses::new(self.timing);
        loop {
            let (error, wish) = match self.hops(parcel).await {
                Ok(response) if is_busy(response.status()) => {
                    let wish = retry_after(response.headers());
                    (self.refusal(parcel.url, response, Shown::Nothing).await, wish)
                }
                Ok(response) => return Ok(response),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { error, hurry }) => {
                    if hurry {
                        pauses.hurry();
                    }
                    (error, None)
                }
            };
            if parcel.upload.is_some() || !pauses.wait(wish).await {
                return Err(error);
            }
        }
    }

    /// Sends once, and goes where the answers lead.
    async fn hops(&self, parcel: &Parcel<'_>) -> std::result::Result<Response, Failure> {
        let mut url = parcel.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.hop(parcel, &url).await?;
            let follows =
                matches!(*parcel.method, Method::GET | Method::HEAD) && is_redirect(response.status());
            let Some(location) = response.headers().get(LOCATION).filter(|_| follows) else {
                return Ok(response);
            };
            url = next(parcel.url, &url, location).map_err(Failure::Final)?;
        }
        let why = format!("{}: more than {MAX_REDIRECTS} redirects", shown(parcel.url));
        Err(Failure::Final(Error::new(Kind::Unavailable, why)))
    }

    async fn hop(&self, parcel: &Parcel<'_>, url: &Url) -> std::result::Result<Response, Failure> {
        let mut headers = parcel.headers.clone();
        let client = if same_origin(url, parcel.url) {
            headers.extend(parcel.private.clone());
            self.clients.get(parcel.link, url, self.timing)
        } else {
            self.clients.get(&elsewhere(parcel.link, parcel.url, url), url, self.timing)
        };
        let client = client.map_err(Failure::Final)?;
        let request = (parcel.fill)(client.request(parcel.method.clone(), url.clone()).headers(headers));
        match self.alive(parcel.upload, request.send()).await {
            Some(Ok(response)) => Ok(response),
            Some(Err(e)) if e.is_builder() => Err(Failure::Final(broken(parcel.url, e))),
            Some(Err(e)) => {
                let hurry = e.is_connect();
                Err(Failure::Again { error: broken(parcel.url, e), hurry })
            }
            None => Err(Failure::Again { error: self.stalled(parcel.url), hurry: false }),
        }
    }

    /// Waits for an answer as long as the body moves; `None` if nothing has for too long.
    async fn alive<T>(&self, upload: Option<&Uploaded>, answer: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(answer);
        let sent = || upload.map_or(0, |n| n.load(Ordering::Relaxed));
        loop {
            let before = sent();
            match tokio::time::timeout(self.timing.stall, &mut answer).await {
                Ok(answer) => return Some(answer),
                Err(_) if sent() != before => {}
                Err(_) => return None,
            }
        }
    }
}

/// How another host than the one that hosts.toml is about is connected to: it has no claim to the client's certificate, and
/// whoever trusts a registry blindly has not said that of somebody else.
fn elsewhere(link: &Link, from: &Url, to: &Url) -> Link {
    Link {
        skip_verify: link.skip_verify && from.host_str() == to.host_str(),
        ca: link.ca.clone(),
        identity: None,
        dial_timeout: link.dial_timeout,
    }
}

/// Whether two URLs lead to one server.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where a redirect leads: never from TLS to none, nor in the clear to another host, since what the operator allowed ends
/// there.
pub(super) fn next(asked: &Url, from: &Url, location: &HeaderValue) -> Result<Url> {
    let refuse = |why: &str| Error::new(Kind::Unavailable, format!("{}: {why}", shown(asked)));
    let to = location.to_str().ok().and_then(|text| from.join(text).ok());
    let to = to.ok_or_else(|| refuse("it redirects to what is no URL"))?;
    let host = |url: &Url| url.host_str().unwrap_or_default().to_owned();
    let both_here = super::hosts::is_loopback(&host(from)) && super::hosts::is_loopback(&host(&to));
    let plain = to.scheme() == "http" && from.scheme() == "http" && (host(from) == host(&to) || both_here);
    if to.scheme() == "https" || plain {
        return Ok(to);
    }
    let why = format!(
        "a redirect to plain HTTP on {} is refused; the registry must redirect to https://",
        host(&to)
    );
    Err(refuse(&why))
}

fn is_busy(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}
