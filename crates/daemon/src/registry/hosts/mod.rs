//! Where a registry is: its own host, or what its directory below `config_path` says.
//!
//! ```text
//!   <config_path>/<host>_<port>_/   ┐ the first that is there (containerd's order)
//!   <config_path>/<host>[:<port>]/  │   hosts.toml     file.rs: mirrors in order, then the registry itself
//!   <config_path>/_default/         ┘   *.crt *.cert *.key     certs.rs: where there is no hosts.toml, as Docker has it
//! ```
//! Nothing is kept: the directory is read for every pull.

mod certs;
mod file;

#[cfg(test)]
mod tests;

use super::auth::Credentials;
use crate::error::{Error, Result};
use crate::regular;
use http::HeaderMap;
use reqwest::Url;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use strata_oci::reference::DEFAULT_REGISTRY;

/// What answers for [`DEFAULT_REGISTRY`].
const DOCKER_HUB: &str = "registry-1.docker.io";
/// The directory of registries that have none of their own.
const DEFAULT_DIR: &str = "_default";
/// The file in a registry's directory.
const FILE: &str = "hosts.toml";

/// The longest of them, in bytes.
const MAX_SIZE: u64 = 1 << 20;

/// One place where a registry's content can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Up to and with `/v2`, without a slash at the end.
    pub(super) base: Url,
    /// How to connect to it.
    pub(super) link: Link,
    /// Sent with every request to it, and to nobody else.
    pub(super) headers: HeaderMap,
    /// What it may be asked for.
    capabilities: Capabilities,
    /// The registry that it stands in for; `None` if it is the registry itself.
    pub(super) mirror_of: Option<String>,
    /// What it is shown: the registry's credentials if it is the registry, what the configuration has for its own name if
    /// it is a mirror.
    pub(super) credentials: Credentials,
}

/// How a host is connected to, and whom to take for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Link {
    /// Whether any certificate will do.
    pub(super) skip_verify: bool,
    /// Certificates of authorities, beside the system's.
    pub(super) ca: Vec<Pem>,
    /// A certificate with its key, for servers that ask for one.
    pub(super) identity: Option<Pem>,
    /// How long a connection may take; `None`: as the configuration says.
    pub(super) dial_timeout: Option<Duration>,
}

/// Text in PEM, which may hold a private key: it is not shown in logs.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Pem(pub(super) Vec<u8>);

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pem({} bytes)", self.0.len())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Capabilities {
    pull: bool,
    resolve: bool,
    push: bool,
}

/// What is wanted from an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Content by its digest, which proves it.
    Content,
    /// What a tag means, which has to be believed.
    Tag,
    /// To take content.
    Push,
}

impl Endpoint {
    /// Whether it may be asked for this.
    pub(super) fn serves(&self, want: Want) -> bool {
        match want {
            Want::Content => self.capabilities.pull,
            Want::Tag => self.capabilities.pull && self.capabilities.resolve,
            Want::Push => self.capabilities.push,
        }
    }

    /// Whether it is spoken to without TLS.
    pub(super) fn is_plain(&self) -> bool {
        self.base.scheme() == "http"
    }

    /// Host and port, for keys and messages.
    pub(super) fn authority(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        self.base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// The URL of something below the base. `path` is made of checked names only.
    pub(super) fn url(&self, path: &str) -> Result<Url> {
        let text = format!("{}/{path}", self.base.as_str().trim_end_matches('/'));
        let mut url = Url::parse(&text).map_err(|e| Error::invalid(format!("registry URL {text:?}: {e}")))?;
        if let Some(registry) = &self.mirror_of {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        Ok(url)
    }
}

/// The endpoints of a registry, in the order in which they are to be tried, all without credentials.
///
/// # Errors
/// [`Kind::FailedPrecondition`](crate::error::Kind::FailedPrecondition) if a file cannot be read or makes no sense.
pub(super) async fn endpoints(config_path: &Path, registry: &str) -> Result<Vec<Endpoint>> {
    let (config_path, registry) = (config_path.to_owned(), registry.to_owned());
    tokio::task::spawn_blocking(move || read(&config_path, &registry))
        .await
        .map_err(|e| Error::internal(format!("reading hosts.toml: {e}")))?
}

/// The directory that counts for a registry; `None` if there is none.
fn directory(config_path: &Path, registry: &str) -> Option<PathBuf> {
    // A registry's name holds no slash and no empty label: strata_oci::reference.
    let with_port = registry
        .rsplit_once(':')
        .filter(|(host, port)| !host.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
        .map(|(host, port)| format!("{host}_{port}_"));
    let names = with_port.iter().map(String::as_str).chain([registry, DEFAULT_DIR]);
    names.map(|name| config_path.join(name)).find(|dir| dir.is_dir())
}

fn read(config_path: &Path, registry: &str) -> Result<Vec<Endpoint>> {
    let Some(dir) = directory(config_path, registry) else { return Ok(vec![own(registry)?]) };
    let path = dir.join(FILE);
    match regular::read_text(&path, MAX_SIZE) {
        Ok(text) => file::parse(&path, &text, registry),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let mut endpoint = own(registry)?;
            if let Some(link) = certs::of_directory(&dir)? {
                endpoint.link = link;
                // Whoever puts certificates there does not mean plain HTTP, on this machine either.
                endpoint.base = base_of(registry, "https")?;
            }
            Ok(vec![endpoint])
        }
        Err(e) => Err(Error::precondition(format!(
            "{}: {e}; put a readable file there, or remove it",
            path.display()
        ))),
    }
}

/// The registry itself: over TLS, unless it is on this machine.
fn own(registry: &str) -> Result<Endpoint> {
    let scheme = if is_loopback(registry) && !registry.ends_with(":443") { "http" } else { "https" };
    Ok(Endpoint {
        base: base_of(registry, scheme)?,
        link: Link::default(),
        headers: HeaderMap::new(),
        capabilities: Capabilities { pull: true, resolve: true, push: true },
        mirror_of: None,
        credentials: Credentials::Anonymous,
    })
}

fn base_of(registry: &str, scheme: &str) -> Result<Url> {
    let host = if registry == DEFAULT_REGISTRY { DOCKER_HUB } else { registry };
    let text = format!("{scheme}://{host}/v2");
    Url::parse(&text).map_err(|e| Error::invalid(format!("registry {registry:?}: {e}")))
}

/// Whether a host, with or without a port, is this machine by its very name: no lookup is asked.
pub(super) fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        || host.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
}
