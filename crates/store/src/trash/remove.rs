//! Removing a tree, whatever is in it.

use crate::deep::{Visitor, kind_of, visit};
use crate::error::{Context, Error, Result};
use crate::escape::escape;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long is worked before a rest of the same length.
const SLICE: Duration = Duration::from_millis(5);
/// How often a directory into which something came meanwhile, or that hid a name from readdir, is looked at again.
const ROUNDS: usize = 3;

/// How fast is worked, and until when.
pub(super) struct Pace<'a> {
    stop: Option<&'a AtomicBool>,
    began: Instant,
}

impl<'a> Pace<'a> {
    /// Half of the time, until `stop`.
    pub(super) fn gentle(stop: &'a AtomicBool) -> Self {
        Self { stop: Some(stop), began: Instant::now() }
    }

    fn full() -> Self {
        Self { stop: None, began: Instant::now() }
    }

    /// Rests if it is time to; `false` to stop.
    fn goes_on(&mut self) -> bool {
        let Some(stop) = self.stop else { return true };
        if self.began.elapsed() >= SLICE {
            std::thread::sleep(SLICE);
            self.began = Instant::now();
        }
        !stop.load(Ordering::Acquire)
    }
}

/// How a removal ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Removed,
    Stopped,
}

/// Removes a file or a tree. Symlinks are removed, not followed, and the depth does not matter.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    remove(path, &mut Pace::full()).map(|_| ())
}

/// The same at a pace. What cannot be removed does not keep the rest; the first failure is told.
pub(super) fn remove(path: &Path, pace: &mut Pace<'_>) -> Result<Ended> {
    match unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(Ended::Removed),
        Err(Errno::ISDIR) => {}
        Err(e) => return Err(std::io::Error::from(e)).context(|| format!("unlink {}", path.display())),
    }
    for round in 1.. {
        let mut removing = Removing { pace, failed: None, stopped: false };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty()).map_err(std::io::Error::from)?;
        let visited = visit(&root, &mut removing);
        if removing.stopped {
            return Ok(Ended::Stopped);
        }
        // The first thing that could not be removed says more than what became of the directories around it.
        let failed = removing.failed.or_else(|| visited.err());
        match (unlinkat(CWD, path, AtFlags::REMOVEDIR), failed) {
            (Ok(()) | Err(Errno::NOENT), _) => return Ok(Ended::Removed),
            (Err(_), Some(e)) => return Err(e),
            (Err(Errno::NOTEMPTY), None) if round < ROUNDS => {}
            (Err(e), None) => {
                return Err(std::io::Error::from(e)).context(|| format!("rmdir {}", path.display()));
            }
        }
    }
    Ok(Ended::Removed)
}

struct Removing<'a, 'p> {
    pace: &'a mut Pace<'p>,
    failed: Option<Error>,
    stopped: bool,
}

impl Removing<'_, '_> {
    fn unlink(&mut self, dir: BorrowedFd<'_>, name: &[u8], flags: AtFlags) {
        match unlinkat(dir, name, flags) {
            // One that is not empty has something in it that failed, or is looked at again.
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
            Err(e) => {
                let e = Error::from(std::io::Error::from(e)).context(format!("remove {:?}", escape(name)));
                self.failed.get_or_insert(e);
            }
        }
    }
}

impl Visitor for Removing<'_, '_> {
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &[u8], said: FileType) -> Result<bool> {
        if !self.pace.goes_on() {
            self.stopped = true;
            return Err(Error::invalid("stopped"));
        }
        if kind_of(dir, name, said)? == FileType::Directory {
            return Ok(true);
        }
        self.unlink(dir, name, AtFlags::empty());
        Ok(false)
    }

    fn leave(&mut self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        self.unlink(dir, name, AtFlags::REMOVEDIR);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn links_are_removed_and_not_followed() {
        let tmp = tempfile::tempdir().unwrap();
        let path = |p: &str| tmp.path().join(p);
        fs::create_dir_all(path("kept/dir")).unwrap();
        fs::create_dir_all(path("tree/a/b")).unwrap();
        std::os::unix::fs::symlink("../kept", path("tree/link")).unwrap();
        std::os::unix::fs::symlink("kept", path("alone")).unwrap();
        for name in ["tree", "alone", "absent"] {
            remove_tree(&path(name)).unwrap();
            assert!(!path(name).is_symlink() && !path(name).exists());
        }
        assert!(path("kept/dir").is_dir());
    }

    #[test]
    fn a_stop_leaves_the_rest() {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir(tmp.path().join("tree")).unwrap();
        fs::write(tmp.path().join("tree/file"), "").unwrap();
        let stop = AtomicBool::new(true);
        let ended = remove(&tmp.path().join("tree"), &mut Pace::gentle(&stop)).unwrap();
        assert_eq!(ended, Ended::Stopped);
        assert!(tmp.path().join("tree/file").exists());
    }
}
