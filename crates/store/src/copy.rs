//! Copying trees with everything that a layer keeps.

use crate::entries::{self, EntryMeta, Kind};
use crate::error::{Context, Result};
use crate::escape::escape;
use crate::record::LayerRecord;
use crate::unpack::times;
use crate::walk::{Item, walk};
use crate::xattr;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use strata_sys::durable;
use strata_sys::path::{Root, fd_path};

/// Copies what is in `from` into `to`, hard links and overlayfs' marks included.
pub(crate) fn tree(from: &Path, to: &Path) -> Result<()> {
    let (source, target) = (durable::open_dir(from)?, Root::open(to)?);
    let mut links: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut dirs: Vec<(Vec<u8>, (i64, u32))> = Vec::new();
    walk(&source, &mut |item| {
        let parent = parent(&target, item.path)?;
        if item.file_type() == FileType::Directory {
            rustix::fs::mkdirat(&parent, item.name, Mode::RWXU).map_err(std::io::Error::from)?;
            let to = fd_path(&parent).join(OsStr::from_bytes(item.name));
            attributes(&item.proc_path(), &to, &item.stat)?;
            if xattr::is_opaque(&item.proc_path())? {
                xattr::set(&to, xattr::OVERLAY_OPAQUE, b"y")?;
            }
            dirs.push((item.path.to_vec(), item.mtime()));
            return Ok(true);
        }
        if item.stat.st_nlink > 1
            && let Some(first) = links.get(&item.stat.st_ino)
        {
            let (from, name) = (self::parent(&target, first)?, name_of(first));
            rustix::fs::linkat(&from, name, &parent, item.name, AtFlags::empty())
                .map_err(std::io::Error::from)?;
            return Ok(true);
        }
        links.insert(item.stat.st_ino, item.path.to_vec());
        one(item.dir, &parent, item.name, &item.stat)?;
        Ok(true)
    })?;
    for (path, time) in dirs.iter().rev() {
        let fd = target.resolve(OsStr::from_bytes(path), OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::futimens(&fd, &times(*time)).map_err(std::io::Error::from)?;
    }
    Ok(())
}

fn parent(root: &Root, path: &[u8]) -> Result<std::os::fd::OwnedFd> {
    let parent = path.iter().rposition(|b| *b == b'/').map_or(&b""[..], |i| &path[..i]);
    Ok(root.resolve(OsStr::from_bytes(parent), OFlags::PATH | OFlags::DIRECTORY)?)
}

fn name_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(path, |i| &path[i + 1..])
}

/// Copies what is no directory, under the same name.
pub(crate) fn one(from: impl AsFd, to: impl AsFd, name: &[u8], stat: &Stat) -> Result<()> {
    let fail = |e: rustix::io::Errno| std::io::Error::from(e);
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&from, name, Vec::new()).map_err(fail)?;
            rustix::fs::symlinkat(&target, &to, name).map_err(fail)?;
        }
        FileType::RegularFile => {
            let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut source = File::from(rustix::fs::openat(&from, name, read, Mode::empty()).map_err(fail)?);
            let mut target =
                File::from(rustix::fs::openat(&to, name, write, Mode::RUSR | Mode::WUSR).map_err(fail)?);
            std::io::copy(&mut source, &mut target).context(|| format!("copy {:?}", escape(name)))?;
        }
        _ => rustix::fs::mknodat(&to, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev).map_err(fail)?,
    }
    let name = OsStr::from_bytes(name);
    attributes(&fd_path(&from).join(name), &fd_path(&to).join(name), stat)
}

/// Copies owner, mode, kept xattrs and times, in the order in which none undoes another.
pub(crate) fn attributes(from: &Path, to: &Path, stat: &Stat) -> Result<()> {
    let fail = |e: rustix::io::Errno| std::io::Error::from(e);
    // Of a descriptor's own link in /proc, its target is meant; of a name in a directory, the name itself.
    let follow = to.parent() == Some(Path::new("/proc/self/fd"));
    let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    rustix::fs::chownat(rustix::fs::CWD, to, owner.0, owner.1, flags).map_err(fail)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::chmodat(rustix::fs::CWD, to, mode, AtFlags::empty()).map_err(fail)?;
    }
    for (name, value) in if follow { xattr::list_followed(from)? } else { xattr::list(from)? } {
        if follow {
            xattr::set_followed(to, &name, &value)?;
        } else {
            xattr::set(to, &name, &value)?;
        }
    }
    let time = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
    Ok(rustix::fs::utimensat(rustix::fs::CWD, to, &times(time), flags).map_err(fail)?)
}

/// Writes the list of a tree's entries, and says what it takes up: a layer's record like `base`, but of these files.
pub(crate) fn describe(fs: &Path, list: &Path, base: &LayerRecord) -> Result<LayerRecord> {
    let mut found: Vec<(Vec<u8>, EntryMeta)> = Vec::new();
    let mut links: HashMap<u64, Vec<u8>> = HashMap::new();
    let (mut size, mut disk, mut inodes) = (0, 4096, 1);
    walk(durable::open_dir(fs)?, &mut |item| {
        let mut meta = meta_of(item)?;
        if item.stat.st_nlink > 1 && meta.kind == Kind::File {
            if let Some(first) = links.get(&item.stat.st_ino) {
                meta = meta.hard_link(first);
            } else {
                links.insert(item.stat.st_ino, item.path.to_vec());
            }
        }
        if meta.hard_link.is_none() {
            size += if meta.kind == Kind::File { meta.size } else { 0 };
            disk += meta.disk();
            inodes += 1;
        }
        found.push((item.path.to_vec(), meta));
        Ok(true)
    })?;
    entries::write(list, &found)?;
    Ok(LayerRecord {
        size,
        disk,
        inodes,
        unlisted: Vec::new(),
        whiteouts: Vec::new(),
        links: Vec::new(),
        ..base.clone()
    })
}

fn meta_of(item: &Item<'_>) -> Result<EntryMeta> {
    let meta = match item.file_type() {
        FileType::Directory => EntryMeta::of_kind(Kind::Dir),
        FileType::Symlink => {
            let target =
                rustix::fs::readlinkat(item.dir, item.name, Vec::new()).map_err(std::io::Error::from)?;
            EntryMeta::link(target.to_bytes())
        }
        FileType::CharacterDevice if item.is_whiteout() => EntryMeta::of_kind(Kind::Whiteout),
        FileType::CharacterDevice => device(EntryMeta::of_kind(Kind::Char), item),
        FileType::BlockDevice => device(EntryMeta::of_kind(Kind::Block), item),
        FileType::Fifo => EntryMeta::of_kind(Kind::Fifo),
        _ => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(item.dir, item.name, flags, Mode::empty())
                .map_err(std::io::Error::from)?;
            let (mut hasher, mut buffer) = (xxhash_rust::xxh3::Xxh3::new(), vec![0; 128 << 10]);
            let mut file = File::from(fd);
            loop {
                match file.read(&mut buffer).context(|| format!("read {:?}", escape(item.path)))? {
                    0 => break,
                    n => hasher.update(&buffer[..n]),
                }
            }
            EntryMeta::file(u64::try_from(item.stat.st_size).unwrap_or(0), hasher.digest())
        }
    };
    let mode = item.stat.st_mode & 0o7777;
    let mut meta = meta;
    if meta.kind != Kind::Whiteout {
        meta = meta.with_xattrs(xattr::list(&item.proc_path())?);
    }
    if meta.kind == Kind::Dir && xattr::is_opaque(&item.proc_path())? {
        meta.set_opaque();
    }
    Ok(EntryMeta { mode, uid: item.stat.st_uid, gid: item.stat.st_gid, mtime: item.mtime(), ..meta })
}

fn device(meta: EntryMeta, item: &Item<'_>) -> EntryMeta {
    meta.with_device(rustix::fs::major(item.stat.st_rdev), rustix::fs::minor(item.stat.st_rdev))
}
