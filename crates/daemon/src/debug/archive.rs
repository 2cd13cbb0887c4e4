//! `save` and `load`: the store's archives over gRPC streams.

use crate::error::{Error, Kind, Result};
use crate::node::Node;
use crate::tasks::blocking;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use strata_api::cri::AuthConfig;
use strata_api::debug::layer_progress::State;
use strata_api::debug::load_progress::Event;
use strata_api::debug::save_images_request::Format;
use strata_api::debug::*;
use strata_oci::{Descriptor, Platform};
use strata_store::{ArchiveFormat, Exported, Lease, LoadStep, Loaded};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tonic::{Status, Streaming};

/// How many bytes of an archive travel at a time.
const CHUNK: usize = 256 << 10;
/// How many chunks of an archive, or words about a load, lie between the store and a slow client.
const DEPTH: usize = 8;
/// How often a client is told how far a layer is.
const PACE: Duration = Duration::from_millis(100);
/// How many discarded blobs are fetched again at a time.
const AT_ONCE: usize = 3;

/// Writes images as an archive until the client goes away.
pub(super) fn save(
    node: &Arc<Node>,
    request: SaveImagesRequest,
) -> Result<ReceiverStream<Result<ArchiveChunk, Status>>> {
    if request.refs.is_empty() {
        return Err(Error::invalid("name at least one image to save"));
    }
    let format = match Format::try_from(request.format) {
        Ok(Format::Docker) => ArchiveFormat::Docker,
        Ok(Format::Oci) => ArchiveFormat::Oci,
        Err(_) => {
            let text = format!("archive format {}: must be DOCKER or OCI", request.format);
            return Err(Error::invalid(text));
        }
    };
    let (out, stream) = mpsc::channel(DEPTH);
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let saving = save_to(&node, request.refs, format, &out);
        let result = tokio::select! {
            () = out.closed() => return,
            result = saving => result,
        };
        if let Err(e) = result {
            let _ = out.send(Err(e.context("save").into())).await;
        }
    });
    Ok(ReceiverStream::new(stream))
}

async fn save_to(
    node: &Arc<Node>,
    refs: Vec<String>,
    format: ArchiveFormat,
    out: &mpsc::Sender<Result<ArchiveChunk, Status>>,
) -> Result<()> {
    let lease = Arc::new(node.store.lease(&format!("save of {}", refs.join(", ")))?);
    let images = export(node, &lease, refs).await?;
    let mut fetched = Vec::new();
    for image in &images {
        let missing = node.store.missing_layers(&lease, image);
        fetched.extend(missing.iter().cloned());
        bring_back(node, &lease, image, missing, None).await?;
    }
    let (store, mut chunks) = (Arc::clone(&node.store), Chunks { out: out.clone(), buffer: Vec::new() });
    // The closure has the lease: it goes on until it notices that the client is gone.
    blocking(move || {
        let written = store.write_archive(&images, format, &mut chunks);
        store.release_layers(&lease, &fetched);
        Ok(written?)
    })
    .await
}

/// The images that texts mean.
pub(super) async fn export(node: &Arc<Node>, lease: &Arc<Lease>, what: Vec<String>) -> Result<Vec<Exported>> {
    let (store, lease) = (Arc::clone(&node.store), Arc::clone(lease));
    blocking(move || Ok(store.export(&lease, &what)?)).await
}

/// Fetches blobs again that were discarded once their layers were unpacked.
pub(super) async fn bring_back(
    node: &Arc<Node>,
    lease: &Arc<Lease>,
    image: &Exported,
    layers: Vec<Descriptor>,
    auth: Option<&AuthConfig>,
) -> Result<()> {
    let fetched =
        stream::iter(layers.into_iter().map(Ok)).try_for_each_concurrent(AT_ONCE, |layer| async move {
            node.images.refetch(lease, &layer, auth).await
        });
    fetched.await.map_err(|e| {
        e.context(format!(
            "{}: not all of its compressed layers are on this node (lost, or discarded: [store] discard_blobs), and the registry was asked for them",
            image.label()
        ))
    })
}

/// The writing end of a stream of chunks; waits while the client is behind.
struct Chunks {
    out: mpsc::Sender<Result<ArchiveChunk, Status>>,
    buffer: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend(bytes.iter().take(n));
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let data = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.out.blocking_send(Ok(ArchiveChunk { data })).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

type Out = mpsc::Sender<Result<LoadProgress, Status>>;

/// Reads an archive to its end and loads its images. A client that goes away before leaves nothing.
pub(super) fn load(
    node: &Arc<Node>,
    archive: Streaming<ArchiveChunk>,
) -> Result<ReceiverStream<Result<LoadProgress, Status>>> {
    let (out, stream) = mpsc::channel(DEPTH);
    let store = Arc::clone(&node.store);
    let bytes = archive.map(|chunk| match chunk {
        Ok(chunk) => Ok(Bytes::from(chunk.data)),
        Err(status) => Err(io::Error::other(format!("the archive stopped coming: {}", status.message()))),
    });
    tokio::spawn(async move {
        let tell = out.clone();
        let loaded = blocking(move || {
            let mut source = SyncIoBridge::new(StreamReader::new(bytes));
            let told = Mutex::new(Instant::now());
            let step = |step: LoadStep<'_>| show(&tell, &told, step);
            Ok(store.load_archive(&mut source, &Platform::host(), &step, &|| tell.is_closed())?)
        })
        .await;
        match loaded {
            Ok(all) => {
                for image in &all {
                    // Who went away now has the images all the same.
                    let _ = out.send(Ok(LoadProgress { event: Some(Event::Image(result(image))) })).await;
                }
            }
            Err(e) => {
                let _ = out.send(Err(of_archive(&e).into())).await;
            }
        }
    });
    Ok(ReceiverStream::new(stream))
}

fn of_archive(e: &Error) -> Error {
    let advice = if e.kind() == Kind::InvalidArgument { "; nothing was loaded" } else { "" };
    Error::new(e.kind(), format!("load: {e}{advice}"))
}

fn result(loaded: &Loaded) -> LoadResult {
    let names = loaded.names.iter().map(strata_oci::Reference::familiar).collect();
    LoadResult { image_id: loaded.image.id.to_string(), names }
}

/// Tells a client how far its load is: that a layer is done always, what lies between as often as is good for anything.
fn show(out: &Out, told: &Mutex<Instant>, step: LoadStep<'_>) {
    let (layer, state, current) = match step {
        LoadStep::Read(_) => return,
        LoadStep::Exists(layer) => (layer, State::Exists, layer.size),
        LoadStep::Unpacking(layer, bytes) => (layer, State::Extracting, bytes),
        LoadStep::Unpacked(layer) => (layer, State::Complete, layer.size),
    };
    let number = |n| i64::try_from(n).unwrap_or(i64::MAX);
    let progress = LayerProgress {
        digest: layer.digest.to_string(),
        state: state.into(),
        current: number(current),
        total: number(layer.size),
    };
    let message = Ok(LoadProgress { event: Some(Event::Layer(progress)) });
    if state != State::Extracting {
        // A client that is gone stops the load elsewhere.
        let _ = out.blocking_send(message);
        return;
    }
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    if told.elapsed() >= PACE {
        *told = Instant::now();
        let _ = out.try_send(message);
    }
}
