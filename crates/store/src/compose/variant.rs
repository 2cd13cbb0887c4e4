//! A layer's copy, mended for one place in one stack.

use super::View;
use crate::copy;
use crate::error::{Context, Error, Result};
use crate::escape::escape;
use crate::record::LayerRecord;
use crate::trash::Scratch;
use crate::unpack::times;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use strata_sys::path::{Root, fd_path};

/// Copies a layer's files into `scratch/fs` and mends them against what is below.
pub(super) fn build(
    base: &Path,
    scratch: &Scratch,
    record: &LayerRecord,
    below: &View,
) -> Result<LayerRecord> {
    scratch.make_dir()?;
    let fs = scratch.path().join("fs");
    strata_sys::durable::mkdir_all(&fs, 0o755)?;
    copy::tree(base, &fs)?;
    let mut mend = Mend { root: Root::open(&fs)?, below, moved: Vec::new(), times: BTreeMap::new() };
    for path in &record.unlisted {
        mend.unlisted(path).map_err(|e| e.context(format!("directory {:?}", escape(path))))?;
    }
    for pair in record.links.chunks_exact(2) {
        mend.link(&pair[0], &pair[1]).map_err(|e| e.context(format!("hard link {:?}", escape(&pair[0]))))?;
    }
    for path in &record.whiteouts {
        mend.whiteout(path).map_err(|e| e.context(format!("whiteout {:?}", escape(path))))?;
    }
    mend.restore_times()?;
    copy::describe(&fs, &scratch.path().join("entries"), record)
}

struct Mend<'a> {
    root: Root,
    below: &'a View,
    /// Directories that turned out to be symlinks below: from, to.
    moved: Vec<(Vec<u8>, Vec<u8>)>,
    /// Modification times of directories that were changed, as they must be in the end.
    times: BTreeMap<Vec<u8>, (i64, u32)>,
}

impl Mend<'_> {
    /// Where a path of the layer is now.
    fn now_at(&self, path: &[u8]) -> Vec<u8> {
        let mut path = path.to_vec();
        for (from, to) in &self.moved {
            if path == *from {
                path.clone_from(to);
            } else if let Some(rest) = path.strip_prefix([from, &b"/"[..]].concat().as_slice()) {
                path = join(to, rest);
            }
        }
        path
    }

    fn unlisted(&mut self, original: &[u8]) -> Result<()> {
        let path = self.now_at(original);
        let Some(stat) = self.below.lookup(&path)? else { return Ok(()) };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.copy_attributes(&path, &stat),
            FileType::Symlink => match self.leads_to(&path)? {
                Some(target) => self.move_into(&path, &target),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// The directory that a symlink below leads to, without symlinks.
    fn leads_to(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.below.root().resolve(OsStr::from_bytes(path), OFlags::PATH | OFlags::DIRECTORY) {
            // The kernel knows the way from the root of the view, which is that of its mount.
            Ok(fd) => {
                let link = rustix::fs::readlink(fd_path(&fd), Vec::new()).map_err(std::io::Error::from)?;
                Ok(Some(link.to_bytes().strip_prefix(b"/").unwrap_or_default().to_vec()))
            }
            Err(e) if matches!(e.errno, rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn move_into(&mut self, from: &[u8], to: &[u8]) -> Result<()> {
        self.ensure_dir(to)?;
        self.touch(to)?;
        self.touch(parent_of(from))?;
        let source = self.open_dir(from)?;
        for name in crate::walk::names(&source)? {
            let (old, new) = (join(from, &name), join(to, &name));
            let both_dirs = self.is_dir(&old)? && self.is_dir(&new)?;
            if both_dirs {
                self.move_into(&old, &new)?;
                continue;
            }
            let target = self.open_dir(to)?;
            crate::trash::remove_tree(&fd_path(&target).join(OsStr::from_bytes(&name)))?;
            rustix::fs::renameat(&source, name.as_slice(), &target, name.as_slice())
                .map_err(std::io::Error::from)?;
        }
        let (parent, name) = self.root.parent(Path::new(OsStr::from_bytes(from)))?;
        strata_sys::path::remove_at(parent, name, true)?;
        self.times.remove(from);
        self.moved.push((from.to_vec(), to.to_vec()));
        Ok(())
    }

    /// A hard link to a file below: that file comes up with all its names, and one more.
    fn link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let (path, target) = (self.now_at(path), self.now_at(target));
        if !self.exists(&target)? {
            let stat = self
                .below
                .lookup(&target)?
                .filter(|s| FileType::from_raw_mode(s.st_mode) != FileType::Directory);
            let Some(stat) = stat else {
                return Err(Error::invalid(format!("its target {:?} is in no layer", escape(&target))));
            };
            self.bring_up(&target, &stat)?;
        }
        self.ensure_dir(parent_of(&path))?;
        self.touch(parent_of(&path))?;
        self.hard_link(&target, &path)
    }

    fn bring_up(&mut self, target: &[u8], stat: &Stat) -> Result<()> {
        let names = if stat.st_nlink > 1 { self.names_of(stat)? } else { vec![target.to_vec()] };
        self.ensure_dir(parent_of(target))?;
        self.touch(parent_of(target))?;
        let from = self.below.root().resolve(OsStr::from_bytes(parent_of(target)), OFlags::PATH)?;
        let to = self.open_dir(parent_of(target))?;
        let name = name_of(target);
        copy::one(&from, &to, name, stat)?;
        for other in names.iter().filter(|n| n.as_slice() != target) {
            self.ensure_dir(parent_of(other))?;
            self.touch(parent_of(other))?;
            if !self.exists(other)? {
                self.hard_link(target, other)?;
            }
        }
        Ok(())
    }

    fn names_of(&self, stat: &Stat) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        crate::walk::walk(self.below.root(), &mut |item| {
            if (item.stat.st_ino, item.stat.st_dev) == (stat.st_ino, stat.st_dev) {
                names.push(item.path.to_vec());
            }
            Ok(true)
        })?;
        Ok(names)
    }

    fn hard_link(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let (from_dir, to_dir) = (self.open_dir(parent_of(from))?, self.open_dir(parent_of(to))?);
        Ok(rustix::fs::linkat(&from_dir, name_of(from), &to_dir, name_of(to), AtFlags::empty())
            .map_err(std::io::Error::from)?)
    }

    /// A whiteout of a name that nothing below has would be seen by readdir.
    fn whiteout(&mut self, original: &[u8]) -> Result<()> {
        let path = self.now_at(original);
        if self.below.lookup(&path)?.is_some() {
            return Ok(());
        }
        self.touch(parent_of(&path))?;
        let dir = self.open_dir(parent_of(&path))?;
        Ok(strata_sys::path::remove_at(dir, OsStr::from_bytes(name_of(&path)), false)?)
    }

    /// Makes a directory of the layer, and those above it, with the attributes that they have below.
    fn ensure_dir(&mut self, path: &[u8]) -> Result<()> {
        if path.is_empty() || self.is_dir(path)? {
            return Ok(());
        }
        self.ensure_dir(parent_of(path))?;
        self.touch(parent_of(path))?;
        let dir = self.open_dir(parent_of(path))?;
        rustix::fs::mkdirat(&dir, name_of(path), Mode::from_raw_mode(0o755)).map_err(std::io::Error::from)?;
        match self.below.lookup(path)? {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                self.copy_attributes(path, &stat)
            }
            _ => Ok(()),
        }
    }

    fn copy_attributes(&mut self, path: &[u8], stat: &Stat) -> Result<()> {
        let from = self.below.root().resolve(OsStr::from_bytes(path), OFlags::PATH)?;
        let to = self.open_dir(path)?;
        copy::attributes(&fd_path(&from), &fd_path(&to), stat)?;
        self.times.insert(path.to_vec(), (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)));
        Ok(())
    }

    /// Remembers a directory's time before something in it changes.
    fn touch(&mut self, path: &[u8]) -> Result<()> {
        if !self.times.contains_key(path) {
            let stat = rustix::fs::statat(self.open_dir(path)?, c"", AtFlags::EMPTY_PATH)
                .map_err(std::io::Error::from)?;
            self.times.insert(path.to_vec(), (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)));
        }
        Ok(())
    }

    fn restore_times(&self) -> Result<()> {
        for (path, time) in self.times.iter().rev() {
            match self.root.resolve(OsStr::from_bytes(path), OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(fd) => rustix::fs::futimens(fd, &times(*time)).map_err(std::io::Error::from)?,
                Err(e) if e.errno == rustix::io::Errno::NOENT => {}
                Err(e) => return Err(e).context(|| format!("directory {:?}", escape(path))),
            }
        }
        Ok(())
    }

    fn open_dir(&self, path: &[u8]) -> Result<OwnedFd> {
        Ok(self
            .root
            .resolve(OsStr::from_bytes(path), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)?)
    }

    fn exists(&self, path: &[u8]) -> Result<bool> {
        match self.root.resolve(OsStr::from_bytes(path), OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(e) if matches!(e.errno, rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn is_dir(&self, path: &[u8]) -> Result<bool> {
        match self.root.resolve(OsStr::from_bytes(path), OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW)
        {
            Ok(_) => Ok(true),
            Err(e) if matches!(e.errno, rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(b"", |i| &path[..i])
}

fn name_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(path, |i| &path[i + 1..])
}
