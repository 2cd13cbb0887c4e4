//! What the documents among the blobs say: which images there are, whether a ref names them or not, and which compressed
//! tar each layer was unpacked from.

use super::Run;
use crate::error::Result;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read;
use strata_oci::document::{Document, MAX_SIZE, OCI_MANIFEST};
use strata_oci::{Descriptor, Digest, ImageConfig, Manifest, config};

/// A manifest whose config is here too.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) digest: Digest,
    pub(super) media_type: String,
    pub(super) bytes: Vec<u8>,
    pub(super) manifest: Manifest,
    pub(super) diff_ids: Vec<Digest>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    pub(super) images: Vec<Found>,
    layers: BTreeMap<Digest, Vec<Descriptor>>,
}

impl Catalog {
    /// Reads every blob that may be a manifest.
    pub(super) fn read(run: &Run<'_>) -> Result<Self> {
        let mut catalog = Self::default();
        let small: Vec<Digest> = {
            let inner = run.store.index.lock();
            for layer in inner.refs.values().flat_map(|r| &r.layers) {
                catalog.add(&layer.diff_id, (&layer.blob).into());
            }
            let blobs = inner.blobs.iter();
            blobs.filter(|(_, b)| b.size <= MAX_SIZE as u64).map(|(d, _)| d.clone()).collect()
        };
        for digest in small {
            run.stopped()?;
            if let Some(found) = manifest(run, digest) {
                for (diff_id, blob) in found.diff_ids.iter().zip(&found.manifest.layers) {
                    catalog.add(diff_id, blob.clone());
                }
                catalog.images.push(found);
            }
        }
        catalog.images.sort_by(|a, b| a.digest.cmp(&b.digest));
        Ok(catalog)
    }

    fn add(&mut self, diff_id: &Digest, blob: Descriptor) {
        let blobs = self.layers.entry(diff_id.clone()).or_default();
        if !blobs.iter().any(|b| b.digest == blob.digest) {
            blobs.push(blob);
        }
    }

    /// The compressed tars of a layer: the same tar may have been compressed more than once.
    pub(super) fn blobs_of(&self, diff_id: &Digest) -> &[Descriptor] {
        self.layers.get(diff_id).map_or(&[], Vec::as_slice)
    }

    /// What is known of a layer's blob.
    pub(super) fn layer_blob(&self, digest: &Digest) -> Option<&Descriptor> {
        self.layers.values().flatten().find(|b| b.digest == *digest)
    }
}

fn manifest(run: &Run<'_>, digest: Digest) -> Option<Found> {
    // Compressed layers are told by their first byte.
    let mut first = [0];
    let path = crate::blob::path(&run.store.layout, &digest);
    std::fs::File::open(path).ok()?.read_exact(&mut first).ok()?;
    if !matches!(first, [b'{'] | [b' '] | [b'\n'] | [b'\t'] | [b'\r']) {
        return None;
    }
    let bytes = run.store.read_blob(&digest, MAX_SIZE).ok()?;
    let media_type = media_type(&bytes)?;
    let Ok(Document::Manifest(manifest)) = Document::parse(&media_type, &bytes) else { return None };
    let config = run.store.read_blob(&manifest.config.digest, config::MAX_SIZE).ok()?;
    let diff_ids = ImageConfig::parse(&config).ok()?.rootfs.diff_ids;
    (diff_ids.len() == manifest.layers.len()).then_some(Found {
        digest,
        media_type,
        bytes,
        manifest,
        diff_ids,
    })
}

/// What a document says that it is; OCI's may say nothing.
fn media_type(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        media_type: Option<String>,
        config: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    let head: Head = serde_json::from_slice(bytes).ok()?;
    head.config.and(head.layers)?;
    Some(head.media_type.unwrap_or_else(|| OCI_MANIFEST.to_owned()))
}
