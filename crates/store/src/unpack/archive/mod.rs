//! The entries of a tar, whoever wrote it: what headers say is bounded, and of what can be said in several ways one thing is
//! made. What counts where they contradict each other is what Go's archive/tar says, which other engines use.
//!
//! ```text
//!   [PAX header | GNU long name]*  header  [sparse map]  data  padding        and so on; blocks of zeros end it
//! ```

mod header;
mod pax;
mod sparse;

use super::Attrs;
use super::content::Bytes;
use crate::chunks::Source;
use crate::error::{Context, Error, Result};
use header::{BLOCK, Header};
use pax::Pax;
pub(crate) use sparse::Extent;
use tar::EntryType;

/// The most bytes of one extended header, long name or map of a sparse file: as much as Go's archive/tar reads. All
/// attributes of a file fit, which are 64 KiB in most file systems.
pub(super) const MAX_EXTENSION: u64 = 1 << 20;

/// One entry.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: EntryType,
    pub(crate) path: Vec<u8>,
    /// Where a hard or symbolic link leads; empty if there is nothing.
    pub(crate) link: Vec<u8>,
    pub(crate) attrs: Attrs,
    /// A regular file's size, with its holes.
    pub(crate) size: u64,
    /// Where a sparse file has data; `None`: everywhere.
    pub(crate) map: Option<Vec<Extent>>,
    /// Major and minor number of a device.
    pub(crate) device: (u32, u32),
}

impl Entry {
    /// Whether it is a directory. Before POSIX, that was a file whose name ends in a slash.
    pub(crate) fn is_dir(&self) -> bool {
        self.kind.is_dir() || (self.kind.is_file() && self.path.ends_with(b"/"))
    }
}

/// A tar that is being read.
pub(crate) struct Archive<'r> {
    input: &'r mut dyn Source,
    /// Of the current entry's data, what has not been read, and what fills its last block.
    data: u64,
    padding: usize,
}

/// What precedes an entry and belongs to it.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<'r> Archive<'r> {
    pub(crate) fn new(input: &'r mut dyn Source) -> Self {
        Self { input, data: 0, padding: 0 }
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// [`Invalid`](crate::Kind::Invalid) if the archive is broken or ends in the middle.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        self.skip_data()?;
        let mut before = Extensions::default();
        let mut alone = true;
        loop {
            let Some(block) = self.header_block()? else {
                return if alone { Ok(None) } else { Err(cut("after an extended header")) };
            };
            let header = Header::parse(&block)?;
            alone = false;
            match header.kind {
                // It would be for all entries that follow; engines for containers have always passed it over.
                EntryType::XGlobalHeader => {
                    self.set_data(natural("size", header.size)?);
                    self.skip_data()?;
                    alone = before.is_empty();
                }
                EntryType::XHeader => before.pax = Some(Pax::parse(&self.extension(&header)?)?),
                EntryType::GNULongName => before.path = Some(self.long_text(&header)?),
                EntryType::GNULongLink => before.link = Some(self.long_text(&header)?),
                _ => return self.entry(header, &block, before).map(Some),
            }
        }
    }

    /// Reads on to the end of what is there: it belongs to the layer's digest.
    ///
    /// # Errors
    /// [`Invalid`](crate::Kind::Invalid) if that is anything but zeros, with which archives are filled up.
    pub(crate) fn finish(mut self) -> Result<()> {
        let mut buffer = [0; 16 * BLOCK];
        loop {
            match self.read_some(&mut buffer)? {
                0 => return Ok(()),
                n if buffer[..n].iter().all(|b| *b == 0) => {}
                // As with a single block of zeros: some programs would go on, and see another layer.
                _ => return Err(Error::invalid("broken tar archive: garbage follows its end")),
            }
        }
    }

    /// Data of the current entry; 0 at its end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let most = buffer.len().min(usize::try_from(self.data).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let n = self.read_some(&mut buffer[..most])?;
        if n == 0 {
            return Err(cut(&format!("{} bytes before the end of an entry's data", self.data)));
        }
        self.data -= n as u64;
        Ok(n)
    }

    /// Data of the current entry, as it lies in memory, at most so much; nothing at its end. What has been used of it is to
    /// be [`consumed`](Self::consume).
    pub(crate) fn data(&mut self, most: u64) -> Result<&[u8]> {
        let most = most.min(self.data);
        if most == 0 {
            return Ok(&[]);
        }
        while let Err(e) = self.input.fill_buf() {
            if e.kind() != std::io::ErrorKind::Interrupted {
                return Err(e).context(|| "read the archive".into());
            }
        }
        // It is filled: this time nothing is read.
        let there = self.input.fill_buf().context(|| "read the archive".into())?;
        if there.is_empty() {
            return Err(cut(&format!("{} bytes before the end of an entry's data", self.data)));
        }
        Ok(&there[..there.len().min(usize::try_from(most).unwrap_or(usize::MAX))])
    }

    /// What [`data`](Self::data) gave, to be kept: the buffer itself, or a copy where there is none.
    pub(super) fn keep(&mut self, n: usize) -> Result<Bytes> {
        if let Some((chunk, at)) = self.input.shared() {
            return Ok(Bytes::Shared(chunk, at..at + n));
        }
        Ok(Bytes::Own(self.data(n as u64)?.to_vec()))
    }

    /// So much of what [`data`](Self::data) gave is done with.
    pub(crate) fn consume(&mut self, n: usize) {
        self.input.consume(n);
        self.data -= n as u64;
    }

    fn entry(&mut self, header: Header, block: &[u8; BLOCK], before: Extensions) -> Result<Entry> {
        let pax = before.pax.unwrap_or_default();
        let path = before.path.or(pax.path).unwrap_or(header.path);
        let within = |e: Error| e.context(super::entry_name(pax.sparse.name.as_ref().unwrap_or(&path)));
        let attrs = Attrs {
            mode: header.mode,
            uid: id("uid", pax.uid.unwrap_or(header.uid)).map_err(within)?,
            gid: id("gid", pax.gid.unwrap_or(header.gid)).map_err(within)?,
            mtime: pax.mtime.unwrap_or((header.mtime, 0)),
            xattrs: pax.xattrs.into_iter().collect(),
        };
        let size = match pax.size {
            Some(size) => size,
            None => natural("size", header.size).map_err(within)?,
        };
        let size = if has_data(header.kind) { size } else { 0 };
        self.set_data(size);
        let link = before.link.or(pax.link).unwrap_or(header.link);
        let (kind, device) = (header.kind, header.device);
        let mut entry = Entry { kind, path, link, attrs, size, map: None, device };
        self.sparse(&mut entry, block, pax.sparse).map_err(|e| e.context(super::entry_name(&entry.path)))?;
        Ok(entry)
    }

    /// Finds out where data is, if it is not everywhere.
    fn sparse(&mut self, entry: &mut Entry, block: &[u8; BLOCK], pax: pax::Sparse) -> Result<()> {
        if entry.kind == EntryType::GNUSparse {
            // The map is not a part of the data here.
            let (size, map) = sparse::old_gnu(block, MAX_EXTENSION / BLOCK as u64, || self.block())?;
            (entry.size, entry.map) = (size, Some(map));
        } else {
            let in_front = match (pax.major, pax.minor) {
                (Some(1), Some(0)) => true,
                (Some(0), Some(0 | 1)) => false,
                (None, None) if pax.map.is_some() => false,
                (None, None) => return Ok(()),
                (major, minor) => {
                    let [major, minor] =
                        [major, minor].map(|n| n.map_or_else(|| "?".into(), |n| n.to_string()));
                    return Err(Error::invalid(format!(
                        "sparse files of format {major}.{minor} are not supported, only of 0.0, 0.1 and 1.0"
                    )));
                }
            };
            if let Some(name) = pax.name {
                entry.path = name;
            }
            if !matches!(entry.kind, EntryType::Regular | EntryType::Continuous) {
                return Err(Error::invalid("only a regular file can be sparse"));
            }
            entry.size = pax.size.ok_or_else(|| Error::invalid("a sparse file without a size"))?;
            entry.map = Some(if in_front { self.map_in_front()? } else { pax.map.unwrap_or_default() });
        }
        sparse::check(entry.map.as_deref().unwrap_or_default(), entry.size, self.data)
    }

    fn map_in_front(&mut self) -> Result<Vec<Extent>> {
        sparse::in_front(MAX_EXTENSION, || {
            if self.data < BLOCK as u64 {
                return Err(Error::invalid("its map of a sparse file is longer than its data"));
            }
            self.data -= BLOCK as u64;
            self.block()
        })
    }

    /// The body of a header that says more about the next entry.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = natural("size", header.size)?;
        if size > MAX_EXTENSION {
            return Err(too_long(MAX_EXTENSION).context(super::entry_name(&header.path)));
        }
        self.set_data(size);
        let mut body = vec![0; usize::try_from(size).unwrap_or(0)];
        let mut at = 0;
        while at < body.len() {
            at += self.read(&mut body[at..])?;
        }
        self.skip_data()?;
        Ok(body)
    }

    fn long_text(&mut self, header: &Header) -> Result<Vec<u8>> {
        Ok(header::text(&self.extension(header)?).to_vec())
    }

    fn set_data(&mut self, size: u64) {
        self.data = size;
        self.padding = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0);
    }

    fn skip_data(&mut self) -> Result<()> {
        if self.data > 0 {
            let mut buffer = [0; 16 * BLOCK];
            while self.data > 0 {
                self.read(&mut buffer)?;
            }
        }
        // Archives that are not filled up at their end are read by everybody.
        let padding = std::mem::take(&mut self.padding);
        self.fill(&mut [0; BLOCK][..padding])?;
        Ok(())
    }

    /// A header; `None` at the end, which two blocks of zeros mark, or the input's.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        for zeros in 0..2 {
            let mut block = [0; BLOCK];
            match self.fill(&mut block)? {
                0 => return Ok(None),
                BLOCK => {}
                _ => return Err(cut("within a header")),
            }
            if block.iter().any(|b| *b != 0) {
                return if zeros == 0 {
                    Ok(Some(block))
                } else {
                    // Some programs would end here, others go on: they would see different layers.
                    Err(Error::invalid("broken tar archive: a block of zeros among the entries"))
                };
            }
        }
        Ok(None)
    }

    fn block(&mut self) -> Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        match self.fill(&mut block)? {
            BLOCK => Ok(block),
            _ => Err(cut("within a map of a sparse file")),
        }
    }

    fn fill(&mut self, block: &mut [u8]) -> Result<usize> {
        let mut at = 0;
        while at < block.len() {
            match self.read_some(&mut block[at..])? {
                0 => break,
                n => at += n,
            }
        }
        Ok(at)
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.input.read(buffer) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                done => return done.context(|| "read the archive".into()),
            }
        }
    }
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.path.is_none() && self.link.is_none()
    }
}

/// Whether data follows: of links, directories and devices the size says something else, or nothing (pax(1)).
fn has_data(kind: EntryType) -> bool {
    use EntryType as T;
    !matches!(kind, T::Link | T::Symlink | T::Char | T::Block | T::Directory | T::Fifo)
}

fn natural(what: &str, number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| Error::invalid(format!("{what} {number} is negative")))
}

/// The highest one means "leave it" to chown(2).
fn id(what: &str, number: i64) -> Result<u32> {
    let id = u32::try_from(number).ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| Error::invalid(format!("{what} {number} does not lie between 0 and {}", u32::MAX - 1)))
}

fn cut(place: &str) -> Error {
    Error::invalid(format!("broken tar archive: it ends {place}"))
}

fn too_long(max: u64) -> Error {
    Error::limit(format!("its extended header or map of a sparse file has more than {max} bytes"))
}
