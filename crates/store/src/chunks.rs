//! What travels between the stages of a pipeline: buffers that are used again and again.
//!
//! ```text
//!   Supply (a stage's) ─▶ Chunk ─▶ the stages that read it
//!          ▲                        │ the last one has done
//!          └────────────────────────┘
//! ```
//! How many there are is said in [`buffers`](crate::buffers).

use crate::buffers::{Buffer, MOST, Supply};
use std::io::{BufRead, BufReader, Read, Result, Write};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

impl Supply {
    /// An empty chunk; waits until there is a buffer for it.
    pub(crate) fn chunk(&mut self) -> Chunk {
        Chunk { buffer: self.buffer(), len: 0 }
    }
}

/// A buffer, filled so far. It goes back to its supply when it is dropped.
#[derive(Debug)]
pub(crate) struct Chunk {
    buffer: Buffer,
    len: usize,
}

impl Chunk {
    /// Reads once into what is left of it; 0 at the end of the source, or if nothing is left.
    pub(crate) fn read_from(&mut self, source: &mut (impl Read + ?Sized)) -> Result<usize> {
        let n = source.read(&mut self.buffer[self.len..])?;
        self.len += n;
        Ok(n)
    }

    /// Copies as much as fits.
    fn append(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.buffer.len() - self.len);
        self.buffer[self.len..self.len + n].copy_from_slice(&bytes[..n]);
        self.len += n;
        n
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == self.buffer.len()
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[..self.len]
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
    use crate::buffers::{Buffers, CHUNK};

    #[test]
    fn a_pipeline_of_few_buffers_passes_on_everything() {
        let budget = Buffers::default();
        let shares: Vec<_> = (0..40).map(|_| budget.share()).collect();
        let share = &shares[0];
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
