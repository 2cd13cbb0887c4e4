//! The images of an OCI image layout (OCI image spec, image-layout.md).

use super::load::{Found, Reader};
use super::{IMAGE_NAME, INDEX, LAYOUT_VERSION, OCI_LAYOUT, REF_NAME};
use crate::error::{Context, Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use strata_oci::document::{Document, Index, MAX_SIZE, OCI_INDEX, OCI_MANIFEST};
use strata_oci::{Descriptor, Digest, ImageConfig, Platform, Reference, config};

/// How deep an index may lie in others.
const MAX_DEPTH: usize = 4;
/// The most manifests that are looked at: indexes may name each other's many times.
const MAX_MANIFESTS: usize = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

#[derive(Deserialize)]
struct IndexFile {
    manifests: Vec<Listed>,
}

/// A descriptor in `index.json`: what names it, and whom it is for.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    platform: Option<ListedPlatform>,
}

#[derive(Clone, Deserialize)]
struct ListedPlatform {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: String,
}

impl Listed {
    fn descriptor(&self) -> Descriptor {
        let media_type = if self.media_type.is_empty() { OCI_MANIFEST } else { &self.media_type };
        Descriptor { media_type: media_type.to_owned(), digest: self.digest.clone(), size: self.size }
    }

    fn platform(&self) -> Option<Platform> {
        self.platform.clone().map(|p| Platform { os: p.os, architecture: p.architecture, variant: p.variant })
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// The whole name that it has. A bare tag is none: nobody knows of what.
    fn name(&self) -> Option<Reference> {
        let whole = self.annotation(REF_NAME).filter(|text| text.contains(['/', ':']));
        [self.annotation(IMAGE_NAME), whole].into_iter().flatten().find_map(super::load::tagged)
    }

    /// What it has in common with the same image for other platforms.
    fn group(&self) -> Option<String> {
        self.annotation(IMAGE_NAME).or_else(|| self.annotation(REF_NAME)).map(ToOwned::to_owned)
    }
}

/// The images; `None` if this is no OCI layout.
///
/// # Errors
/// If it is a broken one, or one of its images cannot be used here.
pub(super) fn images(reader: &Reader<'_>, platform: &Platform) -> Result<Option<Vec<Found>>> {
    let Some(layout) = reader.document(OCI_LAYOUT)? else { return Ok(None) };
    let layout: LayoutFile = parse(OCI_LAYOUT, &layout)?;
    if layout.image_layout_version != LAYOUT_VERSION {
        let version: String = layout.image_layout_version.chars().take(40).collect();
        return Err(Error::invalid(format!(
            "the archive's OCI layout has version {version:?}; only {LAYOUT_VERSION} is supported"
        )));
    }
    let index = reader.document(INDEX)?;
    let index = index.ok_or_else(|| {
        Error::invalid(format!("the archive is an OCI layout without {INDEX}; is it all there?"))
    })?;
    let index: IndexFile = parse(INDEX, &index)?;
    let mut found: Vec<Found> = Vec::new();
    for group in groups(index.manifests) {
        let manifest = choose(reader, &group, platform)?;
        let image = image(reader, &manifest)?;
        let names = group.iter().filter_map(Listed::name);
        match found.iter_mut().find(|f| f.manifest == image.manifest) {
            Some(known) => known.names.extend(names),
            None => found.push(Found { names: names.collect(), ..image }),
        }
    }
    for image in &mut found {
        image.names.sort();
        image.names.dedup();
    }
    Ok(Some(found))
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::invalid(format!("{name}: {e}")))
}

/// What has the same name belongs together: one image for several platforms. So does what has no name, if each is for
/// another platform.
fn groups(listed: Vec<Listed>) -> Vec<Vec<Listed>> {
    let mut named: Vec<(Option<String>, Vec<Listed>)> = Vec::new();
    for one in listed {
        let group = one.group();
        let platform = one.platform();
        let place = named.iter_mut().find(|(name, members)| match (&group, name) {
            (Some(a), Some(b)) => a == b,
            (None, None) => {
                platform.is_some()
                    && members.iter().all(|m| m.platform().is_some_and(|p| Some(p) != platform))
            }
            _ => false,
        });
        match place {
            Some((_, members)) => members.push(one),
            None => named.push((group, vec![one])),
        }
    }
    named.into_iter().map(|(_, members)| members).collect()
}

/// The manifest in a group that serves the platform best. Where there is but one, it is wanted, whatever it is for.
fn choose(reader: &Reader<'_>, group: &[Listed], platform: &Platform) -> Result<Descriptor> {
    let mut all = Vec::new();
    for one in group {
        walk(reader, &one.descriptor(), one.platform(), 0, &mut all)?;
    }
    let mut here: Vec<_> = all.iter().filter(|(d, _)| reader.has(&d.digest)).collect();
    here.dedup();
    match here.as_slice() {
        [] => {
            let wanted = all.first().map(|(d, _)| d.digest.to_string()).unwrap_or_default();
            Err(Error::invalid(format!("the archive names the manifest {wanted}, but does not hold it")))
        }
        [(only, _)] => Ok(only.clone()),
        _ => {
            let index = Index { manifests: here.into_iter().cloned().collect() };
            let chosen = index.select(platform).map_err(|e| Error::invalid(e.to_string()))?;
            Ok(chosen.clone())
        }
    }
}

/// The manifests to which a descriptor leads, through indexes.
fn walk(
    reader: &Reader<'_>,
    descriptor: &Descriptor,
    platform: Option<Platform>,
    depth: usize,
    found: &mut Vec<(Descriptor, Option<Platform>)>,
) -> Result<()> {
    let index = |t: &str| t == OCI_INDEX || t == strata_oci::document::DOCKER_LIST;
    if !index(&descriptor.media_type) {
        if found.len() >= MAX_MANIFESTS {
            return Err(Error::invalid(format!("the archive names more than {MAX_MANIFESTS} manifests")));
        }
        found.push((descriptor.clone(), platform));
        return Ok(());
    }
    if depth >= MAX_DEPTH {
        return Err(Error::invalid(format!("an index lies in more than {MAX_DEPTH} others")));
    }
    // Who saves one platform of many may leave the other indexes out.
    if !reader.has(&descriptor.digest) {
        return Ok(());
    }
    let bytes = reader.blob(descriptor, MAX_SIZE)?;
    let what = || format!("index {}", descriptor.digest);
    match Document::parse(&descriptor.media_type, &bytes)
        .map_err(|e| Error::invalid(e.to_string()))
        .context(what)?
    {
        Document::Index(index) => {
            index.manifests.into_iter().try_for_each(|(d, p)| walk(reader, &d, p, depth + 1, found))
        }
        Document::Manifest(_) => Err(Error::invalid(format!("{} is no index", descriptor.digest))),
    }
}

/// An image by its manifest, without names.
fn image(reader: &Reader<'_>, descriptor: &Descriptor) -> Result<Found> {
    let what = || format!("manifest {}", descriptor.digest);
    let bytes = reader.blob(descriptor, MAX_SIZE).context(what)?;
    let wrong = |e: &dyn std::fmt::Display| Error::invalid(e.to_string()).context(what());
    let parsed = Document::parse(&descriptor.media_type, &bytes).map_err(|e| wrong(&e))?;
    let Document::Manifest(manifest) = parsed else { return Err(wrong(&"it is an index")) };
    let config_bytes = reader.blob(&manifest.config, config::MAX_SIZE).context(what)?;
    let config = ImageConfig::parse(&config_bytes).map_err(|e| wrong(&e))?;
    config.check_layers(manifest.layers.len()).map_err(|e| wrong(&e))?;
    for (blob, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
        let plain = blob.compression().map_err(|e| wrong(&e))? == strata_oci::Compression::None;
        // Docker 25 wrote manifests whose layers are in another order than the config's.
        if plain && blob.digest.algorithm() == diff_id.algorithm() && blob.digest != *diff_id {
            return Err(wrong(&format!("its layer {} is {diff_id} in the image's config", blob.digest)));
        }
    }
    Ok(Found {
        media_type: descriptor.media_type.clone(),
        manifest: bytes,
        config: config_bytes,
        id: manifest.config.digest,
        layers: manifest.layers.into_iter().zip(config.rootfs.diff_ids).collect(),
        sources: BTreeMap::new(),
        names: Vec::new(),
    })
}
