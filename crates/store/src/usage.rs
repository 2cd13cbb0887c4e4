//! What takes up space. Layers know their sizes since they were unpacked; only writable layers are walked, and kept for a
//! while.

use crate::error::{Context, Result};
use crate::image::Image;
use crate::store::Store;
use crate::walk::walk;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use strata_oci::Digest;
use strata_sys::durable;

/// How long a writable layer's size is believed.
const FRESH: Duration = Duration::from_secs(10);

/// Sizes of writable layers: when they were measured, bytes, inodes.
#[derive(Debug, Default)]
pub(crate) struct SizeCache(Mutex<HashMap<String, (Instant, u64, u64)>>);

impl SizeCache {
    pub(crate) fn forget(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// Everything that takes up space.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Per image, newest first.
    pub images: Vec<ImageUsage>,
    /// Per layer.
    pub layers: Vec<LayerUsage>,
    /// Bytes of layers' files, each layer once.
    pub layer_bytes: u64,
    /// Bytes of blobs.
    pub blob_bytes: u64,
    /// Bytes of layers that only images without containers need.
    pub reclaimable: u64,
}

/// What an image takes up.
#[derive(Clone, Debug)]
pub struct ImageUsage {
    /// The image.
    pub image: Arc<Image>,
    /// Bytes of layers that other images have too.
    pub shared: u64,
    /// Bytes of layers that only this one has.
    pub unique: u64,
    /// How many containers stand on it.
    pub containers: usize,
}

/// What a layer takes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerUsage {
    /// The digest of its tar.
    pub diff_id: Digest,
    /// The name of its directory.
    pub key: String,
    /// Bytes of its files.
    pub size: u64,
    /// Images that have it.
    pub images: Vec<Digest>,
}

/// The store's file system, as CRI asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsUsage {
    /// Bytes on disk of layers and blobs.
    pub image_bytes: u64,
    /// Inodes of layers and blobs.
    pub image_inodes: u64,
    /// Bytes on disk of writable layers.
    pub container_bytes: u64,
    /// Inodes of writable layers.
    pub container_inodes: u64,
}

impl Store {
    /// What takes up space.
    pub fn usage(&self) -> Usage {
        let inner = self.index.lock();
        let mut users: BTreeMap<&str, BTreeSet<&Digest>> = BTreeMap::new();
        for image in inner.images.values() {
            for layer in &image.layers {
                users.entry(&layer.key).or_default().insert(&image.id);
            }
        }
        let active: HashSet<&Digest> = inner.containers.values().map(|c| &c.image).collect();
        let mut usage = Usage { blob_bytes: inner.blobs.values().sum(), ..Usage::default() };
        for (key, record) in &inner.layers {
            let images = users.get(key.as_str());
            usage.layer_bytes += record.size;
            if images.is_none_or(|i| i.iter().all(|id| !active.contains(*id))) {
                usage.reclaimable += record.size;
            }
            usage.layers.push(LayerUsage {
                diff_id: record.diff_id.clone(),
                key: key.clone(),
                size: record.size,
                images: images.into_iter().flatten().map(|id| (*id).clone()).collect(),
            });
        }
        usage.layers.sort_by(|a, b| a.key.cmp(&b.key));
        for image in inner.images.values() {
            let (mut shared, mut unique) = (0, 0);
            for key in image.stack() {
                let size = inner.layers.get(key).map_or(0, |l| l.size);
                let several = users.get(key).is_some_and(|i| i.len() > 1);
                if several { shared += size } else { unique += size }
            }
            let containers = inner.containers.values().filter(|c| c.image == image.id).count();
            usage.images.push(ImageUsage { image: image.clone(), shared, unique, containers });
        }
        usage.images.sort_by_key(|u| std::cmp::Reverse(u.image.since));
        usage
    }

    /// Bytes and inodes of a container's writable layer, at most a few seconds old.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn writable_size(&self, id: &str) -> Result<(u64, u64)> {
        let cached = self.sizes.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied();
        if let Some((when, bytes, inodes)) = cached
            && when.elapsed() < FRESH
        {
            return Ok((bytes, inodes));
        }
        let upper = durable::open_dir(&self.upper(id)).context(|| format!("container {id}"))?;
        let (mut bytes, mut inodes, mut seen) = (0, 1, HashSet::new());
        walk(&upper, &mut |item| {
            let new = item.stat.st_nlink < 2 || seen.insert(item.stat.st_ino);
            if new || item.file_type() == rustix::fs::FileType::Directory {
                inodes += 1;
                // Directories' own sizes are the file system's business, not the container's.
                if item.file_type() == rustix::fs::FileType::RegularFile {
                    // A sparse file takes up what was written to it.
                    let size = u64::try_from(item.stat.st_size).unwrap_or(0);
                    bytes += size.min(
                        u64::try_from(item.stat.st_blocks)
                            .unwrap_or(0)
                            .saturating_mul(512)
                            .max(size.min(4096)),
                    );
                }
            }
            Ok(true)
        })?;
        let mut sizes = self.sizes.0.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.insert(id.to_owned(), (Instant::now(), bytes, inodes));
        Ok((bytes, inodes))
    }

    /// What the store takes up on its file system.
    pub fn fs_usage(&self) -> FsUsage {
        let mut usage = FsUsage::default();
        let ids: Vec<String> = {
            let inner = self.index.lock();
            for layer in inner.layers.values() {
                usage.image_bytes += layer.disk;
                usage.image_inodes += layer.inodes;
            }
            usage.image_bytes += inner.blobs.values().map(|size| size.div_ceil(4096) * 4096).sum::<u64>();
            usage.image_inodes += inner.blobs.len() as u64;
            inner.containers.keys().cloned().collect()
        };
        for id in ids {
            if let Ok((bytes, inodes)) = self.writable_size(&id) {
                usage.container_bytes += bytes;
                usage.container_inodes += inodes;
            }
        }
        usage
    }
}
