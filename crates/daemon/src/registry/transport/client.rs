//! A client per way to connect.

use super::refusal::chain;
use crate::error::{Error, Result};
use crate::registry::hosts::{Link, is_loopback};
use crate::registry::patience::Timing;
use reqwest::Url;
use reqwest::redirect::Policy;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Clients kept; more only come of certificates that change.
const MAX_CLIENTS: usize = 64;

/// The clients that there are: connections are used again.
#[derive(Default)]
pub(super) struct Clients(Mutex<HashMap<(Link, bool), reqwest::Client>>);

impl Clients {
    /// The client for a URL's host. This machine is asked without a proxy.
    pub(super) fn get(&self, link: &Link, url: &Url, timing: Timing) -> Result<reqwest::Client> {
        let key = (link.clone(), is_loopback(url.host_str().unwrap_or_default()));
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = build(link, key.1, timing)?;
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

fn build(link: &Link, local: bool, timing: Timing) -> Result<reqwest::Client> {
    let bad = |e: reqwest::Error| {
        let e = chain(&e);
        let advice = if e.contains("KeyMismatch") {
            "the key of client in hosts.toml is another certificate's"
        } else {
            "are ca-certificates installed, and is every ca and client in hosts.toml PEM?"
        };
        Error::precondition(format!("TLS cannot be set up: {e}; {advice}"))
    };
    let identity = link.identity.as_ref().map(|pem| reqwest::Identity::from_pem(&pem.0)).transpose();
    let identity = identity.map_err(bad)?;
    let builder = || {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("strata/", env!("CARGO_PKG_VERSION")))
            // Followed by hand: see `hops`.
            .redirect(Policy::none())
            .connect_timeout(link.dial_timeout.unwrap_or(timing.connect))
            .http2_adaptive_window(true)
            .tls_danger_accept_invalid_certs(link.skip_verify);
        let builder = match &identity {
            Some(identity) => builder.identity(identity.clone()),
            None => builder,
        };
        if local { builder.no_proxy() } else { builder }
    };
    let mut certificates = Vec::new();
    for pem in &link.ca {
        certificates.extend(reqwest::Certificate::from_pem_bundle(&pem.0).map_err(bad)?);
    }
    match builder().tls_certs_merge(certificates).build() {
        // A node without any certificate can still talk to a registry of its own.
        Err(_) if local => builder().tls_certs_only([]).build().map_err(bad),
        built => built.map_err(bad),
    }
}
