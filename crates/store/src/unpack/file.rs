//! A regular file's content, with its holes.

use super::archive::{Archive, Entry, Extent};
use crate::entries::EntryMeta;
use crate::error::{Context, Error, Result};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, OwnedFd};
use strata_sys::durable;
use xxhash_rust::xxh3::Xxh3;

/// From this size on the disk is told to begin with a file at once: the sync at the end of a pull finds it done. Smaller
/// files are many, and go faster together.
const WRITE_OUT: u64 = 1 << 20;

/// Makes the file and writes what the archive has of it.
pub(super) fn write(
    archive: &mut Archive<'_>,
    entry: &Entry,
    dir: impl AsFd,
    name: &[u8],
) -> Result<(OwnedFd, EntryMeta)> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map_err(std::io::Error::from)?;
    let mut hasher = Xxh3::new();
    match &entry.map {
        None => copy(archive, entry.size, &file, &mut hasher)?,
        Some(map) => {
            let mut end = 0;
            for Extent { offset, length } in map {
                skip(offset - end, &mut hasher);
                rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(*offset))
                    .map_err(std::io::Error::from)?;
                copy(archive, *length, &file, &mut hasher)?;
                end = offset + length;
            }
            skip(entry.size - end, &mut hasher);
            rustix::fs::ftruncate(&file, entry.size)
                .map_err(std::io::Error::from)
                .context(|| format!("a file of {} bytes", entry.size))?;
        }
    }
    if entry.size >= WRITE_OUT {
        durable::start_writing(&file, 0, entry.size);
    }
    Ok((file, EntryMeta::file(entry.size, hasher.digest())))
}

/// Writes from where the archive lies in memory.
fn copy(archive: &mut Archive<'_>, size: u64, file: &OwnedFd, hasher: &mut Xxh3) -> Result<()> {
    let mut left = size;
    while left > 0 {
        let data = archive.data(left)?;
        let n = data.len();
        if n == 0 {
            return Err(Error::invalid(format!("the archive ends after {} of {size} bytes", size - left)));
        }
        hasher.update(data);
        let mut rest = data;
        while !rest.is_empty() {
            let n =
                rustix::io::retry_on_intr(|| rustix::io::write(file, rest)).map_err(std::io::Error::from)?;
            rest = &rest[n..];
        }
        archive.consume(n);
        left -= n as u64;
    }
    Ok(())
}

/// A hole reads as zeros, and is summed up as such.
fn skip(size: u64, hasher: &mut Xxh3) {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut left = size;
    while left > 0 {
        let most = ZEROS.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        hasher.update(&ZEROS[..most]);
        left -= most as u64;
    }
}
