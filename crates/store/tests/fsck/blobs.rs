//! Layers that are to be unpacked from blobs which a disk has damaged, large ones too: these are not compared with their
//! digest whenever somebody asks whether they are here.

use crate::common::{assert_tidy, layer_of, open, privileged};
use crate::rig::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata_oci::{Descriptor, Digest};
use strata_store::{Kind, LayerSource, Lease, Store};

/// A layer's tar that stays long however it is compressed.
fn long() -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b' ' + u8::try_from(state >> 58).unwrap())
    };
    let text: String = (0..2_000_000).map(|_| next()).collect();
    crate::common::Tar::new().file("long", &text).done()
}

/// A store in which a blob is, and nothing that was unpacked from it.
struct BlobOnly {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    lease: Lease,
    bytes: Vec<u8>,
    blob: Descriptor,
    diff_id: Digest,
}

impl BlobOnly {
    fn new(tar: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let lease = store.lease("test").unwrap();
        let (bytes, blob, diff_id) = layer_of(tar);
        store.put_blob(&lease, &bytes).unwrap();
        Self { dir, store, lease, bytes, blob, diff_id }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("store/blobs/sha256").join(self.blob.digest.hex())
    }

    fn unpack(&self) -> strata_store::Result<()> {
        let source = LayerSource { blob: &self.blob, diff_id: &self.diff_id };
        self.store.unpack_blob(&self.lease, source, &|_| {})
    }

    fn ingest(&self) -> strata_store::Result<()> {
        let source = LayerSource { blob: &self.blob, diff_id: &self.diff_id };
        self.store.ingest_layer(&self.lease, source, &mut self.bytes.as_slice(), &|_| {})
    }
}

const DAMAGES: [fn(&Path); 3] = [
    cut,
    |path| flip(path, 100),
    |path| {
        let longer = [fs::read(path).unwrap(), vec![0; 100]].concat();
        fs::write(path, longer).unwrap();
    },
];

#[test]
fn a_layer_is_never_unpacked_from_a_damaged_blob() {
    if !privileged() {
        return;
    }
    for (tar, damage) in [lowest(), long()].iter().flat_map(|tar| DAMAGES.map(|damage| (tar, damage))) {
        let here = BlobOnly::new(tar);
        damage(&here.path());
        let e = here.unpack().unwrap_err();
        assert_eq!(e.kind(), Kind::Damaged, "{e}");
        assert!(e.to_string().contains("fetched again"), "{e}");
        assert!(!here.path().exists() && !here.store.has_blob(&here.lease, &here.blob.digest));
        assert!(!here.store.has_layer(&here.lease, &here.diff_id));
        assert_tidy(here.dir.path());
        here.ingest().unwrap();
        assert_eq!(fs::read(here.path()).unwrap(), here.bytes);
        assert!(here.store.has_layer(&here.lease, &here.diff_id));
    }
}

#[test]
fn bytes_that_come_anew_take_the_place_of_damaged_ones() {
    if !privileged() {
        return;
    }
    for (tar, damage) in [lowest(), long()].iter().flat_map(|tar| DAMAGES.map(|damage| (tar, damage))) {
        let here = BlobOnly::new(tar);
        damage(&here.path());
        // As a load does, which has the layer in its archive.
        here.ingest().unwrap();
        assert_eq!(fs::read(here.path()).unwrap(), here.bytes);
        assert_tidy(here.dir.path());
    }
}
