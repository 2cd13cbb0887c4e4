//! Single stages of a pull, for the bench alone: what they can do on their own is what the pipeline is measured by.

use crate::error::Result;
use crate::limits::Limits;
use crate::unpack;
use std::path::Path;
use strata_oci::Digest;

/// Unpacks a tar from memory into a layer's directory.
///
/// # Errors
/// As unpacking a layer.
pub fn untar(mut tar: &[u8], layer: &Path) -> Result<()> {
    let fs = layer.join("fs");
    strata_sys::durable::mkdir_all(&fs, 0o755)?;
    let fs = strata_sys::durable::open_dir(&fs)?;
    let unpacked = unpack::unpack(fs, &mut tar, &Digest::sha256_of(b""), &Limits::default(), None)?;
    unpacked.finish(layer).map(drop)
}
