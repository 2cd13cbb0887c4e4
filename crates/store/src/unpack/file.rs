//! A regular file, with its holes.

use super::archive::{Archive, Entry, Extent};
use super::batch::Batch;
use super::content::{self, End, Step, Writer};
use crate::buffers::CHUNK;
use crate::entries::EntryMeta;
use crate::error::{Error, Result};
use crate::measure::Footprint;
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, OwnedFd};
use xxhash_rust::xxh3::Xxh3;

/// Makes a file of what the archive has of it. What it takes up, unless that is told by what it was handed on to.
pub(super) fn make(
    archive: &mut Archive<'_>,
    entry: &Entry,
    dir: impl AsFd,
    name: &[u8],
    writer: &mut Writer,
) -> Result<(EntryMeta, Option<Footprint>)> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Mostly that is its mode for good; the rest, and what the umask takes, comes when its owner is set.
    let mode = Mode::from_raw_mode(entry.attrs.mode & 0o777);
    let file = rustix::fs::openat(dir, name, flags, mode).map_err(std::io::Error::from)?;
    let short = entry.size < content::LONG;
    let to = if short && entry.map.is_none() {
        To::Batch(writer.batch(), file)
    } else if short {
        To::File(file)
    } else {
        To::Thread(writer, Step { begin: Some((file, entry.path.clone())), ..Step::default() })
    };
    let mut content = Content { to, hasher: Xxh3::new() };
    match &entry.map {
        None => content.copy(archive, 0, entry.size)?,
        Some(map) => {
            let mut end = 0;
            for Extent { offset, length } in map {
                skip(offset - end, &mut content.hasher);
                content.copy(archive, *offset, *length)?;
                end = offset + length;
            }
            skip(entry.size - end, &mut content.hasher);
        }
    }
    let meta = EntryMeta::file(entry.size, content.hasher.digest());
    match content.to {
        To::File(file) => Ok((meta, Some(content::finish(&file, entry.size, &entry.attrs)?))),
        To::Batch(batch, file) => {
            batch.put(file, entry.path.clone(), entry.attrs.clone());
            Ok((meta, None))
        }
        To::Thread(writer, mut step) => {
            step.end = Some(End { size: entry.size, attrs: entry.attrs.clone() });
            writer.step(step)?;
            Ok((meta, None))
        }
    }
}

/// Where a file's content goes.
enum To<'a> {
    /// At once: a short one with holes.
    File(OwnedFd),
    Batch(&'a mut Batch, OwnedFd),
    /// The step is not passed on yet.
    Thread(&'a Writer, Step),
}

/// A file's content on its way.
struct Content<'a> {
    to: To<'a>,
    hasher: Xxh3,
}

impl Content<'_> {
    /// Takes what the archive has next, for this place in the file.
    fn copy(&mut self, archive: &mut Archive<'_>, offset: u64, size: u64) -> Result<()> {
        let mut left = size;
        while left > 0 {
            let data = archive.data(left.min(CHUNK as u64))?;
            let n = data.len();
            if n == 0 {
                return Err(Error::invalid(format!(
                    "the archive ends after {} of {size} bytes",
                    size - left
                )));
            }
            self.hasher.update(data);
            let at = offset + size - left;
            match &mut self.to {
                To::File(file) => content::write_at(file, at, data)?,
                To::Batch(batch, _) => batch.append(data),
                To::Thread(writer, step) => {
                    if step.data.is_some() {
                        writer.step(std::mem::take(step))?;
                    }
                    step.data = Some((at, archive.keep(n)?));
                }
            }
            archive.consume(n);
            left -= n as u64;
        }
        Ok(())
    }
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
