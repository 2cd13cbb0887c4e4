//! What an archive holds, put down in tmp/ as it comes: which images it has is often said at its very end.

use crate::error::{Context, Error, Kind, Result};
use crate::escape::escape;
use crate::index::Lease;
use crate::inflate::inflate;
use crate::limits::Limits;
use crate::store::Store;
use crate::trash::Scratch;
use crate::unpack::archive::{Archive, Entry};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use strata_oci::digest::Hasher;
use strata_oci::{Compression, Digest};
use tar::EntryType;

/// How much of a file is moved at a time.
const CHUNK: usize = 128 << 10;
/// The most entries of an archive: several for each layer of many images.
const MAX_ENTRIES: u32 = 100_000;
/// The longest name: PATH_MAX.
const MAX_NAME: usize = 4096;
/// How many links may lie between a name and its file.
const MAX_LINKS: usize = 16;
/// The first bytes of a file, by which compression is told.
const MAGIC: usize = 6;

/// A file of an archive.
#[derive(Debug)]
pub(super) struct Spooled {
    /// Of its bytes: by the algorithm of its name, if that is a blob's.
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Its first bytes.
    pub(super) magic: Vec<u8>,
    /// Where it is; `None`: it is a blob that the store had already, and that the lease keeps.
    scratch: Option<Scratch>,
}

/// An archive's files, by their names in it. A name is looked up as it is and never touches a file system.
#[derive(Debug, Default)]
pub(super) struct Contents {
    files: HashMap<String, Spooled>,
    /// Names that stand for others.
    links: HashMap<String, String>,
}

impl Contents {
    /// Reads a whole archive. `read` is told how many of its bytes have come.
    pub(super) fn read(
        store: &Store,
        lease: &Lease,
        source: &mut dyn Read,
        read: &(dyn Fn(u64) + Sync),
    ) -> Result<Self> {
        let limits = &store.options.limits;
        let mut contents = Self::default();
        let (mut entries, mut total) = (0, 0_u64);
        let whole = decompressed(Counted { from: source, total: 0, read }, store)?;
        let mut whole = std::io::BufReader::with_capacity(CHUNK, whole);
        let mut archive = Archive::new(&mut whole);
        while let Some(entry) = archive.next()? {
            entries += 1;
            if entries > MAX_ENTRIES {
                return Err(Error::limit(format!("the archive has more than {MAX_ENTRIES} entries")));
            }
            let what = || format!("entry {:?}", escape(&entry.path));
            let Some(name) = name_of(&entry.path)? else { continue };
            match entry.kind {
                EntryType::Symlink => {
                    let dir = name.rsplit_once('/').map_or("", |(dir, _)| dir);
                    let target =
                        if entry.link.starts_with(b"/") { Vec::new() } else { format!("{dir}/").into() };
                    contents.link(name, &[target, entry.link].concat())?;
                }
                EntryType::Link => contents.link(name, &entry.link)?,
                EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse
                    if !entry.is_dir() && is_wanted(&name) =>
                {
                    total = total.saturating_add(entry.size);
                    check(limits, &entry, total).context(what)?;
                    let spooled = spool(store, lease, &name, &mut archive).context(what)?;
                    // As when an archive is extracted, the later of two entries stands.
                    contents.links.remove(&name);
                    contents.files.insert(name, spooled);
                }
                _ => {}
            }
        }
        archive.finish()?;
        Ok(contents)
    }

    fn link(&mut self, name: String, target: &[u8]) -> Result<()> {
        // A target outside the archive is none.
        if let Some(target) = name_of(target)? {
            self.files.remove(&name);
            self.links.insert(name, target);
        }
        Ok(())
    }

    /// A file by its name, through links.
    pub(super) fn get(&self, name: &str) -> Option<&Spooled> {
        let mut name = clean(name)?;
        for _ in 0..MAX_LINKS {
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => return self.files.get(&name),
            }
        }
        None
    }

    /// A blob of an OCI layout.
    pub(super) fn blob(&self, digest: &Digest) -> Option<&Spooled> {
        self.get(&super::blob_name(digest)).filter(|file| file.digest == *digest)
    }

    /// A document by its name; `None` if there is none.
    ///
    /// # Errors
    /// If it has more than `max` bytes.
    pub(super) fn document(&self, store: &Store, name: &str, max: usize) -> Result<Option<Vec<u8>>> {
        self.get(name).map(|file| file.bytes(store, max)).transpose().context(|| name.to_owned())
    }
}

impl Spooled {
    /// Its content, which has at most `max` bytes.
    pub(super) fn bytes(&self, store: &Store, max: usize) -> Result<Vec<u8>> {
        if self.size > max as u64 {
            return Err(Error::invalid(format!("{} bytes are too many; at most {max} are read", self.size)));
        }
        let mut bytes = Vec::new();
        self.open(store)?.take(max as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Its content, from the start.
    pub(super) fn open(&self, store: &Store) -> Result<File> {
        let path = match &self.scratch {
            Some(scratch) => scratch.path(),
            None => crate::blob::path(&store.layout, &self.digest),
        };
        File::open(&path).context(|| format!("open {}", path.display()))
    }
}

/// A name in the archive; `None` if nothing can want it: JSON cannot say what is no UTF-8.
fn name_of(path: &[u8]) -> Result<Option<String>> {
    if path.len() > MAX_NAME {
        return Err(Error::limit(format!("the archive has a name of {} bytes", path.len())));
    }
    Ok(std::str::from_utf8(path).ok().and_then(clean))
}

fn check(limits: &Limits, entry: &Entry, total: u64) -> Result<()> {
    if entry.map.is_some() {
        return Err(Error::invalid("it is a sparse file; write the archive without --sparse"));
    }
    // With no other layer beside it, each file may be one.
    limits.check_sizes([entry.size])?;
    if total > limits.image_size {
        let most = limits.image_size;
        return Err(Error::limit(format!("the files have more bytes than limits.image_size allows, {most}")));
    }
    Ok(())
}

/// Documents of the oldest format, of which an archive has two for each layer, are of no use.
fn is_wanted(name: &str) -> bool {
    !matches!(name.rsplit_once('/'), Some((_, "VERSION" | "json")))
}

/// A name without what does not change it; `None` if it leads out of the archive.
pub(super) fn clean(name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// The digest that a blob's name says.
fn named_digest(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    Digest::parse(&format!("{algorithm}:{hex}")).ok()
}

fn spool(store: &Store, lease: &Lease, name: &str, from: &mut Archive<'_>) -> Result<Spooled> {
    let named = named_digest(name);
    let here = named.as_ref().is_some_and(|digest| store.has_blob(lease, digest));
    let scratch = (!here).then(|| Scratch::new(&store.layout, "archive"));
    let mut file = match &scratch {
        Some(scratch) => Some(scratch.create().context(|| "create a file".into())?),
        None => None,
    };
    let mut hasher = named.as_ref().map_or_else(Hasher::sha256, |d| Hasher::new(d.algorithm()));
    let (mut buffer, mut size, mut magic) = (vec![0; CHUNK], 0_u64, Vec::new());
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        let bytes = buffer.get(..n).unwrap_or_default();
        magic.extend(bytes.iter().take(MAGIC - magic.len()));
        hasher.update(bytes);
        if let Some(file) = &mut file {
            file.write_all(bytes).context(|| "write a file".into())?;
        }
        size += n as u64;
    }
    let digest = hasher.finish();
    if named.is_some_and(|named| named != digest) {
        return Err(Error::invalid(format!("its bytes have the digest {digest}")));
    }
    Ok(Spooled { digest, size, magic, scratch })
}

/// Counts what comes from a source, and tells somebody.
struct Counted<'a> {
    from: &'a mut dyn Read,
    total: u64,
    read: &'a (dyn Fn(u64) + Sync),
}

impl Read for Counted<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        // A client that goes away is no fault of what it sent.
        let n = self.from.read(out).map_err(|e| match e.kind() {
            std::io::ErrorKind::Interrupted => e,
            _ => Error::new(Kind::Io, e.to_string()).into(),
        })?;
        self.total += n as u64;
        (self.read)(self.total);
        Ok(n)
    }
}

/// The archive itself, if all of it was compressed.
fn decompressed<'a>(mut source: Counted<'a>, store: &'a Store) -> Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::new();
    source.by_ref().take(MAGIC as u64).read_to_end(&mut magic)?;
    let compression = match Packing::of(&magic) {
        Packing::None => Compression::None,
        Packing::Gzip => Compression::Gzip,
        Packing::Zstd => Compression::Zstd,
        Packing::Other(name) => {
            return Err(Error::invalid(format!(
                "the archive is compressed with {name}, which is not supported; decompress it first: {name} -dc FILE | strata load"
            )));
        }
    };
    let whole = std::io::BufReader::with_capacity(CHUNK, std::io::Cursor::new(magic).chain(source));
    Ok(inflate(compression, whole, &store.windows, store.options.limits.zstd_window_log, None))
}

/// How something is compressed, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    Gzip,
    Zstd,
    /// By this program, which is not supported.
    Other(&'static str),
}

impl Packing {
    pub(super) fn of(magic: &[u8]) -> Self {
        match magic {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Self::Other("xz"),
            [b'B', b'Z', b'h', ..] => Self::Other("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Self::Other("lz4"),
            _ => Self::None,
        }
    }
}
