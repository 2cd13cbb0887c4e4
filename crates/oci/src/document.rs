//! Manifests and indexes, in OCI's form and Docker's schema 2.

use crate::digest::{Digest, DigestError};
use crate::json;
use crate::platform::Platform;
use oci_spec::image as spec;
use serde::Serialize;

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer, compressed with gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Docker image manifest, version 2, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Every media type that [`Document::parse`] understands, for `Accept`.
pub const ACCEPTED: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

/// The most bytes of a manifest or index that are read: what registries commonly accept.
pub const MAX_SIZE: usize = 4 << 20;

/// The most layers of one image: far beyond what builders make (127), below what overlayfs stacks (500).
pub const MAX_LAYERS: usize = 500;

/// Why a document cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON of the right shape.
    #[error("{what} cannot be parsed: {why}")]
    Parse {
        /// Which sort of document.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A digest that is none.
    #[error("descriptor of {media_type}: {source}")]
    Digest {
        /// The descriptor's media type.
        media_type: String,
        /// What is wrong.
        source: DigestError,
    },
    /// Docker's schema 1, dead since 2019.
    #[error(
        "{0} is Docker's image manifest schema 1, which is no longer supported: push the image again with a current client"
    )]
    Schema1(String),
    /// Some other media type.
    #[error("media type {0:?} is neither an image manifest nor an index")]
    MediaType(String),
    /// A layer of some other media type.
    #[error("layer media type {0:?} is not supported: only tar, tar+gzip and tar+zstd layers are")]
    Layer(String),
    /// A layer that only who has the key can read.
    #[error(
        "layer media type {0:?} is encrypted, and this node has no keys: push the image without encryption"
    )]
    Encrypted(String),
    /// A config of some other media type: an artifact.
    #[error("config media type {0:?} is not an image config: this is {what}, not a container image", what = artifact(.0))]
    NotAnImage(String),
    /// More layers than [`MAX_LAYERS`].
    #[error("{0} layers are too many: an image may have at most {MAX_LAYERS}")]
    TooManyLayers(usize),
    /// No manifest for a platform.
    #[error("no manifest for {wanted}; the index offers {offered}")]
    NoPlatform {
        /// What was asked for.
        wanted: String,
        /// What there is.
        offered: String,
    },
}

/// What a config's media type gives away.
fn artifact(config: &str) -> &'static str {
    if config.starts_with("application/vnd.cncf.helm.") {
        "a Helm chart, which helm pulls"
    } else if config.contains("wasm") {
        "a WebAssembly module"
    } else {
        "an artifact"
    }
}

/// What content is and where: media type, digest, size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type.
    pub media_type: String,
    /// Digest of the bytes.
    pub digest: Digest,
    /// How many bytes.
    pub size: u64,
}

impl Descriptor {
    fn of(d: &spec::Descriptor) -> Result<Self, DocumentError> {
        let media_type = d.media_type().to_string();
        let digest = Digest::parse(d.digest().as_ref())
            .map_err(|source| DocumentError::Digest { media_type: media_type.clone(), source })?;
        Ok(Self { media_type, digest, size: d.size() })
    }

    /// How a layer is compressed.
    ///
    /// # Errors
    /// If this is no layer.
    pub fn compression(&self) -> Result<Compression, DocumentError> {
        Compression::of_layer(&self.media_type)
    }
}

/// How a layer's tar is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952), of one or several members.
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl Compression {
    /// By a layer's media type.
    ///
    /// # Errors
    /// If it is none of a layer's; encrypted ones too.
    pub fn of_layer(media_type: &str) -> Result<Self, DocumentError> {
        match media_type {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Ok(Self::None),
            OCI_LAYER_GZIP
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Ok(Self::Gzip),
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(Self::Zstd),
            other if other.ends_with("+encrypted") => {
                Err(DocumentError::Encrypted(other.chars().take(200).collect()))
            }
            other => Err(DocumentError::Layer(other.chars().take(200).collect())),
        }
    }
}

/// An image for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its config.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// Images for several platforms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// What it lists, in order.
    pub manifests: Vec<(Descriptor, Option<Platform>)>,
}

/// Either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// An image for one platform.
    Manifest(Manifest),
    /// Images for several.
    Index(Index),
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a manifest or an index. The document's own `mediaType` must not contradict the transport's, which may be
    /// empty: a document may be served as one thing and read as another otherwise (CVE-2021-41190).
    ///
    /// # Errors
    /// If it is neither, or not of its schema, or has layers that are none.
    pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Self, DocumentError> {
        let wrap = |what| move |e: &dyn std::fmt::Display| DocumentError::Parse { what, why: e.to_string() };
        let media_type = media_type.split(';').next().unwrap_or("").trim();
        if media_type.starts_with("application/vnd.docker.distribution.manifest.v1") {
            return Err(DocumentError::Schema1(media_type.into()));
        }
        if json::has_too_many_values(bytes) {
            let why = format!("it has more than {} JSON values, which is not read", json::MAX_VALUES);
            return Err(wrap("manifest")(&why));
        }
        let probe: Probe = serde_json::from_slice(bytes).map_err(|e| wrap("manifest")(&e))?;
        if probe.schema_version == Some(1) {
            return Err(DocumentError::Schema1("this manifest".into()));
        }
        if probe.manifests.is_some() && probe.layers.is_some() {
            return Err(wrap("manifest")(&"it has both layers and manifests, so it is ambiguous"));
        }
        let own = probe.media_type.as_deref().unwrap_or("");
        let known = |t: &str| ACCEPTED.contains(&t);
        if known(media_type) && !own.is_empty() && own != media_type {
            return Err(wrap("manifest")(&format!("it says {own}, but was served as {media_type}")));
        }
        let kind = match (known(media_type), own) {
            (true, _) => media_type,
            (false, "") if probe.manifests.is_some() => OCI_INDEX,
            (false, "") if probe.layers.is_some() => OCI_MANIFEST,
            (false, "") => media_type,
            (false, own) => own,
        };
        match kind {
            OCI_INDEX | DOCKER_LIST => Index::parse(bytes).map(Self::Index),
            OCI_MANIFEST | DOCKER_MANIFEST => Manifest::parse(bytes).map(Self::Manifest),
            other => Err(DocumentError::MediaType(other.chars().take(200).collect())),
        }
    }
}

impl Manifest {
    fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let m: spec::ImageManifest = serde_json::from_slice(bytes)
            .map_err(|e| DocumentError::Parse { what: "image manifest", why: e.to_string() })?;
        let config = Descriptor::of(m.config())?;
        if ![OCI_CONFIG, DOCKER_CONFIG].contains(&config.media_type.as_str()) {
            return Err(DocumentError::NotAnImage(config.media_type));
        }
        if m.layers().len() > MAX_LAYERS {
            return Err(DocumentError::TooManyLayers(m.layers().len()));
        }
        let layers = m.layers().iter().map(Descriptor::of).collect::<Result<Vec<_>, _>>()?;
        for layer in &layers {
            layer.compression()?;
        }
        Ok(Self { config, layers })
    }

    /// The bytes of an OCI manifest.
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Out<'a> {
            schema_version: u32,
            media_type: &'a str,
            config: &'a Descriptor,
            layers: &'a [Descriptor],
        }
        let out =
            Out { schema_version: 2, media_type: OCI_MANIFEST, config: &self.config, layers: &self.layers };
        // Strings and numbers only: there is nothing in it that JSON cannot say.
        serde_json::to_vec(&out).unwrap_or_default()
    }
}

impl Index {
    fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let index: spec::ImageIndex = serde_json::from_slice(bytes)
            .map_err(|e| DocumentError::Parse { what: "image index", why: e.to_string() })?;
        let manifests = index
            .manifests()
            .iter()
            .map(|d| {
                let platform = d.platform().as_ref().map(|p| Platform {
                    os: p.os().to_string(),
                    architecture: p.architecture().to_string(),
                    variant: p.variant().clone().unwrap_or_default(),
                });
                Ok((Descriptor::of(d)?, platform))
            })
            .collect::<Result<_, DocumentError>>()?;
        Ok(Self { manifests })
    }

    /// The manifest that serves a platform best; the first of several equals.
    ///
    /// # Errors
    /// If there is none; the text lists what there is.
    pub fn select(&self, wanted: &Platform) -> Result<&Descriptor, DocumentError> {
        let best = self
            .manifests
            .iter()
            .filter(|(d, _)| is_manifest(d))
            .filter_map(|(d, p)| Some((wanted.rank(p.as_ref()?)?, d)))
            .min_by_key(|(rank, _)| *rank);
        if let Some((_, descriptor)) = best {
            return Ok(descriptor);
        }
        // Some tools say no platform where there is only one image: its config says it.
        if let [(only, None)] = self.manifests.as_slice()
            && is_manifest(only)
        {
            return Ok(only);
        }
        let offered: Vec<_> = self
            .manifests
            .iter()
            .filter_map(|(d, p)| Some((d, p.as_ref()?)))
            .filter(|(_, p)| p.os != "unknown")
            .map(|(d, p)| if is_manifest(d) { p.to_string() } else { format!("{p} as {}", d.media_type) })
            .collect();
        let offered = if offered.is_empty() { "nothing with a platform".into() } else { offered.join(", ") };
        Err(DocumentError::NoPlatform { wanted: wanted.to_string(), offered })
    }
}

/// Whether this is an image that can be used: indexes also list signatures, and what is older.
fn is_manifest(descriptor: &Descriptor) -> bool {
    [OCI_MANIFEST, DOCKER_MANIFEST].contains(&descriptor.media_type.as_str())
}

#[cfg(test)]
mod tests;
