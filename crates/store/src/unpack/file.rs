//! A regular file, with its holes.

use super::archive::{Archive, Entry, Extent};
use super::content::{self, End, Step, Steps};
use crate::buffers::CHUNK;
use crate::entries::EntryMeta;
use crate::error::{Error, Result};
use crate::measure::Footprint;
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, OwnedFd};
use xxhash_rust::xxh3::Xxh3;

/// Makes a file of what the archive has of it. What it takes up, unless that comes from the thread to which it was handed on.
pub(super) fn make(
    archive: &mut Archive<'_>,
    entry: &Entry,
    dir: impl AsFd,
    name: &[u8],
    steps: &Steps,
) -> Result<(EntryMeta, Option<Footprint>)> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Mostly that is its mode for good; the rest, and what the umask takes, comes when its owner is set.
    let mode = Mode::from_raw_mode(entry.attrs.mode & 0o777);
    let file = rustix::fs::openat(dir, name, flags, mode).map_err(std::io::Error::from)?;
    let to = if entry.size < content::LONG {
        To::File(file)
    } else {
        To::Thread(steps, Step { begin: Some((file, entry.path.clone())), ..Step::default() })
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
        To::Thread(steps, mut step) => {
            step.end = Some(End { size: entry.size, attrs: entry.attrs.clone() });
            steps.send(step).map_err(|_| content::gone())?;
            Ok((meta, None))
        }
    }
}

/// Where a file's content goes.
enum To<'a> {
    File(OwnedFd),
    /// The step is not passed on yet.
    Thread(&'a Steps, Step),
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
                To::Thread(steps, step) => {
                    if step.data.is_some() {
                        steps.send(std::mem::take(step)).map_err(|_| content::gone())?;
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
