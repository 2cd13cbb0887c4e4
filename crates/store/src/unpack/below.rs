//! What lies below a layer, as its tar is unpacked once more for one place in one stack.
//!
//! Whiteouts come first, wherever they stand in the archive: they concern lower layers only (OCI image spec, layer.md).
//! What they hide is not there for any other entry.

use super::markers::{self, Marker};
use super::tree::{self, join};
use crate::compose::View;
use crate::error::{Error, Result};
use crate::record::LayerRecord;
use crate::xattr;
use rustix::fs::{FileType, OFlags, Stat};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use strata_sys::path::{Root, fd_path};

/// As the kernel does it (path_resolution(7)).
const MAX_SYMLINKS: usize = 40;

/// A file's device and inode.
pub(super) type FileId = (u64, u64);

/// What a path of a lower layer is to one who walks through it.
pub(super) enum Found {
    Nothing,
    Dir,
    Symlink(Vec<u8>),
    Other,
}

/// A view of the layers below, less what this layer hides.
pub(crate) struct Below<'a> {
    view: &'a View,
    /// The layer as it was unpacked with nothing below it.
    alone: Root,
    unlisted: HashSet<&'a [u8]>,
    /// Paths that whiteouts hide, with everything below them.
    hidden: BTreeSet<Vec<u8>>,
    /// Directories that are hidden but for themselves.
    opaque: BTreeSet<Vec<u8>>,
    /// A directory beside the layer's, for files that are brought up.
    pub(super) side: OwnedFd,
}

impl<'a> Below<'a> {
    /// `record` and `alone` are of the layer as it was unpacked with nothing below it; `side` is an empty directory.
    ///
    /// # Errors
    /// If the layers below cannot be read.
    pub(crate) fn new(view: &'a View, record: &'a LayerRecord, alone: Root, side: OwnedFd) -> Result<Self> {
        let unlisted = record.unlisted.iter().map(Vec::as_slice).collect();
        let (hidden, opaque) = (BTreeSet::new(), BTreeSet::new());
        let mut below = Self { view, alone, unlisted, hidden, opaque, side };
        let (mut hidden, mut opaque) = (BTreeSet::new(), BTreeSet::new());
        for marker in markers::parse(&record.markers) {
            let Some(dir) = below.directory_of(&marker)? else { continue };
            match marker.name {
                None => {
                    opaque.insert(dir);
                }
                Some(name) => {
                    let path = join(&dir, &name);
                    // Of nothing it would be seen by readdir where only this layer has the directory.
                    if view.lookup(&path)?.is_some() {
                        hidden.insert(path);
                    }
                }
            }
        }
        (below.hidden, below.opaque) = (hidden, opaque);
        Ok(below)
    }

    /// The directory below that a marker is about, if there is one.
    fn directory_of(&self, marker: &Marker) -> Result<Option<Vec<u8>>> {
        let mut todo: VecDeque<Vec<u8>> = marker.dir.iter().cloned().collect();
        let (mut here, mut links) = (Vec::new(), 0);
        while let Some(part) = todo.pop_front() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    here.truncate(tree::parent_of(&here).len());
                    continue;
                }
                _ => {}
            }
            let next = join(&here, &part);
            // What the layer itself lists is what the marker stands in.
            let found = match self.listed(&next)? {
                Found::Nothing => Self::kind(self.view, &next)?,
                own => own,
            };
            match found {
                Found::Dir => here = next,
                Found::Symlink(target) if links < MAX_SYMLINKS => {
                    links += 1;
                    if target.starts_with(b"/") {
                        here.clear();
                    }
                    target.split(|b| *b == b'/').rev().for_each(|part| todo.push_front(part.to_vec()));
                }
                _ => return Ok(None),
            }
        }
        let below = self.view.lookup(&here)?;
        Ok(below.filter(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory).map(|_| here))
    }

    /// What the layer lists at a path.
    fn listed(&self, path: &[u8]) -> Result<Found> {
        match crate::compose::lookup(&self.alone, path)? {
            Some(s) if FileType::from_raw_mode(s.st_mode) == FileType::Directory => {
                Ok(if self.unlisted.contains(path) { Found::Nothing } else { Found::Dir })
            }
            Some(s) if FileType::from_raw_mode(s.st_mode) == FileType::Symlink => {
                Ok(Found::Symlink(readlink(&self.alone, path)?))
            }
            Some(s) if crate::walk::is_whiteout(&s) => Ok(Found::Nothing),
            Some(_) => Ok(Found::Other),
            None => Ok(Found::Nothing),
        }
    }

    fn kind(view: &View, path: &[u8]) -> Result<Found> {
        Ok(match view.lookup(path)?.map(|s| FileType::from_raw_mode(s.st_mode)) {
            None => Found::Nothing,
            Some(FileType::Directory) => Found::Dir,
            Some(FileType::Symlink) => Found::Symlink(readlink(view.root(), path)?),
            Some(_) => Found::Other,
        })
    }

    /// Whether this layer hides what is at a path below.
    pub(super) fn hides(&self, path: &[u8]) -> bool {
        self.hidden.contains(path)
            || self.opaque.contains(&b""[..])
            || tree::prefix_ends(path).into_iter().any(|end| {
                self.hidden.contains(&path[..end]) || (end < path.len() && self.opaque.contains(&path[..end]))
            })
    }

    /// Hides what a directory has below: something else was at its place before.
    pub(super) fn renew(&mut self, path: &[u8]) {
        self.opaque.insert(path.to_vec());
    }

    /// What is at a path; symlinks on the way lead nowhere.
    pub(super) fn lookup(&self, path: &[u8]) -> Result<Option<Stat>> {
        if self.hides(path) { Ok(None) } else { self.view.lookup(path) }
    }

    pub(super) fn find(&self, path: &[u8]) -> Result<Found> {
        if self.hides(path) { Ok(Found::Nothing) } else { Self::kind(self.view, path) }
    }

    /// Attributes and extended attributes of a directory below, if there is one.
    pub(super) fn dir_attrs(&self, path: &[u8]) -> Result<Option<super::Attrs>> {
        let stat = self.lookup(path)?;
        let Some(stat) = stat.filter(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory) else {
            return Ok(None);
        };
        let fd = self.view.root().resolve(OsStr::from_bytes(path), OFlags::PATH | OFlags::NOFOLLOW)?;
        Ok(Some(super::Attrs {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            xattrs: xattr::list_followed(&fd_path(&fd))?,
        }))
    }

    /// The directory that holds a path, which must be there.
    pub(super) fn parent(&self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        Ok(self.view.root().resolve(OsStr::from_bytes(tree::parent_of(path)), flags)?)
    }

    /// All names of some files below that can be seen.
    pub(super) fn names_of(&self, files: &HashSet<FileId>) -> Result<HashMap<FileId, Vec<Vec<u8>>>> {
        let mut names: HashMap<_, Vec<Vec<u8>>> = HashMap::new();
        if files.is_empty() {
            return Ok(names);
        }
        crate::walk::walk(self.view.root(), &mut |item| {
            if self.hides(item.path) {
                return Ok(false);
            }
            let id = (item.stat.st_dev, item.stat.st_ino);
            if files.contains(&id) {
                names.entry(id).or_default().push(item.path.to_vec());
            }
            Ok(true)
        })?;
        Ok(names)
    }

    pub(super) fn hidden(&self) -> &BTreeSet<Vec<u8>> {
        &self.hidden
    }

    pub(super) fn opaque(&self) -> &BTreeSet<Vec<u8>> {
        &self.opaque
    }
}

fn readlink(root: &Root, path: &[u8]) -> Result<Vec<u8>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let fd = root.resolve(OsStr::from_bytes(path), flags)?;
    let target = rustix::fs::readlinkat(fd, c"", Vec::new()).map_err(std::io::Error::from);
    Ok(target.map_err(Error::from)?.into_bytes())
}
