//! From a reference to an image in the store.

use super::board::Board;
use super::layer::Layers;
use super::{Images, PullOutcome, of_content};
use crate::error::{Error, Kind, Result};
use crate::registry::{Fetched, Session};
use futures_util::future::try_join_all;
use std::sync::Arc;
use std::time::Duration;
use strata_api::cri::AuthConfig;
use strata_oci::{Digest, Document, ImageConfig, Manifest, Platform, Reference};
use strata_store::{Image, Lease, NewImage, Origin};
use tokio::sync::Semaphore;

/// One pull.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) images: Arc<Images>,
    pub(super) reference: Reference,
    pub(super) platform: Platform,
    pub(super) auth: Option<AuthConfig>,
    pub(super) board: Board,
}

/// What a reference led to.
struct Resolved {
    /// Of the manifest or index, as the registry knows it.
    pulled: Digest,
    manifest: Manifest,
    media_type: String,
    bytes: Vec<u8>,
    /// The other documents that the image needs and that are not here. They come into the store with the image: one that
    /// cannot be used leaves nothing of them behind.
    others: Vec<(Digest, Vec<u8>)>,
}

/// Ends a pull's work with the pull, also where its future is dropped.
struct Ending(Arc<Lease>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Fetch {
    /// Pulls. Dropping the future stops it: the store deletes what has no name yet.
    pub(super) async fn run(self) -> Result<PullOutcome> {
        let what = format!("pull of {}", self.reference);
        let lease = Arc::new(self.images.store.lease(&what)?);
        let ending = Ending(lease.clone());
        let done = self.pull(&lease).await.map_err(|e| e.context(what));
        drop(ending);
        if let Err(e) = &done
            && [Kind::DataLoss, Kind::FailedPrecondition, Kind::ResourceExhausted].contains(&e.kind())
        {
            self.take_back(lease).await;
        }
        // What a pull takes for a while, a daemon that runs for months must not keep.
        tokio::task::spawn_blocking(strata_sys::memory::give_back);
        done
    }

    /// Removes what has come of an image that cannot be had. What another failure leaves waits for the next attempt.
    async fn take_back(&self, lease: Arc<Lease>) {
        // Layers that are still being unpacked stop at once.
        let held = Arc::downgrade(&lease);
        drop(lease);
        for _ in 0..200 {
            if held.strong_count() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let store = Arc::clone(&self.images.store);
        if let Ok(Err(e)) = tokio::task::spawn_blocking(move || store.gc(false)).await {
            tracing::warn!(error = %e, "what a refused image left is removed by the next collection");
        }
    }

    async fn pull(&self, lease: &Arc<Lease>) -> Result<PullOutcome> {
        let store = &self.images.store;
        let registry = self.images.registry.session(&self.reference, self.auth.as_ref()).await?;
        let mut resolved = self.resolve(&registry, lease).await?;
        self.board.resolved(&self.reference.to_string(), &resolved.pulled, &resolved.manifest.layers);
        store.limits().check_sizes(resolved.manifest.layers.iter().map(|layer| layer.size))?;
        let config = self.config(&registry, lease, &mut resolved).await?;
        let fetched = self.layers(&registry, lease, &resolved.manifest, &config).await?;
        let pulled = resolved.pulled.clone();
        let name = self.name();
        let known = store.resolve(&name.to_string()).is_ok_and(|i| {
            i.id == resolved.manifest.config.digest
                && i.repo_digests.contains(&name.with_digest(pulled.clone()).to_string())
        });
        let image = self.commit(lease.clone(), resolved, name).await?;
        let name = self.reference.to_string();
        Ok(PullOutcome { image, digest: pulled, name, up_to_date: known && !fetched })
    }

    /// The name that the image gets: with a digest, a tag says nothing.
    fn name(&self) -> Reference {
        match self.reference.digest() {
            Some(digest) => self.reference.with_digest(digest.clone()),
            None => self.reference.clone(),
        }
    }

    /// Finds the manifest for the platform, through an index if there is one.
    async fn resolve(&self, registry: &Session, lease: &Lease) -> Result<Resolved> {
        let by = match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let top = registry.manifest(&by).await?;
        let pulled = top.digest.clone();
        let manifest = match parse(&top)? {
            Document::Manifest(manifest) => return Ok(Resolved::new(pulled, manifest, top)),
            Document::Index(index) => {
                let chosen = index.select(&self.platform).map_err(|e| Error::not_found(e.to_string()))?;
                self.manifest_of(registry, lease, &chosen.digest, &chosen.media_type).await?
            }
        };
        match parse(&manifest)? {
            Document::Manifest(parsed) => {
                // What led here belongs to the image: without it, nobody can check its digest again.
                let others = vec![(pulled.clone(), top.bytes)];
                Ok(Resolved { others, ..Resolved::new(pulled, parsed, manifest) })
            }
            Document::Index(_) => {
                let why = format!(
                    "index {pulled} leads to another index, {}; push the image again",
                    manifest.digest
                );
                Err(Error::new(Kind::DataLoss, why))
            }
        }
    }

    /// A manifest by its digest: the one that is here, or the registry's.
    async fn manifest_of(
        &self,
        registry: &Session,
        lease: &Lease,
        digest: &Digest,
        media_type: &str,
    ) -> Result<Fetched> {
        let store = &self.images.store;
        if store.has_blob(lease, digest)
            && let Ok(bytes) = store.read_blob(digest, strata_oci::document::MAX_SIZE)
        {
            return Ok(Fetched { media_type: media_type.to_owned(), digest: digest.clone(), bytes });
        }
        registry.manifest(digest.as_str()).await
    }

    /// The image's config.
    async fn config(
        &self,
        registry: &Session,
        lease: &Lease,
        resolved: &mut Resolved,
    ) -> Result<ImageConfig> {
        let (store, wanted) = (&self.images.store, &resolved.manifest.config);
        let here = store.has_blob(lease, &wanted.digest);
        let bytes = if here {
            store.read_blob(&wanted.digest, strata_oci::config::MAX_SIZE)?
        } else {
            registry.blob_bytes(&wanted.digest, wanted.size).await?
        };
        let config = ImageConfig::parse(&bytes).map_err(|e| Error::precondition(e.to_string()))?;
        config
            .check_layers(resolved.manifest.layers.len())
            .map_err(|e| Error::new(Kind::DataLoss, format!("{e}; push the image again")))?;
        self.check_platform(&config)?;
        if !here {
            resolved.others.push((wanted.digest.clone(), bytes));
        }
        Ok(config)
    }

    /// An image that no index led to is for whatever its config says.
    fn check_platform(&self, config: &ImageConfig) -> Result<()> {
        let own = Platform {
            os: if config.os.is_empty() { "linux".into() } else { config.os.clone() },
            architecture: config.architecture.clone(),
            variant: config.variant.clone(),
        };
        if own.architecture.is_empty() || self.platform.rank(&own).is_some() {
            return Ok(());
        }
        let wanted = &self.platform;
        let why = format!(
            "the image is for {own}, not for {wanted}; to have it all the same, pull it with --platform {own}"
        );
        Err(Error::precondition(why))
    }

    /// Brings all layers into the store; whether one of them was missing.
    async fn layers(
        &self,
        registry: &Session,
        lease: &Arc<Lease>,
        manifest: &Manifest,
        config: &ImageConfig,
    ) -> Result<bool> {
        let permits = Arc::new(Semaphore::new(self.images.downloads.per_image));
        let layers = Layers {
            store: &self.images.store,
            registry,
            turns: &self.images.turns,
            lease,
            board: &self.board,
            pulls: &self.images.pulls,
            of_image: &permits,
            of_node: &self.images.downloads.of_node,
        };
        let all = manifest.layers.iter().zip(&config.rootfs.diff_ids).enumerate();
        let fetched =
            try_join_all(all.map(|(place, (blob, diff_id))| layers.fetch(place, blob, diff_id))).await?;
        Ok(fetched.contains(&true))
    }

    async fn commit(&self, lease: Arc<Lease>, resolved: Resolved, name: Reference) -> Result<Arc<Image>> {
        let store = Arc::clone(&self.images.store);
        let work = move || {
            for (digest, bytes) in &resolved.others {
                store.put_blob_as(&lease, digest, bytes)?;
            }
            let new = NewImage {
                media_type: resolved.media_type,
                manifest: &resolved.bytes,
                names: vec![name],
                pulled: Some(resolved.pulled),
                origin: Origin::Pull,
            };
            store.commit_image(&lease, &new)
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|e| Error::internal(format!("committing the image: {e}")))?.map_err(of_content)
    }
}

impl Resolved {
    fn new(pulled: Digest, manifest: Manifest, fetched: Fetched) -> Self {
        Self { pulled, manifest, media_type: fetched.media_type, bytes: fetched.bytes, others: Vec::new() }
    }
}

fn parse(fetched: &Fetched) -> Result<Document> {
    Document::parse(&fetched.media_type, &fetched.bytes)
        .map_err(|e| Error::precondition(format!("manifest {}: {e}", fetched.digest)))
}
