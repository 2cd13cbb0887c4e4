//! The files that the store reads back: each says its format version.

use crate::error::{Context, Error, Kind, Result};
use crate::escape;
use crate::shift::IdShift;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use strata_oci::{Descriptor, Digest};

/// The version that this release writes, of every kind of file.
pub(crate) const FORMAT: u32 = 1;

/// How an image came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// From a registry, where it can be had again.
    Pull,
    /// From a container.
    Commit,
    /// From a build.
    Build,
    /// From an archive.
    Load,
}

/// `refs/<sha256 of name>`: one name of an image, and all there is to know about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefRecord {
    pub(crate) format: u32,
    /// `registry/repository:tag`, `registry/repository@digest`, or the bare image ID of one without a name.
    pub(crate) name: String,
    /// The image's ID: the config's digest.
    pub(crate) image: Digest,
    pub(crate) manifest: StoredDescriptor,
    /// What the registry knew it by: the digest of the manifest, or of the index that led to it.
    #[serde(default)]
    pub(crate) pulled: Option<Digest>,
    pub(crate) layers: Vec<LayerRef>,
    pub(crate) origin: Origin,
    /// When this name was given, in nanoseconds since 1970.
    pub(crate) since: i64,
    /// Bytes on disk of its file, which does not say so itself.
    #[serde(skip)]
    pub(crate) disk: u64,
}

/// A descriptor as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredDescriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl From<&Descriptor> for StoredDescriptor {
    fn from(d: &Descriptor) -> Self {
        Self { media_type: d.media_type.clone(), digest: d.digest.clone(), size: d.size }
    }
}

impl From<&StoredDescriptor> for Descriptor {
    fn from(d: &StoredDescriptor) -> Self {
        Self { media_type: d.media_type.clone(), digest: d.digest.clone(), size: d.size }
    }
}

/// A layer of an image: what it is, where its files are, which blob it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRef {
    pub(crate) diff_id: Digest,
    pub(crate) key: String,
    pub(crate) blob: StoredDescriptor,
}

/// `layers/<key>/layer.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) format: u32,
    pub(crate) diff_id: Digest,
    /// Bytes of its regular files, hard links once.
    pub(crate) size: u64,
    /// Bytes on disk of everything below `layers/<key>/`, as they were measured when it was written.
    pub(crate) disk: u64,
    /// Files, directories and everything else, this file included.
    pub(crate) inodes: u64,
    /// The root directory's attributes, if the layer lists it.
    pub(crate) root: Option<RootAttrs>,
    /// Whether it hides everything below.
    #[serde(default)]
    pub(crate) root_opaque: bool,
    /// Directories that the layer does not list although it has something in them: their attributes come from below.
    #[serde(default, with = "escape::list")]
    pub(crate) unlisted: Vec<Vec<u8>>,
    /// Of those, the ones that have nothing in them but whiteouts, and are not made where nothing is below.
    #[serde(default, with = "escape::list")]
    pub(crate) hollow: Vec<Vec<u8>>,
    /// Paths that were directories of a lower layer for some entries, and something else for later ones.
    #[serde(default, with = "escape::list")]
    pub(crate) passed: Vec<Vec<u8>>,
    /// What it hides, as it is on disk.
    #[serde(default, with = "escape::list")]
    pub(crate) whiteouts: Vec<Vec<u8>>,
    /// Directories that hide what is below them.
    #[serde(default, with = "escape::list")]
    pub(crate) opaque: Vec<Vec<u8>>,
    /// Whiteouts as they are archived.
    #[serde(default, with = "escape::list")]
    pub(crate) markers: Vec<Vec<u8>>,
    /// Hard links to files of lower layers: pairs of name and target.
    #[serde(default, with = "escape::list")]
    pub(crate) links: Vec<Vec<u8>>,
}

impl RefRecord {
    /// The blobs of the image that this names: its config, its manifest, the index that led to it, its layers.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Digest> {
        let layers = self.layers.iter().map(|l| &l.blob.digest);
        [&self.image, &self.manifest.digest].into_iter().chain(&self.pulled).chain(layers)
    }

    /// The layers that it needs: those that are stacked, and those from which variants of them were made, which other
    /// images at other places need and from which a variant is made again.
    pub(crate) fn layer_keys(&self) -> impl Iterator<Item = &str> {
        self.layers.iter().flat_map(|l| [l.key.as_str(), l.diff_id.hex()])
    }
}

impl LayerRecord {
    /// Whether what is below it can change what its files must be.
    pub(crate) fn depends_on_position(&self) -> bool {
        [&self.unlisted, &self.passed, &self.whiteouts, &self.links].into_iter().any(|list| !list.is_empty())
    }
}

/// Attributes of a layer's root directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootAttrs {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    #[serde(default)]
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

/// An image that is mounted in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountedImage {
    pub(crate) image: Digest,
    /// Keys of its layers, topmost first.
    pub(crate) layers: Vec<String>,
}

/// `containers/<id>/container.json`: what the store must know, and what the daemon wants kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerFile {
    pub(crate) format: u32,
    pub(crate) image: Digest,
    /// Keys of its layers, topmost first.
    pub(crate) layers: Vec<String>,
    /// Images that are mounted in it beside its own, in the order of their directories.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) mounted: Vec<MountedImage>,
    /// How the IDs in its writable layer are shifted, if it is of a pod with a user namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ids: Option<IdShift>,
    pub(crate) record: Box<serde_json::value::RawValue>,
}

/// The last field of every record, which has the checksum of what is before it: [`SUM`], 16 hexadecimal digits, [`END`].
/// Releases that do not know it ignore it.
const SUM: &str = ",\"sum\":\"";
/// See [`SUM`].
const END: &str = "\"}";

/// The bytes of a record.
pub(crate) fn to_json<T: Serialize>(what: &str, record: &T) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(record).map_err(|e| Error::invalid(format!("{what}: {e}")))?;
    bytes.pop();
    let sum = xxhash_rust::xxh3::xxh3_64(&bytes);
    bytes.extend_from_slice(format!("{SUM}{sum:016x}{END}").as_bytes());
    Ok(bytes)
}

/// Whether a record is as it was written; one of a release that wrote no checksum is believed.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(before) = bytes.len().checked_sub(SUM.len() + 16 + END.len()) else { return true };
    let (record, last) = bytes.split_at(before);
    let sum = last.strip_prefix(SUM.as_bytes()).and_then(|l| l.strip_suffix(END.as_bytes()));
    sum.is_none_or(|sum| sum == format!("{:016x}", xxhash_rust::xxh3::xxh3_64(record)).as_bytes())
}

/// Reads a record, and refuses one of a newer release before its fields are looked at.
pub(crate) fn from_json<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |e: serde_json::Error| Error::damaged(format!("{what}: {e}"));
    let format = serde_json::from_slice::<Format>(bytes).map_err(damaged)?.format;
    if format > FORMAT {
        return Err(Error::new(
            Kind::NewerFormat,
            format!("{what} has format {format}; this release reads up to {FORMAT}: upgrade stratad"),
        ));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Reads a record's file, and compares it with its checksum.
pub(crate) fn read_whole<T: DeserializeOwned>(path: &std::path::Path) -> Result<T> {
    let bytes = std::fs::read(path).context(|| format!("read {}", path.display()))?;
    let what = path.display().to_string();
    let record = from_json(&what, &bytes)?;
    if is_whole(&bytes) {
        Ok(record)
    } else {
        Err(Error::damaged(format!("{what}: its checksum does not match")))
    }
}

/// Reads a record's file.
pub(crate) fn read<T: DeserializeOwned>(path: &std::path::Path) -> Result<T> {
    let bytes = std::fs::read(path).context(|| format!("read {}", path.display()))?;
    from_json(&path.display().to_string(), &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_found() {
        let attrs = RootAttrs { mode: 0o755, uid: 1, gid: 2, mtime: (3, 4), xattrs: Vec::new() };
        let good = to_json("test", &attrs).unwrap();
        assert!(is_whole(&good));
        assert_eq!(serde_json::from_slice::<RootAttrs>(&good).unwrap(), attrs);
        for n in 0..good.len() {
            let mut bad = good.clone();
            bad[n] ^= 1;
            // Whatever breaks the last field's form breaks the record's too.
            assert!(
                !is_whole(&bad) || serde_json::from_slice::<RootAttrs>(&bad).is_err() || n >= good.len() - 26
            );
        }
        assert!(is_whole(&serde_json::to_vec(&attrs).unwrap()), "older releases wrote no checksum");
    }
}
