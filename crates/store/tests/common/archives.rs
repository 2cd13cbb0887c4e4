//! Archives made file by file, and what is done with them.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

use crate::common::{Tar, open, pull};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use strata_oci::document::{OCI_CONFIG, OCI_LAYER_GZIP};
use strata_oci::{Digest, Platform};
use strata_store::{ArchiveFormat, Loaded, Result, Store};

pub fn save(store: &Store, names: &[&str], format: ArchiveFormat) -> Vec<u8> {
    let lease = store.lease("test").unwrap();
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let images = store.export(&lease, &names).unwrap();
    let mut out = Vec::new();
    store.write_archive(&images, format, &mut out).unwrap();
    out
}

pub fn load(store: &Store, archive: &[u8]) -> Result<Vec<Loaded>> {
    let platform: Platform = "linux/amd64".parse().unwrap();
    store.load_archive(&mut &archive[..], &platform, &|_| {}, &|| false)
}

pub fn names(loaded: &Loaded) -> Vec<String> {
    loaded.names.iter().map(ToString::to_string).collect()
}

/// Two images that share a layer, under three names.
pub fn two_images(dir: &Path) -> Arc<Store> {
    let store = open(dir);
    let shared = Tar::new().dir("d/", 0o755).file("d/shared", &"s".repeat(100_000)).done();
    pull(&store, "one:1", std::slice::from_ref(&shared)).unwrap();
    let two = pull(&store, "registry.example/team/two:latest", &[Tar::new().file("f", "x").done(), shared])
        .unwrap();
    store.tag(&two.id, &"two:extra".parse().unwrap()).unwrap();
    store
}

pub fn blobs_on_disk(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("store/blobs/sha256")).unwrap().count()
}

/// An archive, file by file.
#[derive(Clone, Default)]
pub struct Files(pub Vec<(String, tar::EntryType, Vec<u8>)>);

impl Files {
    pub fn file(mut self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.0.push((name.into(), tar::EntryType::Regular, bytes.as_ref().to_vec()));
        self
    }

    pub fn link(mut self, kind: tar::EntryType, name: &str, target: &str) -> Self {
        self.0.push((name.into(), kind, target.as_bytes().to_vec()));
        self
    }

    pub fn blob(self, bytes: impl AsRef<[u8]>) -> Self {
        let name = format!("blobs/sha256/{}", Digest::sha256_of(bytes.as_ref()).hex());
        self.file(&name, bytes)
    }

    pub fn json(self, name: &str, value: &Value) -> Self {
        self.file(name, value.to_string())
    }

    pub fn done(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, kind, bytes) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            // Hostile names must come through as they are.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            if *kind == tar::EntryType::Regular {
                header.set_size(bytes.len() as u64);
                header.set_cksum();
                tar.append(&header, &bytes[..]).unwrap();
            } else {
                header.as_old_mut().linkname[..bytes.len()].copy_from_slice(bytes);
                header.set_size(0);
                header.set_cksum();
                tar.append(&header, std::io::empty()).unwrap();
            }
        }
        tar.into_inner().unwrap()
    }
}

pub fn config(tars: &[&[u8]], architecture: &str) -> String {
    let diff_ids: Vec<_> = tars.iter().map(|t| Digest::sha256_of(t).to_string()).collect();
    json!({ "os": "linux", "architecture": architecture, "rootfs": { "type": "layers", "diff_ids": diff_ids } })
        .to_string()
}

pub fn descriptor(media_type: &str, bytes: impl AsRef<[u8]>) -> Value {
    let bytes = bytes.as_ref();
    json!({ "mediaType": media_type, "digest": Digest::sha256_of(bytes).as_str(), "size": bytes.len() })
}

pub fn manifest(config: &str, layers: &[Vec<u8>]) -> String {
    let layers: Vec<_> = layers.iter().map(|l| descriptor(OCI_LAYER_GZIP, l)).collect();
    json!({ "schemaVersion": 2, "config": descriptor(OCI_CONFIG, config), "layers": layers }).to_string()
}

pub fn layout() -> Files {
    Files::default().file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
}

pub fn index(manifests: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "manifests": manifests })
}
