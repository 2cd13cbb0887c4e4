//! What a push needs: blobs that the registry lacks, then the manifest (distribution spec, "Pushing").

use super::auth::Credentials;
use super::hosts::{Endpoint, Want};
use super::patience::Pauses;
use super::transport::{Ask, next, same_origin, shown};
use super::{DIGEST_HEADER, Session};
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use futures_util::stream::{Stream, try_unfold};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use reqwest::{Body, RequestBuilder, Response, Url};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use strata_oci::digest::Hasher;
use strata_oci::{Descriptor, Digest};
use tokio::io::AsyncReadExt as _;

/// How much of a file is read at a time.
const CHUNK: usize = 128 << 10;

/// What a registry says to the wish to send a blob.
#[derive(Debug)]
pub(crate) enum Start {
    /// It has taken the blob from another of its repositories.
    Mounted,
    /// It waits for the bytes.
    Upload(Upload),
}

/// Where a registry waits for a blob's bytes.
#[derive(Debug)]
pub(crate) struct Upload(Url);

/// The bytes of a blob, as they are sent.
struct Source {
    path: PathBuf,
    blob: Descriptor,
    sent: Arc<AtomicU64>,
    /// Set once the file turns out not to be the blob.
    damaged: Arc<AtomicBool>,
}

impl Session {
    /// Whether the registry has a blob in the image's repository.
    ///
    /// # Errors
    /// If it does not say so, each error naming the URL.
    pub(crate) async fn has(&self, digest: &Digest) -> Result<bool> {
        let url = self.taker()?.url(&format!("{}/blobs/{digest}", self.reference.repository()))?;
        let ask = self.ask(Method::HEAD, url, None)?;
        let response = self.transport.answer(&ask, &|request| request).await?;
        match response.status() {
            status if status.is_success() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.transport.refusal(&ask.url, response, ask.shown()).await),
        }
    }

    /// Begins to send a blob, or has the registry take it from another repository of its own.
    ///
    /// # Errors
    /// If the registry does not want it.
    pub(crate) async fn start(&self, mount: Option<(&Digest, &str)>) -> Result<Start> {
        let mut url = self.taker()?.url(&format!("{}/blobs/uploads/", self.reference.repository()))?;
        if let Some((digest, from)) = mount {
            url.query_pairs_mut().append_pair("mount", digest.as_str()).append_pair("from", from);
        }
        let ask = self.ask(Method::POST, url, mount.map(|(_, from)| from))?;
        let empty = |request: RequestBuilder| request.header(CONTENT_LENGTH, "0");
        let response = self.transport.send_with(&ask, &empty).await?;
        match response.status() {
            StatusCode::CREATED if mount.is_some() => Ok(Start::Mounted),
            StatusCode::ACCEPTED => Ok(Start::Upload(Upload(location(&ask.url, &response)?))),
            status => Err(odd(&ask.url, format_args!("answers {status} to the start of an upload"))),
        }
    }

    /// Sends a blob from a file, at once and as a whole; `sent` tells how far it is. If it breaks off, it begins anew.
    ///
    /// # Errors
    /// What the registry says; [`Kind::DataLoss`] if the file does not hold the blob.
    pub(crate) async fn upload(
        &self,
        mut begun: Option<Upload>,
        blob: &Descriptor,
        file: &Path,
        sent: &Arc<AtomicU64>,
    ) -> Result<()> {
        let mut pauses = Pauses::new(self.transport.timing);
        loop {
            let upload = match begun.take() {
                Some(upload) => upload,
                None => match self.start(None).await? {
                    Start::Upload(upload) => upload,
                    Start::Mounted => return Ok(()),
                },
            };
            let damaged = Arc::new(AtomicBool::new(false));
            match self.put_blob(upload, blob, file, sent, &damaged).await {
                Ok(()) => return Ok(()),
                Err(_) if damaged.load(Ordering::Relaxed) => {
                    let why = format!("blob {} is damaged on this node", blob.digest);
                    return Err(Error::new(
                        Kind::DataLoss,
                        format!("{why}; `strata fsck --repair` may mend it"),
                    ));
                }
                Err(e) if e.kind() == Kind::Unavailable && pauses.wait(None).await => {}
                Err(e) => return Err(e),
            }
        }
    }

    async fn put_blob(
        &self,
        Upload(mut url): Upload,
        blob: &Descriptor,
        file: &Path,
        sent: &Arc<AtomicU64>,
        damaged: &Arc<AtomicBool>,
    ) -> Result<()> {
        url.query_pairs_mut().append_pair("digest", blob.digest.as_str());
        let endpoint = self.taker()?;
        let mut elsewhere = endpoint.clone();
        let mut ask = self.ask(Method::PUT, url, None)?;
        if !same_origin(&ask.url, &endpoint.base) {
            // Who is sent to somebody else with the bytes does not show the registry's credentials there.
            elsewhere.credentials = Credentials::Anonymous;
            elsewhere.headers.clear();
            elsewhere.link.identity = None;
            elsewhere.link.skip_verify = false;
            ask.endpoint = &elsewhere;
        }
        ask.upload = Some(sent);
        let fill = |request: RequestBuilder| {
            sent.store(0, Ordering::Relaxed);
            let source = Source {
                path: file.to_owned(),
                blob: blob.clone(),
                sent: Arc::clone(sent),
                damaged: Arc::clone(damaged),
            };
            request
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, blob.size)
                .body(Body::wrap_stream(source.stream()))
        };
        self.transport.send_with(&ask, &fill).await.map(drop)
    }

    /// Makes a manifest known by the reference's tag: whatever it names must be there already.
    ///
    /// # Errors
    /// What the registry says; [`Kind::DataLoss`] if it has taken it for something else.
    pub(crate) async fn put_manifest(&self, manifest: &Descriptor, bytes: &[u8]) -> Result<()> {
        let tag = self.reference.tag().ok_or_else(|| Error::invalid("a push needs a tag"))?;
        let url = self.taker()?.url(&format!("{}/manifests/{tag}", self.reference.repository()))?;
        let mut ask = self.ask(Method::PUT, url, None)?;
        let media_type = HeaderValue::from_str(&manifest.media_type)
            .map_err(|_| Error::invalid(format!("media type {:?} fits no header", manifest.media_type)))?;
        ask.headers.insert(CONTENT_TYPE, media_type);
        let body = Bytes::copy_from_slice(bytes);
        let response = self.transport.send_with(&ask, &|request| request.body(body.clone())).await?;
        let said = response.headers().get(DIGEST_HEADER).and_then(|v| v.to_str().ok());
        match said.and_then(|text| Digest::parse(text.trim()).ok()) {
            Some(digest) if digest != manifest.digest => {
                let why = format!("the registry calls the manifest {digest}, but it is {}", manifest.digest);
                Err(Error::new(Kind::DataLoss, format!("{}: {why}; push again", shown(&ask.url))))
            }
            _ => Ok(()),
        }
    }

    /// The host that takes pushes.
    fn taker(&self) -> Result<&Endpoint> {
        let mut endpoints = self.endpoints(Want::Push)?;
        endpoints.next().ok_or_else(|| Error::internal("no endpoint takes pushes; this is a bug"))
    }

    fn ask(&self, method: Method, url: Url, reads: Option<&str>) -> Result<Ask<'_>> {
        let mut scope = format!("repository:{}:pull,push", self.reference.repository());
        if let Some(repository) = reads {
            scope.push_str(&format!(" repository:{repository}:pull"));
        }
        Ok(Ask { endpoint: self.taker()?, method, url, headers: HeaderMap::new(), scope, upload: None })
    }
}

/// Where an answer leads, by the rules of redirects.
fn location(asked: &Url, response: &Response) -> Result<Url> {
    let location = response.headers().get(LOCATION);
    next(asked, asked, location.ok_or_else(|| odd(asked, format_args!("does not say where to send a blob")))?)
}

fn odd(url: &Url, what: std::fmt::Arguments<'_>) -> Error {
    let why = "is this a registry? check the host, its port and hosts.toml";
    Error::new(Kind::Internal, format!("{}: the registry {what}; {why}", shown(url)))
}

/// A file that is read as a stream; it is opened when it is first wanted.
struct Reading {
    source: Source,
    file: Option<tokio::fs::File>,
    hasher: Hasher,
    total: u64,
}

impl Source {
    /// The file's bytes; it ends with an error where they are not the blob's.
    fn stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let hasher = Hasher::new(self.blob.digest.algorithm());
        let reading = Reading { source: self, file: None, hasher, total: 0 };
        try_unfold(reading, |Reading { source, file, mut hasher, total }| async move {
            let mut file = match file {
                Some(file) => file,
                None => tokio::fs::File::open(&source.path).await?,
            };
            let mut bytes = bytes::BytesMut::with_capacity(CHUNK);
            let n = file.read_buf(&mut bytes).await?;
            let total = total + n as u64;
            hasher.update(&bytes);
            // Said before the last bytes go out: a body that is cut off is one that the registry drops.
            let whole = total == source.blob.size;
            let wrong = if whole { hasher.clone().finish() != source.blob.digest } else { n == 0 };
            if wrong || total > source.blob.size {
                source.damaged.store(true, Ordering::Relaxed);
                return Err(io::Error::other("the blob is damaged"));
            }
            if n == 0 {
                return Ok(None);
            }
            source.sent.store(total, Ordering::Relaxed);
            Ok(Some((bytes.freeze(), Reading { source, file: Some(file), hasher, total })))
        })
    }
}

#[cfg(test)]
mod tests;
