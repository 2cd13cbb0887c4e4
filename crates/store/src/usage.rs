//! What takes up space: told from memory alone. Layers and blobs were measured when they were written, containers are measured
//! in the background ([`crate::writable`]).
//!
//! Every number here is bytes on disk unless it is called size, and everything counts once: the sum of images and containers is
//! what the file system has lost to them. What was deleted and is not removed yet is neither.

use crate::gc::{Needed, shown};
use crate::image::Image;
use crate::index::{ContainerUse, Inner};
use crate::record::RefRecord;
use crate::store::Store;
use crate::writable::Writable;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use strata_oci::Digest;

/// Everything that takes up space.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Per image, newest first.
    pub images: Vec<ImageUsage>,
    /// Per layer, variants and the layers they were made from included.
    pub layers: Vec<PartUsage>,
    /// Per blob.
    pub blobs: Vec<PartUsage>,
    /// Per container.
    pub containers: Vec<ContainerUsage>,
    /// Of all layers and blobs, and of the files that name images.
    pub image_bytes: u64,
    /// Inodes of all that.
    pub image_inodes: u64,
    /// Of the files that name images: what `image_bytes` has beside `layers` and `blobs`.
    pub name_bytes: u64,
    /// What of `image_bytes` would be free if all images went on which no container stands.
    pub reclaimable: u64,
    /// Of all containers.
    pub container_bytes: u64,
    /// Inodes of all containers.
    pub container_inodes: u64,
    /// Of what waits in trash/ to be removed, as far as it is known: on disk still, and in no other number.
    pub trash_bytes: u64,
}

/// What an image takes up.
#[derive(Clone, Debug)]
pub struct ImageUsage {
    /// The image.
    pub image: Arc<Image>,
    /// Of what other images need too.
    pub shared: u64,
    /// Of what only this one needs: what removing it would free.
    pub unique: u64,
    /// How many containers stand on it.
    pub containers: usize,
}

impl ImageUsage {
    /// Of everything that the image needs: its layers, the ones from which variants of them were made, its blobs, its names.
    pub fn disk(&self) -> u64 {
        self.shared.saturating_add(self.unique)
    }
}

/// What a layer or a blob takes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartUsage {
    /// A layer as `sha256:<diff ID>` or `chain-<chain ID>`, a blob as its digest.
    pub name: String,
    /// The digest of a layer's tar; of a blob, its own.
    pub digest: Digest,
    /// Bytes of a layer's regular files, or of a blob.
    pub size: u64,
    /// Bytes on disk.
    pub disk: u64,
    /// The images that need it.
    pub images: Vec<Digest>,
}

/// What a container takes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Its ID.
    pub id: String,
    /// `None` until it has been measured.
    pub writable: Option<Writable>,
}

/// Which images need what.
#[derive(Default)]
struct Users<'a> {
    layers: HashMap<&'a str, BTreeSet<&'a Digest>>,
    blobs: HashMap<&'a Digest, BTreeSet<&'a Digest>>,
}

impl<'a> Users<'a> {
    fn of(inner: &'a Inner) -> Self {
        let mut users = Self::default();
        for r in listed(inner) {
            for key in r.layer_keys() {
                users.layers.entry(key).or_default().insert(&r.image);
            }
            for digest in r.blobs() {
                users.blobs.entry(digest).or_default().insert(&r.image);
            }
        }
        users
    }
}

fn listed(inner: &Inner) -> impl Iterator<Item = &RefRecord> {
    inner.refs.values().map(Arc::as_ref)
}

impl Store {
    /// What takes up space. Nothing is read from the disk.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage { trash_bytes: self.layout.bin.bytes(), ..Usage::default() };
        let inner = self.index.lock();
        let users = Users::of(&inner);
        parts(&inner, &users, &mut usage);
        let names = listed(&inner).map(|r| r.disk);
        usage.name_bytes = names.sum();
        usage.image_inodes += inner.refs.len() as u64;
        usage.image_bytes = usage.layers.iter().chain(&usage.blobs).map(|p| p.disk).sum::<u64>();
        usage.image_bytes = usage.image_bytes.saturating_add(usage.name_bytes);
        usage.reclaimable = usage.image_bytes.saturating_sub(in_use(&inner));
        usage.images = images(&inner, &users);
        let mut ids: Vec<String> = inner.containers.keys().cloned().collect();
        drop(inner);
        ids.sort_unstable();
        usage.containers =
            ids.into_iter().map(|id| ContainerUsage { writable: self.writable(&id), id }).collect();
        let known = || usage.containers.iter().filter_map(|c| c.writable);
        (usage.container_bytes, usage.container_inodes) =
            (known().map(|w| w.disk).sum(), known().map(|w| w.inodes).sum());
        usage
    }
}

impl Store {
    /// Bytes on disk of one image: everything that it needs, whoever needs it too ([`ImageUsage::disk`]). 0 if it is gone.
    pub fn image_disk(&self, id: &Digest) -> u64 {
        let inner = self.index.lock();
        let own: Vec<&RefRecord> = listed(&inner).filter(|r| r.image == *id).collect();
        let layers: HashSet<&str> = own.iter().flat_map(|r| r.layer_keys()).collect();
        let blobs: HashSet<&Digest> = own.iter().flat_map(|r| r.blobs()).collect();
        let layers = layers.iter().filter_map(|key| inner.layers.get(*key)).map(|l| l.disk);
        let blobs = blobs.iter().filter_map(|digest| inner.blobs.get(*digest)).map(|b| b.disk);
        layers.chain(blobs).chain(own.iter().map(|r| r.disk)).sum()
    }

    /// How many layers there are, variants included.
    pub fn layer_count(&self) -> usize {
        self.index.lock().layers.len()
    }
}

fn parts(inner: &Inner, users: &Users<'_>, usage: &mut Usage) {
    let images = |of: Option<&BTreeSet<&Digest>>| of.into_iter().flatten().map(|id| (*id).clone()).collect();
    for (key, record) in &inner.layers {
        usage.image_inodes += record.inodes;
        usage.layers.push(PartUsage {
            name: shown(key),
            digest: record.diff_id.clone(),
            size: record.size,
            disk: record.disk,
            images: images(users.layers.get(key.as_str())),
        });
    }
    usage.image_inodes += inner.blobs.len() as u64;
    for (digest, file) in &inner.blobs {
        usage.blobs.push(PartUsage {
            name: digest.to_string(),
            digest: digest.clone(),
            size: file.size,
            disk: file.disk,
            images: images(users.blobs.get(digest)),
        });
    }
    usage.layers.sort_by(|a, b| a.name.cmp(&b.name));
    usage.blobs.sort_by(|a, b| a.name.cmp(&b.name));
}

/// Of what containers stand on, and of the rest of their images: layers of other kinds, blobs and names. What a running
/// operation holds is in use, too.
fn in_use(inner: &Inner) -> u64 {
    let active: HashSet<&Digest> = inner.containers.values().flat_map(ContainerUse::images).collect();
    let refs: Vec<&RefRecord> = listed(inner).filter(|r| active.contains(&r.image)).collect();
    let needed = Needed::by(inner, refs.iter().copied());
    let layers = needed.layers.iter().filter_map(|key| inner.layers.get(*key)).map(|l| l.disk);
    let blobs = needed.blobs.iter().filter_map(|digest| inner.blobs.get(*digest)).map(|b| b.disk);
    layers.chain(blobs).chain(refs.iter().map(|r| r.disk)).sum()
}

fn images(inner: &Inner, users: &Users<'_>) -> Vec<ImageUsage> {
    let mut refs: HashMap<&Digest, Vec<&RefRecord>> = HashMap::new();
    listed(inner).for_each(|r| refs.entry(&r.image).or_default().push(r));
    let mut found: Vec<ImageUsage> = inner
        .images
        .values()
        .map(|image| {
            let own = refs.get(&image.id).map(Vec::as_slice).unwrap_or_default();
            let layers: HashSet<&str> = own.iter().flat_map(|r| r.layer_keys()).collect();
            let blobs: HashSet<&Digest> = own.iter().flat_map(|r| r.blobs()).collect();
            let (mut shared, mut unique) = (0_u64, own.iter().map(|r| r.disk).sum::<u64>());
            let mut add = |bytes: u64, by: Option<&BTreeSet<&Digest>>| {
                let sum = if by.is_some_and(|by| by.len() > 1) { &mut shared } else { &mut unique };
                *sum = sum.saturating_add(bytes);
            };
            for key in layers {
                add(inner.layers.get(key).map_or(0, |l| l.disk), users.layers.get(key));
            }
            for digest in blobs {
                add(inner.blobs.get(digest).map_or(0, |b| b.disk), users.blobs.get(digest));
            }
            let containers = inner.containers.values().filter(|c| c.uses(&image.id)).count();
            ImageUsage { image: image.clone(), shared, unique, containers }
        })
        .collect();
    found.sort_by(|a, b| b.image.since.cmp(&a.image.since).then_with(|| a.image.id.cmp(&b.image.id)));
    found
}
