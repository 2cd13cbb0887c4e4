//! Configs, manifests and indexes.

use super::layer::{CREATED, Layer};
use serde_json::{Value, json};
use std::io::Write as _;

/// How a layer is compressed in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Whose media types an image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// The OCI image specification.
    Oci,
    /// Docker's schema 2.
    Docker,
}

/// Bytes with a type.
#[derive(Clone, Debug)]
pub struct Blob {
    /// The media type.
    pub media_type: String,
    /// `sha256:…` of the bytes.
    pub digest: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        Self { media_type: media_type.into(), digest: super::digest(&bytes), bytes }
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// One platform's image, ready to be pushed.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its manifest.
    pub manifest: Blob,
    /// Its config; the digest is the image's ID.
    pub config: Blob,
    /// Its layers as they are stored in a registry, the lowest first.
    pub layers: Vec<Blob>,
    /// The layers' diff IDs, the lowest first.
    pub diff_ids: Vec<String>,
}

impl Image {
    /// The image's ID: `sha256:…`.
    pub fn id(&self) -> &str {
        &self.config.digest
    }

    /// The manifest's digest: what a pull by digest names.
    pub fn digest(&self) -> &str {
        &self.manifest.digest
    }
}

/// Puts layers and a config together.
pub struct ImageBuilder {
    flavor: Flavor,
    config: Value,
    history: Vec<Value>,
    layers: Vec<(Layer, Compression)>,
    architecture: String,
}

impl ImageBuilder {
    /// An image without layers whose command is a shell.
    pub fn new(flavor: Flavor) -> Self {
        Self {
            flavor,
            config: json!({
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Cmd": ["/bin/sh"],
            }),
            history: Vec::new(),
            layers: Vec::new(),
            architecture: "amd64".into(),
        }
    }

    /// One more layer on top, and the instruction that is said to have made it.
    pub fn layer(mut self, layer: &Layer, compression: Compression, created_by: &str) -> Self {
        self.layers.push((layer.clone(), compression));
        self.history.push(json!({ "created": CREATED, "created_by": created_by }));
        self
    }

    /// Sets a key of the config (`Env`, `Cmd`, `User`…), and says so in the history.
    pub fn set(mut self, key: &str, value: Value) -> Self {
        let by = format!("{} {value}", key.to_uppercase());
        self.history.push(json!({ "created": CREATED, "created_by": by, "empty_layer": true }));
        self.config[key] = value;
        self
    }

    /// The architecture, in Go's words; otherwise amd64.
    pub fn architecture(mut self, architecture: &str) -> Self {
        self.architecture = architecture.into();
        self
    }

    /// The finished image.
    pub fn build(self) -> Image {
        let diff_ids: Vec<String> = self.layers.iter().map(|(l, _)| l.diff_id.clone()).collect();
        let config = json!({
            "created": CREATED,
            "architecture": self.architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": self.history,
        });
        let config = Blob::new(config_type(self.flavor), to_bytes(&config));
        let layers: Vec<Blob> = self
            .layers
            .iter()
            .map(|(l, c)| Blob::new(layer_type(self.flavor, *c), compress(&l.tar, *c)))
            .collect();
        let manifest_type = match self.flavor {
            Flavor::Oci => "application/vnd.oci.image.manifest.v1+json",
            Flavor::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        Image { manifest: Blob::new(manifest_type, to_bytes(&manifest)), config, layers, diff_ids }
    }
}

/// Several platforms' images under one name.
#[derive(Clone, Debug)]
pub struct Index {
    /// The index.
    pub manifest: Blob,
    /// What it lists.
    pub images: Vec<Image>,
}

impl Index {
    /// An index of images, each for an architecture.
    pub fn new(flavor: Flavor, images: Vec<(&str, Image)>) -> Self {
        let media_type = match flavor {
            Flavor::Oci => "application/vnd.oci.image.index.v1+json",
            Flavor::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        };
        let manifests: Vec<Value> = images
            .iter()
            .map(|(architecture, image)| {
                let mut descriptor = image.manifest.descriptor();
                descriptor["platform"] = json!({ "architecture": architecture, "os": "linux" });
                descriptor
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
        Self {
            manifest: Blob::new(media_type, to_bytes(&index)),
            images: images.into_iter().map(|(_, image)| image).collect(),
        }
    }
}

fn config_type(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::Oci => "application/vnd.oci.image.config.v1+json",
        Flavor::Docker => "application/vnd.docker.container.image.v1+json",
    }
}

fn layer_type(flavor: Flavor, compression: Compression) -> &'static str {
    match (flavor, compression) {
        (Flavor::Oci, Compression::None) => "application/vnd.oci.image.layer.v1.tar",
        (Flavor::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
        (Flavor::Oci, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
        (Flavor::Docker, Compression::None) => "application/vnd.docker.image.rootfs.diff.tar",
        (Flavor::Docker, Compression::Gzip) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        (Flavor::Docker, Compression::Zstd) => "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
}

fn compress(tar: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => tar.to_vec(),
        Compression::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            gzip.write_all(tar).and_then(|()| gzip.finish()).expect("compressing to memory")
        }
        Compression::Zstd => zstd::encode_all(tar, 3).expect("compressing to memory"),
    }
}

fn to_bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("JSON of strings and numbers")
}
