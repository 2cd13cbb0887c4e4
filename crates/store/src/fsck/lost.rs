//! Names that cannot be read, and images whose name is gone.
//!
//! A ref's file is called by the digest of the name in it, so that a name found in a damaged file proves itself. Which image
//! it named may be readable too; what cannot be recovered is moved into `lost+found/`, and images that are complete but have
//! no name get their ID for one. Until that is decided nothing is collected: see [`crate::store`].

use super::catalog::{Catalog, Found};
use super::refs::Unreadable;
use super::{Run, What};
use crate::error::{Error, Result};
use crate::image::NewImage;
use crate::record::Origin;
use crate::refs::file_name;
use std::collections::BTreeSet;
use strata_oci::{Digest, Reference};

/// What a damaged file still says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Salvaged {
    name: Option<String>,
    image: Option<Digest>,
    pulled: Option<Digest>,
    origin: Option<Origin>,
}

impl Run<'_> {
    /// Names and images that were lost.
    pub(super) fn find_lost(&mut self, catalog: &Catalog) -> Result<()> {
        let unreadable = self.unreadable_refs()?;
        let mut left = false;
        for file in &unreadable {
            self.stopped()?;
            left |= !self.lost_name(file, catalog)?;
        }
        for found in &catalog.images {
            self.stopped()?;
            if self.is_lost(found, catalog) {
                self.lost_image(found, catalog);
            }
        }
        if self.options.repair && !left && !unreadable.is_empty() {
            // Everything that could be named has a name: what is left may be collected again.
            self.store.unprotect();
        }
        Ok(())
    }

    /// One file from which no name can be read; whether it is out of the way now.
    fn lost_name(&mut self, file: &Unreadable, catalog: &Catalog) -> Result<bool> {
        let path = self.store.layout.refs.path.join(&file.file);
        let salvaged = salvage(&std::fs::read(&path).unwrap_or_default(), &file.file);
        let id = salvaged.name.clone().unwrap_or_else(|| file.file.clone());
        let images: Vec<String> = salvaged.name.iter().cloned().collect();
        if !self.options.repair {
            let action = "nothing is collected as long as it is there; fsck --repair recovers what can be, and moves the rest into lost+found/";
            self.tell_outcome(What::Ref, id, file.problem.clone(), Err(action.into()), images);
            return Ok(false);
        }
        let recovered = match self.recover(&salvaged, catalog) {
            Ok(Some(done)) => {
                self.tell_outcome(What::Ref, id, file.problem.clone(), Ok(done), images);
                return Ok(true);
            }
            Ok(None) => String::new(),
            Err(e) => format!("{e}; "),
        };
        let moved = self.store.layout.put_away(&self.store.layout.refs, &file.file);
        let (out_of_the_way, moved) = match moved {
            Ok(to) => (true, format!("{recovered}moved to {to}")),
            Err(e) => (false, format!("{recovered}{e}")),
        };
        let what_next = match &salvaged.name {
            Some(name) => format!(
                "pull, load or build {name} again, or tag its image, which is listed by its ID if it is complete"
            ),
            None => {
                "its name is lost; its image is listed by its ID if it is complete: tag that one".to_owned()
            }
        };
        self.tell_outcome(What::Ref, id, file.problem.clone(), Err(format!("{moved}; {what_next}")), images);
        Ok(out_of_the_way)
    }

    /// Writes a name again whose image is known; `None` if it is not.
    fn recover(&mut self, salvaged: &Salvaged, catalog: &Catalog) -> Result<Option<String>> {
        let (Some(name), Some(image)) = (&salvaged.name, &salvaged.image) else { return Ok(None) };
        let Some(found) = catalog.images.iter().find(|f| f.manifest.config.digest == *image) else {
            return Ok(None);
        };
        let names = if *name == image.to_string() {
            Vec::new()
        } else {
            vec![Reference::parse(name).map_err(|e| Error::damaged(e.to_string()))?]
        };
        let pulled = salvaged.pulled.clone();
        let likely = if pulled.is_some() { Origin::Pull } else { Origin::Load };
        let origin = salvaged.origin.unwrap_or(likely);
        self.name(found, names, pulled, origin, catalog)?;
        Ok(Some(format!("written again for image {image}")))
    }

    /// Whether an image is complete, and nothing names it, and no operation that runs is about to.
    fn is_lost(&self, found: &Found, catalog: &Catalog) -> bool {
        // Only what was lost before the check began: what it holds itself may have been removed since.
        if self.named.contains(&found.manifest.config.digest) || !self.found.contains(&found.digest) {
            return false;
        }
        if self.store.is_worked_on(&self.lease, &found.digest) {
            return false;
        }
        let inner = self.store.index.lock();
        let id = &found.manifest.config.digest;
        if inner.refs.values().any(|r| r.image == *id) {
            return false;
        }
        let here = |diff_id: &Digest| {
            inner.layers.contains_key(diff_id.hex())
                || catalog.blobs_of(diff_id).iter().any(|b| inner.blobs.contains_key(&b.digest))
        };
        found.diff_ids.iter().all(here)
    }

    fn lost_image(&mut self, found: &Found, catalog: &Catalog) {
        let id = found.manifest.config.digest.to_string();
        let outcome = if self.options.repair {
            // Where it came from is lost with its name: it counts as one that cannot be had again.
            let named = self.name(found, Vec::new(), None, Origin::Load, catalog);
            named.map(|()| "listed by its ID; tag it, or remove it".to_owned()).map_err(|e| e.to_string())
        } else {
            Err("it is collected at the next start or gc; fsck --repair lists it by its ID".to_owned())
        };
        self.tell_outcome(What::Image, id, "it is complete, but has no name".into(), outcome, Vec::new());
    }

    fn name(
        &mut self,
        found: &Found,
        names: Vec<Reference>,
        pulled: Option<Digest>,
        origin: Origin,
        catalog: &Catalog,
    ) -> Result<()> {
        for diff_id in found.diff_ids.iter().collect::<BTreeSet<_>>() {
            if self.store.hold_layer(&self.lease, diff_id.hex()).is_none() {
                self.mend_layer(diff_id.hex(), catalog, true).map_err(Error::damaged)?;
            }
        }
        let new =
            NewImage { media_type: found.media_type.clone(), manifest: &found.bytes, names, pulled, origin };
        self.store.commit_image(&self.lease, &new)?;
        self.summary.images += 1;
        Ok(())
    }
}

/// Reads what is left of a file; a name only if the file is called by it.
fn salvage(bytes: &[u8], file: &str) -> Salvaged {
    let text = String::from_utf8_lossy(bytes);
    let field = |key: &str| {
        let (_, rest) = text.split_once(&format!("\"{key}\":\""))?;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    };
    let digest = |key: &str| Digest::parse(&field(key)?).ok();
    let Some(name) = field("name").filter(|name| file_name(name) == file) else { return Salvaged::default() };
    let origin = field("origin").and_then(|o| serde_json::from_value(o.into()).ok());
    Salvaged { name: Some(name), image: digest("image"), pulled: digest("pulled"), origin }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_name_proves_itself() {
        let name = "docker.io/library/x:1";
        let (image, pulled) = (Digest::sha256_of(b"i"), Digest::sha256_of(b"p"));
        let text = format!(
            "{{\"format\":1,\"name\":\"{name}\",\"image\":\"{image}\",\"pulled\":\"{pulled}\",\"origin\":\"pull\""
        );
        let all = salvage(text.as_bytes(), &file_name(name));
        assert_eq!(all.name.as_deref(), Some(name));
        assert_eq!((all.image, all.pulled, all.origin), (Some(image), Some(pulled), Some(Origin::Pull)));
        let half = salvage(&text.as_bytes()[..60], &file_name(name));
        assert_eq!((half.name.as_deref(), half.image), (Some(name), None));
        assert_eq!(salvage(text.as_bytes(), &file_name("other")), Salvaged::default());
    }
}
