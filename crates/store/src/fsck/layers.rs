//! Layers: their record, their list of entries, their files.

use super::catalog::Catalog;
use super::tree::{Damage, compare};
use super::{Problem, Run, What, pull_again};
use crate::entries::List;
use crate::error::{Kind, Result};
use crate::gc::shown;
use crate::index::Inner;
use crate::record::{self, LayerRecord};
use std::collections::BTreeSet;
use strata_oci::{Descriptor, Digest};
use strata_sys::durable;

/// What lies in a layer's directory.
const NAMES: [&str; 3] = ["entries", "fs", "layer.json"];

/// Whether an image or a container has a layer.
fn is_needed(inner: &Inner, key: &str) -> bool {
    inner.refs.values().any(|r| r.layers.iter().any(|l| l.key == key || l.diff_id.hex() == key))
        || inner.containers.values().any(|c| c.keys().any(|k| k == key))
}

/// What a check of one layer found.
#[derive(Default)]
struct Checked {
    damage: Damage,
    /// Its list is of an older format.
    old: bool,
    missing: bool,
}

impl Run<'_> {
    /// All layers: first those that stand alone, from which the others are made.
    pub(super) fn check_layers(&mut self, catalog: &Catalog) -> Result<()> {
        let keys = self.layer_keys()?;
        let (variants, alone): (Vec<_>, Vec<_>) = keys.into_iter().partition(|k| k.starts_with("chain-"));
        let (mut old, mut renewed) = (0_u64, 0_u64);
        for key in alone.into_iter().chain(self.lowest_first(variants)) {
            self.stopped()?;
            if !self.hold(&key) {
                continue;
            }
            let checked = self.check_layer(&key)?;
            self.stopped()?;
            self.summary.layers += 1;
            self.summary.files += checked.damage.files;
            if let Some(why) = &checked.damage.beyond {
                self.summary.notes.push(format!("layer {} was not checked to its end: {why}", shown(&key)));
            }
            if checked.damage.count > 0 {
                self.damaged_layer(&key, &checked, catalog);
            } else if checked.old {
                old += 1;
                renewed += u64::from(self.options.repair && self.mend_layer(&key, catalog, false).is_ok());
            }
        }
        if old > renewed {
            self.summary.notes.push(format!(
                "{} layers were recorded by an older release, which wrote down neither devices, extended attributes and opaque marks, nor all hard links: these were not checked; fsck --repair records such layers anew if their blobs are here",
                old - renewed
            ));
        }
        if renewed > 0 {
            self.summary
                .notes
                .push(format!("{renewed} layers recorded by an older release were recorded anew"));
        }
        Ok(())
    }

    /// Layers that are there, and those that should be.
    fn layer_keys(&self) -> Result<BTreeSet<String>> {
        let mut keys: BTreeSet<String> = self.store.layout.layers.names()?.into_iter().collect();
        keys.retain(|key| is_key(key));
        let inner = self.store.index.lock();
        keys.extend(inner.layers.keys().cloned());
        for layer in inner.refs.values().flat_map(|r| &r.layers) {
            keys.insert(layer.key.clone());
            keys.insert(layer.diff_id.hex().to_owned());
        }
        keys.extend(inner.containers.values().flat_map(|c| c.keys().cloned()));
        Ok(keys)
    }

    /// Keeps a layer from collection; `false` if it has just been collected.
    fn hold(&self, key: &str) -> bool {
        let mut inner = self.store.index.lock();
        let there = inner.layers.contains_key(key) || self.store.layout.layers.path.join(key).exists();
        let needed = is_needed(&inner, key);
        if there || needed {
            inner.held(&self.lease).layers.insert(key.to_owned());
        }
        there || needed
    }

    fn check_layer(&self, key: &str) -> Result<Checked> {
        let path = self.store.layout.layers.path.join(key);
        let mut checked = Checked::default();
        let dir = match durable::open_dir(&path) {
            Ok(dir) => dir,
            Err(e) => {
                checked.missing = e.errno == rustix::io::Errno::NOENT;
                let text = if checked.missing { "it is missing".into() } else { e.to_string() };
                checked.damage.add(b"", text);
                return Ok(checked);
            }
        };
        if let Err(e) = read_record(key, &path) {
            if e.kind() == Kind::NewerFormat {
                return Err(e);
            }
            checked.damage.add(b"", e.to_string());
        }
        for name in crate::walk::names(&dir)?.iter().filter(|n| !NAMES.iter().any(|k| k.as_bytes() == **n)) {
            checked.damage.add(b"", format!("{:?} does not belong there", crate::escape::escape(name)));
        }
        let list = match List::open(&path.join("entries")) {
            Ok(list) => list,
            Err(e) if e.kind() == Kind::NewerFormat => return Err(e),
            Err(e) => {
                checked.damage.add(b"", e.to_string());
                return Ok(checked);
            }
        };
        checked.old = !list.complete();
        match durable::open_dir(&path.join("fs")) {
            Ok(fs) => {
                let files = compare(&fs, list, self.options.quick, &self.meter);
                checked.damage.merge(files);
            }
            Err(e) => checked.damage.add(b"", e.to_string()),
        }
        Ok(checked)
    }

    fn damaged_layer(&mut self, key: &str, checked: &Checked, catalog: &Catalog) {
        let images = self.images_with(|r| r.layers.iter().any(|l| l.key == key || l.diff_id.hex() == key));
        let outcome = if self.options.repair {
            self.mend_layer(key, catalog, true)
        } else if !is_needed(&self.store.index.lock(), key) {
            // What a pull or commit had not finished when the power went.
            Err("nothing needs it: it goes when stratad starts".to_owned())
        } else {
            Err("fsck --repair unpacks the layer again".to_owned())
        };
        match &outcome {
            Ok(_) => {
                let inner = self.store.index.lock();
                let of = inner.refs.values().filter(|r| r.layers.iter().any(|l| l.key == key));
                self.touched.extend(of.map(|r| r.image.clone()));
            }
            Err(_) => {
                self.broken.insert(key.to_owned());
            }
        }
        let repaired = outcome.is_ok();
        let (Ok(action) | Err(action)) = outcome;
        let tell = |path: &str, problem: String| Problem {
            what: What::Layer,
            id: shown(key),
            path: path.to_owned(),
            problem,
            repaired,
            action: action.clone(),
            images: images.clone(),
        };
        for (path, text) in &checked.damage.named {
            self.tell(tell(path, text.clone()));
        }
        let more = checked.damage.count - checked.damage.named.len() as u64;
        if more > 0 {
            self.tell(tell("", format!("{more} more files are damaged")));
        }
    }

    /// Makes a layer anew and puts it in place of the damaged one; what was done, or why not and what to do.
    pub(super) fn mend_layer(&mut self, key: &str, catalog: &Catalog, fetch: bool) -> Result<String, String> {
        if key.starts_with("chain-") {
            return self.mend_variant(key, catalog, fetch);
        }
        let diff_id = Digest::parse(&format!("sha256:{key}")).map_err(|e| e.to_string())?;
        let (blob, fetched) = self.obtain(&diff_id, catalog, fetch)?;
        self.extract(key, &diff_id, &blob).map_err(|e| e.to_string())?;
        Ok(self.unpacked_from(&blob, fetched))
    }

    /// What was done, and away with a blob that is not kept.
    pub(super) fn unpacked_from(&self, blob: &Descriptor, fetched: bool) -> String {
        if fetched {
            self.drop_unwanted(blob);
        }
        let from = if fetched { ", fetched from its registry" } else { "" };
        format!("unpacked again from blob {}{from}", blob.digest)
    }

    /// A good compressed tar of a layer: one that is here, or from a registry, which the flag says.
    pub(super) fn obtain(
        &mut self,
        diff_id: &Digest,
        catalog: &Catalog,
        fetch: bool,
    ) -> Result<(Descriptor, bool), String> {
        let images = self.images_with(|r| r.layers.iter().any(|l| l.diff_id == *diff_id));
        let blobs = catalog.blobs_of(diff_id);
        let mut why = Vec::new();
        for blob in blobs.iter().filter(|b| crate::blob::path(&self.store.layout, &b.digest).exists()) {
            match self.is_good(blob) {
                Ok(()) => return Ok((blob.clone(), false)),
                Err(e) => why.push(e),
            }
        }
        for blob in blobs.iter().filter(|_| fetch) {
            match self.fetch(blob, &images) {
                Ok(_) => return Ok((blob.clone(), true)),
                Err(e) => why.push(e),
            }
        }
        Err(match (blobs, &why[..]) {
            ([], _) => format!("it is not known which blob it was unpacked from; {}", pull_again(&images)),
            (_, []) => format!("its blob is not here; {}", pull_again(&images)),
            _ => why.join("; "),
        })
    }
}

/// Reads a layer's record, and sees that it is this layer's.
fn read_record(key: &str, path: &std::path::Path) -> Result<LayerRecord> {
    let record: LayerRecord = record::read_whole(&path.join("layer.json"))?;
    if !key.starts_with("chain-") && record.diff_id.hex() != key {
        return Err(crate::Error::damaged(format!("layer.json belongs to layer {}", record.diff_id)));
    }
    Ok(record)
}

/// Whether a name below `layers/` is a layer's: a diff ID, or `chain-` and a chain ID.
pub(super) fn is_key(name: &str) -> bool {
    let hex = name.strip_prefix("chain-").unwrap_or(name);
    Digest::parse(&format!("sha256:{hex}")).is_ok()
}
