//! Bounds of what clients and images ask for.

use super::{ConfigError, bad};
use serde::Deserialize;

/// Bounds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    /// The most output of one ExecSync, in bytes per stream.
    pub(crate) exec_sync_output: usize,
    /// The longest payload of one log line, in bytes, before it is split.
    pub(crate) log_line: u32,
    /// How long setting up one container may take, in seconds.
    pub(crate) create_timeout: u64,
    /// How long one shim may take to answer at recovery, in seconds.
    pub(crate) recovery_timeout: u64,
    /// The most bytes of one layer, uncompressed.
    pub(crate) layer_size: u64,
    /// The most bytes of all layers of one image, uncompressed.
    pub(crate) image_size: u64,
    /// How many times larger than its blob a layer may become.
    pub(crate) compression_ratio: u64,
    /// Bytes up to which the ratio of a layer is not judged.
    pub(crate) ratio_floor: u64,
    /// The most entries of one layer.
    pub(crate) layer_entries: u64,
    /// The base-2 logarithm of the largest window of zstd.
    pub(crate) zstd_window_log: u32,
    /// Whether layers may have devices.
    pub(crate) devices: Devices,
}

/// Whether layers may have devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Devices {
    /// As with other engines: a container may only use those that its device rules allow.
    #[default]
    Allow,
    /// A layer with one is refused.
    Deny,
}

impl Limits {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !(10..=31).contains(&self.zstd_window_log) {
            let why = "must lie between 10 and 31 (RFC 8878)";
            return Err(bad("limits.zstd_window_log", self.zstd_window_log, why));
        }
        Ok(())
    }

    /// Those of images, as the store takes them.
    pub(crate) fn of_images(&self) -> strata_store::Limits {
        strata_store::Limits {
            layer_size: self.layer_size,
            image_size: self.image_size,
            compression_ratio: self.compression_ratio,
            ratio_floor: self.ratio_floor,
            layer_entries: self.layer_entries,
            zstd_window_log: self.zstd_window_log,
            devices: self.devices == Devices::Allow,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let images = strata_store::Limits::default();
        Self {
            exec_sync_output: 16 << 20,
            log_line: 16 << 10,
            create_timeout: 120,
            recovery_timeout: 10,
            layer_size: images.layer_size,
            image_size: images.image_size,
            compression_ratio: images.compression_ratio,
            ratio_floor: images.ratio_floor,
            layer_entries: images.layer_entries,
            zstd_window_log: images.zstd_window_log,
            devices: if images.devices { Devices::Allow } else { Devices::Deny },
        }
    }
}
