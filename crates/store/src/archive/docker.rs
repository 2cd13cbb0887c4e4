//! The images of a docker-archive by its `manifest.json`, as `docker save` has written it since 1.10: it names configs and
//! layers, and knows no manifests, which are made here.

use super::load::{Found, Reader};
use super::spool::Packing;
use super::{MANIFEST, REPOSITORIES};
use crate::error::{Context, Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use strata_oci::document::{MAX_LAYERS, OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST};
use strata_oci::{Descriptor, ImageConfig, Manifest, Reference, config};

/// OCI layer, not compressed.
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, compressed with zstd.
const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// One image in `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// What `manifest.json` says; `None` if there is none.
pub(super) fn items(reader: &Reader<'_>) -> Result<Option<Vec<Item>>> {
    let Some(bytes) = reader.document(MANIFEST)? else {
        if reader.document(REPOSITORIES)?.is_some() {
            return Err(Error::invalid(
                "a Docker older than 1.10 wrote this archive, without manifest.json; load and save it with a newer one",
            ));
        }
        return Ok(None);
    };
    serde_json::from_slice(&bytes).map_err(|e| Error::invalid(format!("{MANIFEST}: {e}")))
}

impl Item {
    /// The names that it has. What is no name with a tag is left out, as Docker does with digests.
    fn names(&self) -> impl Iterator<Item = Reference> {
        self.repo_tags.iter().flatten().filter_map(|text| super::load::tagged(text))
    }

    /// An image of its config and layers. Layers stay as they are: their digests are what the archive holds.
    fn image(&self, reader: &Reader<'_>) -> Result<Found> {
        let missing = |name: &str| {
            let name: String = name.chars().take(200).collect();
            Error::invalid(format!("the archive has no {name:?}, which {MANIFEST} names"))
        };
        let file = reader.file(&self.config).ok_or_else(|| missing(&self.config))?;
        let bytes = file.bytes(reader.store, config::MAX_SIZE).context(|| "image config".into())?;
        let id = strata_oci::Digest::sha256_of(&bytes);
        let what = || format!("image {id}");
        let config = ImageConfig::parse(&bytes).map_err(|e| Error::invalid(e.to_string())).context(what)?;
        let paths = self.layers.as_deref().unwrap_or_default();
        if paths.len() > MAX_LAYERS {
            return Err(Error::invalid(format!("{} layers are too many", paths.len())).context(what()));
        }
        config.check_layers(paths.len()).map_err(|e| Error::invalid(e.to_string())).context(what)?;
        let mut sources = BTreeMap::new();
        let mut layers = Vec::with_capacity(paths.len());
        for path in paths {
            let file = reader.file(path).ok_or_else(|| missing(path)).context(what)?;
            let media_type = match Packing::of(&file.magic) {
                Packing::None => OCI_LAYER,
                Packing::Gzip => OCI_LAYER_GZIP,
                Packing::Zstd => OCI_LAYER_ZSTD,
                Packing::Other(by) => {
                    let path: String = path.chars().take(200).collect();
                    let why = format!("layer {path:?} is compressed with {by}, which is not supported");
                    return Err(Error::invalid(why).context(what()));
                }
            };
            let blob =
                Descriptor { media_type: media_type.into(), digest: file.digest.clone(), size: file.size };
            sources.insert(blob.digest.clone(), path.clone());
            layers.push(blob);
        }
        let descriptor =
            Descriptor { media_type: OCI_CONFIG.into(), digest: id.clone(), size: bytes.len() as u64 };
        Ok(Found {
            media_type: OCI_MANIFEST.into(),
            manifest: Manifest { config: descriptor, layers: layers.clone() }.to_json(),
            config: bytes,
            id,
            layers: layers.into_iter().zip(config.rootfs.diff_ids).collect(),
            sources,
            names: self.names().collect(),
        })
    }
}

/// The images.
///
/// # Errors
/// If one of them lacks something, or cannot be used here.
pub(super) fn images(reader: &Reader<'_>, items: &[Item]) -> Result<Vec<Found>> {
    items.iter().map(|item| item.image(reader)).collect()
}

/// Gives images of an OCI layout that have no names in it those that `manifest.json` has for them.
pub(super) fn name(reader: &Reader<'_>, items: &[Item], images: &mut [Found]) {
    for image in images.iter_mut().filter(|i| i.names.is_empty()) {
        let of = |item: &&Item| reader.file(&item.config).is_some_and(|file| file.digest == image.id);
        image.names = items.iter().filter(of).flat_map(Item::names).collect();
    }
}
