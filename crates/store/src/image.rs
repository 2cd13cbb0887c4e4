//! Images: read from refs, and made visible by them.

use crate::blob;
use crate::error::{Context, Error, Result};
use crate::index::{Inner, Lease};
use crate::layout::Layout;
use crate::record::{LayerRecord, LayerRef, Origin, RefRecord, StoredDescriptor};
use crate::store::Store;
use std::path::PathBuf;
use std::sync::Arc;
use strata_oci::{Descriptor, Digest, ImageConfig, Reference, config, document};

/// An image of this node.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its ID: the digest of its config.
    pub id: Digest,
    /// Its config.
    pub config: ImageConfig,
    /// Its layers, lowest first; one that occurs twice occurs twice here.
    pub layers: Vec<ImageLayer>,
    /// `registry/repository:tag`, sorted.
    pub repo_tags: Vec<String>,
    /// `registry/repository@digest`, sorted.
    pub repo_digests: Vec<String>,
    /// Bytes of the files of all its layers, each counted once.
    pub size: u64,
    /// Bytes of its blobs: compressed layers, config, manifest.
    pub content_size: u64,
    /// How it came here.
    pub origin: Origin,
    /// When its oldest name was given, in nanoseconds since 1970.
    pub since: i64,
    /// Its manifest.
    pub manifest: Descriptor,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLayer {
    /// Digest of its tar.
    pub diff_id: Digest,
    /// The name of its directory.
    pub key: String,
    /// Bytes of its files.
    pub size: u64,
    /// The compressed tar; it need not be here.
    pub blob: Descriptor,
}

/// An image that is about to be made.
#[derive(Debug)]
pub struct NewImage<'a> {
    /// The manifest's media type.
    pub media_type: String,
    /// The manifest's bytes.
    pub manifest: &'a [u8],
    /// The names it gets; without one it is only known by its ID.
    pub names: Vec<Reference>,
    /// What the registry knew it by: the digest of the manifest or of the index that led to it.
    pub pulled: Option<Digest>,
    /// How it came here.
    pub origin: Origin,
}

impl Image {
    /// Whether it cannot be fetched again, so that nobody should remove it to save space.
    pub fn irreplaceable(&self) -> bool {
        self.origin != Origin::Pull
    }

    /// The directories of its layers as overlayfs stacks them, topmost first: one that occurs twice only at its topmost
    /// place (overlayfs refuses it twice), and nothing below one that hides everything.
    pub(crate) fn stack(&self) -> Vec<&str> {
        let mut keys: Vec<&str> = Vec::with_capacity(self.layers.len());
        for layer in self.layers.iter().rev() {
            if !keys.contains(&layer.key.as_str()) {
                keys.push(&layer.key);
            }
        }
        keys
    }

    /// Reads an image's config.
    pub(crate) fn read_config(layout: &Layout, id: &Digest) -> Result<ImageConfig> {
        let bytes = blob::read(layout, id, config::MAX_SIZE)?;
        ImageConfig::parse(&bytes).map_err(|e| Error::damaged(format!("image {id}: {e}")))
    }

    /// Puts an image into the index as the refs say; takes it out if no ref names it. Its config is read if the index has not
    /// got it yet.
    pub(crate) fn index(layout: &Layout, inner: &mut Inner, id: &Digest) -> Result<()> {
        let known = inner.images.remove(id);
        if !inner.refs.values().any(|r| r.image == *id) {
            return Ok(());
        }
        let config = match known {
            Some(image) => image.config.clone(),
            None => Self::read_config(layout, id)?,
        };
        Self::index_as(inner, id, config).map(|_| ())
    }

    /// The same with a config that was read before.
    pub(crate) fn index_as(inner: &mut Inner, id: &Digest, config: ImageConfig) -> Result<Arc<Self>> {
        inner.images.remove(id);
        let refs: Vec<Arc<RefRecord>> = inner.refs.values().filter(|r| r.image == *id).cloned().collect();
        let first = refs.iter().min_by_key(|r| r.since);
        let first = first.ok_or_else(|| Error::not_found(format!("No such image: {id}")))?;
        let mut size = 0;
        let mut content_size = inner.blobs.get(id).map_or(0, |b| b.size) + first.manifest.size;
        let mut layers: Vec<ImageLayer> = Vec::with_capacity(first.layers.len());
        for layer in &first.layers {
            let record = inner.layers.get(&layer.key).ok_or_else(|| {
                Error::damaged(format!("layer {} of image {id} is missing; pull the image again", layer.key))
            })?;
            if !layers.iter().any(|l| l.key == layer.key) {
                size += record.size;
                content_size += layer.blob.size;
            }
            layers.push(ImageLayer {
                diff_id: layer.diff_id.clone(),
                key: layer.key.clone(),
                size: record.size,
                blob: (&layer.blob).into(),
            });
        }
        let mut image = Self {
            id: id.clone(),
            config,
            layers,
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            size,
            content_size,
            origin: first.origin,
            since: first.since,
            manifest: (&first.manifest).into(),
        };
        for r in &refs {
            image.add_name(r);
        }
        image.repo_digests.sort();
        image.repo_digests.dedup();
        let image = Arc::new(image);
        inner.images.insert(id.clone(), image.clone());
        Ok(image)
    }

    fn add_name(&mut self, r: &RefRecord) {
        // A bare ID is no name, although it could be read as one.
        if r.name == r.image.to_string() {
            return;
        }
        let Ok(name) = Reference::parse(&r.name) else { return };
        if name.tag().is_some() {
            self.repo_tags.push(r.name.clone());
        }
        if let Some(digest) = r.pulled.as_ref().or_else(|| name.digest()) {
            self.repo_digests.push(name.with_digest(digest.clone()).to_string());
        }
    }
}

impl Store {
    /// Makes an image visible whose layers and config are in the store and held by the lease: decides where its layers
    /// depend on what is below them, syncs, and writes its refs.
    ///
    /// # Errors
    /// If manifest and config do not fit each other or the layers, or the disk fails, or the lease was [ended](Lease::end)
    /// before its names are written; no name changes then.
    pub fn commit_image(&self, lease: &Lease, new: &NewImage<'_>) -> Result<Arc<Image>> {
        let parsed = document::Document::parse(&new.media_type, new.manifest)
            .map_err(|e| Error::invalid(format!("manifest: {e}")))?;
        let document::Document::Manifest(manifest) = parsed else {
            return Err(Error::invalid("an index is no image: choose one of its manifests"));
        };
        let digest = match &new.pulled {
            Some(pulled) if pulled.verifies(new.manifest) => pulled.clone(),
            _ => Digest::sha256_of(new.manifest),
        };
        let id = manifest.config.digest.clone();
        let config = ImageConfig::parse(&self.read_blob(&id, config::MAX_SIZE)?)
            .map_err(|e| Error::invalid(e.to_string()))?;
        config.check_layers(manifest.layers.len()).map_err(|e| Error::invalid(e.to_string()))?;
        let diff_ids = &config.rootfs.diff_ids;
        self.check_sizes(diff_ids).map_err(|e| e.context(format!("image {id}")))?;
        let keys = self.compose(lease, diff_ids, &manifest.layers)?;
        self.put_blob_as(lease, &digest, new.manifest)?;
        let layers = diff_ids
            .iter()
            .zip(keys)
            .zip(&manifest.layers)
            .map(|((diff_id, key), blob)| LayerRef { diff_id: diff_id.clone(), key, blob: blob.into() })
            .collect();
        lease.go_on()?;
        // Even a pull that wrote nothing syncs: a layer that another one has renamed may not be on disk yet.
        self.sync_published(lease).context(|| format!("image {id}"))?;
        let record = RefRecord {
            format: crate::record::FORMAT,
            name: id.to_string(),
            image: id.clone(),
            manifest: StoredDescriptor {
                media_type: new.media_type.clone(),
                digest,
                size: new.manifest.len() as u64,
            },
            pulled: new.pulled.clone(),
            layers,
            origin: new.origin,
            since: crate::history::now(),
            disk: 0,
        };
        lease.go_on()?;
        let image = self.write_refs(&record, &new.names)?;
        // What came from no registry could not be had again.
        if self.options.discard_blobs && new.origin == Origin::Pull {
            self.discard_layer_blobs(lease, &manifest.layers);
        }
        Ok(image)
    }

    /// Whether the layers that are here are not too much for one image.
    fn check_sizes(&self, diff_ids: &[Digest]) -> Result<()> {
        let sizes: Vec<u64> = {
            let inner = self.index.lock();
            diff_ids.iter().filter_map(|id| inner.layers.get(id.hex())).map(|layer| layer.size).collect()
        };
        self.options.limits.check_sizes(sizes)
    }

    /// The image with this ID.
    ///
    /// # Errors
    /// If there is none.
    pub fn image(&self, id: &Digest) -> Result<Arc<Image>> {
        self.index
            .lock()
            .images
            .get(id)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("No such image: {id}")))
    }

    /// All images, newest name first.
    pub fn images(&self) -> Vec<Arc<Image>> {
        let mut images: Vec<_> = self.index.lock().images.values().cloned().collect();
        images.sort_by_key(|i| std::cmp::Reverse(i.since));
        images
    }

    /// The image that a text means: an ID or the beginning of one, a name with a tag or digest, or both.
    ///
    /// # Errors
    /// If there is none, or the beginning is one of several.
    pub fn resolve(&self, text: &str) -> Result<Arc<Image>> {
        let inner = self.index.lock();
        let missing = || Error::not_found(format!("No such image: {text}"));
        if let Ok(id) = Digest::parse(text) {
            return inner.images.get(&id).cloned().ok_or_else(missing);
        }
        if let Ok(name) = Reference::parse(text)
            && let Some(image) = by_name(&inner, &name)
        {
            return Ok(image);
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.is_empty() || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(missing());
        }
        let mut found = inner.images.values().filter(|i| i.id.hex().starts_with(hex));
        match (found.next(), found.next()) {
            (Some(image), None) => Ok(image.clone()),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("image ID {text:?} is ambiguous: type more digits")))
            }
            _ => Err(missing()),
        }
    }

    /// The directory of a layer's files.
    pub(crate) fn layer_fs(&self, key: &str) -> PathBuf {
        self.layout.layers.path.join(key).join("fs")
    }

    /// The records of an image's stack, topmost first.
    pub(crate) fn stack_records(&self, stack: &[String]) -> Result<Vec<Arc<LayerRecord>>> {
        let inner = self.index.lock();
        stack
            .iter()
            .map(|key| {
                inner
                    .layers
                    .get(key)
                    .cloned()
                    .ok_or_else(|| Error::damaged(format!("layer {key} is missing")))
            })
            .collect()
    }

    pub(crate) fn discard_layer_blobs(&self, lease: &Lease, layers: &[Descriptor]) {
        let mut inner = self.index.lock();
        for layer in layers {
            let digest = &layer.digest;
            let needed = |r: &RefRecord, l: &LayerRef| {
                l.blob.digest == *digest
                    && (r.origin != Origin::Pull || inner.may_be_unpacked_anew(&l.diff_id))
            };
            let kept = inner.held_by_others(lease, digest)
                || inner.refs.values().any(|r| r.layers.iter().any(|l| needed(r, l)));
            if !kept
                && let Some(file) = inner.blobs.remove(digest)
                && let Err(e) =
                    self.layout.discard_sized(&self.layout.blobs, &blob::name(digest), Some(file.disk))
            {
                tracing::warn!(blob = %digest, error = %e, "compressed layer cannot be discarded");
            }
        }
        drop(inner);
    }
}

/// By name: a tag's ref; or, for a digest, the image which that repository calls so.
fn by_name(inner: &Inner, name: &Reference) -> Option<Arc<Image>> {
    let wanted = match name.digest() {
        None => return inner.images.get(&inner.refs.get(&name.to_string())?.image).cloned(),
        Some(digest) => name.with_digest(digest.clone()).to_string(),
    };
    // With both, the digest decides, as with every other client.
    inner.images.values().find(|i| i.repo_digests.contains(&wanted)).cloned()
}
