//! Blobs: whether they are there, and have the size and the digest that they must have.

use super::catalog::Catalog;
use super::{Problem, Run, What, pull_again};
use crate::blob;
use crate::error::Result;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::sync::{Mutex, PoisonError};
use strata_oci::digest::Hasher;
use strata_oci::{Descriptor, Digest};

/// How much is read at a time.
const BUFFER: usize = 256 << 10;
/// How many are read at a time.
const THREADS: usize = 2;

impl Run<'_> {
    /// The compressed layers, and whatever else lies among the blobs.
    pub(super) fn check_blobs(&mut self, catalog: &Catalog) -> Result<()> {
        let mut todo = self.blobs_on_disk()?;
        if !self.store.options.discard_blobs {
            let inner = self.store.index.lock();
            for layer in inner.refs.values().flat_map(|r| &r.layers) {
                todo.entry(layer.blob.digest.clone()).or_default();
            }
        }
        todo.retain(|digest, _| !self.good.contains(digest));
        for (digest, expected) in &mut todo {
            *expected = catalog.layer_blob(digest).map(|b| b.size);
        }
        let wrong = self.verify_all(todo)?;
        for (digest, problem) in wrong {
            self.stopped()?;
            self.bad_blob(&digest, catalog.layer_blob(&digest), problem);
        }
        Ok(())
    }

    /// By digest; their size is not known yet.
    fn blobs_on_disk(&self) -> Result<BTreeMap<Digest, Option<u64>>> {
        let mut found = BTreeMap::new();
        for algorithm in self.store.layout.blobs.names()? {
            for entry in std::fs::read_dir(self.store.layout.blobs.path.join(&algorithm))? {
                let name = entry?.file_name();
                if let Ok(digest) = Digest::parse(&format!("{algorithm}:{}", name.to_string_lossy())) {
                    found.insert(digest, None);
                }
            }
        }
        let mut inner = self.store.index.lock();
        // What is gone from the index has just been collected.
        found.retain(|digest, _| inner.blobs.contains_key(digest));
        // What has gone from the disk is told only where an image needs it.
        let held = inner.held(&self.lease);
        held.blobs.extend(found.keys().cloned());
        Ok(found)
    }

    /// Verifies on several threads; what is wrong, by digest.
    fn verify_all(&mut self, todo: BTreeMap<Digest, Option<u64>>) -> Result<Vec<(Digest, String)>> {
        self.summary.blobs += todo.len() as u64;
        let (queue, done) = (Mutex::new(todo.into_iter()), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    if let Err(e) = strata_sys::priority::background_thread() {
                        tracing::debug!(error = %e, "reading has the priority of everything else");
                    }
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some((digest, expected)) = next else { return };
                        if self.stopped().is_err() {
                            return;
                        }
                        let wrong = self.verify(&digest, expected, self.options.quick);
                        done.lock().unwrap_or_else(PoisonError::into_inner).push((digest, wrong));
                    }
                });
            }
        });
        self.stopped()?;
        let mut wrong = Vec::new();
        for (digest, problem) in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
            match problem {
                Some(problem) => wrong.push((digest, problem)),
                None if self.options.quick => {}
                None => {
                    self.good.insert(digest);
                }
            }
        }
        wrong.sort();
        Ok(wrong)
    }

    /// What is wrong with a blob's file.
    pub(super) fn verify(&self, digest: &Digest, expected: Option<u64>, quick: bool) -> Option<String> {
        let mut file = match File::open(blob::path(&self.store.layout, digest)) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Some("it is missing".into()),
            Err(e) => return Some(format!("it cannot be read: {e}")),
        };
        let size = file.metadata().map_or(0, |m| m.len());
        if let Some(expected) = expected.filter(|expected| *expected != size) {
            return Some(format!("it has {size} bytes instead of {expected}"));
        }
        if quick {
            return None;
        }
        let (mut hasher, mut buffer) = (Hasher::new(digest.algorithm()), vec![0; BUFFER]);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    hasher.update(buffer.get(..n).unwrap_or_default());
                    // Whoever asked to stop will not be told of this one.
                    if !self.meter.read(n as u64) {
                        return None;
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Some(format!("it cannot be read: {e}")),
            }
        }
        (hasher.finish() != *digest).then(|| "its bytes do not have its digest".into())
    }

    fn bad_blob(&mut self, digest: &Digest, known: Option<&Descriptor>, problem: String) {
        let images = self.images_with(|r| r.has_blob(digest));
        let outcome = match (self.options.repair, known) {
            (false, _) if images.is_empty() => Err("no image needs it: fsck --repair moves it away".into()),
            (false, _) => Err("fsck --repair fetches it again where it came from a registry".into()),
            (true, _) if images.is_empty() => self.put_away_blob(digest),
            (true, None) => Err(pull_again(&images)),
            (true, Some(blob)) => self.fetch(blob, &images),
        };
        self.tell_outcome(What::Blob, digest.to_string(), problem, outcome, images);
    }

    /// Fetches a blob again; what was done, or why it could not be and what to do.
    pub(super) fn fetch(&mut self, blob: &Descriptor, images: &[String]) -> Result<String, String> {
        let source = self.options.source.ok_or_else(|| pull_again(images))?;
        source.fetch(&self.lease, blob).map_err(|e| format!("{e}; {}", pull_again(images)))?;
        self.good.insert(blob.digest.clone());
        Ok("fetched again from its registry".into())
    }

    fn put_away_blob(&mut self, digest: &Digest) -> Result<String, String> {
        let mut inner = self.store.index.lock();
        let name = blob::name(digest);
        let moved = self.store.layout.put_away(&self.store.layout.blobs, &name);
        let to = moved.map_err(|e| e.to_string())?;
        inner.blobs.remove(digest);
        Ok(format!("no image needs it; moved to {to}"))
    }

    pub(super) fn tell_outcome(
        &mut self,
        what: What,
        id: String,
        problem: String,
        outcome: Result<String, String>,
        images: Vec<String>,
    ) {
        let repaired = outcome.is_ok();
        let action = match outcome {
            Ok(action) | Err(action) => action,
        };
        self.tell(Problem { what, id, path: String::new(), problem, repaired, action, images });
    }
}
