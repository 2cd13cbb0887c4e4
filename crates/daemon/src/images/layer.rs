//! One layer of a pull.

use super::board::Board;
use super::bridge::{Feed, bridge};
use super::of_content;
use crate::error::{Error, Result};
use crate::registry::{self, BlobStream};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use strata_api::cri::AuthConfig;
use strata_api::debug::layer_progress::State;
use strata_oci::{Descriptor, Digest, Reference};
use strata_store::{LayerSource, Lease, Progress, Store};
use tokio::sync::{OwnedMutexGuard, Semaphore};

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
    pub(super) registry: &'a registry::Client,
    pub(super) turns: &'a Turns,
    pub(super) lease: &'a Arc<Lease>,
    pub(super) reference: &'a Reference,
    pub(super) auth: Option<&'a AuthConfig>,
    pub(super) board: &'a Board,
    /// How many may be fetched at once.
    pub(super) permits: &'a Semaphore,
}

impl Layers<'_> {
    /// Brings one layer into the store; whether it had to be fetched or unpacked.
    pub(super) async fn fetch(&self, place: usize, blob: &Descriptor, diff_id: &Digest) -> Result<bool> {
        let _turn = self.turns.take(diff_id).await;
        if self.store.has_layer(self.lease, diff_id) {
            self.board.layer(place, State::Exists, blob.size);
            return Ok(false);
        }
        let _permit = self.permits.acquire().await.map_err(|e| Error::internal(e.to_string()))?;
        let done = if self.store.has_blob(self.lease, &blob.digest) {
            self.ingest(place, blob, diff_id, None).await
        } else {
            self.download(place, blob, diff_id).await
        };
        done.map_err(|e| e.context(format!("layer {}", blob.digest)))?;
        self.board.layer(place, State::Complete, blob.size);
        Ok(true)
    }

    async fn download(&self, place: usize, blob: &Descriptor, diff_id: &Digest) -> Result<()> {
        self.board.layer(place, State::Downloading, 0);
        let stream = self.registry.blob(self.reference, &blob.digest, blob.size, self.auth).await?;
        let (feed, reader) = bridge();
        let (fed, ingested) =
            tokio::join!(pump(stream, feed), self.ingest(place, blob, diff_id, Some(reader)));
        // Where the transfer failed, the reader only saw that it was given up.
        fed.and(ingested)
    }

    /// Unpacks on a blocking thread: what a reader gives, or the blob that is here.
    async fn ingest(
        &self,
        place: usize,
        blob: &Descriptor,
        diff_id: &Digest,
        reader: Option<super::bridge::Reader>,
    ) -> Result<()> {
        let (store, lease, board) = (Arc::clone(self.store), Arc::clone(self.lease), self.board.clone());
        let (blob, diff_id) = (blob.clone(), diff_id.clone());
        let work = move || {
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

/// Passes a stream on until it ends or nobody reads it any more.
pub(super) async fn pump(mut stream: BlobStream, feed: Feed) -> Result<()> {
    while let Some(bytes) = stream.chunk().await? {
        if !feed.send(bytes).await {
            return Ok(());
        }
    }
    feed.end().await;
    Ok(())
}
