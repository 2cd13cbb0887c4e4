//! Garbage collection: what no ref, container or lease reaches goes to trash.
//!
//! The index is locked for a millisecond at a time, so that collecting thousands of layers stalls nobody. What was garbage
//! under one lock is looked at again under the next if an operation may have come to hold something in between.

use crate::blob;
use crate::error::{Error, Result};
use crate::index::{ContainerUse, Inner};
use crate::record::RefRecord;
use crate::store::Store;
use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use strata_oci::Digest;

/// How long the index stays locked for renames.
const HOLD: Duration = Duration::from_millis(1);
/// How long others may have it before the next ones: the lock is not fair.
const PAUSE: Duration = Duration::from_micros(200);

/// What a collection removed, or would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Layers, by their keys as `sha256:<diff ID>` or `chain-<chain ID>`.
    pub layers: Vec<Collected>,
    /// Blobs, by their digests.
    pub blobs: Vec<Collected>,
}

/// One thing that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// What it was.
    pub name: String,
    /// Bytes on disk.
    pub bytes: u64,
}

impl GcReport {
    /// Bytes on disk of all of it.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().chain(&self.blobs).map(|c| c.bytes).sum()
    }
}

/// What collections have removed since the store was opened, the one of the opening included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcTotals {
    /// Collections.
    pub runs: u64,
    /// Layers.
    pub layers: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes on disk of all of them.
    pub bytes: u64,
}

/// What must stay.
pub(crate) struct Needed<'a> {
    pub(crate) layers: HashSet<&'a str>,
    pub(crate) blobs: HashSet<&'a Digest>,
}

impl<'a> Needed<'a> {
    pub(crate) fn of(inner: &'a Inner) -> Self {
        Self::by(inner, inner.refs.values().map(Arc::as_ref))
    }

    /// What these names of images need, and all containers and operations.
    pub(crate) fn by(inner: &'a Inner, refs: impl Iterator<Item = &'a RefRecord>) -> Self {
        let mut needed = Self { layers: HashSet::new(), blobs: HashSet::new() };
        for r in refs {
            needed.layers.extend(r.layer_keys());
            needed.blobs.extend(r.blobs());
        }
        needed.layers.extend(inner.containers.values().flat_map(ContainerUse::keys).map(String::as_str));
        for held in inner.leases.values() {
            needed.layers.extend(held.layers.iter().map(String::as_str));
            needed.blobs.extend(&held.blobs);
        }
        needed
    }
}

/// What was garbage when the index was looked at.
struct Garbage {
    generation: u64,
    layers: Vec<String>,
    blobs: Vec<Digest>,
}

impl Garbage {
    fn of(inner: &Inner) -> Self {
        let needed = Needed::of(inner);
        let layers = inner.layers.keys().filter(|key| !needed.layers.contains(key.as_str()));
        let mut layers: Vec<String> = layers.cloned().collect();
        let blobs = inner.blobs.keys().filter(|digest| !needed.blobs.contains(digest));
        let mut blobs: Vec<Digest> = blobs.cloned().collect();
        // In the order of names, taken from the end.
        layers.sort_unstable_by(|a, b| b.cmp(a));
        blobs.sort_unstable_by(|a, b| b.cmp(a));
        Self { generation: inner.generation, layers, blobs }
    }

    /// Keeps only what is garbage still.
    fn check(&mut self, inner: &Inner) {
        if self.generation != inner.generation {
            let needed = Needed::of(inner);
            self.layers.retain(|key| !needed.layers.contains(key.as_str()));
            self.blobs.retain(|digest| !needed.blobs.contains(digest));
            self.generation = inner.generation;
        }
    }
}

impl Store {
    /// Removes what nothing needs; with `dry_run` it only says what that is.
    ///
    /// # Errors
    /// If something cannot be renamed into trash/: the first such failure, after everything else.
    pub fn gc(&self, dry_run: bool) -> Result<GcReport> {
        let mut report = GcReport::default();
        let mut garbage = Garbage::of(&self.index.lock());
        let mut failed = None;
        loop {
            let mut inner = self.index.lock();
            garbage.check(&inner);
            let began = Instant::now();
            while began.elapsed() < HOLD
                && let Some(result) = self.collect_one(&mut inner, &mut garbage, &mut report, dry_run)
            {
                failed = failed.or_else(|| result.err());
            }
            drop(inner);
            if garbage.layers.is_empty() && garbage.blobs.is_empty() {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        if !dry_run {
            self.discard_unknown_layers()?;
            self.collect_replaced()?;
        }
        if !dry_run {
            let mut totals = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
            totals.runs += 1;
            totals.layers += report.layers.len() as u64;
            totals.blobs += report.blobs.len() as u64;
            totals.bytes = totals.bytes.saturating_add(report.bytes());
        }
        failed.map_or(Ok(report), Err)
    }

    /// What collections have removed since the store was opened.
    pub fn collected(&self) -> GcTotals {
        *self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renames one thing into trash/; `None` when there is nothing left.
    fn collect_one(
        &self,
        inner: &mut Inner,
        garbage: &mut Garbage,
        report: &mut GcReport,
        dry_run: bool,
    ) -> Option<Result<(), Error>> {
        let (collected, layer, result) = if let Some(key) = garbage.layers.pop() {
            // Another collection may have been faster.
            let Some(bytes) = inner.layers.get(&key).map(|l| l.disk) else { return Some(Ok(())) };
            let result = if dry_run {
                Ok(())
            } else {
                self.layout.discard_sized(&self.layout.layers, &key, Some(bytes))
            };
            if !dry_run && result.is_ok() {
                inner.layers.remove(&key);
            }
            (Collected { name: shown(&key), bytes }, true, result)
        } else {
            let digest = garbage.blobs.pop()?;
            let Some(bytes) = inner.blobs.get(&digest).map(|b| b.disk) else { return Some(Ok(())) };
            let result = if dry_run {
                Ok(())
            } else {
                self.layout.discard_sized(&self.layout.blobs, &blob::name(&digest), Some(bytes))
            };
            if !dry_run && result.is_ok() {
                inner.blobs.remove(&digest);
            }
            (Collected { name: digest.to_string(), bytes }, false, result)
        };
        if result.is_ok() {
            let list = if layer { &mut report.layers } else { &mut report.blobs };
            list.push(collected);
        }
        Some(result)
    }

    /// Directories whose record could not be read at the start, and that no ref and no container needs.
    fn discard_unknown_layers(&self) -> Result<()> {
        let names = self.layout.layers.names()?;
        let unknown: Vec<String> = {
            let inner = self.index.lock();
            names.into_iter().filter(|key| !inner.layers.contains_key(key)).collect()
        };
        for key in unknown {
            let inner = self.index.lock();
            if !inner.layers.contains_key(&key) && !Needed::of(&inner).layers.contains(key.as_str()) {
                self.layout.discard(&self.layout.layers, &key)?;
            }
        }
        Ok(())
    }
}

/// A layer as people see it.
pub(crate) fn shown(key: &str) -> String {
    if key.starts_with("chain-") { key.to_owned() } else { format!("sha256:{key}") }
}
