//! Going through a tree of any depth, whoever made it, with few descriptors and no recursion.
//!
//! Programs in containers make directories nested tens of thousands deep. Of the directories between the root and here only
//! the lowest [`OPEN`] are open; the others are reached again by `..`, and only believed if they are the same ones.

use crate::error::{Context, Error, Result};
use crate::escape::escape;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How many directories are open at a time.
const OPEN: usize = 32;

/// What is done with a tree.
pub trait Visitor {
    /// A name in a directory. `kind` is what the directory says, which may be [`FileType::Unknown`]. Whether it is a
    /// directory to go into.
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &[u8], kind: FileType) -> Result<bool>;

    /// Everything in the directory `name` of `dir` has been visited.
    fn leave(&mut self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<()>;
}

struct Level {
    /// `None` while deeper levels need the descriptors.
    fd: Option<OwnedFd>,
    id: (u64, u64),
    name: Vec<u8>,
    /// Its directories that have not been visited.
    todo: Vec<Vec<u8>>,
}

/// Visits everything below `root`: the names of a directory, then what is in its directories. Symlinks are not followed, and
/// nothing is entered that another file system is mounted on. What goes away meanwhile is passed over.
///
/// # Errors
/// What the visitor says, or if a directory cannot be read or was moved while it was visited.
pub fn visit(root: impl AsFd, visitor: &mut impl Visitor) -> Result<()> {
    let root = openat(&root, ".", flags(), Mode::empty()).map_err(std::io::Error::from)?;
    let id = identity(&root, b"")?;
    let mut levels = vec![enter(root, id, Vec::new(), visitor)?];
    while let Some(mut level) = levels.pop() {
        let fd = match level.fd.take() {
            Some(fd) => fd,
            None => return Err(Error::damaged("a directory was closed while it was visited; this is a bug")),
        };
        if let Some(name) = level.todo.pop() {
            let below = openat(&fd, name.as_slice(), flags(), Mode::empty());
            level.fd = Some(fd);
            levels.push(level);
            match below {
                Ok(below) => {
                    let own = identity(&below, &name)?;
                    if own.0 == id.0 {
                        levels.push(enter(below, own, name, visitor)?);
                    }
                }
                // It went, or became something else.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(failed("open", &name, e)),
            }
            if let Some(far) = levels.len().checked_sub(OPEN + 1)
                && let Some(level) = levels.get_mut(far)
            {
                level.fd = None;
            }
            continue;
        }
        if let Some(parent) = levels.last_mut() {
            let up = match parent.fd.take() {
                Some(up) => up,
                None => reopen(&fd, parent.id, &level.name)?,
            };
            drop(fd);
            visitor.leave(up.as_fd(), &level.name)?;
            parent.fd = Some(up);
        }
    }
    Ok(())
}

fn flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn failed(what: &str, name: &[u8], e: Errno) -> Error {
    Error::from(std::io::Error::from(e)).context(format!("{what} {:?}", escape(name)))
}

/// The file system, and which file of it.
fn identity(fd: &OwnedFd, name: &[u8]) -> Result<(u64, u64)> {
    fstat(fd).map(|stat| (stat.st_dev, stat.st_ino)).map_err(|e| failed("stat", name, e))
}

fn enter(fd: OwnedFd, id: (u64, u64), name: Vec<u8>, visitor: &mut impl Visitor) -> Result<Level> {
    let mut todo = Vec::new();
    for entry in Dir::read_from(&fd).map_err(|e| failed("read directory", &name, e))? {
        let entry = entry.map_err(|e| failed("read directory", &name, e))?;
        let own = entry.file_name().to_bytes();
        if own != b"." && own != b".." && visitor.entry(fd.as_fd(), own, entry.file_type())? {
            todo.push(own.to_vec());
        }
    }
    Ok(Level { id, fd: Some(fd), name, todo })
}

/// The directory above, if it is still the one that we came from: a program that moves directories about must not lead us
/// out of its tree.
fn reopen(fd: &OwnedFd, id: (u64, u64), name: &[u8]) -> Result<OwnedFd> {
    let up = openat(fd, "..", flags(), Mode::empty()).map_err(|e| failed("open the parent of", name, e))?;
    if identity(&up, name)? != id {
        return Err(Error::damaged(format!("{:?} was moved while its tree was visited", escape(name))));
    }
    Ok(up)
}

/// What a name is, if the directory did not say.
///
/// # Errors
/// If it cannot be looked at.
pub fn kind_of(dir: BorrowedFd<'_>, name: &[u8], said: FileType) -> Result<FileType> {
    if said != FileType::Unknown {
        return Ok(said);
    }
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(std::io::Error::from);
    Ok(FileType::from_raw_mode(stat.context(|| format!("stat {:?}", escape(name)))?.st_mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    struct Names {
        seen: Vec<String>,
        left: usize,
        most: usize,
    }

    impl Visitor for Names {
        fn entry(&mut self, dir: BorrowedFd<'_>, name: &[u8], kind: FileType) -> Result<bool> {
            self.most = self.most.max(usize::try_from(dir.as_raw_fd()).unwrap());
            self.seen.push(String::from_utf8_lossy(name).into_owned());
            Ok(kind_of(dir, name, kind)? == FileType::Directory)
        }

        fn leave(&mut self, _: BorrowedFd<'_>, _: &[u8]) -> Result<()> {
            self.left += 1;
            Ok(())
        }
    }

    /// Deeper than a path can say, and than a process has descriptors.
    #[test]
    fn depth_costs_neither_descriptors_nor_stack() {
        const DEPTH: usize = 3000;
        let tmp = tempfile::tempdir().unwrap();
        let root = strata_sys::durable::open_dir(tmp.path()).unwrap();
        let mut here = root.try_clone().unwrap();
        for n in 0..DEPTH {
            rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
            if n % 1000 == 0 {
                drop(openat(&here, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap());
            }
            here = openat(&here, "d", flags(), Mode::empty()).unwrap();
        }
        std::os::unix::fs::symlink("..", tmp.path().join("link")).unwrap();
        let mut names = Names { seen: Vec::new(), left: 0, most: 0 };
        visit(&root, &mut names).unwrap();
        assert_eq!((names.seen.len(), names.left), (DEPTH + 3 + 1, DEPTH));
        assert!(names.most < 1000, "descriptor {}", names.most);
        crate::trash::remove_tree(tmp.path()).unwrap();
        assert!(!tmp.path().exists());
    }
}
