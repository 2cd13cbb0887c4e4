//! Garbage collection: what no ref, container or lease reaches goes to trash.

use crate::blob;
use crate::error::Result;
use crate::index::Inner;
use crate::store::Store;
use std::collections::{BTreeMap, HashMap};
use strata_oci::Digest;

/// What a collection removed, or would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Keys of layers, as `sha256:<diff ID>` or `chain-<chain ID>`.
    pub layers: Vec<String>,
    /// Digests of blobs.
    pub blobs: Vec<String>,
    /// Bytes on disk.
    pub bytes: u64,
}

/// Why things are kept, by what they are.
#[derive(Default)]
struct Kept {
    layers: HashMap<String, Vec<String>>,
    blobs: HashMap<Digest, Vec<String>>,
}

impl Kept {
    fn layer(&mut self, key: &str, why: &str) {
        self.layers.entry(key.to_owned()).or_default().push(why.to_owned());
    }

    fn blob(&mut self, digest: &Digest, why: &str) {
        self.blobs.entry(digest.clone()).or_default().push(why.to_owned());
    }
}

fn kept(inner: &Inner) -> Kept {
    let mut kept = Kept::default();
    for r in inner.refs.values() {
        let why = format!("image {} ({})", r.image, r.name);
        for layer in &r.layers {
            kept.layer(&layer.key, &why);
            // The layer as it is without anything below, from which variants are made.
            kept.layer(layer.diff_id.hex(), &why);
            kept.blob(&layer.blob.digest, &why);
        }
        kept.blob(&r.image, &why);
        kept.blob(&r.manifest.digest, &why);
        if let Some(pulled) = &r.pulled {
            kept.blob(pulled, &why);
        }
    }
    for (id, container) in &inner.containers {
        let why = format!("container {id}");
        container.layers.iter().for_each(|key| kept.layer(key, &why));
    }
    for held in inner.leases.values() {
        held.layers.iter().for_each(|key| kept.layer(key, &held.why));
        held.blobs.iter().for_each(|digest| kept.blob(digest, &held.why));
    }
    kept
}

impl Store {
    /// Removes what nothing needs; with `dry_run` it only says what that is.
    ///
    /// # Errors
    /// If something cannot be renamed into trash/.
    pub fn gc(&self, dry_run: bool) -> Result<GcReport> {
        let mut inner = self.index.lock();
        let kept = kept(&inner);
        let mut report = GcReport::default();
        let layers: BTreeMap<String, u64> = inner
            .layers
            .iter()
            .filter(|(key, _)| !kept.layers.contains_key(*key))
            .map(|(key, record)| (key.clone(), record.disk))
            .collect();
        for (key, disk) in layers {
            if !dry_run {
                self.layout.discard(&self.layout.layers, &key)?;
                inner.layers.remove(&key);
            }
            report.bytes += disk;
            report.layers.push(shown(&key));
        }
        let blobs: BTreeMap<Digest, u64> = inner
            .blobs
            .iter()
            .filter(|(digest, _)| !kept.blobs.contains_key(*digest))
            .map(|(digest, size)| (digest.clone(), *size))
            .collect();
        for (digest, size) in blobs {
            if !dry_run {
                self.layout.discard(&self.layout.blobs, &blob::name(&digest))?;
                inner.blobs.remove(&digest);
            }
            report.bytes += size;
            report.blobs.push(digest.to_string());
        }
        if !dry_run {
            self.discard_unknown_layers(&inner)?;
        }
        drop(inner);
        self.reaper.wake();
        Ok(report)
    }

    /// Directories whose record could not be read, and that nothing needs.
    fn discard_unknown_layers(&self, inner: &Inner) -> Result<()> {
        let kept = kept(inner);
        for key in self.layout.layers.names()? {
            if !inner.layers.contains_key(&key) && !kept.layers.contains_key(&key) {
                self.layout.discard(&self.layout.layers, &key)?;
            }
        }
        Ok(())
    }

    /// Why an image, a layer or a blob is kept, one sentence per reason; empty if nothing keeps it.
    ///
    /// # Errors
    /// [`NotFound`](crate::Kind::NotFound) if there is nothing of this name.
    pub fn explain(&self, what: &str) -> Result<Vec<String>> {
        if let Ok(image) = self.resolve(what) {
            let inner = self.index.lock();
            let names =
                inner.refs.values().filter(|r| r.image == image.id).map(|r| format!("name {}", r.name));
            let users = inner.users(&image.id).into_iter().map(|id| format!("container {id}"));
            return Ok(names.chain(users).collect());
        }
        let hex = what.trim_start_matches("sha256:").trim_start_matches("chain-");
        let inner = self.index.lock();
        let all = kept(&inner);
        let mut reasons = Vec::new();
        let mut found = false;
        for key in
            inner.layers.keys().filter(|k| !hex.is_empty() && k.trim_start_matches("chain-").starts_with(hex))
        {
            found = true;
            let why = all.layers.get(key).map(Vec::as_slice).unwrap_or_default();
            reasons.extend(why.iter().map(|w| format!("layer {}: {w}", shown(key))));
        }
        for digest in inner.blobs.keys().filter(|d| !hex.is_empty() && d.hex().starts_with(hex)) {
            found = true;
            let why = all.blobs.get(digest).map(Vec::as_slice).unwrap_or_default();
            reasons.extend(why.iter().map(|w| format!("blob {digest}: {w}")));
        }
        reasons.sort();
        reasons.dedup();
        if found {
            Ok(reasons)
        } else {
            Err(crate::Error::not_found(format!("no image, layer or blob is called {what:?}")))
        }
    }
}

fn shown(key: &str) -> String {
    if key.starts_with("chain-") { key.to_owned() } else { format!("sha256:{key}") }
}
