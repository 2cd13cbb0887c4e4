//! A tar as it comes: every size that it announces is bounded before it is believed.

use crate::error::{Context, Error, Result};
use crate::escape::escape;
use std::io::{self, Read};
use tar::{EntryType, Header};

const BLOCK: u64 = 512;
/// The most entries of an archive: several for each layer of many images.
const MAX_ENTRIES: u32 = 100_000;
/// The most bytes of a header that extends another one: a long name, or what PAX says beside it.
const MAX_EXTENSION: u64 = 256 << 10;
/// The longest name: PATH_MAX.
const MAX_NAME: usize = 4096;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file; its bytes come next.
    File,
    /// A symbolic link to this text.
    Symlink(String),
    /// Another name of this file.
    HardLink(String),
    /// A directory, a device…
    Other,
}

/// An entry's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// As it is written there.
    pub(super) name: String,
    pub(super) kind: Kind,
    /// How many bytes a file has.
    pub(super) size: u64,
}

/// A tar, entry by entry. Reading gives the bytes of the last entry.
pub(super) struct Stream<R> {
    from: R,
    /// Bytes of the entry that were not read yet.
    left: u64,
    /// What fills its last block.
    padding: u64,
    entries: u32,
}

/// What headers before an entry say about it.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

fn broken(why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("broken tar archive: {why}"))
}

impl<R: Read> Stream<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, left: 0, padding: 0, entries: 0 }
    }

    /// The next entry; `None` after the last one. What was not read of the one before is passed over.
    ///
    /// # Errors
    /// What the source reports; [`Invalid`](crate::Kind::Invalid) if this is no tar or goes beyond the bounds.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(Error::invalid(format!("the archive has more than {MAX_ENTRIES} entries")));
            }
            let said = header.entry_size().map_err(broken)?;
            let kind = header.entry_type();
            // PAX says the size of what does not fit into the header's eleven octal digits.
            let extends = matches!(kind.as_byte(), b'L' | b'K' | b'x' | b'g' | b'X');
            let size = if extends { said } else { extensions.size.unwrap_or(said) };
            (self.left, self.padding) = (size, (BLOCK - size % BLOCK) % BLOCK);
            match kind.as_byte() {
                b'L' => extensions.name = Some(self.extension()?),
                b'K' => extensions.link = Some(self.extension()?),
                b'x' | b'X' => extensions.pax(&self.extension()?)?,
                // What holds for all entries says nothing that matters here.
                b'g' => {}
                _ => return self.entry(&header, kind, extensions).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header, kind: EntryType, extensions: Extensions) -> Result<Entry> {
        let name = extensions.name.unwrap_or_else(|| header.path_bytes().into_owned());
        if name.len() > MAX_NAME {
            return Err(Error::invalid(format!("the archive has a name of {} bytes", name.len())));
        }
        let target = || {
            let link = extensions.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
            text(link.filter(|l| l.len() <= MAX_NAME).unwrap_or_default())
        };
        let kind = match kind {
            // Before POSIX, a directory was a file whose name ends in a slash.
            EntryType::Regular | EntryType::Continuous if !name.ends_with(b"/") => Kind::File,
            EntryType::Symlink => target().map_or(Kind::Other, Kind::Symlink),
            EntryType::Link => target().map_or(Kind::Other, Kind::HardLink),
            EntryType::GNUSparse => {
                let name = escape(&name);
                return Err(Error::invalid(format!(
                    "entry {name:?} is a sparse file; write the archive without --sparse"
                )));
            }
            _ => Kind::Other,
        };
        // JSON cannot name what is no UTF-8, so nothing can want it.
        let (name, kind) = match text(name) {
            Some(name) => (name, kind),
            None => (String::new(), Kind::Other),
        };
        Ok(Entry { name, kind, size: self.left })
    }

    /// A block that is a header; `None` at the end, which a block of zeros marks, and some writers nothing at all.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|r| !r.is_empty()) {
            match self.from.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(broken("it ends in the middle of a header")),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        if header.as_bytes().iter().all(|b| *b == 0) {
            return Ok(None);
        }
        // The checksum is the sum of all bytes, its own field taken as blanks (POSIX, pax, "ustar Interchange Format").
        let sum: u32 = header
            .as_bytes()
            .iter()
            .enumerate()
            .map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) })
            .sum();
        if header.cksum().ok() != Some(sum) {
            return Err(broken("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// The whole content of a header that extends the next one.
    fn extension(&mut self) -> Result<Vec<u8>> {
        if self.left > MAX_EXTENSION {
            return Err(Error::invalid(format!("the archive has a header of {} bytes", self.left)));
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(bytes)
    }

    /// Passes over the rest of the entry.
    fn skip(&mut self) -> Result<()> {
        io::copy(self, &mut io::sink())?;
        let padding = std::mem::take(&mut self.padding);
        let skipped = io::copy(&mut (&mut self.from).take(padding), &mut io::sink())?;
        if skipped == padding { Ok(()) } else { Err(broken("it ends in the middle of an entry")) }
    }

    /// Reads what follows the last entry: zeros, until the source ends.
    pub(super) fn finish(mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let n = self.from.read(&mut buffer).context(|| "read the archive's end".into())?;
            match buffer.get(..n) {
                None | Some([]) => return Ok(()),
                Some(bytes) if bytes.iter().all(|b| *b == 0) => {}
                Some(_) => return Err(Error::invalid("something follows the archive's end")),
            }
        }
    }
}

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len());
        let Some(out) = out.get_mut(..most).filter(|out| !out.is_empty()) else { return Ok(0) };
        let n = self.from.read(out)?;
        if n == 0 {
            return Err(broken("it ends in the middle of an entry").into());
        }
        self.left -= n as u64;
        Ok(n)
    }
}

impl Extensions {
    /// Takes over what matters here of a PAX header's records: `length key=value\n`.
    fn pax(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let bad = || broken("a PAX header makes no sense");
            let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            let length = rest.get(..digits).and_then(|d| std::str::from_utf8(d).ok()?.parse::<usize>().ok());
            let length = length.filter(|n| *n > digits + 1 && *n <= rest.len()).ok_or_else(bad)?;
            let (record, after) = rest.split_at(length);
            rest = after;
            let record = record.get(digits..).and_then(|r| r.strip_prefix(b" ")).ok_or_else(bad)?;
            let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
            let at = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
            let (key, value) = (record.get(..at).unwrap_or(&[]), record.get(at + 1..).unwrap_or(&[]));
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                    self.size = Some(size.ok_or_else(bad)?);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(Error::invalid(
                        "an entry is a sparse file; write the archive without --sparse",
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn text(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes).ok()
}
