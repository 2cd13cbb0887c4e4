//! A registry's client: just enough of the distribution specification to push and to look.

use super::image::{Blob, Image, Index};
use crate::Result;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;

/// What a registry answered.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// A registry that speaks plain HTTP.
#[derive(Clone, Debug)]
pub struct Registry {
    host: String,
}

impl Registry {
    /// The registry at `host:port`, as seen from the network namespace of whoever polls the futures.
    pub fn new(host: impl Into<String>) -> Self {
        Self { host: host.into() }
    }

    /// `host:port`: what image names start with.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// One request on a connection of its own.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: impl Into<Bytes>,
    ) -> Result<Response> {
        let content_type = content_type.map(HeaderValue::from_str).transpose()?;
        let headers: Vec<_> = content_type.map(|kind| (CONTENT_TYPE, kind)).into_iter().collect();
        self.request_with(method, path, &headers, body).await
    }

    /// The same with any headers.
    pub async fn request_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: impl Into<Bytes>,
    ) -> Result<Response> {
        let stream = tokio::net::TcpStream::connect(&self.host)
            .await
            .map_err(|e| format!("no registry answers at {}: {e}", self.host))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.host);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = sender.send_request(request.body(Full::new(body.into()))?).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        drop(sender);
        let _ = connection.await;
        Ok(Response { status: parts.status, headers: parts.headers, body })
    }

    /// Pushes an image under a tag.
    pub async fn push(&self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        self.push_untagged(image, repository).await?;
        self.put_manifest(&image.manifest, repository, tag).await
    }

    /// Pushes an index with all its images under a tag.
    pub async fn push_index(&self, index: &Index, repository: &str, tag: &str) -> Result<()> {
        for image in &index.images {
            self.push_untagged(image, repository).await?;
        }
        self.put_manifest(&index.manifest, repository, tag).await
    }

    async fn push_untagged(&self, image: &Image, repository: &str) -> Result<()> {
        for blob in image.layers.iter().chain([&image.config]) {
            self.put_blob(blob, repository).await?;
        }
        self.put_manifest(&image.manifest, repository, &image.manifest.digest).await
    }

    async fn put_blob(&self, blob: &Blob, repository: &str) -> Result<()> {
        let there = format!("/v2/{repository}/blobs/{}", blob.digest);
        if self.request(Method::HEAD, &there, None, "").await?.status == StatusCode::OK {
            return Ok(());
        }
        let uploads = format!("/v2/{repository}/blobs/uploads/");
        let begun = expect(StatusCode::ACCEPTED, self.request(Method::POST, &uploads, None, "").await?)?;
        let location = begun.headers.get(LOCATION).ok_or("an upload without a Location")?.to_str()?;
        let location = location.strip_prefix(&format!("http://{}", self.host)).unwrap_or(location);
        let separator = if location.contains('?') { '&' } else { '?' };
        let end = format!("{location}{separator}digest={}", blob.digest);
        let body = blob.bytes.clone();
        let done = self.request(Method::PUT, &end, Some("application/octet-stream"), body).await?;
        expect(StatusCode::CREATED, done).map(drop)
    }

    async fn put_manifest(&self, manifest: &Blob, repository: &str, reference: &str) -> Result<()> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let body = manifest.bytes.clone();
        let done = self.request(Method::PUT, &path, Some(&manifest.media_type), body).await?;
        expect(StatusCode::CREATED, done).map(drop)
    }
}

fn expect(status: StatusCode, response: Response) -> Result<Response> {
    if response.status == status {
        return Ok(response);
    }
    let body = String::from_utf8_lossy(&response.body);
    Err(format!("the registry answered {} instead of {status}: {body}", response.status).into())
}
