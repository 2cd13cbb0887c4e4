//! What a container has changed: its upper directory, read against what is below.

use crate::error::Result;
use crate::escape::escape;
use crate::store::Store;
use crate::walk::{names, walk};
use crate::xattr;
use rustix::fs::{FileType, OFlags};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use strata_sys::durable;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The path, with a leading slash. Names need not be UTF-8.
    pub path: Vec<u8>,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// Content, attributes, or something in the directory.
    Changed,
    /// It was not in the image.
    Added,
    /// It is in the image only.
    Deleted,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let letter = match self.kind {
            ChangeKind::Changed => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        };
        write!(f, "{letter} {}", escape(&self.path))
    }
}

impl Store {
    /// What a container has changed, by path. The cost is that of the changes, not of the image.
    ///
    /// # Errors
    /// If there is no such container, or its files cannot be read.
    pub fn diff(&self, container: &str) -> Result<Vec<Change>> {
        let stack = self.container_stack(container)?;
        let below = self.view(&stack, true)?;
        let upper = durable::open_dir(&self.upper(container))?;
        let mut changes = Vec::new();
        let mut note = |path: &[u8], kind| changes.push(Change { path: [b"/", path].concat(), kind });
        walk(&upper, &mut |item| {
            let lower = below.lookup(item.path)?;
            if item.is_whiteout() {
                if lower.is_some() {
                    note(item.path, ChangeKind::Deleted);
                }
                return Ok(false);
            }
            note(item.path, if lower.is_some() { ChangeKind::Changed } else { ChangeKind::Added });
            let was_dir = lower.is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
            let is_dir = item.file_type() == FileType::Directory;
            // A directory that replaced another hides what was in that one.
            if is_dir && was_dir && xattr::is_opaque(&item.proc_path())? {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let old = names(below.root().resolve(OsStr::from_bytes(item.path), flags)?)?;
                let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let new = rustix::fs::openat(item.dir, item.name, flags, rustix::fs::Mode::empty())
                    .map_err(std::io::Error::from)?;
                let new = names(new)?;
                for name in old.iter().filter(|n| new.binary_search(n).is_err()) {
                    note(&[item.path, b"/", name.as_slice()].concat(), ChangeKind::Deleted);
                }
            }
            Ok(true)
        })?;
        changes.sort();
        Ok(changes)
    }
}
