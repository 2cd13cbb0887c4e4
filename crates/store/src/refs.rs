//! Names of images: given, moved, taken away.

use crate::error::{Context, Error, Kind, Result};
use crate::image::Image;
use crate::index::Inner;
use crate::record::{self, RefRecord};
use crate::store::Store;
use std::ffi::OsStr;
use std::sync::Arc;
use strata_oci::{Digest, Reference};
use strata_sys::durable;

/// What removing an image did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<String>,
    /// The image's ID if it is gone, and then its layers that nothing else needs.
    pub deleted: Vec<String>,
}

fn file_name(name: &str) -> String {
    Digest::sha256_of(name.as_bytes()).hex().to_owned()
}

impl Store {
    /// Gives an image one more name; one that another image has moves.
    ///
    /// # Errors
    /// If the image is gone, or the disk fails.
    pub fn tag(&self, id: &Digest, name: &Reference) -> Result<()> {
        let record = {
            let inner = self.index.lock();
            let found = inner.refs.values().filter(|r| r.image == *id).min_by_key(|r| r.since).cloned();
            found.ok_or_else(|| Error::not_found(format!("No such image: {id}")))?
        };
        if name.digest().is_some() {
            return Err(Error::invalid("refusing to create a tag with a digest reference"));
        }
        // What a registry knew it by belongs to the name it was pulled by.
        let record = RefRecord { pulled: None, since: crate::history::now(), ..(*record).clone() };
        let mut inner = self.index.lock();
        if !inner.images.contains_key(id) {
            return Err(Error::not_found(format!("No such image: {id}")));
        }
        self.write_refs_locked(&mut inner, &record, std::slice::from_ref(name))
    }

    /// Writes a ref per name, or one by ID if there is none.
    pub(crate) fn write_refs(&self, record: &RefRecord, names: &[Reference]) -> Result<()> {
        let mut inner = self.index.lock();
        crate::sync::check_all_here(&inner, record)?;
        self.write_refs_locked(&mut inner, record, names)
    }

    fn write_refs_locked(&self, inner: &mut Inner, record: &RefRecord, names: &[Reference]) -> Result<()> {
        if names.is_empty() {
            return self.write_ref(inner, RefRecord { name: record.image.to_string(), ..record.clone() });
        }
        for name in names {
            self.keep_displaced(inner, &name.to_string(), &record.image)?;
            self.write_ref(inner, RefRecord { name: name.to_string(), ..record.clone() })?;
        }
        // An image that was only known by its ID has a name now.
        self.remove_ref(inner, &record.image.to_string())
    }

    /// A name that moves away from an image may be its last: the image stays, by digest or by ID.
    fn keep_displaced(&self, inner: &mut Inner, name: &str, new: &Digest) -> Result<()> {
        let Some(old) = inner.refs.get(name).cloned() else { return Ok(()) };
        let last = !inner.refs.values().any(|r| r.image == old.image && r.name != name);
        // A damaged image is not listed: without a name it goes.
        if old.image == *new || !last || !inner.images.contains_key(&old.image) {
            return Ok(());
        }
        let kept = match (&old.pulled, Reference::parse(name)) {
            (Some(digest), Ok(reference)) => reference.with_digest(digest.clone()).to_string(),
            _ => old.image.to_string(),
        };
        self.write_ref(inner, RefRecord { name: kept, ..(*old).clone() })
    }

    fn write_ref(&self, inner: &mut Inner, record: RefRecord) -> Result<()> {
        let bytes = record::to_json(&record.name, &record)?;
        let written =
            durable::write_file(&self.layout.refs.fd, OsStr::new(&file_name(&record.name)), &bytes, 0o600);
        if let Err(e) = written {
            // It may have its name all the same: what the file names must stay, whatever becomes of this.
            self.read_ref_again(inner, &record.name);
            return Err(Error::from(e).context(format!("write the reference {}", record.name)));
        }
        let (name, id) = (record.name.clone(), record.image.clone());
        let old = inner.refs.insert(name, Arc::new(record));
        if let Some(old) = old.filter(|old| old.image != id)
            && let Err(e) = Image::index(&self.layout, inner, &old.image)
        {
            tracing::warn!(image = %old.image, error = %e, "image is damaged and not listed; pull it again");
        }
        Image::index(&self.layout, inner, &id)
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
        for id in old.into_iter().chain(new) {
            if let Err(e) = Image::index(&self.layout, inner, &id) {
                tracing::warn!(image = %id, error = %e, "image is damaged and not listed; pull it again");
            }
        }
    }

    fn remove_ref(&self, inner: &mut Inner, name: &str) -> Result<()> {
        let Some(old) = inner.refs.get(name).cloned() else { return Ok(()) };
        durable::remove_file(&self.layout.refs.fd, OsStr::new(&file_name(name)))
            .context(|| format!("remove the reference {name}"))?;
        inner.refs.remove(name);
        Image::index(&self.layout, inner, &old.image)
    }

    /// Takes a name away from an image (`Some`), or all of them (`None`), and deletes the image with its last name and
    /// the layers that nothing else needs.
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
        let mut removed = Removed::default();
        let mut inner = self.index.lock();
        let image = inner.images.get(id).cloned();
        let names: Vec<String> =
            inner.refs.values().filter(|r| r.image == *id).map(|r| r.name.clone()).collect();
        if names.is_empty() {
            return Err(Error::not_found(format!("No such image: {id}")));
        }
        let going: Vec<&String> = names.iter().filter(|n| name.is_none_or(|name| *n == name)).collect();
        let last = going.len() == names.len();
        let users = inner.users(id);
        let stays = last && !users.is_empty();
        if stays && !force {
            return Err(Error::new(Kind::InUse, in_use(&users)));
        }
        if stays {
            let any = inner.refs.get(&names[0]).cloned();
            if let Some(any) = any {
                let record = RefRecord { name: id.to_string(), pulled: None, ..(*any).clone() };
                self.write_ref(&mut inner, record)?;
            }
        }
        for name in going.into_iter().filter(|n| **n != id.to_string()) {
            removed.untagged.push(name.clone());
            self.remove_ref(&mut inner, name)?;
        }
        if last && !stays {
            self.remove_ref(&mut inner, &id.to_string())?;
            removed.untagged.extend(image.iter().flat_map(|i| i.repo_digests.iter().cloned()));
            removed.untagged.dedup();
            removed.deleted.push(id.to_string());
        }
        drop(inner);
        if last {
            let report = self.gc(false)?;
            removed.deleted.extend(report.layers);
        }
        Ok(removed)
    }
}
