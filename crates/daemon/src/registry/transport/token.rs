//! What a registry that answers 401 is given.

use super::{Ask, Parcel, Transport, elsewhere, same_origin, shown};
use crate::error::{Error, Kind, Result};
use crate::registry::auth::{Challenge, Credentials, Grant, read_token, secret};
use crate::registry::hosts::{Endpoint, is_loopback};
use http::Method;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Response, Url};
use std::time::Duration;

/// The most bytes of a token's answer that are read.
const MAX_ANSWER: usize = 64 << 10;
/// How long a password that a registry took is offered to it without being asked.
const BASIC_LIFE: Duration = Duration::from_secs(3600);

impl Transport {
    /// The header that an endpoint wants; `None` if there is nothing to give it.
    pub(super) async fn authorise(&self, ask: &Ask<'_>, response: &Response) -> Result<Option<Grant>> {
        let credentials = &ask.endpoint.credentials;
        if let Credentials::Registry(token) = credentials {
            return Ok(Some(Grant { header: secret(&format!("Bearer {token}"))?, life: BASIC_LIFE }));
        }
        let challenges = Challenge::all(response.headers());
        let bearer = challenges.iter().find(|c| c.scheme == "bearer" && c.get("realm").is_some());
        if let Some(challenge) = bearer {
            return self.token(ask, challenge).await.map(Some);
        }
        if !challenges.iter().any(|c| c.scheme == "basic") {
            return Ok(None);
        }
        Ok(credentials.basic()?.map(|header| Grant { header, life: BASIC_LIFE }))
    }

    /// Gets a token (distribution's "Token Authentication Specification"; identity tokens by its OAuth2 form).
    async fn token(&self, ask: &Ask<'_>, challenge: &Challenge) -> Result<Grant> {
        let (endpoint, credentials) = (ask.endpoint, &ask.endpoint.credentials);
        let realm = realm(endpoint, challenge.get("realm").unwrap_or_default())?;
        let mut query = realm.clone();
        query.query_pairs_mut().extend_pairs(challenge.get("service").map(|s| ("service", s)));
        for scope in scopes(challenge.get("scope").unwrap_or_default(), &ask.scope) {
            query.query_pairs_mut().append_pair("scope", scope);
        }
        let (mut private, link) = if same_origin(&realm, &endpoint.base) {
            (endpoint.headers.clone(), endpoint.link.clone())
        } else {
            (HeaderMap::new(), elsewhere(&endpoint.link, &endpoint.base, &realm))
        };
        if let Some(basic) = credentials.basic()? {
            private.insert(AUTHORIZATION, basic);
        }
        let mut headers = HeaderMap::new();
        let response = if let Credentials::Identity(token) = credentials {
            query.query_pairs_mut().extend_pairs([
                ("grant_type", "refresh_token"),
                ("client_id", "strata"),
                ("refresh_token", token),
            ]);
            let form = query.query().unwrap_or_default().to_owned();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            let fill = |request: reqwest::RequestBuilder| request.body(form.clone());
            let (url, method) = (&realm, &Method::POST);
            let parcel = Parcel {
                url,
                method,
                headers: &headers,
                private: &private,
                link: &link,
                fill: &fill,
                upload: None,
            };
            self.exchange(&parcel).await?
        } else {
            let (url, method) = (&query, &Method::GET);
            let parcel = Parcel {
                url,
                method,
                headers: &headers,
                private: &private,
                link: &link,
                fill: &|r| r,
                upload: None,
            };
            self.exchange(&parcel).await?
        };
        if !response.status().is_success() {
            return Err(self.refusal(&realm, response, ask.shown()).await);
        }
        let body = self.body(&realm, response, MAX_ANSWER).await?;
        read_token(&body).map_err(|e| e.context(format!("token server {}", shown(&realm))))
    }
}

/// What the registry says is needed, and what the request is known to need beyond that: a mount reads from another
/// repository, and what looks first and pushes then does both with one token.
fn scopes<'a>(challenged: &'a str, wanted: &'a str) -> Vec<&'a str> {
    let mut all: Vec<&str> = challenged.split(' ').filter(|s| !s.is_empty()).collect();
    for scope in wanted.split(' ').filter(|scope| !scope.is_empty()) {
        let covered = scope.rsplit_once(':').is_some_and(|(of, actions)| {
            all.iter().filter_map(|s| s.rsplit_once(':')).any(|(other, has)| {
                other == of && actions.split(',').all(|action| has.split(',').any(|h| h == action))
            })
        });
        if !covered {
            all.push(scope);
        }
    }
    all
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

#[cfg(test)]
mod tests {
    use super::scopes;

    #[test]
    fn nothing_is_asked_for_twice() {
        let (pull, push) = ("repository:a/b:pull", "repository:a/b:pull,push");
        assert_eq!(scopes("", pull), [pull]);
        assert!(scopes("", "").is_empty());
        assert_eq!(scopes(pull, pull), [pull]);
        assert_eq!(scopes(push, pull), [push]);
        assert_eq!(scopes(pull, push), [pull, push]);
        let both = "repository:a/b:pull,push repository:c:pull";
        assert_eq!(
            scopes("repository:a/b:push,pull", both),
            ["repository:a/b:push,pull", "repository:c:pull"]
        );
    }
}
