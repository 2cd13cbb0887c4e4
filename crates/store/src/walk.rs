//! Walking a tree that somebody else may be changing: by descriptors, one name at a time, no symlink followed.

use crate::error::{Context, Error, Result};
use crate::escape::escape;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use strata_sys::path::fd_path;

/// Deeper trees are refused: a descriptor is open for each level.
const MAX_DEPTH: usize = 512;

/// What the walk has come to.
pub(crate) struct Item<'a> {
    /// From the root, without a slash at either end.
    pub(crate) path: &'a [u8],
    /// The directory it is in.
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) name: &'a [u8],
    pub(crate) stat: Stat,
}

impl Item<'_> {
    pub(crate) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Whether it is what overlayfs hides a lower name with.
    pub(crate) fn is_whiteout(&self) -> bool {
        is_whiteout(&self.stat)
    }

    /// For calls that take only paths.
    pub(crate) fn proc_path(&self) -> PathBuf {
        fd_path(self.dir).join(OsStr::from_bytes(self.name))
    }

    pub(crate) fn mtime(&self) -> (i64, u32) {
        (self.stat.st_mtime, u32::try_from(self.stat.st_mtime_nsec).unwrap_or(0))
    }
}

/// Whether it is what overlayfs hides a lower name with.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Visits everything below `root`, a directory before what is in it, names in order of their bytes. The visitor says
/// whether to go into a directory.
pub(crate) fn walk(root: impl AsFd, visit: &mut dyn FnMut(&Item<'_>) -> Result<bool>) -> Result<()> {
    let root = open_dir(root.as_fd(), b".")?;
    walk_dir(&root, &mut Vec::new(), 0, visit)
}

fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
        .map_err(std::io::Error::from)
        .context(|| format!("open directory {:?}", escape(name)))
}

/// What is at a name; a symlink is not followed.
pub(crate) fn stat_at(dir: impl AsFd, name: &[u8]) -> std::io::Result<Stat> {
    Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The names in a directory, sorted.
pub(crate) fn names(dir: impl AsFd) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir).map_err(std::io::Error::from)? {
        let entry = entry.map_err(std::io::Error::from)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn walk_dir(
    dir: &OwnedFd,
    path: &mut Vec<u8>,
    depth: usize,
    visit: &mut dyn FnMut(&Item<'_>) -> Result<bool>,
) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::invalid(format!(
            "{:?}… is nested more than {MAX_DEPTH} deep",
            escape(&path[..80])
        )));
    }
    for name in names(dir)? {
        let stat = match rustix::fs::statat(dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // It went while we looked.
            Err(rustix::io::Errno::NOENT) => continue,
            Err(e) => return Err(std::io::Error::from(e)).context(|| format!("stat {:?}", escape(&name))),
        };
        let end = path.len();
        if end > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        let item = Item { path, dir: dir.as_fd(), name: &name, stat };
        let is_dir = item.file_type() == FileType::Directory;
        if visit(&item)? && is_dir {
            match open_dir(dir.as_fd(), &name) {
                Ok(below) => walk_dir(&below, path, depth + 1, visit)?,
                // It went, or became something else, while we looked.
                Err(e) if matches!(e.errno(), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {}
                Err(e) => return Err(e),
            }
        }
        path.truncate(end);
    }
    Ok(())
}
