//! `layers/<key>/entries`: what each file of a layer was when it was unpacked, for checking it later.
//!
//! ```text
//!   strata-entries 2
//!   kind mode uid gid size mtime checksum blocks path[TAB key=value]...
//!   end COUNT CHECKSUM
//! ```
//! One line per entry, a directory before what is in it, names in order of their bytes: as [`crate::walk`] meets them, so
//! that a layer is checked against its list without either being held in memory. Keys: `target` of a symlink, `link`: the
//! first name of the file that this is another name of, `dev` of a device, `opaque` of a directory that hides what is below
//! it, `x.NAME` an extended attribute in hexadecimal digits. The last line counts the entries and has the checksum of all
//! lines before it. Checksums are XXH3: against disks, not against attackers, who are met by digests when the layer is
//! fetched.
//!
//! Format 1 had another order, no last line, and neither devices, nor extended attributes, nor opaque marks.

mod packed;
mod read;
mod settle;

use crate::error::{Context, Result};
use crate::escape::escape;
use crate::trash::create_private;
use crate::unpack::{Attrs, times};
pub(crate) use packed::{Marks, Packed};
pub(crate) use read::{List, order};
use rustix::fs::Timestamps;
use std::ffi::CString;
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

/// The format that is written.
pub(crate) const VERSION: u32 = 2;

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
    /// What few files have.
    pub(crate) extra: Option<Box<Extra>>,
}

/// What few files have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extra {
    /// Those that a layer keeps, by name.
    pub(crate) xattrs: Vec<(CString, Vec<u8>)>,
    /// Major and minor number of a device.
    pub(crate) device: (u32, u32),
    /// Whether a directory hides what is below it.
    pub(crate) opaque: bool,
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
        let meta = Self { mode: attrs.mode, uid: attrs.uid, gid: attrs.gid, mtime: attrs.mtime, ..self };
        if attrs.xattrs.is_empty() { meta } else { meta.with_xattrs(attrs.xattrs.clone()) }
    }

    pub(crate) fn with_xattrs(mut self, xattrs: Vec<(CString, Vec<u8>)>) -> Self {
        if !xattrs.is_empty() || self.extra.is_some() {
            self.extra.get_or_insert_default().xattrs = xattrs;
        }
        self
    }

    pub(crate) fn with_device(mut self, major: u32, minor: u32) -> Self {
        self.extra.get_or_insert_default().device = (major, minor);
        self
    }

    pub(crate) fn set_opaque(&mut self) {
        self.extra.get_or_insert_default().opaque = true;
    }

    pub(crate) fn xattrs(&self) -> &[(CString, Vec<u8>)] {
        self.extra.as_ref().map_or(&[], |e| &e.xattrs)
    }

    pub(crate) fn device(&self) -> (u32, u32) {
        self.extra.as_ref().map_or((0, 0), |e| e.device)
    }

    pub(crate) fn opaque(&self) -> bool {
        self.extra.as_ref().is_some_and(|e| e.opaque)
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

/// Makes the list of the files in `fs`, in its order, of what an archive says they are.
pub(crate) fn list(fs: &Path, mut entries: Vec<Packed>) -> Result<Vec<Packed>> {
    entries.sort_unstable_by(|a, b| order(a.path(), b.path()));
    settle::settle(fs, &mut entries)?;
    Ok(entries)
}

/// Writes the list.
pub(crate) fn write(path: &Path, entries: &[Packed]) -> Result<()> {
    let what = || format!("write {}", path.display());
    let mut file = std::io::BufWriter::new(create_private(path).context(what)?);
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    let mut line = format!("strata-entries {VERSION}\n");
    for entry in entries {
        hasher.update(line.as_bytes());
        file.write_all(line.as_bytes()).context(what)?;
        line.clear();
        write_entry(&mut line, entry.path(), &entry.meta());
    }
    hasher.update(line.as_bytes());
    file.write_all(line.as_bytes()).context(what)?;
    writeln!(file, "end {} {:016x}", entries.len(), hasher.digest()).context(what)?;
    file.flush().context(what)
}

fn write_entry(line: &mut String, name: &[u8], e: &EntryMeta) {
    let kind = match e.kind {
        Kind::File => 'f',
        Kind::Dir => 'd',
        Kind::Symlink => 'l',
        Kind::Char => 'c',
        Kind::Block => 'b',
        Kind::Fifo => 'p',
        Kind::Whiteout => 'w',
    };
    let (seconds, nanos) = e.mtime;
    // Writing to a String does not fail.
    let _ = write!(
        line,
        "{kind} {:o} {} {} {} {seconds}.{nanos:09} {:016x} {} {}",
        e.mode,
        e.uid,
        e.gid,
        e.size,
        e.checksum,
        e.disk() / BLOCK,
        escape(name)
    );
    if !e.target.is_empty() {
        let _ = write!(line, "\ttarget={}", escape(&e.target));
    }
    if let Some(first) = &e.hard_link {
        let _ = write!(line, "\tlink={}", escape(first));
    }
    if let Some(extra) = &e.extra {
        if extra.device != (0, 0) {
            let _ = write!(line, "\tdev={}:{}", extra.device.0, extra.device.1);
        }
        if extra.opaque {
            line.push_str("\topaque");
        }
        for (name, value) in &extra.xattrs {
            let _ =
                write!(line, "\tx.{}={}", escape(name.to_bytes()).replace('=', "\\x3d"), hex::encode(value));
        }
    }
    line.push('\n');
}
