//! Attributes of one file against what they were.

use crate::entries::{EntryMeta, Kind};
use crate::error::Result;
use crate::walk::Item;
use crate::xattr;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::path::Path;

/// XATTR_SIZE_MAX and XATTR_LIST_MAX (linux/limits.h).
const MAX: usize = 64 << 10;
/// What overlayfs reads (overlayfs.rst).
const OVERLAY: &[u8] = b"trusted.overlay.";

/// Compares; its buffers are used again for each file.
pub(super) struct Attrs {
    /// Whether the list has all there is to compare.
    complete: bool,
    names: Vec<u8>,
    value: Vec<u8>,
}

type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

impl Attrs {
    pub(super) fn new(complete: bool) -> Self {
        Self { complete, names: vec![0; MAX], value: vec![0; MAX] }
    }

    /// What it is instead, if it is another sort of file.
    pub(super) fn other_type(&self, meta: &EntryMeta, item: &Item<'_>) -> Option<String> {
        // Format 1 does not say what sort of file a hard link is.
        if !self.complete && meta.hard_link.is_some() {
            return None;
        }
        let is = kind_of(item);
        (is != Some(meta.kind)).then(|| format!("it is {} instead of {}", shown(is), shown(Some(meta.kind))))
    }

    /// What is not as it was, apart from content.
    pub(super) fn differences(&mut self, meta: &EntryMeta, item: &Item<'_>) -> Result<Vec<String>> {
        let (mut wrong, stat) = (Vec::new(), &item.stat);
        // Overlayfs looks at nothing of a whiteout.
        if meta.kind == Kind::Whiteout {
            return Ok(wrong);
        }
        let mode = stat.st_mode & 0o7777;
        if meta.kind != Kind::Symlink && mode != meta.mode {
            wrong.push(format!("mode {mode:04o} instead of {:04o}", meta.mode));
        }
        if (stat.st_uid, stat.st_gid) != (meta.uid, meta.gid) {
            let (is, was) = ((stat.st_uid, stat.st_gid), (meta.uid, meta.gid));
            wrong.push(format!("owner {}:{} instead of {}:{}", is.0, is.1, was.0, was.1));
        }
        // Outside of this range, file systems store the nearest time that they can.
        let storable = i32::try_from(meta.mtime.0).is_ok();
        if storable && item.mtime() != meta.mtime {
            let (is, was) = (item.mtime(), meta.mtime);
            wrong.push(format!("mtime {}.{:09} instead of {}.{:09}", is.0, is.1, was.0, was.1));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if meta.kind == Kind::File && FileType::from_raw_mode(stat.st_mode).is_file() && size != meta.size {
            wrong.push(format!("{size} bytes instead of {}", meta.size));
        }
        if meta.kind == Kind::Symlink && self.target(item)? != meta.target {
            wrong.push("another target".into());
        }
        if self.complete {
            self.device(meta, item, &mut wrong);
            self.compare_xattrs(meta, item, &mut wrong)?;
        }
        Ok(wrong)
    }

    fn target(&self, item: &Item<'_>) -> Result<Vec<u8>> {
        let target = rustix::fs::readlinkat(item.dir, item.name, Vec::new()).map_err(std::io::Error::from)?;
        Ok(target.into_bytes())
    }

    fn device(&self, meta: &EntryMeta, item: &Item<'_>, wrong: &mut Vec<String>) {
        let number = item.stat.st_rdev;
        let is = (rustix::fs::major(number), rustix::fs::minor(number));
        if matches!(meta.kind, Kind::Char | Kind::Block) && is != meta.device() {
            let was = meta.device();
            wrong.push(format!("device {}:{} instead of {}:{}", is.0, is.1, was.0, was.1));
        }
    }

    fn compare_xattrs(&mut self, meta: &EntryMeta, item: &Item<'_>, wrong: &mut Vec<String>) -> Result<()> {
        let mut was: Xattrs = meta.xattrs().iter().map(|(n, v)| (n.to_bytes().to_vec(), v.clone())).collect();
        if meta.opaque() {
            was.insert(xattr::OVERLAY_OPAQUE.to_bytes().to_vec(), b"y".to_vec());
        }
        let is = self.xattrs(&item.proc_path())?;
        if is == was {
            return Ok(());
        }
        for name in was.keys().chain(is.keys().filter(|n| !was.contains_key(*n))) {
            let text = match (is.get(name), was.get(name)) {
                (a, b) if a == b => continue,
                (None, _) => "is missing",
                (Some(_), None) => "should not be there",
                _ => "has another value",
            };
            wrong.push(format!("attribute {} {text}", String::from_utf8_lossy(name)));
        }
        Ok(())
    }

    /// Those that a layer keeps, and overlayfs' marks; the rest is the host's.
    fn xattrs(&mut self, path: &Path) -> Result<Xattrs> {
        let mut found = Xattrs::new();
        let n = match rustix::fs::llistxattr(path, &mut self.names[..]) {
            Ok(n) => n,
            Err(Errno::NOTSUP) => 0,
            Err(e) => return Err(std::io::Error::from(e).into()),
        };
        let names = self.names.get(..n).unwrap_or_default();
        for name in names.split(|b| *b == 0).filter(|n| xattr::kept(n) || n.starts_with(OVERLAY)) {
            match rustix::fs::lgetxattr(path, name, &mut self.value[..]) {
                Ok(n) => {
                    found.insert(name.to_vec(), self.value.get(..n).unwrap_or_default().to_vec());
                }
                Err(Errno::NODATA) => {}
                Err(e) => return Err(std::io::Error::from(e).into()),
            }
        }
        Ok(found)
    }
}

fn kind_of(item: &Item<'_>) -> Option<Kind> {
    Some(match item.file_type() {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice if item.is_whiteout() => Kind::Whiteout,
        FileType::CharacterDevice => Kind::Char,
        FileType::BlockDevice => Kind::Block,
        FileType::Fifo => Kind::Fifo,
        _ => return None,
    })
}

fn shown(kind: Option<Kind>) -> &'static str {
    match kind {
        Some(Kind::File) => "a file",
        Some(Kind::Dir) => "a directory",
        Some(Kind::Symlink) => "a symlink",
        Some(Kind::Char) => "a character device",
        Some(Kind::Block) => "a block device",
        Some(Kind::Fifo) => "a FIFO",
        Some(Kind::Whiteout) => "a whiteout",
        None => "a socket",
    }
}
