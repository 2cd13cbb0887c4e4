//! A layer's tar becomes a directory.
//!
//! ```text
//!   entry ─▶ its parent, through symlinks of this layer ─▶ openat2 beneath the layer's root ─▶ *at() by one name
//! ```
//!
//! The layer is unpacked as if nothing lay below it, and what depends on that is recorded ([`LayerRecord`]). Where an image
//! is composed in which it matters, the same tar is unpacked once more, with a look at what is below ([`Below`]). Nobody
//! else writes to the directory, so the tree in memory is what is on disk.

mod attrs;
mod below;
mod late;
mod links;
mod markers;
mod tree;

use crate::entries::{EntryMeta, Kind as EntryKind};
use crate::error::{Context, Error, Result};
use crate::escape::escape;
use crate::record::{FORMAT, LayerRecord, RootAttrs};
use crate::xattr;
pub(crate) use attrs::{Attrs, times};
pub(crate) use below::Below;
use rustix::fs::{FileType, Mode, OFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;
use strata_oci::Digest;
use strata_oci::whiteout::{self, Entry};
use strata_sys::path::{Root, fd_path, remove_at};
use tree::{Node, Tree, name_of, parent_of};

/// How much of a file is moved at a time.
const BUFFER: usize = 256 << 10;

/// More entries than any image has: a hostile one stops here.
const MAX_ENTRIES: u64 = 10_000_000;

/// A layer that was unpacked.
pub(crate) struct Unpacked {
    pub(crate) record: LayerRecord,
    pub(crate) entries: Vec<(Vec<u8>, EntryMeta)>,
}

/// Unpacks a tar into an empty directory; for one place in one stack, with what is below it.
///
/// # Errors
/// [`Invalid`](crate::Kind::Invalid), naming the entry, if the archive is broken or hostile.
pub(crate) fn unpack(
    root: OwnedFd,
    tar: &mut dyn Read,
    diff_id: &Digest,
    below: Option<Below<'_>>,
) -> Result<Unpacked> {
    let mut unpacker = Unpacker {
        root: Root::from_fd(root),
        tree: Tree::default(),
        below,
        dir: None,
        markers: BTreeSet::new(),
        renewed: BTreeSet::new(),
        links: BTreeMap::new(),
        brought_up: Vec::new(),
        late: BTreeMap::new(),
        root_attrs: None,
        buffer: vec![0; BUFFER],
        count: 0,
    };
    let mut archive = tar::Archive::new(tar);
    let broken = |e: std::io::Error| Error::from(e).context("broken tar archive");
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path_bytes().into_owned();
        unpacker.entry(&mut entry, &path).map_err(|e| e.context(format!("entry {:?}", escape(&path))))?;
    }
    // What follows the end marker belongs to the digest; it is read so that the digest can be known.
    let rest = archive.into_inner();
    std::io::copy(rest, &mut std::io::sink()).context(|| "read the archive's end".into())?;
    unpacker.finish(diff_id)
}

struct Unpacker<'b> {
    root: Root,
    tree: Tree,
    below: Option<Below<'b>>,
    /// The directory of the last entry: the next one is usually in it too.
    dir: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Whiteouts as they are archived.
    markers: BTreeSet<Vec<u8>>,
    /// Directories in whose place the layer had something else before: what is below them is hidden.
    renewed: BTreeSet<Vec<u8>>,
    /// Hard links to what this layer has not got, as far as it has come.
    links: BTreeMap<Vec<u8>, Vec<u8>>,
    brought_up: Vec<links::BroughtUp>,
    late: BTreeMap<Vec<u8>, late::Late>,
    root_attrs: Option<RootAttrs>,
    buffer: Vec<u8>,
    count: u64,
}

type TarEntry<'a, 'r> = tar::Entry<'a, &'r mut dyn Read>;

impl Unpacker<'_> {
    fn entry(&mut self, entry: &mut TarEntry<'_, '_>, path: &[u8]) -> Result<()> {
        self.count += 1;
        if self.count > MAX_ENTRIES {
            return Err(Error::invalid(format!("more than {MAX_ENTRIES} entries")));
        }
        let parts = tree::clean(path)?;
        let attrs = Attrs::of(entry)?;
        let Some((name, parents)) = parts.split_last() else {
            return self.root_entry(entry, &attrs);
        };
        match whiteout::classify(name) {
            Entry::Plain(name) => {
                let parent = self.tree.resolve(parents, self.below.as_ref())?;
                self.ensure_dir(&parent)?;
                self.place(entry, &parent, name, &attrs)
            }
            Entry::Whiteout(_) | Entry::Opaque => {
                self.markers.insert(parts.join(&b'/'));
                Ok(())
            }
            Entry::Ignored => Ok(()),
            Entry::Invalid => Err(Error::invalid("a whiteout of no name")),
        }
    }

    fn root_entry(&mut self, entry: &TarEntry<'_, '_>, attrs: &Attrs) -> Result<()> {
        if !entry.header().entry_type().is_dir() {
            return Err(Error::invalid("the root must be a directory"));
        }
        self.root_attrs = Some(attrs.for_root());
        Ok(())
    }

    fn place(
        &mut self,
        entry: &mut TarEntry<'_, '_>,
        parent: &[u8],
        name: &[u8],
        attrs: &Attrs,
    ) -> Result<()> {
        let path = tree::join(parent, name);
        let kind = entry.header().entry_type();
        // Before POSIX, a directory was a file whose name ends in a slash.
        let is_dir = kind.is_dir() || (kind.is_file() && entry.path_bytes().ends_with(b"/"));
        if is_dir {
            return self.directory(&path, name, attrs);
        }
        use tar::EntryType as T;
        if matches!(kind, T::XGlobalHeader) {
            return Ok(());
        }
        if kind.is_hard_link() {
            return self.hard_link(entry, &path, name);
        }
        self.clear(&path, name)?;
        let dir = self.parent_fd(&path)?;
        let meta = match kind {
            T::Regular | T::Continuous | T::GNUSparse => {
                let (file, meta) = write_file(entry, &dir, name, &mut self.buffer)?;
                attrs.apply_file(&file, &dir, name)?;
                meta
            }
            T::Symlink => {
                let target =
                    entry.link_name_bytes().ok_or_else(|| Error::invalid("a symlink without a target"))?;
                rustix::fs::symlinkat(OsStr::from_bytes(&target), &dir, name)
                    .map_err(std::io::Error::from)?;
                attrs.apply_node(&dir, name, true)?;
                self.tree.insert(path.clone(), Node::Symlink(target.to_vec()));
                EntryMeta::link(&target)
            }
            T::Char | T::Block | T::Fifo => {
                let (major, minor) = make_node(entry, &dir, name, kind)?;
                attrs.apply_node(&dir, name, false)?;
                EntryMeta::of_kind(match kind {
                    T::Char => EntryKind::Char,
                    T::Block => EntryKind::Block,
                    _ => EntryKind::Fifo,
                })
                .with_device(major, minor)
            }
            other => {
                return Err(Error::invalid(format!(
                    "entry type {:?} is not supported",
                    char::from(other.as_byte())
                )));
            }
        };
        let meta = meta.with(attrs);
        match self.tree.get_mut(&path) {
            Some((_, stored)) => *stored = meta,
            None => self.tree.insert_with(path, Node::File, meta),
        }
        Ok(())
    }

    fn directory(&mut self, path: &[u8], name: &[u8], attrs: &Attrs) -> Result<()> {
        let linked = self.links.contains_key(path);
        match self.tree.get(path) {
            // The attributes that it had are replaced, all of them (OCI image spec, layer.md "Changeset over existing files").
            Some(Node::Dir { .. }) => {
                let dir = self.parent_fd(path)?;
                xattr::clear(&fd_path(&dir).join(OsStr::from_bytes(name)))?;
            }
            other => {
                if other.is_some() || linked {
                    self.renew(path);
                }
                self.clear(path, name)?;
                let dir = self.parent_fd(path)?;
                rustix::fs::mkdirat(&dir, name, Mode::RWXU).map_err(std::io::Error::from)?;
            }
        }
        self.apply_dir(path, attrs)?;
        let meta = EntryMeta::of_kind(EntryKind::Dir).with(attrs);
        self.tree.insert_with(path.to_vec(), Node::Dir { listed: true }, meta);
        Ok(())
    }

    /// What was here before has removed what is below, which must not come back with the directory.
    fn renew(&mut self, path: &[u8]) {
        self.renewed.insert(path.to_vec());
        if let Some(below) = &mut self.below {
            below.renew(path);
        }
    }

    /// Removes what an earlier entry put at a path: the last one counts.
    fn clear(&mut self, path: &[u8], name: &[u8]) -> Result<()> {
        self.links.remove(path);
        match self.tree.get(path) {
            None => return Ok(()),
            Some(Node::Dir { .. }) => {
                self.dir = None;
                let dir = self.parent_fd(path)?;
                std::fs::remove_dir_all(fd_path(&dir).join(OsStr::from_bytes(name)))?;
            }
            Some(_) => remove_at(self.parent_fd(path)?, OsStr::from_bytes(name), false)?,
        }
        self.tree.remove(path);
        Ok(())
    }

    /// Makes the directories of a path that the layer has not listed (yet).
    fn ensure_dir(&mut self, path: &[u8]) -> Result<()> {
        for end in tree::prefix_ends(path) {
            let prefix = &path[..end];
            match self.tree.get(prefix) {
                Some(Node::Dir { .. }) => {}
                Some(_) => return Err(Error::invalid(format!("{:?} is no directory", escape(prefix)))),
                None => {
                    let dir = self.parent_fd(prefix)?;
                    rustix::fs::mkdirat(&dir, name_of(prefix), Mode::RWXU).map_err(std::io::Error::from)?;
                    let there = self.below.as_ref().map(|b| b.dir_attrs(prefix)).transpose()?.flatten();
                    let attrs = there.unwrap_or_else(Attrs::unlisted);
                    self.apply_dir(prefix, &attrs)?;
                    let meta = EntryMeta::of_kind(EntryKind::Dir).with(&attrs);
                    self.tree.insert_with(prefix.to_vec(), Node::Dir { listed: false }, meta);
                }
            }
        }
        Ok(())
    }

    fn parent_fd(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>> {
        let parent = parent_of(path);
        if let Some((open, fd)) = &self.dir
            && open == parent
        {
            return Ok(fd.clone());
        }
        let fd = self.root.resolve(OsStr::from_bytes(parent), OFlags::PATH | OFlags::DIRECTORY)?;
        let fd = Rc::new(fd);
        self.dir = Some((parent.to_vec(), fd.clone()));
        Ok(fd)
    }

    fn finish(mut self, diff_id: &Digest) -> Result<Unpacked> {
        self.finish_links()?;
        let hiding = self.finish_markers()?;
        self.finish_late()?;
        self.tree.set_directory_times(&self.root)?;
        let sizes = self.tree.sizes();
        let mut record = LayerRecord {
            format: FORMAT,
            diff_id: diff_id.clone(),
            size: sizes.bytes,
            disk: sizes.disk,
            inodes: sizes.inodes + 1,
            root: self.root_attrs,
            root_opaque: hiding.root,
            unlisted: Vec::new(),
            hollow: Vec::new(),
            passed: Vec::new(),
            whiteouts: Vec::new(),
            opaque: Vec::new(),
            markers: Vec::new(),
            links: Vec::new(),
        };
        // For its own place, everything has been decided.
        if self.below.is_none() {
            record.unlisted = self.tree.unlisted();
            record.hollow = self.tree.hollow();
            record.passed = self.tree.passed();
            record.whiteouts = hiding.whiteouts;
            record.opaque = hiding.opaque;
            record.markers = self.markers.into_iter().collect();
            record.links = self.links.into_iter().flat_map(|(link, target)| [link, target]).collect();
        }
        Ok(Unpacked { record, entries: self.tree.into_entries() })
    }
}

fn write_file(
    entry: &mut TarEntry<'_, '_>,
    dir: impl AsFd,
    name: &[u8],
    buffer: &mut [u8],
) -> Result<(OwnedFd, EntryMeta)> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map_err(std::io::Error::from)?;
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    let (mut written, size) = (0_u64, entry.size());
    loop {
        let n = entry.read(buffer).context(|| "read".into())?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        let mut rest = &buffer[..n];
        while !rest.is_empty() {
            let n =
                rustix::io::retry_on_intr(|| rustix::io::write(&file, rest)).map_err(std::io::Error::from)?;
            rest = &rest[n..];
        }
        written += n as u64;
    }
    if written != size {
        return Err(Error::invalid(format!("the archive ends after {written} of {size} bytes")));
    }
    Ok((file, EntryMeta::file(written, hasher.digest())))
}

fn make_node(entry: &TarEntry<'_, '_>, dir: impl AsFd, name: &[u8], kind: tar::EntryType) -> Result<(u32, u32)> {
    let number = |n: std::io::Result<Option<u32>>| n.map(Option::unwrap_or_default);
    let (major, minor) = match kind {
        tar::EntryType::Fifo => (0, 0),
        _ => (number(entry.header().device_major())?, number(entry.header().device_minor())?),
    };
    let (file_type, device) = match kind {
        tar::EntryType::Fifo => (FileType::Fifo, 0),
        // overlayfs would take it for a whiteout.
        tar::EntryType::Char if (major, minor) == (0, 0) => {
            return Err(Error::invalid("a character device 0:0 would hide a file of a lower layer"));
        }
        tar::EntryType::Char => (FileType::CharacterDevice, rustix::fs::makedev(major, minor)),
        _ => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
    };
    rustix::fs::mknodat(dir, name, file_type, Mode::RUSR | Mode::WUSR, device)
        .map_err(std::io::Error::from)?;
    Ok((major, minor))
}
