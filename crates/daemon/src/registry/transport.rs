//! Requests to registries: TLS clients, authentication, patience with busy servers, and errors that say what to do.

use super::auth::{Challenge, Credentials, Grant, TokenKey, Tokens, read_token, secret};
use super::hosts::{Endpoint, Trust, is_loopback};
use super::patience::{Pauses, Timing, retry_after};
use crate::error::{Error, Kind, Result};
use http::StatusCode;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{RequestBuilder, Response, Url};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The most bytes of an error's or a token's body that are read.
const MAX_ANSWER: usize = 64 << 10;
/// How many redirects are followed.
const MAX_REDIRECTS: usize = 10;
/// TLS clients kept; more only come of certificates that change.
const MAX_CLIENTS: usize = 64;
/// How long a password that a registry took is offered to it without being asked.
const BASIC_LIFE: Duration = Duration::from_secs(3600);

/// One request for content.
pub(super) struct Ask<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) url: Url,
    pub(super) accept: Option<HeaderValue>,
    /// The first byte that is wanted.
    pub(super) from: u64,
    pub(super) repository: &'a str,
    pub(super) credentials: &'a Credentials,
}

/// Sends requests.
#[derive(Default)]
pub(super) struct Transport {
    clients: Mutex<HashMap<(Trust, bool), reqwest::Client>>,
    tokens: Tokens,
    pub(super) timing: Timing,
}

impl Transport {
    /// A transport with other times, for tests.
    #[cfg(test)]
    pub(super) fn new(timing: Timing) -> Self {
        Self { timing, ..Self::default() }
    }

    /// Sends a request until it succeeds, authenticating if asked to; redirects are followed without the credentials.
    ///
    /// # Errors
    /// Naming URL, status and what to do. [`Kind::Unavailable`] if a later attempt may succeed.
    pub(super) async fn send(&self, ask: &Ask<'_>) -> Result<Response> {
        let client = self.client(&ask.endpoint.trust, &ask.url)?;
        let anonymous = Credentials::Anonymous;
        // A mirror is somebody else: what opens the registry must not be shown to it.
        let credentials = if ask.endpoint.mirror_of.is_some() { &anonymous } else { ask.credentials };
        let key = TokenKey {
            base: ask.endpoint.base.to_string(),
            scope: format!("repository:{}:pull", ask.repository),
            credentials: credentials.fingerprint(),
        };
        let mut header = self.tokens.get(&key);
        let mut asked = false;
        loop {
            let response = self
                .execute(&ask.url, || {
                    let mut headers = HeaderMap::new();
                    if let Some(accept) = &ask.accept {
                        headers.insert(ACCEPT, accept.clone());
                    }
                    if let Some(header) = &header {
                        headers.insert(AUTHORIZATION, header.clone());
                    }
                    let request = client.get(ask.url.clone()).headers(headers);
                    if ask.from > 0 { request.header(RANGE, format!("bytes={}-", ask.from)) } else { request }
                })
                .await?;
            match response.status() {
                status if status.is_success() => return Ok(response),
                StatusCode::UNAUTHORIZED if !asked => {
                    asked = true;
                    self.tokens.forget(&key);
                    let grant = self.authorise(ask, credentials, &key, response).await?;
                    self.tokens.put(key.clone(), &grant);
                    header = Some(grant.header);
                }
                _ => return Err(self.refusal(&ask.url, response).await),
            }
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

    /// Sends a request until the answer is not "later": connection failures, 429 and 5xx are tried again.
    async fn execute(&self, url: &Url, make: impl Fn() -> RequestBuilder) -> Result<Response> {
        let mut pauses = Pauses::new(self.timing);
        loop {
            let (error, wait) = match tokio::time::timeout(self.timing.stall, make().send()).await {
                Ok(Ok(response)) if is_busy(response.status()) => {
                    let wait = retry_after(response.headers());
                    (self.refusal(url, response).await, wait)
                }
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(e)) if e.is_redirect() || e.is_builder() => return Err(broken(url, e)),
                Ok(Err(e)) => {
                    if e.is_connect() {
                        pauses.hurry();
                    }
                    (broken(url, e), None)
                }
                Err(_) => (self.stalled(url), None),
            };
            if !pauses.wait(wait).await {
                return Err(error);
            }
        }
    }

    async fn authorise(
        &self,
        ask: &Ask<'_>,
        credentials: &Credentials,
        key: &TokenKey,
        response: Response,
    ) -> Result<Grant> {
        if let Credentials::Registry(token) = credentials {
            return Ok(Grant { header: secret(&format!("Bearer {token}"))?, life: BASIC_LIFE });
        }
        let challenges = Challenge::all(response.headers());
        let bearer = challenges.iter().find(|c| c.scheme == "bearer" && c.get("realm").is_some());
        if let Some(challenge) = bearer {
            return self.token(ask, credentials, key, challenge).await;
        }
        match credentials.basic()? {
            Some(header) if challenges.iter().any(|c| c.scheme == "basic") => {
                Ok(Grant { header, life: BASIC_LIFE })
            }
            _ => Err(self.refusal(&ask.url, response).await),
        }
    }

    /// Gets a token (distribution's "Token Authentication Specification"; identity tokens by its OAuth2 form).
    async fn token(
        &self,
        ask: &Ask<'_>,
        credentials: &Credentials,
        key: &TokenKey,
        challenge: &Challenge,
    ) -> Result<Grant> {
        let realm = realm(ask.endpoint, challenge.get("realm").unwrap_or_default())?;
        // Whoever trusts a registry blindly has not said that of a token server somewhere else.
        let same_host = realm.host_str() == ask.endpoint.base.host_str();
        let trust = Trust {
            skip_verify: ask.endpoint.trust.skip_verify && same_host,
            ca: ask.endpoint.trust.ca.clone(),
        };
        let client = self.client(&trust, &realm)?;
        let mut query = realm.clone();
        query.query_pairs_mut().extend_pairs(challenge.get("service").map(|s| ("service", s)));
        query.query_pairs_mut().append_pair("scope", challenge.get("scope").unwrap_or(&key.scope));
        let basic = credentials.basic()?;
        let response = match credentials {
            Credentials::Identity(token) => {
                query.query_pairs_mut().extend_pairs([
                    ("grant_type", "refresh_token"),
                    ("client_id", "strata"),
                    ("refresh_token", token),
                ]);
                let form = query.query().unwrap_or_default().to_owned();
                let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
                let post = || client.post(realm.clone()).header(CONTENT_TYPE, &form_type).body(form.clone());
                self.execute(&realm, post).await?
            }
            _ => {
                let get = || match &basic {
                    Some(basic) => client.get(query.clone()).header(AUTHORIZATION, basic),
                    None => client.get(query.clone()),
                };
                self.execute(&realm, get).await?
            }
        };
        if !response.status().is_success() {
            return Err(self.refusal(&realm, response).await);
        }
        let body = self.body(&realm, response, MAX_ANSWER).await?;
        read_token(&body).map_err(|e| e.context(format!("token server {}", shown(&realm))))
    }

    /// The error that an answer is.
    pub(super) async fn refusal(&self, url: &Url, response: Response) -> Error {
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

    fn client(&self, trust: &Trust, url: &Url) -> Result<reqwest::Client> {
        let key = (trust.clone(), is_loopback(url.host_str().unwrap_or_default()));
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = build_client(trust, key.1, self.timing)?;
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

fn build_client(trust: &Trust, local: bool, timing: Timing) -> Result<reqwest::Client> {
    let bad = |e: reqwest::Error| {
        let e = chain(&e);
        Error::precondition(format!(
            "TLS cannot be set up: {e}; are ca-certificates installed, and is every ca in hosts.toml PEM?"
        ))
    };
    let builder = || {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("strata/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::custom(redirect))
            .connect_timeout(timing.connect)
            .http2_adaptive_window(true)
            .tls_danger_accept_invalid_certs(trust.skip_verify);
        if local { builder.no_proxy() } else { builder }
    };
    let mut certificates = Vec::new();
    for pem in &trust.ca {
        certificates.extend(reqwest::Certificate::from_pem_bundle(pem).map_err(bad)?);
    }
    match builder().tls_certs_merge(certificates).build() {
        // A node without any certificate can still talk to a registry of its own.
        Err(_) if local => builder().tls_certs_only([]).build().map_err(bad),
        built => built.map_err(bad),
    }
}

/// Never from TLS to none, nor in the clear to another host: what the operator allowed ends there.
fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error(format!("more than {MAX_REDIRECTS} redirects"));
    }
    let host = |url: &Url| url.host_str().unwrap_or_default().to_owned();
    let to = host(attempt.url());
    let allowed = attempt.url().scheme() == "https"
        || attempt.previous().iter().all(|from| {
            from.scheme() == "http" && (host(from) == to || (is_loopback(&host(from)) && is_loopback(&to)))
        });
    if allowed {
        return attempt.follow();
    }
    attempt
        .error(format!("a redirect to plain HTTP on {to} is refused; the registry must redirect to https://"))
}

/// A token server's URL; plain HTTP only where the registry itself is plain, and on the same machine.
fn realm(endpoint: &Endpoint, text: &str) -> Result<Url> {
    let bad = |why: &str| {
        let at = endpoint.authority();
        Error::new(Kind::Unavailable, format!("registry {at}: its token server {text:?} {why}"))
    };
    let url = Url::parse(text).map_err(|_| bad("is no URL"))?;
    let same = url.host_str() == endpoint.base.host_str()
        || (is_loopback(&endpoint.authority()) && is_loopback(url.host_str().unwrap_or_default()));
    match url.scheme() {
        "https" => Ok(url),
        "http" if endpoint.is_plain() && same => Ok(url),
        _ => Err(bad("would be asked in the clear; it must be https://")),
    }
}

fn is_busy(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// The error of a transfer that broke.
pub(super) fn broken(url: &Url, error: reqwest::Error) -> Error {
    let refused = error.is_redirect();
    // Redirects lead to URLs that are signed: they stay out of messages.
    let why = chain(&error.without_url());
    let advice = if refused { "" } else { "; check the network, a proxy's settings and the registry" };
    Error::new(Kind::Unavailable, format!("{}: {why}{advice}", shown(url)))
}

/// A URL without what may be secret.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

fn chain(error: &dyn std::error::Error) -> String {
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
