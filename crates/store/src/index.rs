//! What is in the store, in memory, and what must stay although nothing on disk says so.

use crate::error::{Error, Kind, Result};
use crate::image::Image;
use crate::layout::SyncPoint;
use crate::record::{LayerRecord, MountedImage, RefRecord};
use crate::shift::IdShift;
use crate::sync::Unsynced;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use strata_oci::{Descriptor, Digest};

/// The index. Its lock is held for lookups and renames, never for reading or writing content.
#[derive(Debug, Default)]
pub(crate) struct Index(Mutex<Inner>);

#[derive(Debug, Default)]
pub(crate) struct Inner {
    /// By name.
    pub(crate) refs: BTreeMap<String, Arc<RefRecord>>,
    /// By ID.
    pub(crate) images: BTreeMap<Digest, Arc<Image>>,
    /// By key.
    pub(crate) layers: HashMap<String, Arc<LayerRecord>>,
    /// What is below `blobs/`.
    pub(crate) blobs: HashMap<Digest, BlobFile>,
    /// The blobs from which layers were unpacked since the store was opened, by diff ID; refs name those of images.
    pub(crate) unpacked_from: HashMap<Digest, Descriptor>,
    /// By ID: what each stands on.
    pub(crate) containers: HashMap<String, ContainerUse>,
    /// What operations that run now hold.
    pub(crate) leases: HashMap<u64, Held>,
    /// What no sync has covered since it got its name.
    pub(crate) unsynced: Unsynced,
    next_lease: u64,
    /// Goes up whenever an operation may have come to hold something. What nothing needs stays so as long as this does:
    /// refs and containers only come to need what a lease holds.
    pub(crate) generation: u64,
}

/// A blob's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlobFile {
    pub(crate) size: u64,
    /// Bytes on disk.
    pub(crate) disk: u64,
}

impl BlobFile {
    /// The file at a path, which has this many bytes.
    pub(crate) fn at(path: &std::path::Path, size: u64) -> Self {
        let disk = rustix::fs::lstat(path).map_or(size, |stat| crate::measure::disk(&stat));
        Self { size, disk }
    }
}

/// What a container stands on.
#[derive(Clone, Debug)]
pub(crate) struct ContainerUse {
    pub(crate) image: Digest,
    /// Topmost first.
    pub(crate) layers: Vec<String>,
    /// Images that are mounted in it beside its own.
    pub(crate) mounted: Vec<MountedImage>,
    /// How the IDs in its writable layer are shifted.
    pub(crate) ids: Option<IdShift>,
}

impl ContainerUse {
    /// Every layer that it needs; one may come twice.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &String> {
        self.layers.iter().chain(self.mounted.iter().flat_map(|m| &m.layers))
    }

    /// Whether it needs an image.
    pub(crate) fn uses(&self, image: &Digest) -> bool {
        self.image == *image || self.mounted.iter().any(|m| m.image == *image)
    }

    /// Every image that it needs; one may come twice.
    pub(crate) fn images(&self) -> impl Iterator<Item = &Digest> {
        std::iter::once(&self.image).chain(self.mounted.iter().map(|m| &m.image))
    }
}

/// What a lease holds.
#[derive(Debug)]
pub(crate) struct Held {
    /// The operation.
    pub(crate) why: String,
    pub(crate) since: Instant,
    pub(crate) layers: HashSet<String>,
    pub(crate) blobs: HashSet<Digest>,
}

impl Held {
    fn new(why: &str) -> Self {
        let (layers, blobs) = (HashSet::new(), HashSet::new());
        Self { why: why.to_owned(), since: Instant::now(), layers, blobs }
    }
}

impl Index {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in a holder leaves at worst an entry that a file no longer backs, which every user checks anyway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The lease's entry. It is there as long as the [`Lease`] is.
    pub(crate) fn held(&mut self, lease: &Lease) -> &mut Held {
        self.generation = self.generation.wrapping_add(1);
        self.leases.entry(lease.id).or_insert_with(|| Held::new("an operation"))
    }

    /// Whether another operation that runs now holds a blob.
    pub(crate) fn held_by_others(&self, lease: &Lease, digest: &Digest) -> bool {
        self.leases.iter().any(|(id, held)| *id != lease.id && held.blobs.contains(digest))
    }

    /// The containers that stand on an image.
    pub(crate) fn users(&self, image: &Digest) -> Vec<String> {
        let mut users: Vec<_> =
            self.containers.iter().filter(|(_, u)| u.uses(image)).map(|(id, _)| id.clone()).collect();
        users.sort();
        users
    }
}

/// Keeps what an operation has looked up or written from garbage collection, until it is dropped.
#[derive(Debug)]
pub struct Lease {
    index: Arc<Index>,
    id: u64,
    pub(crate) sync: SyncPoint,
    /// Bytes of layers that the operation has inflated.
    pub(crate) inflated: AtomicU64,
    ended: AtomicBool,
}

impl Lease {
    pub(crate) fn new(index: &Arc<Index>, sync: SyncPoint, why: &str) -> Self {
        let mut inner = index.lock();
        let id = inner.next_lease;
        inner.next_lease += 1;
        inner.leases.insert(id, Held::new(why));
        drop(inner);
        Self { index: index.clone(), id, sync, inflated: AtomicU64::new(0), ended: AtomicBool::new(false) }
    }
}

impl Lease {
    /// Ends what is being fetched, unpacked and made an image of for it: nobody waits for that any more. What it keeps it
    /// keeps.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Whether the operation goes on.
    ///
    /// # Errors
    /// If it was [ended](Self::end).
    pub(crate) fn go_on(&self) -> Result<()> {
        if self.ended.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Io, "it was given up: nobody waits for it any more".to_owned()));
        }
        Ok(())
    }

    /// What the index knows it by.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.index.lock().leases.remove(&self.id);
    }
}
