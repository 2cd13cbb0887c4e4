//! How much an image may ask for: disk, memory and time are finite, and what asks for more is refused early.

use crate::error::{Error, Result};
use crate::index::Lease;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bounds of what comes from outside. Beyond one, an operation fails with [`Kind::Limit`](crate::Kind::Limit).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one layer: compressed, uncompressed, and of all its files with their holes.
    pub layer_size: u64,
    /// Bytes of all layers of one image, uncompressed; of one operation too, which may bring several images.
    pub image_size: u64,
    /// How many times larger than its blob a layer may become. gzip reaches 1030, zstd much more; what people pack stays
    /// below 20.
    pub compression_ratio: u64,
    /// Bytes up to which the ratio of a layer is not judged: a small one of zeros harms nobody.
    pub ratio_floor: u64,
    /// Entries of one layer, the directories it implies included. Their names may have 256 bytes each on average: they are
    /// in memory while the layer is unpacked.
    pub layer_entries: u64,
    /// The base-2 logarithm of the largest window of zstd, in bytes: so much memory unpacking one layer takes. All together
    /// take 96 MiB or one such window: further ones wait.
    pub zstd_window_log: u32,
    /// Whether layers may have block and character devices. The character device 0:0 is refused in any case.
    pub devices: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_size: 128 << 30,
            image_size: 512 << 30,
            compression_ratio: 200,
            ratio_floor: 1 << 30,
            layer_entries: 1_000_000,
            // What zstd's own tool accepts without being asked for more.
            zstd_window_log: 27,
            devices: true,
        }
    }
}

impl Limits {
    /// Whether layers of these sizes may make an image, compressed ones before they are fetched.
    ///
    /// # Errors
    /// [`Kind::Limit`](crate::Kind::Limit) if one is too large, or all together are.
    pub fn check_sizes(&self, layers: impl IntoIterator<Item = u64>) -> Result<()> {
        let mut all = 0_u64;
        for (n, size) in layers.into_iter().enumerate() {
            self.check_layer(size).map_err(|e| e.context(format!("layer {}", n + 1)))?;
            all = all.saturating_add(size);
        }
        if all > self.image_size {
            return Err(Error::limit(format!(
                "its layers have {all} bytes; limits.image_size allows {}",
                self.image_size
            )));
        }
        Ok(())
    }

    fn check_layer(&self, size: u64) -> Result<()> {
        if size > self.layer_size {
            return Err(Error::limit(format!(
                "it has {size} bytes; limits.layer_size allows {}",
                self.layer_size
            )));
        }
        Ok(())
    }
}

/// What a layer may still become while it is inflated.
pub(crate) struct Allowance<'a> {
    limits: &'a Limits,
    compressed: u64,
    spent: u64,
    /// Of all layers of the operation.
    all: &'a AtomicU64,
    kept: bool,
}

impl<'a> Allowance<'a> {
    /// For a blob of this many bytes.
    pub(crate) fn new(limits: &'a Limits, compressed: u64, lease: &'a Lease) -> Result<Self> {
        limits.check_layer(compressed)?;
        Ok(Self { limits, compressed, spent: 0, all: &lease.inflated, kept: false })
    }

    /// Notes that so many bytes came out.
    pub(crate) fn spend(&mut self, bytes: usize) -> Result<()> {
        let (limits, bytes) = (self.limits, bytes as u64);
        self.spent = self.spent.saturating_add(bytes);
        let all = self.all.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if self.spent > limits.layer_size {
            let max = limits.layer_size;
            return Err(Error::limit(format!(
                "uncompressed it has more bytes than limits.layer_size allows, {max}"
            )));
        }
        let most = self.compressed.saturating_mul(limits.compression_ratio).max(limits.ratio_floor);
        if self.spent > most {
            return Err(Error::limit(format!(
                "its {} bytes become more than {most}, like a decompression bomb's; limits.compression_ratio is {}, from limits.ratio_floor on, {}",
                self.compressed, limits.compression_ratio, limits.ratio_floor
            )));
        }
        if all > limits.image_size {
            return Err(Error::limit(format!(
                "with it, the image's layers have more bytes than limits.image_size allows, {}",
                limits.image_size
            )));
        }
        Ok(())
    }

    /// The layer came in: its bytes stay counted.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Allowance<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.all.fetch_sub(self.spent, Ordering::Relaxed);
        }
    }
}

/// What is in memory of a layer that is unpacked.
pub(crate) struct Census<'a> {
    limits: &'a Limits,
    entries: u64,
    /// Bytes of names, link targets and extended attributes.
    bytes: u64,
    /// Bytes of files, holes included.
    files: u64,
}

/// Bytes of names, targets and attributes that an entry may have on average.
const BYTES_PER_ENTRY: u64 = 256;

impl<'a> Census<'a> {
    pub(crate) fn new(limits: &'a Limits) -> Self {
        Self { limits, entries: 0, bytes: 0, files: 0 }
    }

    /// Notes one entry and what is kept of it.
    pub(crate) fn entry(&mut self, bytes: usize) -> Result<()> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(bytes as u64);
        let max = self.limits.layer_entries;
        if self.entries > max {
            return Err(Error::limit(format!(
                "the layer has more entries and directories than limits.layer_entries allows, {max}"
            )));
        }
        // A few may be as long as they like.
        let most = max.saturating_mul(BYTES_PER_ENTRY).max(1 << 20);
        if self.bytes > most {
            return Err(Error::limit(format!(
                "the names, link targets and attributes of the layer have more than {most} bytes, {BYTES_PER_ENTRY} for each of limits.layer_entries"
            )));
        }
        Ok(())
    }

    /// Notes a file of this size.
    pub(crate) fn file(&mut self, size: u64) -> Result<()> {
        self.files = self.files.saturating_add(size);
        let max = self.limits.layer_size;
        if self.files > max {
            return Err(Error::limit(format!(
                "a file of {size} bytes: with it, the layer's files have more than limits.layer_size allows, {max}"
            )));
        }
        Ok(())
    }

    /// Whether devices may be made.
    pub(crate) fn device(&self) -> Result<()> {
        if self.limits.devices {
            return Ok(());
        }
        Err(Error::limit("devices in layers are forbidden here (limits.devices)"))
    }
}
