//! Blobs as streams that survive broken connections.

use super::hosts::Endpoint;
use super::patience::Pauses;
use super::transport::{Ask, Transport, broken, shown};
use super::{all_failed, passed_over};
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_RANGE, HeaderValue, RANGE};
use reqwest::{Response, Url};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use strata_oci::{Digest, Reference};

/// So much must have come since the last failure for it to be forgotten.
const PROGRESS: u64 = 1 << 20;

/// A blob on its way. Dropping it, or a future of [`chunk`](Self::chunk), stops the transfer.
///
/// The bytes are counted but not hashed: whoever writes them down hashes them as they pass.
pub(crate) struct BlobStream {
    transport: Arc<Transport>,
    reference: Reference,
    digest: Digest,
    /// The one in use first.
    endpoints: VecDeque<Endpoint>,
    /// Whether the one in use answers ranges as it should.
    ranges: bool,
    size: u64,
    /// How many bytes were given out.
    offset: u64,
    /// How many bytes of the response were given out before it broke, and are to be passed over.
    skip: u64,
    response: Option<(Response, Url)>,
    /// Of the endpoints that were given up.
    failures: Vec<Error>,
    pauses: Pauses,
    /// The offset at the last failure.
    mark: u64,
}

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobStream({} of {}, {} of {} bytes)", self.digest, self.reference, self.offset, self.size)
    }
}

impl BlobStream {
    /// Opens a blob at the first endpoint that has it.
    pub(super) async fn open(
        transport: Arc<Transport>,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        endpoints: Vec<Endpoint>,
    ) -> Result<Self> {
        let pauses = Pauses::new(transport.timing);
        let mut stream = Self {
            transport,
            reference: reference.clone(),
            digest: digest.clone(),
            endpoints: endpoints.into(),
            ranges: true,
            size,
            offset: 0,
            skip: 0,
            response: None,
            failures: Vec::new(),
            pauses,
            mark: 0,
        };
        stream.connect().await?;
        Ok(stream)
    }

    /// The next bytes; `None` at the end, which comes after exactly the bytes that were announced.
    ///
    /// A transfer that breaks or stalls is resumed where it was, at a mirror or the registry itself if need be.
    ///
    /// # Errors
    /// If every endpoint failed, or one sends something of another size.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        while self.offset < self.size {
            let Some((response, url)) = &mut self.response else {
                self.connect().await?;
                continue;
            };
            let next = tokio::time::timeout(self.transport.timing.stall, response.chunk()).await;
            let error = match next {
                Ok(Ok(Some(bytes))) => match self.take(bytes)? {
                    Some(bytes) => return Ok(Some(bytes)),
                    None => continue,
                },
                Ok(Ok(None)) => Error::new(Kind::Unavailable, format!("{}: it ended too early", shown(url))),
                Ok(Err(e)) => broken(url, e),
                Err(_) => self.transport.stalled(url),
            };
            self.response = None;
            self.broke(error).await?;
        }
        self.response = None;
        passed_over(&std::mem::take(&mut self.failures));
        Ok(None)
    }

    /// The bytes were not the blob's: begins again at the endpoints after the one that sent them last.
    ///
    /// # Errors
    /// `error`, with those of the endpoints before, if none is left; what the others say otherwise.
    pub(crate) async fn distrust(mut self, error: Error) -> Result<Self> {
        self.next_endpoint(error)?;
        self.response = None;
        (self.offset, self.skip, self.mark) = (0, 0, 0);
        self.connect().await?;
        Ok(self)
    }

    /// What is new in some bytes of the response.
    fn take(&mut self, mut bytes: Bytes) -> Result<Option<Bytes>> {
        let old = self.skip.min(bytes.len() as u64);
        self.skip -= old;
        // `old` is at most the length, which is a usize.
        let bytes = bytes.split_off(usize::try_from(old).unwrap_or(usize::MAX).min(bytes.len()));
        if bytes.is_empty() {
            return Ok(None);
        }
        let offset = self.offset + bytes.len() as u64;
        if offset > self.size {
            return Err(self.wrong_size(format_args!("more than {}", self.size)));
        }
        self.offset = offset;
        Ok(Some(bytes))
    }

    /// After a broken transfer: waits, or goes to the next endpoint.
    async fn broke(&mut self, error: Error) -> Result<()> {
        if self.offset - self.mark >= PROGRESS {
            self.pauses = Pauses::new(self.transport.timing);
        }
        self.mark = self.offset;
        if self.pauses.wait(None).await { Ok(()) } else { self.next_endpoint(error) }
    }

    fn next_endpoint(&mut self, error: Error) -> Result<()> {
        self.endpoints.pop_front();
        self.pauses = Pauses::new(self.transport.timing);
        self.ranges = true;
        self.failures.push(error);
        if self.endpoints.is_empty() {
            return Err(all_failed(std::mem::take(&mut self.failures)));
        }
        Ok(())
    }

    /// Asks the endpoints for the rest until one answers.
    async fn connect(&mut self) -> Result<()> {
        loop {
            let error = match self.ask().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            self.next_endpoint(error)?;
        }
    }

    async fn ask(&mut self) -> Result<()> {
        let Some(endpoint) = self.endpoints.front() else {
            let why = format!("{} of {}: no endpoint is left", self.digest, self.reference);
            return Err(Error::new(Kind::Unavailable, why));
        };
        let repository = self.reference.repository();
        let url = endpoint.url(&format!("{repository}/blobs/{}", self.digest))?;
        for ranges in [self.ranges, false] {
            let from = if ranges { self.offset } else { 0 };
            let mut ask = Ask::get(endpoint, url.clone(), repository);
            if from > 0 {
                // No If-Range: the digest names the content, so that it cannot have changed, and caches that number their
                // copies apart would only start again.
                let range = HeaderValue::from_str(&format!("bytes={from}-"));
                ask.headers.extend(range.ok().map(|value| (RANGE, value)));
            }
            let response = self.transport.send(&ask).await?;
            match response.status() {
                StatusCode::PARTIAL_CONTENT if from > 0 => {
                    if range_of(&response) != Some((from, self.size)) {
                        // Not what was asked for: once more from the start.
                        self.ranges = false;
                        continue;
                    }
                    self.skip = 0;
                }
                StatusCode::OK => {
                    if let Some(n) = response.content_length().filter(|n| *n != self.size) {
                        return Err(self.wrong_size(n));
                    }
                    self.skip = self.offset;
                }
                _ => return Err(self.transport.refusal(&url, response, ask.shown()).await),
            }
            self.response = Some((response, url));
            return Ok(());
        }
        Err(Error::new(Kind::Unavailable, format!("{}: it answers with the wrong range", shown(&url))))
    }

    fn wrong_size(&self, found: impl std::fmt::Display) -> Error {
        let Self { digest, reference, size, .. } = self;
        Error::new(
            Kind::DataLoss,
            format!(
                "blob {digest} of {reference}: {found} bytes, but the manifest says {size}; push the image again"
            ),
        )
    }
}

/// First byte and total size of a partial answer: `bytes 50-99/100`. An unknown total matches nothing.
fn range_of(response: &Response) -> Option<(u64, u64)> {
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total): (u64, u64, u64) =
        (first.trim().parse().ok()?, last.trim().parse().ok()?, total.trim().parse().ok()?);
    (last.checked_add(1) == Some(total)).then_some((first, total))
}
