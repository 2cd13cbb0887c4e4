//! `layers/<key>/entries`: what each file of a layer was when it was unpacked, for checking it later.
//!
//! One line per entry, in the order of paths:
//! `kind mode uid gid size mtime checksum blocks path[TAB target]`. The checksum is XXH3 of a file's content: it is against
//! disks, not against attackers, who are met by digests when the layer is fetched.

use crate::error::{Context, Result};
use crate::escape::escape;
use crate::unpack::{Attrs, times};
use rustix::fs::Timestamps;
use std::fmt::Write as _;
use std::path::Path;

/// What a file system hands out space in; the same on ext4, XFS and Btrfs unless somebody chose otherwise.
const BLOCK: u64 = 4096;

/// What sort of file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    File,
    Dir,
    Symlink,
    Char,
    Block,
    Fifo,
    Whiteout,
}

/// One entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EntryMeta {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) mtime: (i64, u32),
    pub(crate) checksum: u64,
    pub(crate) target: Vec<u8>,
    /// The name that this one was linked to.
    pub(crate) hard_link: Option<Vec<u8>>,
}

impl EntryMeta {
    pub(crate) fn of_kind(kind: Kind) -> Self {
        Self { kind, ..Self::default() }
    }

    pub(crate) fn file(size: u64, checksum: u64) -> Self {
        Self { size, checksum, ..Self::default() }
    }

    pub(crate) fn link(target: &[u8]) -> Self {
        Self { kind: Kind::Symlink, size: target.len() as u64, target: target.to_vec(), ..Self::default() }
    }

    pub(crate) fn with(self, attrs: &Attrs) -> Self {
        Self { mode: attrs.mode, uid: attrs.uid, gid: attrs.gid, mtime: attrs.mtime, ..self }
    }

    pub(crate) fn hard_link(self, target: &[u8]) -> Self {
        let hard_link = self.hard_link.clone().or_else(|| Some(target.to_vec()));
        Self { hard_link, ..self }
    }

    pub(crate) fn times(&self) -> Timestamps {
        times(self.mtime)
    }

    /// Bytes on disk: whole blocks of a file, one of a directory; short symlinks and nodes live in their inode.
    pub(crate) fn disk(&self) -> u64 {
        match self.kind {
            Kind::File => self.size.div_ceil(BLOCK) * BLOCK,
            Kind::Dir => BLOCK,
            Kind::Symlink if self.size > 59 => BLOCK,
            _ => 0,
        }
    }
}

/// Writes the list.
pub(crate) fn write(path: &Path, entries: &[(Vec<u8>, EntryMeta)]) -> Result<()> {
    let mut text = String::from("strata-entries 1\n");
    for (name, e) in entries {
        let kind = match e.kind {
            _ if e.hard_link.is_some() => 'h',
            Kind::File => 'f',
            Kind::Dir => 'd',
            Kind::Symlink => 'l',
            Kind::Char => 'c',
            Kind::Block => 'b',
            Kind::Fifo => 'p',
            Kind::Whiteout => 'w',
        };
        let (seconds, nanos) = e.mtime;
        let _ = write!(
            text,
            "{kind} {:o} {} {} {} {seconds}.{nanos:09} {:016x} {} {}",
            e.mode,
            e.uid,
            e.gid,
            e.size,
            e.checksum,
            e.disk() / BLOCK,
            escape(name)
        );
        if let Some(target) = e.hard_link.as_ref().or_else(|| (!e.target.is_empty()).then_some(&e.target)) {
            let _ = write!(text, "\t{}", escape(target));
        }
        text.push('\n');
    }
    std::fs::write(path, text).context(|| format!("write {}", path.display()))
}
