//! Writing archives from the store's blobs.

use super::{IMAGE_NAME, INDEX, LAYOUT_VERSION, MANIFEST, OCI_LAYOUT, REF_NAME, REPOSITORIES, blob_name};
use crate::error::{Context, Error, Result};
use crate::index::{Inner, Lease};
use crate::record::RefRecord;
use crate::store::Store;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use strata_oci::digest::Hasher;
use strata_oci::document::{Document, MAX_SIZE, OCI_INDEX};
use strata_oci::{Descriptor, Digest, ImageConfig, Platform, Reference, config};
use tar::{Builder, EntryType, Header};

/// Which readers an archive is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI image layout with a `manifest.json` beside it, as Docker 25 and later write: for every reader.
    #[default]
    Docker,
    /// An OCI image layout only.
    Oci,
}

/// An image that leaves this node: saved, or pushed.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Its ID.
    pub id: Digest,
    /// The names by which it was asked for; none, if that was an ID or a digest.
    pub names: Vec<Reference>,
    /// Its manifest, as it came here.
    pub manifest: Descriptor,
    /// Its config.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
    diff_ids: Vec<Digest>,
    platform: Platform,
}

impl Exported {
    /// For messages: a name, or the ID.
    pub fn label(&self) -> String {
        self.names.first().map_or_else(|| self.id.to_string(), ToString::to_string)
    }
}

impl Store {
    /// The images that texts mean, in that order, each once. A repository's name without a tag means all its tags. The
    /// lease keeps what is here of them.
    ///
    /// # Errors
    /// If there is no such image, or its manifest or config is damaged.
    pub fn export(&self, lease: &Lease, what: &[String]) -> Result<Vec<Exported>> {
        let mut all: Vec<(Arc<RefRecord>, BTreeSet<Reference>)> = Vec::new();
        for text in what {
            for (record, name) in self.meant(text)? {
                let same =
                    |r: &RefRecord| r.image == record.image && r.manifest.digest == record.manifest.digest;
                match all.iter_mut().find(|(r, _)| same(r)) {
                    Some((_, names)) => names.extend(name),
                    None => all.push((record, name.into_iter().collect())),
                }
            }
        }
        all.into_iter()
            .map(|(record, names)| {
                let label = format!("image {}", record.name);
                self.exported(lease, &record, names).map_err(|e| e.context(label))
            })
            .collect()
    }

    /// The refs that a text means, and the names that it gives them.
    fn meant(&self, text: &str) -> Result<Vec<(Arc<RefRecord>, Option<Reference>)>> {
        let parsed = Reference::parse(text).ok();
        if let Some(name) = &parsed {
            let inner = self.index.lock();
            let all = if has_suffix(text) { Vec::new() } else { tags(&inner, name) };
            if !all.is_empty() {
                return Ok(all);
            }
            let named = inner.refs.get(&name.to_string()).filter(|_| name.digest().is_none());
            if let Some(record) = named {
                return Ok(vec![(record.clone(), Some(name.clone()))]);
            }
        }
        let image = self.resolve(text)?;
        let inner = self.index.lock();
        let refs = || inner.refs.values().filter(|r| r.image == image.id);
        // A digest may be the one that the registry knew it by: then it is that ref's manifest which is meant.
        let digest = parsed.as_ref().and_then(|name| name.digest());
        let record = refs()
            .find(|r| digest.is_some_and(|d| r.pulled.as_ref() == Some(d) || r.manifest.digest == *d))
            .or_else(|| refs().min_by_key(|r| r.since));
        let record = record.cloned().ok_or_else(|| Error::not_found(format!("No such image: {text}")))?;
        Ok(vec![(record, None)])
    }

    fn exported(&self, lease: &Lease, record: &RefRecord, names: BTreeSet<Reference>) -> Result<Exported> {
        let damaged =
            |e: &dyn std::fmt::Display| Error::damaged(format!("{e}; `strata fsck --repair` may mend it"));
        for digest in [&record.manifest.digest, &record.image] {
            self.has_blob(lease, digest);
        }
        let manifest: Descriptor = (&record.manifest).into();
        let bytes = self.read_blob(&manifest.digest, MAX_SIZE).map_err(|e| damaged(&e))?;
        let parsed = Document::parse(&manifest.media_type, &bytes).map_err(|e| damaged(&e))?;
        let Document::Manifest(parsed) = parsed else { return Err(damaged(&"its manifest is an index")) };
        let bytes = self.read_blob(&parsed.config.digest, config::MAX_SIZE).map_err(|e| damaged(&e))?;
        let config = ImageConfig::parse(&bytes).map_err(|e| damaged(&e))?;
        for layer in &parsed.layers {
            self.has_blob(lease, &layer.digest);
        }
        Ok(Exported {
            id: parsed.config.digest.clone(),
            names: names.into_iter().collect(),
            manifest,
            config: parsed.config,
            layers: parsed.layers,
            diff_ids: config.rootfs.diff_ids,
            platform: Platform { os: config.os, architecture: config.architecture, variant: config.variant },
        })
    }

    /// The layers of an image whose blobs are not here: they were discarded, or lost. The lease keeps the others.
    pub fn missing_layers(&self, lease: &Lease, image: &Exported) -> Vec<Descriptor> {
        let mut missing: Vec<Descriptor> = Vec::new();
        for layer in &image.layers {
            if !missing.contains(layer) && !self.has_blob(lease, &layer.digest) {
                missing.push(layer.clone());
            }
        }
        missing
    }

    /// Discards blobs again that were only brought back for this lease, if the store is to keep none.
    pub fn release_layers(&self, lease: &Lease, layers: &[Descriptor]) {
        if self.options.discard_blobs {
            self.discard_layer_blobs(lease, layers);
        }
    }

    /// Where a blob's bytes are. It may go away at any time unless a lease keeps it.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        crate::blob::path(&self.layout, digest)
    }

    /// Writes images as one archive, each blob once. The same images give the same bytes.
    ///
    /// # Errors
    /// If a blob is missing or damaged, or `out` fails.
    pub fn write_archive(
        &self,
        images: &[Exported],
        format: ArchiveFormat,
        out: &mut dyn Write,
    ) -> Result<()> {
        // Sorted by name: directories come before what is in them.
        let mut files: BTreeMap<String, Content> = BTreeMap::new();
        for image in images {
            for blob in image.layers.iter().chain([&image.manifest, &image.config]) {
                let dir = format!("blobs/{}/", blob.digest.algorithm());
                files.extend([("blobs/".to_owned(), Content::Dir), (dir, Content::Dir)]);
                files.insert(blob_name(&blob.digest), Content::Blob(blob.clone()));
            }
        }
        let mut document = |name: &str, json: serde_json::Result<Vec<u8>>| {
            let bytes = json.map_err(|e| Error::invalid(format!("{name}: {e}")))?;
            files.insert(name.to_owned(), Content::Bytes(bytes));
            Ok::<_, Error>(())
        };
        let layout = BTreeMap::from([("imageLayoutVersion", LAYOUT_VERSION)]);
        document(OCI_LAYOUT, serde_json::to_vec(&layout))?;
        document(INDEX, serde_json::to_vec(&index(images)))?;
        if format == ArchiveFormat::Docker {
            document(MANIFEST, serde_json::to_vec(&images.iter().map(item).collect::<Vec<_>>()))?;
            let repositories = repositories(images);
            if !repositories.is_empty() {
                document(REPOSITORIES, serde_json::to_vec(&repositories))?;
            }
        }
        let mut tar = Builder::new(out);
        for (name, content) in &files {
            self.entry(&mut tar, name, content).map_err(|e| e.context(format!("write {name}")))?;
        }
        tar.into_inner().context(|| "finish the archive".into())?.flush()?;
        Ok(())
    }

    fn entry(&self, tar: &mut Builder<&mut dyn Write>, name: &str, content: &Content) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_mode(0o644);
        match content {
            Content::Dir => {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(0o755);
                header.set_size(0);
                tar.append_data(&mut header, name, std::io::empty())?;
            }
            Content::Bytes(bytes) => {
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, name, bytes.as_slice())?;
            }
            Content::Blob(blob) => {
                header.set_size(blob.size);
                let mut reader = Proved::open(self, blob)?;
                tar.append_data(&mut header, name, &mut reader)?;
                reader.check()?;
            }
        }
        Ok(())
    }
}

enum Content {
    Dir,
    Bytes(Vec<u8>),
    Blob(Descriptor),
}

/// A blob that is read, and proved on the way.
struct Proved<'a> {
    file: File,
    hasher: Hasher,
    blob: &'a Descriptor,
}

impl<'a> Proved<'a> {
    fn open(store: &Store, blob: &'a Descriptor) -> Result<Self> {
        let file = match File::open(store.blob_path(&blob.digest)) {
            // Lost, or dropped when it turned out not to have its digest.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let why = format!("blob {} is missing; `strata fsck --repair` may mend it", blob.digest);
                return Err(Error::damaged(why));
            }
            other => other.context(|| format!("blob {}", blob.digest))?,
        };
        let size = file.metadata()?.len();
        if size != blob.size {
            let Descriptor { digest, size: wanted, .. } = blob;
            let why = format!("blob {digest} has {size} bytes instead of {wanted}");
            return Err(Error::damaged(format!("{why}; `strata fsck --repair` may mend it")));
        }
        Ok(Self { file, hasher: Hasher::new(blob.digest.algorithm()), blob })
    }

    fn check(self) -> Result<()> {
        if self.hasher.finish() == self.blob.digest {
            return Ok(());
        }
        let digest = &self.blob.digest;
        Err(Error::damaged(format!(
            "blob {digest} does not match its digest; `strata fsck --repair` may mend it"
        )))
    }
}

impl Read for Proved<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(out)?;
        self.hasher.update(out.get(..n).unwrap_or_default());
        Ok(n)
    }
}

/// Whether a text says a tag or a digest itself.
fn has_suffix(text: &str) -> bool {
    text.contains('@') || text.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

/// All tags of a name's repository.
fn tags(inner: &Inner, name: &Reference) -> Vec<(Arc<RefRecord>, Option<Reference>)> {
    let of = |r: &Arc<RefRecord>| {
        let tagged =
            Reference::parse(&r.name).ok().filter(|n| n.digest().is_none() && r.name != r.image.as_str())?;
        (tagged.name() == name.name()).then(|| (r.clone(), Some(tagged)))
    };
    inner.refs.values().filter_map(of).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IndexFile<'a> {
    schema_version: u32,
    media_type: &'a str,
    manifests: Vec<Listed<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed<'a> {
    #[serde(flatten)]
    descriptor: &'a Descriptor,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<ListedPlatform<'a>>,
}

#[derive(Serialize)]
struct ListedPlatform<'a> {
    architecture: &'a str,
    os: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    variant: &'a str,
}

/// One image of `manifest.json`. Docker's `LayerSources` stays out: Docker would keep it and write it into archives of its
/// own, whose layers are not compressed.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// `index.json`: an image of several names stands there once for each.
fn index(images: &[Exported]) -> IndexFile<'_> {
    let mut manifests = Vec::new();
    for image in images {
        let platform = (!image.platform.architecture.is_empty()).then(|| ListedPlatform {
            architecture: &image.platform.architecture,
            os: if image.platform.os.is_empty() { "linux" } else { &image.platform.os },
            variant: &image.platform.variant,
        });
        let mut list = |annotations, platform| {
            manifests.push(Listed { descriptor: &image.manifest, annotations, platform });
        };
        if image.names.is_empty() {
            list(BTreeMap::new(), platform);
            continue;
        }
        for name in &image.names {
            let annotations =
                BTreeMap::from([(REF_NAME, ref_name(images, name)), (IMAGE_NAME, name.to_string())]);
            let platform = platform.as_ref().map(|p| ListedPlatform { ..*p });
            list(annotations, platform);
        }
    }
    IndexFile { schema_version: 2, media_type: OCI_INDEX, manifests }
}

/// What OCI's readers find an image by: its tag, as Docker and containerd have it; where another image of the archive has the
/// same tag, the whole name.
fn ref_name(images: &[Exported], name: &Reference) -> String {
    let same = images.iter().flat_map(|i| &i.names).filter(|other| other.tag() == name.tag()).count();
    match name.tag() {
        Some(tag) if same == 1 => tag.to_owned(),
        _ => name.to_string(),
    }
}

fn item(image: &Exported) -> Item {
    Item {
        config: blob_name(&image.config.digest),
        repo_tags: image.names.iter().map(Reference::familiar).collect(),
        layers: image.layers.iter().map(|layer| blob_name(&layer.digest)).collect(),
    }
}

/// `repositories`: names, tags, and the topmost layer's diff ID.
fn repositories(images: &[Exported]) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut all: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for image in images {
        let Some(top) = image.diff_ids.last() else { continue };
        for name in &image.names {
            let tags = all.entry(name.familiar_name()).or_default();
            tags.insert(name.tag().unwrap_or_default().to_owned(), top.hex().to_owned());
        }
    }
    all
}
