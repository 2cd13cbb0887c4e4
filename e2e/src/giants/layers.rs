//! Layers that are large and quickly made: all but the first file of each is the same, and packed once.

use super::{Hashing, Stored};
use crate::Result;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Packing {
    /// gzip.
    Gzip,
    /// zstd, with the base-2 logarithm of its window.
    Zstd(u32),
}

impl Packing {
    fn media_type(self) -> &'static str {
        match self {
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd(_) => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// A member or a frame: several one after the other are legal in both formats.
    fn pack(self, bytes: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::Gzip => {
                let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
                gzip.write_all(bytes)?;
                Ok(gzip.finish()?)
            }
            Self::Zstd(window_log) => {
                let mut zstd = zstd::Encoder::new(Vec::new(), 1)?;
                zstd.window_log(window_log)?;
                zstd.write_all(bytes)?;
                Ok(zstd.finish()?)
            }
        }
    }
}

/// Makes so many layers of so many MiB each in a directory, compressed as `packing` says of each.
///
/// Half of every file's bytes are such that nothing can be spared of them.
pub fn layers(
    dir: &Path,
    count: usize,
    mib: usize,
    packing: impl Fn(usize) -> Packing,
) -> Result<Vec<Stored>> {
    std::fs::create_dir_all(dir)?;
    let common = common(mib)?;
    let mut packed: HashMap<Packing, Vec<u8>> = HashMap::new();
    let mut layers = Vec::with_capacity(count);
    for n in 0..count {
        let packing = packing(n);
        let path = dir.join(format!("layer-{n}"));
        let own = file(&format!("layer-{n}"), format!("{n}").as_bytes())?;
        let mut tar = Hashing::new(std::io::sink());
        tar.write_all(&own)?;
        tar.write_all(&common)?;
        let (diff_id, _) = tar.finish();
        let rest = match packed.entry(packing) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(packing.pack(&common)?),
        };
        let mut blob = Hashing::new(File::create(&path)?);
        blob.write_all(&packing.pack(&own)?)?;
        blob.write_all(rest)?;
        let (digest, size) = blob.finish();
        layers.push(Stored { path, media_type: packing.media_type(), digest, size, diff_id });
    }
    Ok(layers)
}

/// Makes a layer with gzip in a file.
pub fn layer(
    path: &Path,
    write: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>,
) -> Result<Stored> {
    let mut tar = Hashing::new(GzEncoder::new(Hashing::new(File::create(path)?), Compression::fast()));
    write(&mut tar)?;
    tar.write_all(&[0; 1024])?;
    let (gzip, diff_id, _) = tar.into_parts();
    let (digest, size) = gzip.finish()?.finish();
    Ok(Stored { path: path.to_owned(), media_type: Packing::Gzip.media_type(), digest, size, diff_id })
}

/// A tar's end, before it files of 1 MiB that compress to about half of it.
fn common(mib: usize) -> Result<Vec<u8>> {
    let (mut tar, mut state) = (Vec::new(), 0x9e37_79b9_7f4a_7c15_u64);
    for n in 0..mib {
        let mut bytes = Vec::with_capacity(1 << 20);
        while bytes.len() < 1 << 20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
            bytes.extend_from_slice(b"        ");
        }
        tar.extend(file(&format!("usr/lib/file-{n}"), &bytes)?);
    }
    tar.extend_from_slice(&[0; 1024]);
    Ok(tar)
}

/// A file in a tar.
pub fn file(path: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_mode(0o644);
    header.set_size(bytes.len() as u64);
    header.set_cksum();
    let mut tar = header.as_bytes().to_vec();
    tar.extend_from_slice(bytes);
    tar.resize(tar.len().div_ceil(512) * 512, 0);
    Ok(tar)
}
