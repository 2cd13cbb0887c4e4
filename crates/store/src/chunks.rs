//! What travels between the stages of a pipeline: buffers that are used again and again, and so many of them.
//!
//! ```text
//!   Buffers (the store's) ─▶ Share (a pipeline's) ─▶ Supply (a stage's) ─▶ Chunk ─▶ the stages that read it
//!                                                      ▲                             │ the last one has done
//!                                                      └─────────────────────────────┘
//! ```
//! A stage that is ahead waits for a buffer to come back, so a slow stage slows down the ones before it. Each pipeline has
//! its buffers for itself until it ends: none can wait for another one in the middle.

use std::io::{BufRead, BufReader, Read, Result, Write};
use std::ops::Deref;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// How much travels at a time: many times what handing it over costs, and little enough to be in the caches still when the
/// next stage reads it.
pub(crate) const CHUNK: usize = 256 << 10;
/// Buffers of all pipelines together, enough for forty.
const ALL: usize = (96 << 20) / CHUNK;
/// Buffers of a pipeline while there are plenty: what a stage may run ahead while another works off many small files.
const MOST: usize = (16 << 20) / CHUNK;
/// Buffers of a pipeline when there are few: every stage has one, and one lies between it and the next.
const LEAST: usize = 6;

/// How many buffers pipelines may have in all.
#[derive(Debug)]
pub(crate) struct Buffers {
    free: Mutex<usize>,
    returned: Condvar,
}

/// A pipeline's part of the budget, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share<'a> {
    buffers: &'a Buffers,
    chunks: usize,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { free: Mutex::new(ALL), returned: Condvar::new() }
    }
}

impl Buffers {
    /// A share for one pipeline: generous while less than half is given out. Waits while more than forty pipelines run.
    pub(crate) fn share(&self) -> Share<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free =
            self.returned.wait_while(free, |free| *free < LEAST).unwrap_or_else(PoisonError::into_inner);
        let chunks = if *free >= ALL / 2 { MOST } else { LEAST };
        *free -= chunks;
        Share { buffers: self, chunks }
    }
}

impl Share<'_> {
    /// Splits it between the two streams of a pipeline, the one that comes in and the one that is made of it, in favour of
    /// the latter: it is the longer one.
    pub(crate) fn supplies(&self) -> (Supply, Supply) {
        let first = self.chunks / 3;
        (Supply::new(first), Supply::new(self.chunks - first))
    }

    /// All of it for a pipeline of one stream.
    pub(crate) fn supply(&self) -> Supply {
        Supply::new(self.chunks)
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        *self.buffers.free.lock().unwrap_or_else(PoisonError::into_inner) += self.chunks;
        self.buffers.returned.notify_all();
    }
}

/// Where a stage gets its empty buffers.
#[derive(Debug)]
pub(crate) struct Supply {
    used: Receiver<Vec<u8>>,
    home: SyncSender<Vec<u8>>,
    unmade: usize,
}

impl Supply {
    fn new(chunks: usize) -> Self {
        let (home, used) = sync_channel(chunks);
        Self { used, home, unmade: chunks }
    }

    /// An empty buffer; waits until there is one.
    pub(crate) fn chunk(&mut self) -> Chunk {
        let bytes = match self.used.try_recv() {
            Ok(bytes) => bytes,
            Err(_) if self.unmade > 0 => {
                self.unmade -= 1;
                vec![0; CHUNK]
            }
            // It cannot be disconnected: `home` is here too.
            Err(_) => self.used.recv().unwrap_or_else(|_| vec![0; CHUNK]),
        };
        Chunk { bytes, len: 0, home: self.home.clone() }
    }
}

/// A buffer, filled so far. It goes back to its supply when it is dropped.
#[derive(Debug)]
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    len: usize,
    home: SyncSender<Vec<u8>>,
}

impl Chunk {
    /// Reads once into what is left of it; 0 at the end of the source, or if nothing is left.
    pub(crate) fn read_from(&mut self, source: &mut (impl Read + ?Sized)) -> Result<usize> {
        let n = source.read(&mut self.bytes[self.len..])?;
        self.len += n;
        Ok(n)
    }

    /// Copies as much as fits.
    fn append(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + n].copy_from_slice(&bytes[..n]);
        self.len += n;
        n
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == self.bytes.len()
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // Where nobody asks for it any more it is freed.
        let _ = self.home.try_send(std::mem::take(&mut self.bytes));
    }
}

/// To a stage.
pub(crate) type Sender = SyncSender<Arc<Chunk>>;

/// From one stage to the next. Buffers bound what lies between them, not this.
pub(crate) fn channel() -> (Sender, Chunks) {
    let (send, from) = sync_channel(MOST);
    (send, Chunks { from, chunk: None, at: 0 })
}

/// The receiving end of a stage, chunk by chunk or as a reader.
pub(crate) struct Chunks {
    from: Receiver<Arc<Chunk>>,
    chunk: Option<Arc<Chunk>>,
    at: usize,
}

impl Iterator for Chunks {
    type Item = Arc<Chunk>;

    fn next(&mut self) -> Option<Arc<Chunk>> {
        self.from.recv().ok()
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> Result<&[u8]> {
        while self.chunk.as_ref().is_none_or(|chunk| self.at == chunk.len()) {
            // Before waiting for the next one: the stage before may be waiting for this buffer.
            self.chunk = None;
            self.at = 0;
            match self.from.recv() {
                Ok(chunk) => self.chunk = Some(chunk),
                Err(_) => return Ok(&[]),
            }
        }
        Ok(self.chunk.as_ref().map_or(&[], |chunk| &chunk[self.at..]))
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}

/// Where bytes come from that may be kept beyond the next read.
pub(crate) trait Source: BufRead {
    /// The buffer in which the next bytes lie that [`fill_buf`](BufRead::fill_buf) has given, and where in it; `None` if they
    /// lie in none that can be kept.
    fn shared(&self) -> Option<(Arc<Chunk>, usize)> {
        None
    }
}

impl Source for Chunks {
    fn shared(&self) -> Option<(Arc<Chunk>, usize)> {
        Some((self.chunk.clone()?, self.at))
    }
}

impl Source for &[u8] {}

impl<R: Read> Source for BufReader<R> {}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        let n = self.fill_buf()?.read(out)?;
        self.consume(n);
        Ok(n)
    }
}

/// The sending end of several stages as a writer.
pub(crate) struct Fan {
    to: Vec<Sender>,
    supply: Supply,
    filling: Option<Chunk>,
}

impl Fan {
    pub(crate) fn new(to: Vec<Sender>, supply: Supply) -> Self {
        Self { to, supply, filling: None }
    }
}

impl Write for Fan {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let supply = &mut self.supply;
        let chunk = self.filling.get_or_insert_with(|| supply.chunk());
        let n = chunk.append(bytes);
        if chunk.is_full() {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> Result<()> {
        if let Some(chunk) = self.filling.take() {
            let chunk = Arc::new(chunk);
            for stage in &self.to {
                // A stage that has failed says so itself.
                let _ = stage.send(chunk.clone());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pipelines_together_keep_to_the_budget() {
        let budget = Buffers::default();
        let shares: Vec<_> = (0..20).map(|_| budget.share()).collect();
        assert!(shares[0].chunks == MOST && shares[19].chunks == LEAST);
        const { assert!(40 * LEAST <= ALL) };
        let given: usize = shares.iter().map(|s| s.chunks).sum();
        assert_eq!(given + *budget.free.lock().unwrap(), ALL);
        let mut all = shares;
        while *budget.free.lock().unwrap() >= LEAST {
            all.push(budget.share());
        }
        std::thread::scope(|scope| {
            let late = scope.spawn(|| budget.share().chunks);
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!late.is_finished());
            all.pop();
            assert_eq!(late.join().unwrap(), LEAST);
        });
        drop(all);
        assert_eq!(*budget.free.lock().unwrap(), ALL);
    }

    #[test]
    fn a_pipeline_of_few_buffers_passes_on_everything() {
        let budget = Buffers::default();
        let shares: Vec<_> = (0..ALL / MOST).map(|_| budget.share()).collect();
        let share = &shares[shares.len() - 1];
        assert_eq!(share.chunks, LEAST);
        let data: Vec<u8> = (0..CHUNK * 40 + 7).map(|i| (i % 251).to_le_bytes()[0]).collect();
        let (first, second) = share.supplies();
        let (to_middle, mut from_first) = channel();
        let (to_a, mut a) = channel();
        let (to_b, b) = channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut fan = Fan::new(vec![to_a, to_b], second);
                std::io::copy(&mut from_first, &mut fan).unwrap();
                fan.flush().unwrap();
            });
            let read = scope.spawn(move || {
                let mut read = Vec::new();
                a.read_to_end(&mut read).map(|_| read)
            });
            let counted = scope.spawn(move || b.map(|chunk| chunk.len()).sum::<usize>());
            let mut fan = Fan::new(vec![to_middle], first);
            fan.write_all(&data).unwrap();
            fan.flush().unwrap();
            drop(fan);
            assert!(read.join().unwrap().unwrap() == data);
            assert_eq!(counted.join().unwrap(), data.len());
        });
    }

    #[test]
    fn a_stage_that_ends_early_holds_nobody_up() {
        let budget = Buffers::default();
        let (to, from) = channel();
        let mut fan = Fan::new(vec![to], budget.share().supply());
        std::thread::scope(|scope| {
            scope.spawn(move || drop(from));
            fan.write_all(&vec![1; CHUNK * MOST * 3]).unwrap();
        });
    }
}
