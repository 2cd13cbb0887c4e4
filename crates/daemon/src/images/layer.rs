//! One layer of a pull.

use super::board::Board;
use super::bridge::{Feed, bridge};
use super::of_content;
use crate::error::{Error, Kind, Result};
use crate::metrics::Pulls;
use crate::registry::{BlobStream, Session};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use strata_api::debug::layer_progress::State;
use strata_oci::{Descriptor, Digest};
use strata_store::{LayerSource, Lease, Progress, Store};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// One lock per layer that is being fetched.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits until nobody else fetches this layer.
    pub(super) async fn take(&self, diff_id: &Digest) -> OwnedMutexGuard<()> {
        let turn = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, turn| turn.strong_count() > 0);
            let known = all.get(diff_id).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turn = Arc::default();
                all.insert(diff_id.clone(), Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}

/// What all layers of a pull share.
pub(super) struct Layers<'a> {
    pub(super) store: &'a Arc<Store>,
    pub(super) registry: &'a Session,
    pub(super) turns: &'a Turns,
    pub(super) lease: &'a Arc<Lease>,
    pub(super) board: &'a Board,
    pub(super) pulls: &'a Pulls,
    /// How many of this image's may be fetched at once.
    pub(super) of_image: &'a Arc<Semaphore>,
    /// How many of all images'.
    pub(super) of_node: &'a Arc<Semaphore>,
}

/// What a layer's work has for itself: its turn, and the permits of its image and of the node.
type Held = Arc<(OwnedMutexGuard<()>, OwnedSemaphorePermit, OwnedSemaphorePermit)>;

impl Layers<'_> {
    /// Brings one layer into the store; whether it had to be fetched or unpacked.
    pub(super) async fn fetch(&self, place: usize, blob: &Descriptor, diff_id: &Digest) -> Result<bool> {
        let turn = self.turns.take(diff_id).await;
        // The same layer may be here by another blob, compressed otherwise: an image is whole with its own. One that registries do
        // not have cannot be asked for.
        let here = match is_elsewhere(blob) {
            true => self.store.has_layer(self.lease, diff_id),
            false => self.store.has_whole_layer(self.lease, LayerSource { blob, diff_id }),
        };
        if here {
            self.board.layer(place, State::Exists, blob.size);
            return Ok(false);
        }
        // In this order, so that an image of many layers does not keep others from the node's.
        let closed = |e: tokio::sync::AcquireError| Error::internal(e.to_string());
        let of_image = self.of_image.clone().acquire_owned().await.map_err(closed)?;
        let of_node = self.of_node.clone().acquire_owned().await.map_err(closed)?;
        let held = Arc::new((turn, of_image, of_node));
        let done = if self.store.has_blob(self.lease, &blob.digest) {
            match self.ingest(place, blob, diff_id, None, &held).await {
                // What a disk has damaged is gone now.
                Err(e) if e.kind() == Kind::DataLoss && !self.store.has_blob(self.lease, &blob.digest) => {
                    self.download(place, blob, diff_id, &held).await
                }
                done => done,
            }
        } else {
            self.download(place, blob, diff_id, &held).await
        };
        done?;
        self.board.layer(place, State::Complete, blob.size);
        Ok(true)
    }

    async fn download(&self, place: usize, blob: &Descriptor, diff_id: &Digest, held: &Held) -> Result<()> {
        self.board.layer(place, State::Downloading, 0);
        let opened = self.registry.blob(&blob.digest, blob.size).await;
        let mut stream = opened
            .map_err(|e| if is_elsewhere(blob) { e.context(ELSEWHERE) } else { e })
            .map_err(|e| e.context(format!("layer {}", blob.digest)))?;
        loop {
            let (feed, reader) = bridge();
            let (fed, ingested) = tokio::join!(
                pour(&mut stream, feed, self.pulls),
                self.ingest(place, blob, diff_id, Some(reader), held)
            );
            // Where the transfer failed, the reader only saw that it was given up.
            match fed.and(ingested) {
                // A mirror may send what the registry itself would not.
                Err(e) if e.kind() == Kind::DataLoss => stream = stream.distrust(e).await?,
                done => return done,
            }
        }
    }

    /// Unpacks on a blocking thread: what a reader gives, or the blob that is here.
    async fn ingest(
        &self,
        place: usize,
        blob: &Descriptor,
        diff_id: &Digest,
        reader: Option<super::bridge::Reader>,
        held: &Held,
    ) -> Result<()> {
        let (store, lease, board) = (Arc::clone(self.store), Arc::clone(self.lease), self.board.clone());
        let (blob, diff_id) = (blob.clone(), diff_id.clone());
        // Who gives up waiting does not end the thread at once, and what it works on is its own until then.
        let held = Arc::clone(held);
        let work = move || {
            let _held = held;
            let progress = |p: Progress| match p {
                Progress::Read(bytes) => board.layer(place, State::Downloading, bytes),
                Progress::Unpacking => board.layer(place, State::Extracting, blob.size),
            };
            let source = LayerSource { blob: &blob, diff_id: &diff_id };
            match reader {
                Some(mut reader) => store.ingest_layer(&lease, source, &mut reader, &progress),
                None => {
                    store.unpack_blob(&lease, source, &|_| board.layer(place, State::Extracting, blob.size))
                }
            }
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|e| Error::internal(format!("unpacking: {e}")))?.map_err(of_content)
    }
}

/// What is to be said where a layer that its maker keeps to himself is not in the registry.
const ELSEWHERE: &str =
    "this layer is not distributable: its maker keeps it at URLs of its own, which are not followed";

/// Whether registries are not expected to have a layer (OCI image spec, "Non-Distributable Layers"; Docker's foreign layers).
fn is_elsewhere(blob: &Descriptor) -> bool {
    blob.media_type.contains(".nondistributable.") || blob.media_type.contains(".foreign.")
}

/// Passes a stream on until it ends or nobody reads it any more.
pub(super) async fn pump(mut stream: BlobStream, feed: Feed, pulls: &Pulls) -> Result<()> {
    pour(&mut stream, feed, pulls).await
}

async fn pour(stream: &mut BlobStream, feed: Feed, pulls: &Pulls) -> Result<()> {
    loop {
        let chunk = tokio::select! {
            chunk = stream.chunk() => chunk?,
            () = feed.closed() => return Ok(()),
        };
        let Some(bytes) = chunk else { break };
        pulls.received(bytes.len());
        if !feed.send(bytes).await {
            return Ok(());
        }
    }
    feed.end().await;
    Ok(())
}
