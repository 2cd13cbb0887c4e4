//! Checking the store, and repairing what a disk damaged.
//!
//! ```text
//!   refs ─▶ manifests, configs, indexes ─▶ compressed layers ─▶ layers ─▶ variants ─▶ names that were lost
//!            └─ a damaged blob: from the registry       └─ a damaged layer: unpacked again from its blob, swapped in whole
//! ```
//!
//! Each step stands on those before it, so that what is damaged is repaired from what has just been found good. Nothing is
//! deleted that could be of use to somebody: what cannot be read is moved into `lost+found/`, and a damaged layer on which
//! containers stand into `replaced/` until they are gone, since they have it mounted.
//!
//! It runs beside everything else: on threads that step back behind others, with the index locked for lookups and renames
//! only. What it looks at is held by its lease.

mod blobs;
mod catalog;
mod event;
mod extract;
mod images;
mod layers;
mod lost;
mod meter;
mod refs;
mod replaced;
mod rest;
mod tree;
mod variants;

pub use event::{BlobSource, FsckEvent, FsckOptions, FsckSummary, Problem, What};

use crate::error::{Error, Kind, Result};
use crate::index::Lease;
use crate::store::Store;
use meter::Meter;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use strata_oci::Digest;

/// One check.
struct Run<'a> {
    store: &'a Store,
    lease: Arc<Lease>,
    options: &'a FsckOptions<'a>,
    meter: Meter<'a>,
    /// Blobs whose bytes were found right, or were fetched again.
    good: BTreeSet<Digest>,
    /// Layers that are damaged and could not be repaired.
    broken: BTreeSet<String>,
    /// What had a name when the check began: if it has none any more, somebody has taken it away.
    named: BTreeSet<Digest>,
    /// What was there when the check began.
    found: BTreeSet<Digest>,
    /// Images something of which was repaired.
    touched: BTreeSet<Digest>,
    summary: FsckSummary,
}

impl Store {
    /// Checks everything, and repairs what can be repaired if that is wanted. Problems are told as they are found.
    ///
    /// # Errors
    /// [`Kind::InUse`] if a check is running already; if it is cancelled; if the disk fails where nothing can be known
    /// any more. A problem of the store's content is no error.
    pub fn fsck(&self, options: &FsckOptions<'_>) -> Result<FsckSummary> {
        let Ok(_alone) = self.checking.try_lock() else {
            return Err(Error::new(
                Kind::InUse,
                "a check of the store is running already; wait until it has ended",
            ));
        };
        // A thread of its own: whoever called keeps his priority.
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                if let Err(e) = strata_sys::priority::background_thread() {
                    tracing::debug!(error = %e, "the check has the priority of everything else");
                }
                Run::new(self, options)?.all()
            });
            run.join().unwrap_or_else(|_| Err(Error::damaged("the check panicked; this is a bug")))
        })
    }
}

impl<'a> Run<'a> {
    fn new(store: &'a Store, options: &'a FsckOptions<'a>) -> Result<Self> {
        let lease = Arc::new(store.lease("fsck")?);
        let (named, found) = {
            let inner = store.index.lock();
            let named = inner.refs.values().map(|r| r.image.clone()).collect();
            (named, inner.blobs.keys().cloned().collect())
        };
        Ok(Self {
            store,
            lease,
            named,
            found,
            options,
            meter: Meter::new(options),
            good: BTreeSet::new(),
            broken: BTreeSet::new(),
            touched: BTreeSet::new(),
            summary: FsckSummary::default(),
        })
    }

    fn all(mut self) -> Result<FsckSummary> {
        self.meter.expect(self.volume());
        self.check_refs()?;
        self.check_images()?;
        let catalog = catalog::Catalog::read(&self)?;
        self.check_blobs(&catalog)?;
        self.check_layers(&catalog)?;
        self.relist();
        self.find_lost(&catalog)?;
        self.check_rest()?;
        self.summary.bytes = self.meter.done();
        self.meter.finish();
        Ok(self.summary)
    }

    /// How many bytes there are to read.
    fn volume(&self) -> u64 {
        if self.options.quick {
            return 0;
        }
        let inner = self.store.index.lock();
        let layers: u64 = inner.layers.values().map(|l| l.size).sum();
        layers + inner.blobs.values().map(|b| b.size).sum::<u64>()
    }

    fn stopped(&self) -> Result<()> {
        if self.options.cancel.load(Ordering::Relaxed) {
            return Err(Error::invalid(
                "the check was stopped before its end; what it repaired stays repaired",
            ));
        }
        Ok(())
    }

    fn tell(&mut self, problem: Problem) {
        self.summary.problems += 1;
        if problem.repaired {
            self.summary.repaired += 1;
        }
        self.meter.tell(FsckEvent::Problem(problem));
    }

    /// The names of the images that need something, by ID where they have none.
    fn images_with(&self, needs: impl Fn(&crate::record::RefRecord) -> bool) -> Vec<String> {
        let inner = self.store.index.lock();
        let names: BTreeSet<&String> = inner.refs.values().filter(|r| needs(r)).map(|r| &r.name).collect();
        names.into_iter().cloned().collect()
    }

    /// Lists the images again of which something was repaired, and says which are damaged still.
    fn relist(&mut self) {
        let mut inner = self.store.index.lock();
        let ids: BTreeSet<Digest> = inner.refs.values().map(|r| r.image.clone()).collect();
        self.summary.images = ids.len() as u64;
        let unlisted: Vec<Digest> =
            ids.iter().filter(|id| !inner.images.contains_key(*id)).cloned().collect();
        for id in unlisted.iter().chain(&self.touched) {
            if let Err(e) = crate::image::Image::index(&self.store.layout, &mut inner, id) {
                tracing::debug!(image = %id, error = %e, "not listed");
            }
        }
    }
}

/// What to do about something that cannot be had again.
fn pull_again(images: &[String]) -> String {
    // An ID names an image that has lost its name, and nothing can be pulled by it.
    let names: Vec<_> =
        images.iter().map(String::as_str).filter(|name| Digest::parse(name).is_err()).collect();
    match (images, names.as_slice()) {
        ([], _) => "no image needs it".into(),
        (ids, []) => format!("pull, load or build the image again that was {}", ids.join(", ")),
        (_, names) => format!("pull, load or build again: {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::pull_again;

    #[test]
    fn nothing_is_pulled_by_its_id() {
        let (name, id) = ("registry.example/a:1".to_owned(), format!("sha256:{}", "ab".repeat(32)));
        assert_eq!(pull_again(&[]), "no image needs it");
        assert_eq!(pull_again(&[id.clone(), name]), "pull, load or build again: registry.example/a:1");
        assert_eq!(
            pull_again(std::slice::from_ref(&id)),
            format!("pull, load or build the image again that was {id}")
        );
    }
}
