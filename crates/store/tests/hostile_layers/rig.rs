//! A store with bystanders, to see that a refusal changes nothing.

use crate::common::{gzip, privileged, pull};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata_oci::{Descriptor, Digest};
use strata_store::{Error, Kind, LayerSource, Limits, Options, Store};

pub(crate) const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Arc<Store>,
}

impl Rig {
    /// `None` where files cannot have owners.
    pub(crate) fn new(limits: Limits) -> Option<Self> {
        if !privileged() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("beside")).unwrap();
        fs::write(dir.path().join("beside/canary"), "canary").unwrap();
        let options = Options { limits, ..Options::default() };
        let store = Store::open(&dir.path().join("store"), options).unwrap();
        Some(Self { dir, store })
    }

    /// Everything, and what it is, but for what is being written or deleted.
    fn snapshot(&self) -> BTreeMap<PathBuf, (u64, u32, u64, u64)> {
        let mut found = BTreeMap::new();
        let mut todo = vec![self.dir.path().to_owned()];
        let passing = ["tmp", "trash"].map(|name| self.dir.path().join("store").join(name));
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let m = fs::symlink_metadata(&path).unwrap();
                if m.is_dir() && !passing.contains(&path) {
                    todo.push(path.clone());
                }
                let size = if m.is_dir() { 0 } else { m.size() };
                found.insert(path, (m.ino(), m.mode(), size, u64::from(m.uid())));
            }
        }
        found
    }

    /// Does what must be refused, and sees that it left nothing.
    pub(crate) fn refused(&self, what: &str, attempt: impl FnOnce(&Store) -> Result<(), Error>) -> Error {
        let before = self.snapshot();
        let Err(error) = attempt(&self.store) else { panic!("{what}: it was taken") };
        let tmp = fs::read_dir(self.dir.path().join("store/tmp")).unwrap().count();
        assert_eq!(tmp, 0, "{what}: left in tmp/ after {error}");
        // A lower layer of the image that was whole may stay until then.
        self.store.gc(false).unwrap();
        assert_eq!(self.snapshot(), before, "{what}: something changed with {error}");
        error
    }

    /// A layer whose error names it and everything in `parts`.
    pub(crate) fn refuses(&self, what: &str, tar: &[u8], kind: Kind, parts: &[&str]) {
        let error = self.refused(what, |store| pull(store, "bad", &[tar.to_vec()]).map(|_| ()));
        let text = error.to_string();
        let layer = Digest::sha256_of(&gzip(tar)).to_string();
        for part in parts.iter().chain([&layer.as_str()]) {
            assert!(text.contains(part), "{what}: no {part:?} in: {text}");
        }
        assert_eq!(error.kind(), kind, "{what}: {text}");
        assert!(text.len() < 2000, "{what}: {} bytes of error: {text}", text.len());
    }

    /// A layer that is taken; its directory.
    pub(crate) fn takes(&self, tar: &[u8]) -> PathBuf {
        let image = pull(&self.store, "good", &[tar.to_vec()]).unwrap();
        self.dir.path().join("store/layers").join(&image.layers[0].key).join("fs")
    }
}

/// Ingests bytes under a descriptor that may lie.
pub(crate) fn ingest(
    store: &Store,
    blob: &Descriptor,
    diff_id: &Digest,
    source: &mut (dyn Read + Send),
) -> Result<(), Error> {
    let lease = store.lease("test")?;
    store.ingest_layer(&lease, LayerSource { blob, diff_id }, source, &|_| {})
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor { media_type: media_type.into(), digest: Digest::sha256_of(bytes), size: bytes.len() as u64 }
}

pub(crate) fn blocks(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks()
}
