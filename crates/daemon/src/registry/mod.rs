//! A client of the OCI distribution spec: pulling and pushing.
//!
//! ```text
//!   Client ── session()     which endpoints, each with what it is shown: once for a pull
//!                │  └─ hosts/      mirrors of hosts.toml in order, then the registry itself
//!                ├─ manifest()     bounded, digest proved
//!                ├─ blob()         blob.rs: resumed by ranges, at the next endpoint if need be
//!                └─ has() … put()  push.rs: blobs that the registry lacks, manifests
//!                   └─ transport/  TLS, redirects; 401 → auth.rs (Basic, Bearer tokens per endpoint, scope and credentials);
//!                                  429/5xx → patience.rs
//! ```
//!
//! Plain HTTP is spoken to this machine only (`localhost`, 127.0.0.0/8, ::1), or where hosts.toml says `http://`.
//! Credentials go to the registry and its token server, never to mirrors (which get what keyring.rs has under their own
//! names), nor after redirects to another host.

mod auth;
mod blob;
mod hosts;
mod keyring;
mod patience;
mod push;
mod transport;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod testserver;

pub(crate) use blob::BlobStream;
pub(crate) use push::Start;

use crate::config;
use crate::error::{Error, Kind, Result};
use auth::Credentials;
use hosts::{Endpoint, Want};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use keyring::Keyring;
use patience::{Pauses, Timing};
use reqwest::Url;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use strata_api::cri::AuthConfig;
use strata_oci::document::{ACCEPTED, MAX_SIZE};
use strata_oci::{Digest, Reference};
use transport::{Ask, Transport, shown};

/// What a registry calls the digest of its answer (distribution spec, "Pulling manifests").
const DIGEST_HEADER: &str = "docker-content-digest";

/// Pulls from registries. Cheap to clone; connections and tokens are shared.
#[derive(Clone)]
pub(crate) struct Client {
    config_path: PathBuf,
    keyring: Arc<Keyring>,
    transport: Arc<Transport>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("config_path", &self.config_path).finish_non_exhaustive()
    }
}

/// A manifest or an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    /// As the registry says; as the document says where the registry says nothing useful.
    pub(crate) media_type: String,
    /// Of the bytes; the one that was asked for, if one was.
    pub(crate) digest: Digest,
    /// The document.
    pub(crate) bytes: Vec<u8>,
}

impl Client {
    /// A client with what the configuration says.
    ///
    /// # Errors
    /// None today: what is wrong with TLS or hosts.toml shows in the pull that needs it.
    pub(crate) fn new(config: &config::Registry) -> Result<Self> {
        // An error means that there is a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let transport = Arc::new(Transport::new(Timing::of(config)));
        let keyring = Arc::new(Keyring::new(config));
        Ok(Self { config_path: config.config_path.clone(), keyring, transport })
    }

    /// Finds out where an image's registry is and what to show it: once for a pull, whatever is fetched by it.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`] if hosts.toml makes no sense, [`Kind::InvalidArgument`] if the credentials make none.
    pub(crate) async fn session(&self, reference: &Reference, auth: Option<&AuthConfig>) -> Result<Session> {
        let (registry, repository) = (reference.registry(), reference.repository());
        let mut credentials = Credentials::of(auth, registry)?;
        if credentials == Credentials::Anonymous {
            credentials = self.keyring.find(registry, repository).await?;
        }
        let mut endpoints = hosts::endpoints(&self.config_path, registry).await?;
        for endpoint in &mut endpoints {
            // Mirrors are somebody else: what opens the registry must not be shown to them, only what is theirs.
            endpoint.credentials = if endpoint.mirror_of.is_some() {
                self.keyring.find(&endpoint.authority(), repository).await?
            } else {
                credentials.clone()
            };
        }
        Ok(Session { transport: Arc::clone(&self.transport), reference: reference.clone(), endpoints })
    }

    /// Shows credentials to a registry, which refuses them if they are not good (distribution spec, "Determining Support").
    ///
    /// # Errors
    /// [`Kind::PermissionDenied`] if it refuses them.
    pub(crate) async fn check(&self, registry: &str, auth: &AuthConfig) -> Result<()> {
        let credentials = Credentials::of(Some(auth), registry)?;
        let endpoints = hosts::endpoints(&self.config_path, registry).await?;
        let itself = endpoints.into_iter().rfind(|e| e.mirror_of.is_none());
        let mut endpoint =
            itself.ok_or_else(|| Error::internal(format!("registry {registry} has no endpoint")))?;
        endpoint.credentials = credentials;
        let mut ask = Ask::get(&endpoint, endpoint.url("")?, "");
        ask.scope.clear();
        self.transport.send(&ask).await.map(drop)
    }

    /// [`Session::manifest`] in a session of its own.
    ///
    /// # Errors
    /// As it and [`session`](Self::session).
    pub(crate) async fn manifest(
        &self,
        reference: &Reference,
        by: &str,
        auth: Option<&AuthConfig>,
    ) -> Result<Fetched> {
        self.session(reference, auth).await?.manifest(by).await
    }

    /// [`Session::blob`] in a session of its own.
    ///
    /// # Errors
    /// As it and [`session`](Self::session).
    pub(crate) async fn blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        auth: Option<&AuthConfig>,
    ) -> Result<BlobStream> {
        self.session(reference, auth).await?.blob(digest, size).await
    }
}

/// A registry as one pull or push sees it: hosts and credentials stay what they were when it began.
#[derive(Clone)]
pub(crate) struct Session {
    transport: Arc<Transport>,
    reference: Reference,
    /// Mirrors in order, the registry itself last.
    endpoints: Vec<Endpoint>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("reference", &self.reference).finish_non_exhaustive()
    }
}

impl Session {
    /// Fetches a manifest or an index of at most [`MAX_SIZE`] bytes, by a tag or a digest.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::PermissionDenied`], [`Kind::Unavailable`], [`Kind::ResourceExhausted`] if it is too
    /// large, [`Kind::DataLoss`] if the bytes do not have the digest; each names the reference and the URL.
    pub(crate) async fn manifest(&self, by: &str) -> Result<Fetched> {
        let reference = &self.reference;
        let asked = by.contains(':').then(|| Digest::parse(by)).transpose();
        let asked = asked.map_err(|e| Error::invalid(e.to_string()))?;
        if asked.is_none() {
            reference.with_tag(by).map_err(|e| Error::invalid(e.to_string()))?;
        }
        let want = if asked.is_some() { Want::Content } else { Want::Tag };
        let mut failures = Vec::new();
        for endpoint in self.endpoints(want)? {
            let url = endpoint.url(&format!("{}/manifests/{by}", reference.repository()))?;
            let mut ask = Ask::get(endpoint, url, reference.repository());
            ask.headers.extend(HeaderValue::from_str(&ACCEPTED.join(", ")).ok().map(|v| (ACCEPT, v)));
            match self.document(&ask, asked.as_ref()).await {
                Ok(fetched) => {
                    passed_over(&failures);
                    return Ok(fetched);
                }
                Err(error) => failures.push(error),
            }
        }
        Err(all_failed(failures).context(format!("manifest of {reference}")))
    }

    /// Opens a blob whose size the manifest says. The bytes are *not* compared with the digest: the reader does that.
    ///
    /// # Errors
    /// As [`manifest`](Self::manifest).
    pub(crate) async fn blob(&self, digest: &Digest, size: u64) -> Result<BlobStream> {
        let endpoints = self.endpoints(Want::Content)?.cloned().collect();
        BlobStream::open(Arc::clone(&self.transport), &self.reference, digest, size, endpoints).await
    }

    /// Fetches a small blob, such as an image's config, and compares it with its digest.
    ///
    /// # Errors
    /// As [`manifest`](Self::manifest).
    pub(crate) async fn blob_bytes(&self, digest: &Digest, size: u64) -> Result<Vec<u8>> {
        let reference = &self.reference;
        if size > MAX_SIZE as u64 {
            let why = format!(
                "blob {digest} of {reference}: {size} bytes are too many; at most {MAX_SIZE} are read"
            );
            return Err(Error::new(Kind::ResourceExhausted, why));
        }
        let mut stream = self.blob(digest, size).await?;
        loop {
            let mut bytes = Vec::new();
            let read = async {
                while let Some(chunk) = stream.chunk().await? {
                    bytes.extend_from_slice(&chunk);
                }
                Ok::<_, Error>(())
            };
            read.await?;
            if digest.verifies(&bytes) {
                return Ok(bytes);
            }
            let why = format!("blob of {reference}: its bytes do not have the digest {digest}");
            let error = Error::new(Kind::DataLoss, format!("{why}; push the image again"));
            stream = stream.distrust(error).await?;
        }
    }

    /// The endpoints that may be asked for this, in order.
    fn endpoints(&self, want: Want) -> Result<impl Iterator<Item = &Endpoint>> {
        if !self.endpoints.iter().any(|e| e.serves(want)) {
            let capabilities = match want {
                Want::Content => "\"pull\"",
                Want::Tag => "\"pull\" and \"resolve\"",
                Want::Push => "\"push\"",
            };
            let why = format!("no host in its hosts.toml has the capabilities {capabilities}");
            return Err(Error::precondition(format!("registry {}: {why}", self.reference.registry())));
        }
        Ok(self.endpoints.iter().filter(move |e| e.serves(want)))
    }

    /// Sends a request and reads the answer, again if it breaks off.
    async fn document(&self, ask: &Ask<'_>, asked: Option<&Digest>) -> Result<Fetched> {
        let mut pauses = Pauses::new(self.transport.timing);
        loop {
            let response = self.transport.send(ask).await?;
            let headers = response.headers().clone();
            match self.transport.body(&ask.url, response, MAX_SIZE).await {
                Ok(bytes) => return checked(&ask.url, &headers, bytes, asked),
                Err(e) if e.kind() == Kind::Unavailable && pauses.wait(None).await => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Says which mirrors failed where another host then did not: nobody would notice otherwise that they are of no use. That
/// one does not have everything is nothing to tell.
fn passed_over(failures: &[Error]) {
    for error in failures.iter().filter(|error| error.kind() != Kind::NotFound) {
        tracing::warn!(%error, "a mirror was passed over");
    }
}

/// The last failure, which is the registry's own, with those of the mirrors before it.
fn all_failed(mut failures: Vec<Error>) -> Error {
    let Some(last) = failures.pop() else { return Error::internal("the registry has no endpoint") };
    if failures.is_empty() {
        return last;
    }
    let mirrors: Vec<_> = failures.iter().map(Error::to_string).collect();
    Error::new(last.kind(), format!("{last}; mirrors failed before: {}", mirrors.join("; ")))
}

/// A document whose digest is what was asked for and what the registry says.
fn checked(url: &Url, headers: &HeaderMap, bytes: Vec<u8>, asked: Option<&Digest>) -> Result<Fetched> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let announced = text(DIGEST_HEADER).and_then(|d| Digest::parse(d.trim()).ok());
    for digest in asked.into_iter().chain(&announced) {
        if !digest.verifies(&bytes) {
            let why = "the document does not have the digest";
            let message =
                format!("{}: {why} {digest}; try again, and push the image again if it stays so", shown(url));
            return Err(Error::new(Kind::DataLoss, message));
        }
    }
    let digest = asked.cloned().unwrap_or_else(|| Digest::sha256_of(&bytes));
    let said = text(CONTENT_TYPE.as_str()).unwrap_or_default();
    let said = said.split(';').next().unwrap_or_default().trim();
    let media_type = if ACCEPTED.contains(&said) { said.to_owned() } else { own_media_type(&bytes, said) };
    Ok(Fetched { media_type, digest, bytes })
}

/// The `mediaType` in a document, for registries that answer `application/json`.
fn own_media_type(bytes: &[u8], otherwise: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Typed {
        #[serde(rename = "mediaType")]
        media_type: String,
    }
    serde_json::from_slice::<Typed>(bytes).map_or_else(|_| otherwise.to_owned(), |t| t.media_type)
}
