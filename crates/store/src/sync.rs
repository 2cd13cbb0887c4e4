//! The sync between what an operation has renamed and the ref that says so.

use crate::blob;
use crate::error::{Error, Result};
use crate::index::{Inner, Lease};
use crate::record::RefRecord;
use crate::store::Store;
use std::collections::HashSet;
use std::sync::PoisonError;
use strata_oci::Digest;

/// Names below `layers/` and `blobs/` that may be gone, or hold something else, after a power cut.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unsynced {
    pub(crate) layers: HashSet<String>,
    pub(crate) blobs: HashSet<Digest>,
}

impl Store {
    /// Everything that has been given its name so far is on disk when this returns.
    ///
    /// # Errors
    /// If it is not. The kernel tells once that it could not write a page, and then takes the page for written: whatever
    /// this sync was about goes to trash, since a later one would find nothing wrong with it.
    pub(crate) fn sync_published(&self, lease: &Lease) -> Result<()> {
        // One at a time: none may succeed, knowing nothing of another's failure, before that one has been dealt with.
        let _turn = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.index.lock().unsynced.clone();
        let synced = lease.sync.sync();
        let mut inner = self.index.lock();
        if synced.is_err() {
            self.distrust(&mut inner, &before);
        }
        inner.unsynced.layers.retain(|key| !before.layers.contains(key));
        inner.unsynced.blobs.retain(|digest| !before.blobs.contains(digest));
        synced
    }

    fn distrust(&self, inner: &mut Inner, lost: &Unsynced) {
        for key in &lost.layers {
            inner.layers.remove(key);
            if let Err(e) = self.layout.discard(&self.layout.layers, key) {
                tracing::error!(layer = %key, error = %e, "layer may be damaged and cannot be discarded; restart stratad");
            }
        }
        for digest in &lost.blobs {
            inner.blobs.remove(digest);
            if let Err(e) = self.layout.discard(&self.layout.blobs, &blob::name(digest)) {
                tracing::error!(blob = %digest, error = %e, "blob may be damaged and cannot be discarded; restart stratad");
            }
        }
    }
}

/// Whether what a ref is going to need is here still: another operation's sync may have failed, and taken it away.
pub(crate) fn check_all_here(inner: &Inner, record: &RefRecord) -> Result<()> {
    let layer =
        record.layers.iter().find(|layer| !inner.layers.contains_key(&layer.key)).map(|l| l.key.clone());
    let mut blobs = [&record.image, &record.manifest.digest].into_iter();
    let blob = blobs.find(|digest| !inner.blobs.contains_key(digest)).map(ToString::to_string);
    layer.or(blob).map_or(Ok(()), |lost| {
        Err(Error::damaged(format!("{lost} could not be written to disk by another operation; try again")))
    })
}
