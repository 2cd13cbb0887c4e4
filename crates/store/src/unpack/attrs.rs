//! What an archive says about a file, and setting it.

use crate::error::{Context, Error, Result};
use crate::record::RootAttrs;
use crate::xattr;
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid};
use std::ffi::{CString, OsStr};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use strata_sys::path::fd_path;

/// The PAX records that carry extended attributes, as GNU tar, star and Go write them.
const PAX_XATTR: &[u8] = b"SCHILY.xattr.";

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

    pub(super) fn of<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Self> {
        let id = |what: &str, field: &[u8], n: std::io::Result<u64>| {
            // Some archivers leave empty what is zero.
            let empty = field.iter().all(|b| matches!(b, 0 | b' '));
            let n = if empty { 0 } else { n.context(|| what.into())? };
            // The highest one means "leave it" to chown(2).
            u32::try_from(n)
                .ok()
                .filter(|n| *n != u32::MAX)
                .ok_or_else(|| Error::invalid(format!("{what} {n} is too large")))
        };
        let header = entry.header();
        let mut attrs = Self {
            mode: header.mode().context(|| "mode".into())? & 0o7777,
            uid: id("uid", &header.as_old().uid, header.uid())?,
            gid: id("gid", &header.as_old().gid, header.gid())?,
            mtime: (i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0), 0),
            xattrs: Vec::new(),
        };
        attrs.read_pax(entry)?;
        Ok(attrs)
    }

    fn read_pax<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<()> {
        let Some(extensions) = entry.pax_extensions().context(|| "PAX header".into())? else { return Ok(()) };
        for extension in extensions {
            let extension = extension.context(|| "PAX header".into())?;
            let value = extension.value_bytes();
            let number = || std::str::from_utf8(value).ok().and_then(|v| v.parse::<u32>().ok());
            match extension.key_bytes() {
                b"mtime" => self.mtime = parse_time(value).unwrap_or(self.mtime),
                b"uid" => self.uid = number().ok_or_else(|| Error::invalid("PAX uid is no number"))?,
                b"gid" => self.gid = number().ok_or_else(|| Error::invalid("PAX gid is no number"))?,
                key => {
                    if let Some(name) = key.strip_prefix(PAX_XATTR).filter(|n| xattr::kept(n)) {
                        let name =
                            CString::new(name).map_err(|_| Error::invalid("xattr name with a zero byte"))?;
                        self.xattrs.push((name, value.to_vec()));
                    }
                }
            }
        }
        self.xattrs.sort();
        Ok(())
    }

    pub(super) fn for_root(&self) -> RootAttrs {
        let xattrs = self.xattrs.iter().map(|(n, v)| (n.to_string_lossy().into_owned(), v.clone())).collect();
        RootAttrs { mode: self.mode, uid: self.uid, gid: self.gid, mtime: self.mtime, xattrs }
    }

    /// For a file that is open: owner first, since changing it clears set-user-ID bits and capabilities.
    pub(super) fn apply_file(&self, file: &OwnedFd, dir: impl AsFd, name: &[u8]) -> Result<()> {
        if (self.uid, self.gid) != (0, 0) {
            rustix::fs::fchown(file, Some(uid(self.uid)), Some(gid(self.gid)))
                .map_err(std::io::Error::from)?;
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(self.mode)).map_err(std::io::Error::from)?;
        self.set_xattrs(dir, name)?;
        Ok(rustix::fs::futimens(file, &times(self.mtime)).map_err(std::io::Error::from)?)
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

/// `1700000000.25` (pax(1)); nothing finer than nanoseconds, and before 1970 with a minus.
fn parse_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        Some((seconds - 1, 1_000_000_000 - nanos))
    } else {
        Some((seconds, nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(parse_time(b"12"), Some((12, 0)));
        assert_eq!(parse_time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(parse_time(b"12.1234567891"), Some((12, 123_456_789)));
        assert_eq!(parse_time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(parse_time(b"x"), None);
    }
}
