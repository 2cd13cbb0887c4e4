//! The content of files is written by a thread of its own, while the next entries are read and made: that is what takes
//! longest, and needs nothing of the tree.
//!
//! ```text
//!   entry ─▶ place, create ─┬─ short: into a batch ─▶ write, attributes, measure: in the other thread, or here if it is behind
//!                           └─ long: Step (open file, piece of a buffer, end) ─▶ the same in the other thread
//! ```
//! What is done there is done to open files: whatever becomes of their names meanwhile, it goes to the right ones.

use super::Attrs;
use super::batch::Batch;
use crate::chunks::Chunk;
use crate::error::{Context, Error, Result};
use crate::measure::Footprint;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use strata_sys::durable;

/// From this size on a file is long: handing it over alone costs less than copying so much into a batch. Of 16, 32 and 64 KiB
/// this one is the fastest with the layer of `benches/layer`.
pub(super) const LONG: u64 = 16 << 10;

/// Steps that may wait. Buffers bound what lies in them; this bounds the open files.
const AHEAD: usize = 32;

/// Batches that may wait, few: they are in the caches still when they are written, and their files are open.
const BATCHES_AHEAD: usize = 2;

/// From this size on the disk is told to begin with a file at once: the sync at the end of a pull finds it done. Smaller
/// files are many, and go faster together.
const WRITE_OUT: u64 = 1 << 20;

/// Bytes that outlive the next read: the buffer in which they came, or a copy.
pub(super) enum Bytes {
    Shared(Arc<Chunk>, Range<usize>),
    Own(Vec<u8>),
}

/// What is to be done for a long file: a part of it, or all.
#[derive(Default)]
pub(super) struct Step {
    /// A new file, and how errors name it.
    pub(super) begin: Option<(OwnedFd, Vec<u8>)>,
    /// Something to write, and where.
    pub(super) data: Option<(u64, Bytes)>,
    /// The file has been written.
    pub(super) end: Option<End>,
}

/// What a file gets last.
pub(super) struct End {
    /// In bytes, with its holes.
    pub(super) size: u64,
    pub(super) attrs: Attrs,
}

/// What is handed on.
enum Work {
    Long(Step),
    Short(Batch),
}

/// To the thread that writes, from the one that reads.
pub(super) struct Writer {
    to: SyncSender<Work>,
    /// Batches that it has not begun.
    waiting: Arc<AtomicUsize>,
    batch: Batch,
}

/// What the thread that writes is given.
pub(super) struct Given {
    from: Receiver<Work>,
    waiting: Arc<AtomicUsize>,
}

/// Both ends.
pub(super) fn writer() -> (Writer, Given) {
    let (to, from) = sync_channel(AHEAD);
    let waiting = Arc::new(AtomicUsize::new(0));
    let given = Given { from, waiting: Arc::clone(&waiting) };
    (Writer { to, waiting, batch: Batch::default() }, given)
}

impl Writer {
    /// What is to be done for a long file.
    pub(super) fn step(&self, step: Step) -> Result<()> {
        self.hand_on(Work::Long(step))
    }

    /// Where short files go; they are written by [`pass_on`](Self::pass_on).
    pub(super) fn batch(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// Passes a batch on that is full. What it takes up, if there are enough already and it was written here.
    pub(super) fn pass_on(&mut self) -> Result<Footprint> {
        if !self.batch.is_full() {
            return Ok(Footprint::default());
        }
        // Nobody else counts it up.
        if self.waiting.load(Ordering::Relaxed) >= BATCHES_AHEAD {
            return self.batch.write();
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let full = std::mem::take(&mut self.batch);
        self.hand_on(Work::Short(full))?;
        Ok(Footprint::default())
    }

    /// Writes what is left; what it takes up. The other thread ends when it has done its part.
    pub(super) fn end(mut self) -> Result<Footprint> {
        self.batch.write()
    }

    fn hand_on(&self, work: Work) -> Result<()> {
        self.to.send(work).map_err(|_| gone())
    }
}

/// Writes until nothing more comes; what all the files take up.
///
/// # Errors
/// The first failure, which ends it, with the entry's name.
pub(super) fn write_all(given: Given) -> Result<Footprint> {
    let mut measured = Footprint::default();
    let mut open: Option<(OwnedFd, Vec<u8>)> = None;
    for work in given.from {
        let Step { begin, data, end } = match work {
            Work::Long(step) => step,
            Work::Short(mut batch) => {
                given.waiting.fetch_sub(1, Ordering::Relaxed);
                measured = measured.and(batch.write()?);
                continue;
            }
        };
        open = begin.or(open);
        let Some((file, path)) = &open else { continue };
        let within = |e: Error| e.context(super::entry_name(path));
        if let Some((at, bytes)) = data {
            write_at(file, at, bytes.get()).map_err(within)?;
        }
        if let Some(end) = end {
            measured = measured.and(finish(file, end.size, &end.attrs).map_err(within)?);
            open = None;
        }
    }
    Ok(measured)
}

/// Writes a piece of a file.
pub(super) fn write_at(file: &OwnedFd, mut at: u64, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(file, bytes, at));
        let n = written.map_err(std::io::Error::from)?;
        bytes = &bytes[n..];
        at += n as u64;
    }
    Ok(())
}

/// Gives a file that has been written its length and its attributes; what it takes up.
pub(super) fn finish(file: &OwnedFd, size: u64, attrs: &Attrs) -> Result<Footprint> {
    let mut found = attrs.apply_file(file)?;
    // It ends in a hole.
    if u64::try_from(found.st_size).ok() != Some(size) {
        let cut = rustix::fs::ftruncate(file, size).map_err(std::io::Error::from);
        cut.context(|| format!("a file of {size} bytes"))?;
        found = attrs.apply_file(file)?;
    }
    if size >= WRITE_OUT {
        durable::start_writing(file, 0, size);
    }
    let mut measured = Footprint::default();
    measured.count(&found);
    Ok(measured)
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Shared(chunk, range) => chunk.get(range.clone()).unwrap_or_default(),
            Self::Own(bytes) => bytes,
        }
    }
}

/// What is said where nobody takes it: why, the other thread tells.
pub(super) fn gone() -> Error {
    Error::damaged("the thread that writes files has ended; this is a bug")
}
