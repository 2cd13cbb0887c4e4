//! A stream that ends once nobody waits any more for what becomes of it.

use crate::chunks::{Chunk, Source};
use crate::error::Result;
use std::io::{BufRead, Read};
use std::sync::Arc;

/// Reads on as long as somebody waits: what has arrived may keep unpacking busy for long.
pub(crate) struct Wanted<'a, R> {
    from: R,
    /// Fails once nobody waits.
    goes_on: &'a (dyn Fn() -> Result<()> + Sync),
}

impl<'a, R> Wanted<'a, R> {
    pub(crate) fn new(from: R, goes_on: &'a (dyn Fn() -> Result<()> + Sync)) -> Self {
        Self { from, goes_on }
    }

    fn ask(&self) -> std::io::Result<()> {
        (self.goes_on)().map_err(std::io::Error::other)
    }
}

impl<R: Read> Read for Wanted<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.ask()?;
        self.from.read(out)
    }
}

impl<R: BufRead> BufRead for Wanted<'_, R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.ask()?;
        self.from.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.from.consume(n);
    }
}

impl<R: Source> Source for Wanted<'_, R> {
    fn shared(&self) -> Option<(Arc<Chunk>, usize)> {
        self.from.shared()
    }
}
