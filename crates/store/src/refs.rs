//! Names of images: given, moved, taken away.

use crate::error::{Context, Error, Kind, Result};
use crate::image::Image;
use crate::index::Inner;
use crate::layout::Layout;
use crate::record::{self, RefRecord};
use crate::store::Store;
use std::ffi::OsStr;
use std::sync::{Arc, MutexGuard, PoisonError};
use strata_oci::{Digest, Reference};
use strata_sys::durable;

/// What removing an image did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<String>,
    /// The image's ID if it is gone, and then its layers that nothing else needs.
    pub deleted: Vec<String>,
    /// Bytes on disk of what is gone.
    pub bytes: u64,
}

/// Bytes on disk of a ref's file; what cannot be looked at takes up nothing.
pub(crate) fn disk(layout: &Layout, file: &str) -> u64 {
    let stat = rustix::fs::statat(&layout.refs.fd, file, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
    stat.map_or(0, |stat| crate::measure::disk(&stat))
}

/// The file of a name.
pub(crate) fn file_name(name: &str) -> String {
    Digest::sha256_of(name.as_bytes()).hex().to_owned()
}

/// Whether a file below `refs/` can be one of a name.
pub(crate) fn is_file_name(file: &str) -> bool {
    Digest::parse(&format!("sha256:{file}")).is_ok()
}

impl Store {
    /// One change of names at a time; see the field.
    fn naming(&self) -> MutexGuard<'_, ()> {
        self.naming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an image one more name; one that another image has moves.
    ///
    /// # Errors
    /// If the image is gone, or the disk fails.
    pub fn tag(&self, id: &Digest, name: &Reference) -> Result<()> {
        self.tag_as(id, "", name)
    }

    /// The same by one of its names: images of one ID may have come by several manifests, and the new name gets that one's.
    ///
    /// # Errors
    /// As [`tag`](Self::tag).
    pub fn tag_as(&self, id: &Digest, known: &str, name: &Reference) -> Result<()> {
        if name.digest().is_some() {
            return Err(Error::invalid("refusing to create a tag with a digest reference"));
        }
        let turn = self.naming();
        let record = {
            let inner = self.index.lock();
            let refs = inner.refs.values().filter(|r| r.image == *id && inner.images.contains_key(id));
            let found = refs.min_by_key(|r| (r.name != known, r.since)).cloned();
            found.ok_or_else(|| Error::not_found(format!("No such image: {id}")))?
        };
        // What a registry knew it by belongs to the name it was pulled by.
        let record = RefRecord { pulled: None, since: crate::history::now(), ..(*record).clone() };
        self.write_refs_in_turn(&turn, &record, std::slice::from_ref(name)).map(|_| ())
    }

    /// A registry has an image now under this name and by its manifest's digest: from then on the image has that repository's
    /// digest, and what is lost of it can be fetched again. A name that has moved on meanwhile is left alone.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn pushed(&self, name: &Reference, manifest: &Digest) -> Result<()> {
        let turn = self.naming();
        let known = self.index.lock().refs.get(&name.to_string()).cloned();
        match known {
            Some(known) if known.manifest.digest == *manifest && known.pulled.is_none() => {
                let record = RefRecord { pulled: Some(manifest.clone()), ..(*known).clone() };
                self.write_ref(&turn, record).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// Writes a ref per name, or one by ID if there is none. The caller's lease holds what they need.
    pub(crate) fn write_refs(&self, record: &RefRecord, names: &[Reference]) -> Result<Arc<Image>> {
        let turn = self.naming();
        crate::sync::check_all_here(&self.index.lock(), record)?;
        self.write_refs_in_turn(&turn, record, names)
    }

    fn write_refs_in_turn(
        &self,
        turn: &MutexGuard<'_, ()>,
        record: &RefRecord,
        names: &[Reference],
    ) -> Result<Arc<Image>> {
        let Some((last, others)) = names.split_last() else {
            return self.write_ref(turn, RefRecord { name: record.image.to_string(), ..record.clone() });
        };
        for name in others {
            self.keep_displaced(turn, &name.to_string(), &record.image)?;
            self.write_ref(turn, RefRecord { name: name.to_string(), ..record.clone() })?;
        }
        self.keep_displaced(turn, &last.to_string(), &record.image)?;
        let image = self.write_ref(turn, RefRecord { name: last.to_string(), ..record.clone() })?;
        // An image that was only known by its ID has a name now.
        let bare = record.image.to_string();
        if self.index.lock().refs.contains_key(&bare) {
            self.remove_ref(turn, &bare)?;
        }
        Ok(image)
    }

    /// A name that moves away from an image may be its last: the image stays, by digest or by ID.
    fn keep_displaced(&self, turn: &MutexGuard<'_, ()>, name: &str, new: &Digest) -> Result<()> {
        let old = {
            let inner = self.index.lock();
            let Some(old) = inner.refs.get(name).cloned() else { return Ok(()) };
            let last = !inner.refs.values().any(|r| r.image == old.image && r.name != name);
            // A damaged image is not listed: without a name it goes.
            if old.image == *new || !last || !inner.images.contains_key(&old.image) {
                return Ok(());
            }
            old
        };
        let kept = match (&old.pulled, Reference::parse(name)) {
            (Some(digest), Ok(reference)) => reference.with_digest(digest.clone()).to_string(),
            _ => old.image.to_string(),
        };
        self.write_ref(turn, RefRecord { name: kept, ..(*old).clone() }).map(|_| ())
    }

    fn write_ref(&self, _turn: &MutexGuard<'_, ()>, record: RefRecord) -> Result<Arc<Image>> {
        let (name, id) = (record.name.clone(), record.image.clone());
        let known = self.index.lock().images.get(&id).map(|image| image.config.clone());
        let config = match known {
            Some(config) => config,
            None => Image::read_config(&self.layout, &id)?,
        };
        let (file, bytes) = (file_name(&name), record::to_json(&name, &record)?);
        if let Err(e) = durable::write_file(&self.layout.refs.fd, OsStr::new(&file), &bytes, 0o600) {
            // It may have its name all the same: what the file names must stay, whatever becomes of this.
            self.read_ref_again(&mut self.index.lock(), &name);
            return Err(Error::from(e).context(format!("write the reference {name}")));
        }
        let record = RefRecord { disk: disk(&self.layout, &file), ..record };
        let mut inner = self.index.lock();
        let old = inner.refs.insert(name, Arc::new(record));
        if let Some(old) = old.filter(|old| old.image != id) {
            self.relist(&mut inner, &old.image);
        }
        Image::index_as(&mut inner, &id, config)
    }

    /// Writes the file of a name again, if the name still says the same.
    pub(crate) fn rewrite_ref(&self, record: &RefRecord) -> Result<()> {
        let _turn = self.naming();
        if self.index.lock().refs.get(&record.name).is_none_or(|now| **now != *record) {
            return Ok(());
        }
        let bytes = record::to_json(&record.name, record)?;
        durable::write_file(&self.layout.refs.fd, OsStr::new(&file_name(&record.name)), &bytes, 0o600)
            .context(|| format!("write the reference {}", record.name))
    }

    /// After a failure: the index follows the file. What cannot be read leaves it as it is.
    fn read_ref_again(&self, inner: &mut Inner, name: &str) {
        let path = self.layout.refs.path.join(file_name(name));
        let old = inner.refs.get(name).map(|r| r.image.clone());
        let new = match record::read::<RefRecord>(&path) {
            Ok(found) => {
                let image = found.image.clone();
                inner.refs.insert(name.to_owned(), Arc::new(found));
                Some(image)
            }
            Err(_) => None,
        };
        old.into_iter().chain(new).for_each(|id| self.relist(inner, &id));
    }

    fn remove_ref(&self, _turn: &MutexGuard<'_, ()>, name: &str) -> Result<()> {
        durable::remove_file(&self.layout.refs.fd, OsStr::new(&file_name(name)))
            .context(|| format!("remove the reference {name}"))?;
        let mut inner = self.index.lock();
        if let Some(old) = inner.refs.remove(name) {
            self.relist(&mut inner, &old.image);
        }
        Ok(())
    }

    /// The names of an image have changed.
    fn relist(&self, inner: &mut Inner, id: &Digest) {
        if let Err(e) = Image::index(&self.layout, inner, id) {
            tracing::warn!(image = %id, error = %e, "image is damaged and not listed; pull it again");
        }
    }

    /// Takes a name away from an image (`Some`), or all of them (`None`), and deletes the image with its last name and
    /// the layers that nothing else needs.
    ///
    /// From the moment in which it is certain that no container stands on the image, none can be made of it any more; its
    /// layers stay until the disk has forgotten the names.
    ///
    /// # Errors
    /// [`Kind::InUse`] if the image would go and a container stands on it, whether it runs or not; `in_use` makes the
    /// text. `force` keeps the image without a name then.
    pub fn remove_image(
        &self,
        id: &Digest,
        name: Option<&str>,
        force: bool,
        in_use: impl FnOnce(&[String]) -> String,
    ) -> Result<Removed> {
        let turn = self.naming();
        let lease = self.lease(&format!("removal of image {id}"))?;
        let mut inner = self.index.lock();
        let refs: Vec<Arc<RefRecord>> = inner.refs.values().filter(|r| r.image == *id).cloned().collect();
        let Some(any) = refs.first() else {
            return Err(Error::not_found(format!("No such image: {id}")));
        };
        let going: Vec<_> = refs.iter().filter(|r| name.is_none_or(|name| r.name == name)).collect();
        let last = going.len() == refs.len();
        let users = inner.users(id);
        if last && users.is_empty() {
            let image = inner.images.remove(id);
            let held = inner.held(&lease);
            for r in &refs {
                held.layers.extend(r.layer_keys().map(ToOwned::to_owned));
                held.blobs.extend(r.blobs().cloned());
            }
            inner.refs.retain(|_, r| r.image != *id);
            drop(inner);
            self.forget_refs(&turn, &refs)?;
            drop((lease, turn));
            return self.collect_image(id, image.as_deref(), &refs);
        }
        drop(inner);
        let mut removed = Removed::default();
        if last {
            if !force {
                return Err(Error::new(Kind::InUse, in_use(&users)));
            }
            self.write_ref(&turn, RefRecord { name: id.to_string(), pulled: None, ..(**any).clone() })?;
        }
        for r in going.into_iter().filter(|r| r.name != id.to_string()) {
            self.remove_ref(&turn, &r.name)?;
            removed.untagged.push(r.name.clone());
            removed.bytes += r.disk;
        }
        Ok(removed)
    }

    /// Removes the files of refs that are out of the index already. If the disk fails, all of them count again: after a
    /// power cut they may be there.
    fn forget_refs(&self, _turn: &MutexGuard<'_, ()>, refs: &[Arc<RefRecord>]) -> Result<()> {
        let dir = &self.layout.refs.fd;
        let unlink = |r: &Arc<RefRecord>| {
            strata_sys::path::remove_at(dir, OsStr::new(&file_name(&r.name)), false)
                .context(|| format!("remove the reference {}", r.name))
        };
        let forgotten = refs.iter().try_for_each(unlink).and_then(|()| Ok(durable::sync_dir(dir)?));
        if forgotten.is_err() {
            let mut inner = self.index.lock();
            inner.refs.extend(refs.iter().map(|r| (r.name.clone(), r.clone())));
            if let Some(r) = refs.first() {
                self.relist(&mut inner, &r.image);
            }
        }
        forgotten
    }

    /// Collects what an image leaves that has just lost its last name, and says what of it went.
    fn collect_image(&self, id: &Digest, image: Option<&Image>, refs: &[Arc<RefRecord>]) -> Result<Removed> {
        let report = self.gc(false)?;
        let own = |digest: &str| refs.iter().any(|r| r.blobs().any(|b| b.as_str() == digest));
        let layer = |name: &str| refs.iter().any(|r| r.layer_keys().any(|key| crate::gc::shown(key) == name));
        let names = refs.iter().filter(|r| r.name != id.to_string()).map(|r| r.name.clone());
        let mut untagged: Vec<String> = names.collect();
        let digests = image.iter().flat_map(|i| &i.repo_digests).filter(|d| !untagged.contains(d));
        let digests: Vec<String> = digests.cloned().collect();
        untagged.extend(digests);
        let layers = report.layers.iter().filter(|l| layer(&l.name));
        let blobs = report.blobs.iter().filter(|b| own(&b.name));
        let bytes = layers.clone().chain(blobs).map(|i| i.bytes).sum::<u64>();
        Ok(Removed {
            untagged,
            deleted: [id.to_string()].into_iter().chain(layers.map(|l| l.name.clone())).collect(),
            bytes: bytes + refs.iter().map(|r| r.disk).sum::<u64>(),
        })
    }
}
