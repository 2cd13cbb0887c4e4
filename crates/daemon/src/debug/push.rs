//! `push`: an image to the registry of its name.
//!
//! As with Docker, what is pushed is the manifest of one platform, also where an index led to it when it was pulled.

use super::archive::{bring_back, export};
use super::images::credentials;
use crate::error::{Error, Kind, Result};
use crate::node::Node;
use crate::registry::{Session, Start};
use crate::tasks::blocking;
use futures_util::{TryStreamExt, stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use strata_api::cri::AuthConfig;
use strata_api::debug::push_layer::State;
use strata_api::debug::push_progress::Event;
use strata_api::debug::*;
use strata_oci::document::MAX_SIZE;
use strata_oci::{Descriptor, Reference};
use strata_store::{Exported, Lease};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// How much progress lies between a push and a slow client.
const DEPTH: usize = 64;
/// How often the client is told how far layers are.
const PACE: Duration = Duration::from_millis(100);
/// How many layers are sent at a time.
const AT_ONCE: usize = 3;

/// Pushes until the client goes away.
pub(super) fn push(
    node: &Arc<Node>,
    request: PushImageRequest,
) -> Result<ReceiverStream<Result<PushProgress, Status>>> {
    let reference = Reference::parse(&request.r#ref)
        .map_err(|e| Error::invalid(format!("cannot push {:?}: {e}", request.r#ref)))?;
    if reference.digest().is_some() {
        return Err(Error::invalid("cannot push a digest reference: push by name and tag"));
    }
    let (out, stream) = mpsc::channel(DEPTH);
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let auth = request.auth.map(credentials);
        let push = Push { node: &node, reference: &reference, auth: auth.as_ref(), out: &out };
        let result = tokio::select! {
            () = out.closed() => return,
            result = push.run() => result,
        };
        let last = result.map(|result| PushProgress { event: Some(Event::Result(result)) });
        let _ = out.send(last.map_err(|e| refusal(&reference, e).into())).await;
    });
    Ok(ReceiverStream::new(stream))
}

/// Docker's words where a registry does not let somebody push, and what helps.
fn refusal(reference: &Reference, e: Error) -> Error {
    let what = format!("push of {}", reference.familiar());
    if e.kind() != Kind::PermissionDenied {
        return e.context(what);
    }
    let advice = format!(
        "requested access to the resource is denied: log in with `strata login {}`, or give the registry's credentials in stratad's configuration",
        reference.registry()
    );
    e.context(format!("{what}: {advice}"))
}

struct Push<'a> {
    node: &'a Arc<Node>,
    reference: &'a Reference,
    auth: Option<&'a AuthConfig>,
    out: &'a mpsc::Sender<Result<PushProgress, Status>>,
}

/// A layer on its way.
struct Layer {
    blob: Descriptor,
    state: Mutex<State>,
    sent: Arc<AtomicU64>,
}

impl Layer {
    fn new(blob: &Descriptor) -> Self {
        Self { blob: blob.clone(), state: Mutex::new(State::Waiting), sent: Arc::default() }
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn progress(&self) -> PushLayer {
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let number = |n| i64::try_from(n).unwrap_or(i64::MAX);
        let sent = self.sent.load(Ordering::Relaxed);
        PushLayer {
            digest: self.blob.digest.to_string(),
            state: state.into(),
            current: number(if state == State::Uploading { sent } else { self.blob.size }),
            total: number(self.blob.size),
        }
    }
}

impl Push<'_> {
    async fn run(&self) -> Result<PushResult> {
        let lease = Arc::new(self.node.store.lease(&format!("push of {}", self.reference))?);
        let image = self.image(&lease).await?;
        let session = self.node.images.registry().session(self.reference, self.auth).await?;
        let mut layers: Vec<Layer> = Vec::with_capacity(image.layers.len());
        for blob in &image.layers {
            if !layers.iter().any(|l| l.blob.digest == blob.digest) {
                layers.push(Layer::new(blob));
            }
        }
        let all = stream::iter(layers.iter().map(Ok));
        let sending =
            all.try_for_each_concurrent(AT_ONCE, |layer| self.layer(&session, &lease, &image, layer));
        self.watched(&layers, sending).await?;
        // What describes the layers comes after them, and the manifest last: until then nobody sees anything new.
        let config = Layer::new(&image.config);
        self.blob(&session, &config).await.map_err(|e| e.context("image config"))?;
        let (store, manifest) = (Arc::clone(&self.node.store), image.manifest.clone());
        let bytes = blocking(move || Ok(store.read_blob(&manifest.digest, MAX_SIZE)?)).await?;
        session.put_manifest(&image.manifest, &bytes).await?;
        let (store, name, digest) =
            (Arc::clone(&self.node.store), self.reference.clone(), image.manifest.digest.clone());
        blocking(move || Ok(store.pushed(&name, &digest)?)).await?;
        Ok(PushResult {
            name: self.reference.to_string(),
            digest: image.manifest.digest.to_string(),
            size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
        })
    }

    async fn image(&self, lease: &Arc<Lease>) -> Result<Exported> {
        let found = export(self.node, lease, vec![self.reference.to_string()]).await;
        let missing = || {
            let name = self.reference.familiar();
            Error::not_found(format!(
                "An image does not exist locally with the tag: {name}; `strata tag` gives one"
            ))
        };
        match found {
            Ok(mut images) => images.pop().ok_or_else(missing),
            Err(e) if e.kind() == Kind::NotFound => Err(missing()),
            Err(e) => Err(e),
        }
    }

    /// Tells the client how far layers are while they are sent.
    async fn watched(&self, layers: &[Layer], sending: impl Future<Output = Result<()>>) -> Result<()> {
        tokio::pin!(sending);
        let mut told: Vec<Option<PushLayer>> = vec![None; layers.len()];
        loop {
            let done = tokio::time::timeout(PACE, &mut sending).await;
            for (layer, told) in layers.iter().zip(&mut told) {
                let now = layer.progress();
                if told.as_ref() != Some(&now) {
                    *told = Some(now.clone());
                    // Who does not listen any more ends the push elsewhere.
                    let _ = self.out.send(Ok(PushProgress { event: Some(Event::Layer(now)) })).await;
                }
            }
            if let Ok(done) = done {
                return done;
            }
        }
    }

    async fn layer(
        &self,
        session: &Session,
        lease: &Arc<Lease>,
        image: &Exported,
        layer: &Layer,
    ) -> Result<()> {
        let digest = &layer.blob.digest;
        let what = |e: Error| e.context(format!("layer {digest}"));
        if session.has(digest).await.map_err(what)? {
            layer.set(State::Exists);
            return Ok(());
        }
        let begun = match session.start(self.elsewhere(layer).as_deref().map(|from| (digest, from))).await {
            Ok(Start::Mounted) => {
                layer.set(State::Mounted);
                return Ok(());
            }
            // It waits for the bytes now, whether it was asked to look elsewhere first or not.
            Ok(Start::Upload(upload)) => upload,
            Err(e) => return Err(what(e)),
        };
        let missing = !self.node.store.has_blob(lease, digest);
        if missing {
            bring_back(self.node, lease, image, vec![layer.blob.clone()], self.auth).await?;
        }
        layer.set(State::Uploading);
        let path = self.node.store.blob_path(digest);
        let sent = session.upload(Some(begun), &layer.blob, &path, &layer.sent).await.map_err(what);
        if missing {
            self.node.store.release_layers(lease, std::slice::from_ref(&layer.blob));
        }
        sent?;
        layer.set(State::Pushed);
        Ok(())
    }

    /// Another repository of the same registry that the layer came from.
    fn elsewhere(&self, layer: &Layer) -> Option<String> {
        let mut names = self.node.store.registry_names(&layer.blob.digest).into_iter();
        let other = names.find(|name| {
            name.registry() == self.reference.registry() && name.repository() != self.reference.repository()
        });
        other.map(|name| name.repository().to_owned())
    }

    async fn blob(&self, session: &Session, layer: &Layer) -> Result<()> {
        if session.has(&layer.blob.digest).await? {
            return Ok(());
        }
        let path = self.node.store.blob_path(&layer.blob.digest);
        session.upload(None, &layer.blob, &path, &layer.sent).await
    }
}
