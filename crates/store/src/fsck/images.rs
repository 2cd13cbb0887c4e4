//! Images: the documents that each stands on, and whether they agree with its names.

use super::{Run, What};
use crate::error::Result;
use crate::record::RefRecord;
use std::collections::BTreeMap;
use std::sync::Arc;
use strata_oci::document::{Document, OCI_CONFIG, OCI_INDEX};
use strata_oci::{Descriptor, Digest, ImageConfig, Manifest, config, document};

impl Run<'_> {
    /// Manifests, configs and indexes of all images.
    pub(super) fn check_images(&mut self) -> Result<()> {
        let refs: Vec<Arc<RefRecord>> = self.store.index.lock().refs.values().cloned().collect();
        let mut by_manifest: BTreeMap<(Digest, Digest), Vec<Arc<RefRecord>>> = BTreeMap::new();
        for r in refs {
            by_manifest.entry((r.image.clone(), r.manifest.digest.clone())).or_default().push(r);
        }
        for names in by_manifest.into_values() {
            self.stopped()?;
            let Some(first) = names.first() else { continue };
            {
                let mut inner = self.store.index.lock();
                let held = inner.held(&self.lease);
                held.blobs.extend(names.iter().flat_map(|r| r.pulled.clone()));
                held.blobs.extend([first.image.clone(), first.manifest.digest.clone()]);
            }
            for pulled in names.iter().filter_map(|r| r.pulled.as_ref()) {
                if *pulled != first.manifest.digest {
                    // Its size is on no record; its digest says enough.
                    let index = Descriptor { media_type: OCI_INDEX.into(), digest: pulled.clone(), size: 0 };
                    self.document(&index, None, "index");
                }
            }
            self.check_image(first, &names);
        }
        Ok(())
    }

    fn check_image(&mut self, first: &RefRecord, names: &[Arc<RefRecord>]) {
        let described: Descriptor = (&first.manifest).into();
        if !self.document(&described, Some(described.size), "manifest") {
            return;
        }
        let bytes = self.store.read_blob(&described.digest, document::MAX_SIZE);
        let parsed = bytes.ok().and_then(|b| Document::parse(&described.media_type, &b).ok());
        let Some(Document::Manifest(manifest)) = parsed else {
            return self.disagree(names, "its manifest is none");
        };
        if manifest.config.digest != first.image {
            return self.disagree(names, "its manifest belongs to another image");
        }
        // Docker's and OCI's configs are fetched alike.
        let wanted = Descriptor { media_type: OCI_CONFIG.into(), ..manifest.config.clone() };
        if !self.document(&wanted, Some(wanted.size), "config") {
            return;
        }
        let config = self.store.read_blob(&first.image, config::MAX_SIZE).ok();
        let Some(config) = config.and_then(|bytes| ImageConfig::parse(&bytes).ok()) else {
            return self.disagree(names, "its config cannot be understood");
        };
        for r in names {
            if let Some(why) = disagreement(r, &manifest, &config) {
                self.disagree(std::slice::from_ref(r), why);
            }
        }
    }

    /// Checks a document, and fetches it again if it is damaged; whether it is good now.
    fn document(&mut self, blob: &Descriptor, size: Option<u64>, what: &str) -> bool {
        if self.good.contains(&blob.digest) {
            return true;
        }
        self.summary.blobs += 1;
        // They are small: their bytes are read in any case.
        let Some(problem) = self.verify(&blob.digest, size, false) else {
            self.good.insert(blob.digest.clone());
            return true;
        };
        let images = self.images_with(|r| r.has_blob(&blob.digest));
        let outcome = if self.options.repair {
            self.fetch(blob, &images)
        } else {
            Err("fsck --repair fetches it again where it came from a registry".into())
        };
        let repaired = outcome.is_ok();
        if repaired {
            let inner = self.store.index.lock();
            let of = inner.refs.values().filter(|r| r.has_blob(&blob.digest));
            self.touched.extend(of.map(|r| r.image.clone()));
        }
        self.tell_outcome(What::Blob, blob.digest.to_string(), format!("{what}: {problem}"), outcome, images);
        repaired
    }

    fn disagree(&mut self, names: &[Arc<RefRecord>], why: &str) {
        for r in names {
            let action = Err(format!("pull, load or build again: {}", r.name));
            self.tell_outcome(What::Image, r.image.to_string(), why.to_owned(), action, vec![r.name.clone()]);
        }
    }
}

/// Where a ref says something else than the documents that it names.
fn disagreement(r: &RefRecord, manifest: &Manifest, config: &ImageConfig) -> Option<&'static str> {
    let diff_ids = &config.rootfs.diff_ids;
    if r.layers.len() != diff_ids.len() || manifest.layers.len() != diff_ids.len() {
        return Some("manifest, config and name do not have equally many layers");
    }
    if r.layers.iter().zip(diff_ids).any(|(l, d)| l.diff_id != *d) {
        return Some("its layers are not those of its config");
    }
    let blobs = r.layers.iter().zip(&manifest.layers);
    if blobs.into_iter().any(|(l, b)| l.blob.digest != b.digest) {
        return Some("its compressed layers are not those of its manifest");
    }
    None
}
