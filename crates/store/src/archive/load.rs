//! From an archive to images.

use super::docker;
use super::oci;
use super::spool::{Contents, Spooled};
use crate::error::{Context, Error, Kind, Result};
use crate::image::{Image, NewImage};
use crate::index::Lease;
use crate::ingest::{LayerSource, Progress};
use crate::record::Origin;
use crate::store::Store;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use strata_oci::document::MAX_SIZE;
use strata_oci::{Descriptor, Digest, Platform, Reference};

/// How far a load has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadStep<'a> {
    /// Bytes of the archive that have come.
    Read(u64),
    /// A layer is here already.
    Exists(&'a Descriptor),
    /// A layer is being unpacked: so many bytes of its blob have been.
    Unpacking(&'a Descriptor, u64),
    /// A layer is here now.
    Unpacked(&'a Descriptor),
}

/// An image that an archive held.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The image.
    pub image: Arc<Image>,
    /// The names that the archive gave it; it may have others.
    pub names: Vec<Reference>,
}

/// An image in an archive.
pub(super) struct Found {
    pub(super) media_type: String,
    pub(super) manifest: Vec<u8>,
    pub(super) config: Vec<u8>,
    /// The config's digest.
    pub(super) id: Digest,
    /// Blobs and diff IDs, lowest first.
    pub(super) layers: Vec<(Descriptor, Digest)>,
    /// Where in the archive the layers' blobs are, if not where an OCI layout has them.
    pub(super) sources: BTreeMap<Digest, String>,
    pub(super) names: Vec<Reference>,
}

/// A name with a tag; its digest, if it has one, is what the archive says, which nobody has checked.
pub(super) fn tagged(text: &str) -> Option<Reference> {
    let name = Reference::parse(text).ok()?;
    name.with_tag(name.tag()?).ok()
}

/// What images are read from: the archive, and blobs that the store has.
pub(super) struct Reader<'a> {
    pub(super) store: &'a Store,
    lease: &'a Lease,
    contents: &'a Contents,
}

impl Reader<'_> {
    /// A file of the archive, by its name in it.
    pub(super) fn file(&self, name: &str) -> Option<&Spooled> {
        self.contents.get(name)
    }

    /// A document of the archive, by its name in it.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.contents.document(self.store, name, MAX_SIZE)
    }

    /// Whether a blob can be had.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.contents.blob(digest).is_some() || self.store.has_blob(self.lease, digest)
    }

    /// A blob's bytes, which are what its descriptor says.
    pub(super) fn blob(&self, wanted: &Descriptor, max: usize) -> Result<Vec<u8>> {
        let bytes = match self.contents.blob(&wanted.digest) {
            Some(file) => file.bytes(self.store, max),
            None if self.store.has_blob(self.lease, &wanted.digest) => {
                self.store.read_blob(&wanted.digest, max)
            }
            None => Err(Error::invalid("it is not in the archive")),
        };
        let bytes = bytes.context(|| format!("blob {}", wanted.digest))?;
        if bytes.len() as u64 != wanted.size {
            let Descriptor { digest, size, .. } = wanted;
            return Err(Error::invalid(format!("blob {digest} has {} bytes instead of {size}", bytes.len())));
        }
        Ok(bytes)
    }
}

/// One load.
struct Load<'a> {
    store: &'a Store,
    lease: &'a Lease,
    contents: &'a Contents,
    step: &'a (dyn Fn(LoadStep<'_>) + Sync),
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl Store {
    /// Loads the images of an archive: docker-archive or oci-archive, compressed or not; of images for several platforms,
    /// the one that serves `platform` best. All of them become visible at the end, or none. Once `stop` says so, it ends.
    ///
    /// # Errors
    /// What `source` reports; [`Kind::Invalid`] if it is no archive of images, lacks something, or a digest is wrong.
    pub fn load_archive(
        &self,
        source: &mut dyn Read,
        platform: &Platform,
        step: &(dyn Fn(LoadStep<'_>) + Sync),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Loaded>> {
        let lease = self.lease("load of an archive")?;
        let loaded = self.load_leased(&lease, source, platform, step, stop);
        if loaded.is_err() {
            drop(lease);
            // Layers of an archive that failed later on: unlike a pull's, nothing will come back for them.
            if let Err(e) = self.gc(false) {
                tracing::warn!(error = %e, "what a failed load left is removed by the next collection");
            }
        }
        loaded
    }

    fn load_leased(
        &self,
        lease: &Lease,
        source: &mut dyn Read,
        platform: &Platform,
        step: &(dyn Fn(LoadStep<'_>) + Sync),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Loaded>> {
        let contents = Contents::read(self, lease, source, &|bytes| step(LoadStep::Read(bytes)))?;
        let images = images(&Reader { store: self, lease, contents: &contents }, platform)?;
        let load = Load { store: self, lease, contents: &contents, step, stop };
        let mut done = HashSet::new();
        for image in &images {
            load.prepare(image, &mut done).map_err(|e| e.context(image.label()))?;
        }
        if stop() {
            return Err(given_up());
        }
        images.into_iter().map(|image| self.commit_loaded(lease, image)).collect()
    }

    /// Makes an image visible. A name that it has already stays as it is, with what is known of it from a registry.
    fn commit_loaded(&self, lease: &Lease, found: Found) -> Result<Loaded> {
        let manifest = Digest::sha256_of(&found.manifest);
        let (known, new): (Vec<Reference>, Vec<Reference>) = {
            let inner = self.index.lock();
            let has = |name: &Reference| {
                inner.refs.get(&name.to_string()).is_some_and(|r| {
                    r.image == found.id
                        && r.manifest.digest == manifest
                        && inner.images.contains_key(&r.image)
                })
            };
            found.names.iter().cloned().partition(has)
        };
        if new.is_empty() && (!known.is_empty() || self.image(&found.id).is_ok()) {
            return Ok(Loaded { image: self.image(&found.id)?, names: found.names });
        }
        let label = found.label();
        let image = NewImage {
            media_type: found.media_type,
            manifest: &found.manifest,
            names: new,
            pulled: None,
            origin: Origin::Load,
        };
        let image = self.commit_image(lease, &image).map_err(|e| e.context(label))?;
        Ok(Loaded { image, names: found.names })
    }

    /// Whether a blob is here and known to be this layer.
    fn is_layer(&self, lease: &Lease, blob: &Digest, diff_id: &Digest) -> bool {
        let known = self
            .index
            .lock()
            .refs
            .values()
            .any(|r| r.layers.iter().any(|l| l.blob.digest == *blob && l.diff_id == *diff_id));
        known && self.has_blob(lease, blob) && self.has_layer(lease, diff_id)
    }
}

/// The images of an archive, by whichever of its documents makes sense.
fn images(reader: &Reader<'_>, platform: &Platform) -> Result<Vec<Found>> {
    let items = docker::items(reader);
    match (oci::images(reader, platform), items) {
        (Ok(Some(mut images)), items) if !images.is_empty() => {
            if let Ok(Some(items)) = items {
                docker::name(reader, &items, &mut images);
            }
            Ok(images)
        }
        // Some releases of Docker wrote an OCI layout that lacks layers beside a manifest.json that is right.
        (_, Ok(Some(items))) if !items.is_empty() => docker::images(reader, &items),
        (Err(e), _) | (_, Err(e)) => Err(e),
        (Ok(Some(_)), _) | (_, Ok(Some(_))) => Err(Error::invalid("the archive holds no image")),
        (Ok(None), Ok(None)) => Err(Error::invalid(
            "this is no archive of images: it has neither index.json with oci-layout nor manifest.json",
        )),
    }
}

impl Found {
    /// For messages.
    fn label(&self) -> String {
        self.names.first().map_or_else(|| format!("image {}", self.id), |name| format!("image {name}"))
    }
}

fn given_up() -> Error {
    Error::new(Kind::Io, "the load was given up")
}

impl Load<'_> {
    /// Brings everything that an image needs into the store.
    fn prepare(&self, image: &Found, done: &mut HashSet<(Digest, Digest)>) -> Result<()> {
        for (blob, diff_id) in &image.layers {
            if (self.stop)() {
                return Err(given_up());
            }
            if done.insert((blob.digest.clone(), diff_id.clone())) {
                self.layer(image, blob, diff_id)?;
            }
        }
        self.store.put_blob_as(self.lease, &image.id, &image.config)
    }

    fn layer(&self, image: &Found, blob: &Descriptor, diff_id: &Digest) -> Result<()> {
        let source = LayerSource { blob, diff_id };
        if self.store.is_layer(self.lease, &blob.digest, diff_id) {
            (self.step)(LoadStep::Exists(blob));
            return Ok(());
        }
        let file = match image.sources.get(&blob.digest) {
            Some(name) => self.contents.get(name),
            None => self.contents.blob(&blob.digest),
        };
        let progress = |p: Progress| match p {
            Progress::Read(bytes) => (self.step)(LoadStep::Unpacking(blob, bytes)),
            Progress::Unpacking => (self.step)(LoadStep::Unpacking(blob, blob.size)),
        };
        match file {
            Some(file) => {
                let mut watched = Watched { file: file.open(self.store)?, stop: self.stop };
                self.store.ingest_layer(self.lease, source, &mut watched, &progress)?;
            }
            None if self.store.has_blob(self.lease, &blob.digest) => {
                self.store.unpack_blob(self.lease, source, &progress)?;
            }
            None => {
                let digest = &blob.digest;
                return Err(Error::invalid(format!(
                    "its layer {digest} is neither in the archive nor on this node; save the image with all its layers"
                )));
            }
        }
        (self.step)(LoadStep::Unpacked(blob));
        Ok(())
    }
}

/// A file whose reading ends once nobody wants it any more.
struct Watched<'a> {
    file: File,
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl Read for Watched<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if (self.stop)() {
            return Err(given_up().into());
        }
        self.file.read(out)
    }
}
