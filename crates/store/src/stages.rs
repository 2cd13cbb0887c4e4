//! Single stages of a pull, for the bench alone: what they can do on their own is what the pipeline is measured by.

use crate::error::Result;
use crate::limits::Limits;
use crate::unpack;
use std::path::Path;
use strata_oci::Digest;

/// Unpacks a tar from memory into a directory that is made for it.
///
/// # Errors
/// As unpacking a layer.
pub fn untar(mut tar: &[u8], into: &Path) -> Result<()> {
    strata_sys::durable::mkdir_all(into, 0o755)?;
    let dir = strata_sys::durable::open_dir(into)?;
    unpack::unpack(dir, &mut tar, &Digest::sha256_of(b""), &Limits::default(), None).map(drop)
}
