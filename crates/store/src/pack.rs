//! A container's writable layer as a tar: the same walk as `diff`, in the form that any runtime unpacks.

use crate::compose::View;
use crate::error::{Context, Error, Result};
use crate::escape::escape;
use crate::record::RootAttrs;
use crate::shift::IdShift;
use crate::walk::{Item, walk};
use crate::xattr;
use rustix::fs::{FileType, Mode, OFlags};
use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use strata_oci::whiteout;
use tar::{Builder, EntryType, Header};

/// Writes the tar of an upper directory; `below` is what it was stacked on, `root` what the image says of its root, `ids` how its
/// IDs are shifted: the tar has those that its container saw.
///
/// # Errors
/// If a name cannot be said in a layer, or the disk fails.
pub(crate) fn pack(
    upper: &OwnedFd,
    below: &View,
    root: Option<&RootAttrs>,
    ids: Option<IdShift>,
    out: &mut dyn Write,
) -> Result<()> {
    let mut packer = Packer { tar: Builder::new(out), below, ids, links: HashMap::new() };
    packer.root(upper, root)?;
    walk(upper, &mut |item| {
        packer.item(item).map_err(|e| e.context(format!("pack {:?}", escape(item.path))))
    })?;
    packer.tar.into_inner().context(|| "finish the layer".into())?.flush()?;
    Ok(())
}

struct Packer<'a> {
    tar: Builder<&'a mut dyn Write>,
    below: &'a View,
    ids: Option<IdShift>,
    /// The first name of each file that has several.
    links: HashMap<u64, Vec<u8>>,
}

impl Packer<'_> {
    /// The root is listed only if the container has changed its attributes: its time changes with whatever is made in it.
    fn root(&mut self, upper: &OwnedFd, listed: Option<&RootAttrs>) -> Result<()> {
        let stat = rustix::fs::fstat(upper).map_err(std::io::Error::from)?;
        let item = Item { path: b".", dir: upper.as_fd(), name: b".", stat };
        let xattrs = self.xattrs(&item)?;
        let (uid, gid) = self.owner(&item);
        let now = (item.stat.st_mode & 0o7777, uid, gid);
        let same = match listed {
            None => now == (0o755, 0, 0) && xattrs.is_empty(),
            Some(l) => {
                let xattrs = xattrs.iter().map(|(name, value)| (name.to_bytes(), value));
                now == (l.mode, l.uid, l.gid)
                    && xattrs.eq(l.xattrs.iter().map(|(name, value)| (name.as_bytes(), value)))
            }
        };
        if same {
            return Ok(());
        }
        let header = self.header(&item, EntryType::Directory, 0)?;
        self.append(header, b"./", std::io::empty())
    }

    fn owner(&self, item: &Item<'_>) -> (u32, u32) {
        let (uid, gid) = (item.stat.st_uid, item.stat.st_gid);
        self.ids.map_or((uid, gid), |ids| (ids.user(uid), ids.group(gid)))
    }

    fn xattrs(&self, item: &Item<'_>) -> Result<Vec<(CString, Vec<u8>)>> {
        let mut all = xattr::list(&item.proc_path())?;
        if let Some(ids) = self.ids {
            all.iter_mut().for_each(|(name, value)| ids.attribute(name, value));
        }
        Ok(all)
    }

    fn item(&mut self, item: &Item<'_>) -> Result<bool> {
        if item.name.starts_with(whiteout::PREFIX) {
            return Err(Error::invalid("names that start with .wh. mean deletion in a layer; rename it"));
        }
        if item.is_whiteout() {
            if self.below.lookup(item.path)?.is_some() {
                let parent = &item.path[..item.path.len() - item.name.len()];
                self.marker(&[parent, whiteout::PREFIX, item.name].concat(), item)?;
            }
            return Ok(false);
        }
        let kind = item.file_type();
        if kind != FileType::Directory && item.stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&item.stat.st_ino).cloned() {
                let header = self.header(item, EntryType::Link, 0)?;
                self.append_link(header, item.path, &first)?;
                return Ok(true);
            }
            self.links.insert(item.stat.st_ino, item.path.to_vec());
        }
        match kind {
            FileType::Directory => self.directory(item)?,
            FileType::Symlink => {
                let target =
                    rustix::fs::readlinkat(item.dir, item.name, Vec::new()).map_err(std::io::Error::from)?;
                let header = self.header(item, EntryType::Symlink, 0)?;
                self.append_link(header, item.path, target.to_bytes())?;
            }
            FileType::RegularFile => self.file(item)?,
            FileType::CharacterDevice => self.device(item, EntryType::Char)?,
            FileType::BlockDevice => self.device(item, EntryType::Block)?,
            FileType::Fifo => self.device(item, EntryType::Fifo)?,
            // A socket is of no use without who listens; tar has no type for it.
            _ => tracing::debug!(path = %escape(item.path), "socket left out"),
        }
        Ok(true)
    }

    fn directory(&mut self, item: &Item<'_>) -> Result<()> {
        let header = self.header(item, EntryType::Directory, 0)?;
        let path = [item.path, b"/"].concat();
        self.append(header, &path, std::io::empty())?;
        let hides = xattr::is_opaque(&item.proc_path())?
            && self
                .below
                .lookup(item.path)?
                .is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
        if hides {
            self.marker(&[&path, whiteout::OPAQUE].concat(), item)?;
        }
        Ok(())
    }

    fn file(&mut self, item: &Item<'_>) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(item.dir, item.name, flags, Mode::empty()).map_err(std::io::Error::from)?;
        let size = u64::try_from(item.stat.st_size).unwrap_or(0);
        let header = self.header(item, EntryType::Regular, size)?;
        // A container that was not paused may write on: what it adds is left out, what it cuts off reads as zeros.
        self.append(header, item.path, File::from(fd).chain(std::io::repeat(0)).take(size))
    }

    fn device(&mut self, item: &Item<'_>, kind: EntryType) -> Result<()> {
        let mut header = self.header(item, kind, 0)?;
        if kind != EntryType::Fifo {
            header.set_device_major(rustix::fs::major(item.stat.st_rdev))?;
            header.set_device_minor(rustix::fs::minor(item.stat.st_rdev))?;
        }
        self.append(header, item.path, std::io::empty())
    }

    fn marker(&mut self, path: &[u8], item: &Item<'_>) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_size(0);
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(u64::try_from(item.stat.st_mtime).unwrap_or(0));
        self.append(header, path, std::io::empty())
    }

    /// A header with what fits into one; the rest goes into a PAX header before it.
    fn header(&mut self, item: &Item<'_>, kind: EntryType, size: u64) -> Result<Header> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(item.stat.st_mode & 0o7777);
        let (uid, gid) = self.owner(item);
        header.set_uid(u64::from(uid));
        header.set_gid(u64::from(gid));
        let (seconds, nanos) = item.mtime();
        header.set_mtime(u64::try_from(seconds).unwrap_or(0));
        let mut pax: Vec<(String, Vec<u8>)> = Vec::new();
        if seconds < 0 || nanos > 0 {
            pax.push(("mtime".into(), format_time(seconds, nanos).into_bytes()));
        }
        // Octal digits of the header hold this much.
        const MAX_ID: u32 = 0o7_777_777;
        for (name, id) in [("uid", uid), ("gid", gid)] {
            if id > MAX_ID {
                pax.push((name.into(), id.to_string().into_bytes()));
            }
        }
        if kind != EntryType::Link {
            for (name, value) in self.xattrs(item)? {
                pax.push((format!("SCHILY.xattr.{}", name.to_string_lossy()), value));
            }
        }
        if !pax.is_empty() {
            let records = pax.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            self.tar.append_pax_extensions(records)?;
        }
        Ok(header)
    }

    fn append(&mut self, mut header: Header, path: &[u8], data: impl Read) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path));
        Ok(self.tar.append_data(&mut header, path, data)?)
    }

    fn append_link(&mut self, mut header: Header, path: &[u8], target: &[u8]) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let as_path = |b| std::path::Path::new(std::ffi::OsStr::from_bytes(b));
        Ok(self.tar.append_link(&mut header, as_path(path), as_path(target))?)
    }
}

/// Seconds with a fraction, as PAX writes times.
fn format_time(seconds: i64, nanos: u32) -> String {
    if seconds < 0 && nanos > 0 {
        let (seconds, nanos) = (-(seconds + 1), 1_000_000_000 - nanos);
        return format!("-{seconds}.{nanos:09}");
    }
    format!("{seconds}.{nanos:09}")
}
