//! What an archive says about a file, and setting it.

use crate::error::Result;
use crate::record::RootAttrs;
use crate::xattr;
use rustix::fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, Uid};
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use strata_sys::path::fd_path;

/// Attributes of one entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attrs {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(CString, Vec<u8>)>,
}

impl Attrs {
    /// Of a directory that nobody lists: what `mkdir -p` gives, at a time that is the same every time.
    pub(crate) fn unlisted() -> Self {
        Self { mode: 0o755, ..Self::default() }
    }

    pub(super) fn for_root(&self) -> RootAttrs {
        let xattrs = self.xattrs.iter().map(|(n, v)| (n.to_string_lossy().into_owned(), v.clone())).collect();
        RootAttrs { mode: self.mode, uid: self.uid, gid: self.gid, mtime: self.mtime, xattrs }
    }

    /// For a file that is open; what it is then. Owner first, since changing it clears set-user-ID bits and capabilities.
    pub(super) fn apply_file(&self, file: &OwnedFd) -> Result<Stat> {
        if (self.uid, self.gid) != (0, 0) {
            rustix::fs::fchown(file, Some(uid(self.uid)), Some(gid(self.gid)))
                .map_err(std::io::Error::from)?;
        }
        let set_mode =
            || rustix::fs::fchmod(file, Mode::from_raw_mode(self.mode)).map_err(std::io::Error::from);
        if !self.xattrs.is_empty() {
            set_mode()?;
        }
        for (key, value) in &self.xattrs {
            xattr::set_open(file, key, value)?;
        }
        rustix::fs::futimens(file, &times(self.mtime)).map_err(std::io::Error::from)?;
        let found = rustix::fs::fstat(file).map_err(std::io::Error::from)?;
        // An ACL among the attributes has changed it rightly (acl(5)).
        if self.xattrs.is_empty() && found.st_mode & 0o7777 != self.mode {
            set_mode()?;
        }
        Ok(found)
    }

    /// For a symlink, which has no mode, or a device.
    pub(super) fn apply_node(&self, dir: impl AsFd, name: &[u8], symlink: bool) -> Result<()> {
        rustix::fs::chownat(&dir, name, Some(uid(self.uid)), Some(gid(self.gid)), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(std::io::Error::from)?;
        if !symlink {
            rustix::fs::chmodat(&dir, name, Mode::from_raw_mode(self.mode), AtFlags::empty())
                .map_err(std::io::Error::from)?;
        }
        self.set_xattrs(&dir, name)?;
        Ok(rustix::fs::utimensat(&dir, name, &times(self.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(std::io::Error::from)?)
    }

    /// For a directory. Its times come last of all: what is put into it changes them.
    pub(crate) fn apply_dir(&self, dir: impl AsFd, name: &[u8]) -> Result<()> {
        self.apply_node(dir, name, false)
    }

    fn set_xattrs(&self, dir: impl AsFd, name: &[u8]) -> Result<()> {
        let path = fd_path(&dir).join(OsStr::from_bytes(name));
        self.xattrs.iter().try_for_each(|(key, value)| xattr::set(&path, key, value))
    }
}

fn uid(n: u32) -> Uid {
    Uid::from_raw(n)
}

fn gid(n: u32) -> Gid {
    Gid::from_raw(n)
}

/// Access and modification time alike: an archive has only the one.
pub(crate) fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanos) };
    Timestamps { last_access: time, last_modification: time }
}
