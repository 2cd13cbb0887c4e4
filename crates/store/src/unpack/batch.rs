//! Short files, many at once: making one takes less time than waking a thread for it.

use super::Attrs;
use super::content::{finish, write_at};
use crate::error::{Error, Result};
use crate::measure::Footprint;
use std::os::fd::OwnedFd;

/// So many are one batch. It bounds the files that are open.
const FULL: usize = 32;

/// Files that are there and still empty, and what each is to get.
#[derive(Default)]
pub(super) struct Batch {
    files: Vec<Short>,
    /// The content of all of them, one after the other.
    bytes: Vec<u8>,
}

struct Short {
    file: OwnedFd,
    /// How errors name it.
    path: Vec<u8>,
    attrs: Attrs,
    /// Where its content ends.
    end: usize,
}

impl Batch {
    /// Takes a piece of the content of the file that is [`put`](Self::put) next.
    pub(super) fn append(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
    }

    pub(super) fn put(&mut self, file: OwnedFd, path: Vec<u8>, attrs: Attrs) {
        self.files.push(Short { file, path, attrs, end: self.bytes.len() });
    }

    pub(super) fn is_full(&self) -> bool {
        self.files.len() >= FULL
    }

    /// Writes all of them, and has room again; what they take up.
    ///
    /// # Errors
    /// The first failure, with the entry's name.
    pub(super) fn write(&mut self) -> Result<Footprint> {
        let mut measured = Footprint::default();
        let mut start = 0;
        for Short { file, path, attrs, end } in self.files.drain(..) {
            let bytes = &self.bytes[start..end];
            let made = write_at(&file, 0, bytes).and_then(|()| finish(&file, bytes.len() as u64, &attrs));
            measured = measured.and(made.map_err(|e: Error| e.context(super::entry_name(&path)))?);
            start = end;
        }
        self.bytes.clear();
        Ok(measured)
    }
}
