//! An entry in memory: of a layer of a million there are a million.
//!
//! ```text
//!   u16 length of the path · path · fields, most of them numbers of as few bytes as they need
//! ```
//! One allocation of some 30 bytes and the path, where the fields by themselves would take 130. What is here was packed here:
//! fields that end too early cannot be, and read as zeros.

use super::{EntryMeta, Extra, Kind};
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ffi::CString;

/// A path with what is there.
#[derive(Clone, Debug)]
pub(crate) struct Packed(Box<[u8]>);

/// What of an entry is not in its metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Whether the layer lists it itself; otherwise it is a directory that others imply.
    pub(crate) listed: bool,
    /// The number that all names of one file have; 0 if there is only one.
    pub(crate) group: u32,
}

const LISTED: u8 = 1 << 4;
const OPAQUE: u8 = 1 << 5;
const RARE: u8 = 1 << 6;
const KINDS: [Kind; 7] =
    [Kind::File, Kind::Dir, Kind::Symlink, Kind::Char, Kind::Block, Kind::Fifo, Kind::Whiteout];

impl Packed {
    /// Paths have at most 4095 bytes.
    pub(crate) fn new(path: &[u8], meta: &EntryMeta, marks: Marks) -> Self {
        let mut bytes = Vec::with_capacity(path.len() + meta.target.len() + 48);
        let length = u16::try_from(path.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&path[..usize::from(length)]);
        let kind = KINDS.iter().position(|k| *k == meta.kind).and_then(|n| u8::try_from(n).ok());
        let rare = meta.hard_link.is_some() || meta.extra.is_some();
        let mut flags = kind.unwrap_or(0);
        for (is, flag) in [(marks.listed, LISTED), (meta.opaque(), OPAQUE), (rare, RARE)] {
            flags |= if is { flag } else { 0 };
        }
        bytes.push(flags);
        for n in [marks.group, meta.mode, meta.uid, meta.gid, meta.mtime.1] {
            number(&mut bytes, u64::from(n));
        }
        number(&mut bytes, meta.size);
        // Of the same bits: a time before 1970 takes all of them.
        number(&mut bytes, meta.mtime.0.cast_unsigned());
        match meta.kind {
            Kind::File => bytes.extend_from_slice(&meta.checksum.to_ne_bytes()),
            Kind::Symlink => field(&mut bytes, &meta.target),
            _ => {}
        }
        if rare {
            pack_rare(&mut bytes, meta);
        }
        Self(bytes.into_boxed_slice())
    }

    /// The path.
    pub(crate) fn path(&self) -> &[u8] {
        self.split().0
    }

    fn split(&self) -> (&[u8], &[u8]) {
        let Some((length, rest)) = self.0.split_first_chunk() else { return (&[], &[]) };
        rest.split_at_checked(usize::from(u16::from_ne_bytes(*length))).unwrap_or((&[], &[]))
    }

    pub(crate) fn kind(&self) -> Kind {
        let flags = self.split().1.first().copied().unwrap_or(0);
        KINDS.get(usize::from(flags & 0xf)).copied().unwrap_or_default()
    }

    /// What is not in the metadata.
    pub(crate) fn marks(&self) -> Marks {
        let mut fields = Fields(self.split().1);
        let flags = fields.byte();
        Marks { listed: flags & LISTED != 0, group: fields.small() }
    }

    /// The metadata.
    pub(crate) fn meta(&self) -> EntryMeta {
        let mut fields = Fields(self.split().1);
        let flags = fields.byte();
        let _group = fields.small();
        let mut meta = EntryMeta::of_kind(self.kind());
        (meta.mode, meta.uid, meta.gid) = (fields.small(), fields.small(), fields.small());
        meta.mtime.1 = fields.small();
        meta.size = fields.number();
        meta.mtime.0 = fields.number().cast_signed();
        match meta.kind {
            Kind::File => meta.checksum = u64::from_ne_bytes(fields.take_chunk()),
            Kind::Symlink => meta.target = fields.field().to_vec(),
            _ => {}
        }
        if flags & RARE != 0 {
            unpack_rare(&mut fields, &mut meta);
        }
        if flags & OPAQUE != 0 {
            meta.set_opaque();
        }
        meta
    }
}

/// What few entries have.
fn pack_rare(bytes: &mut Vec<u8>, meta: &EntryMeta) {
    field(bytes, meta.hard_link.as_deref().unwrap_or_default());
    let (major, minor) = meta.device();
    number(bytes, u64::from(major));
    number(bytes, u64::from(minor));
    bytes.push(u8::from(meta.extra.is_some()));
    number(bytes, meta.xattrs().len() as u64);
    for (name, value) in meta.xattrs() {
        field(bytes, name.to_bytes());
        field(bytes, value);
    }
}

fn unpack_rare(fields: &mut Fields<'_>, meta: &mut EntryMeta) {
    // No name is empty.
    meta.hard_link = Some(fields.field().to_vec()).filter(|name| !name.is_empty());
    let device = (fields.small(), fields.small());
    if fields.byte() != 0 {
        let xattrs = (0..fields.number()).map_while(|_| {
            let (name, value) = (fields.field().to_vec(), fields.field().to_vec());
            Some((CString::new(name).ok()?, value))
        });
        meta.extra = Some(Box::new(Extra { xattrs: xattrs.collect(), device, opaque: false }));
    }
}

/// Seven bits to a byte, the lowest first; the highest bit says that more follow.
fn number(bytes: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        bytes.push(n.to_le_bytes()[0] | 0x80);
        n >>= 7;
    }
    bytes.push(n.to_le_bytes()[0]);
}

fn field(bytes: &mut Vec<u8>, value: &[u8]) {
    number(bytes, value.len() as u64);
    bytes.extend_from_slice(value);
}

/// What is left to be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take_chunk<const N: usize>(&mut self) -> [u8; N] {
        let Some((chunk, rest)) = self.0.split_first_chunk() else { return [0; N] };
        self.0 = rest;
        *chunk
    }

    fn byte(&mut self) -> u8 {
        let [byte] = self.take_chunk();
        byte
    }

    fn number(&mut self) -> u64 {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte();
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        n
    }

    fn small(&mut self) -> u32 {
        u32::try_from(self.number()).unwrap_or_default()
    }

    fn field(&mut self) -> &'a [u8] {
        let length = usize::try_from(self.number()).unwrap_or(usize::MAX);
        let (field, rest) = self.0.split_at_checked(length).unwrap_or((&[], &[]));
        self.0 = rest;
        field
    }
}

// By their paths alone, so that a set of them is a map.
impl Borrow<[u8]> for Packed {
    fn borrow(&self) -> &[u8] {
        self.path()
    }
}

impl PartialEq for Packed {
    fn eq(&self, other: &Self) -> bool {
        self.path() == other.path()
    }
}

impl Eq for Packed {}

impl PartialOrd for Packed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Packed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.path().cmp(other.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(1..=u8::MAX, 1..most)
    }

    proptest! {
        #[test]
        fn an_entry_comes_out_as_it_went_in(
            path in bytes(4095),
            kind in proptest::sample::select(KINDS.to_vec()),
            numbers in any::<(u32, u32, u32, u64, i64, u32, u64)>(),
            names in (bytes(300), proptest::option::of(bytes(300))),
            xattrs in proptest::collection::vec((bytes(20), proptest::collection::vec(any::<u8>(), 0..300)), 0..3),
            extra in any::<(u32, u32, bool, bool)>(),
            marks in any::<(bool, u32)>(),
        ) {
            let (mode, uid, gid, size, seconds, nanos, checksum) = numbers;
            let mut meta = EntryMeta { kind, mode, uid, gid, size, mtime: (seconds, nanos), ..EntryMeta::default() };
            match kind {
                Kind::File => meta.checksum = checksum,
                Kind::Symlink => meta.target = names.0,
                _ => {}
            }
            meta.hard_link = names.1;
            let xattrs = xattrs.into_iter().map(|(name, value)| (CString::new(name).unwrap(), value));
            let (major, minor, opaque, any) = extra;
            meta.extra = any.then(|| Box::new(Extra { xattrs: xattrs.collect(), device: (major, minor), opaque }));
            let marks = Marks { listed: marks.0, group: marks.1 };
            let packed = Packed::new(&path, &meta, marks);
            prop_assert_eq!(packed.path(), &path);
            prop_assert_eq!(packed.kind(), kind);
            prop_assert_eq!(packed.meta(), meta);
            prop_assert_eq!(packed.marks(), marks);
        }
    }

    #[test]
    fn an_ordinary_file_takes_little_more_than_its_path() {
        let meta = EntryMeta { mode: 0o644, mtime: (1_700_000_000, 0), ..EntryMeta::file(4096, u64::MAX) };
        assert!(Packed::new(b"usr/share/doc/x", &meta, Marks::default()).0.len() <= 15 + 28);
    }
}
