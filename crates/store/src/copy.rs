//! Copying single files with everything that a layer keeps, and saying what they are.

use crate::entries::{EntryMeta, Kind};
use crate::error::{Context, Result};
use crate::escape::escape;
use crate::unpack::times;
use crate::walk::is_whiteout;
use crate::xattr;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use strata_sys::path::fd_path;

/// Copies what is no directory.
pub(crate) fn one(from: impl AsFd, name: &[u8], to: impl AsFd, new: &[u8], stat: &Stat) -> Result<()> {
    let fail = |e: rustix::io::Errno| std::io::Error::from(e);
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&from, name, Vec::new()).map_err(fail)?;
            rustix::fs::symlinkat(&target, &to, new).map_err(fail)?;
        }
        FileType::RegularFile => {
            let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut source = File::from(rustix::fs::openat(&from, name, read, Mode::empty()).map_err(fail)?);
            let mut target =
                File::from(rustix::fs::openat(&to, new, write, Mode::RUSR | Mode::WUSR).map_err(fail)?);
            std::io::copy(&mut source, &mut target).context(|| format!("copy {:?}", escape(name)))?;
        }
        _ => rustix::fs::mknodat(&to, new, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev).map_err(fail)?,
    }
    let (name, new) = (OsStr::from_bytes(name), OsStr::from_bytes(new));
    attributes(&fd_path(&from).join(name), &fd_path(&to).join(new), stat)
}

/// Copies owner, mode, kept xattrs and times, in the order in which none undoes another.
fn attributes(from: &Path, to: &Path, stat: &Stat) -> Result<()> {
    let fail = |e: rustix::io::Errno| std::io::Error::from(e);
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(rustix::fs::CWD, to, owner.0, owner.1, flags).map_err(fail)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::chmodat(rustix::fs::CWD, to, mode, AtFlags::empty()).map_err(fail)?;
    }
    for (name, value) in xattr::list(from)? {
        xattr::set(to, &name, &value)?;
    }
    let time = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
    Ok(rustix::fs::utimensat(rustix::fs::CWD, to, &times(time), flags).map_err(fail)?)
}

/// What a layer's list of entries says of a file that is there.
pub(crate) fn meta_of(dir: impl AsFd, name: &[u8], stat: &Stat) -> Result<EntryMeta> {
    let meta = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => EntryMeta::of_kind(Kind::Dir),
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&dir, name, Vec::new()).map_err(std::io::Error::from)?;
            EntryMeta::link(target.to_bytes())
        }
        FileType::CharacterDevice if is_whiteout(stat) => EntryMeta::of_kind(Kind::Whiteout),
        FileType::CharacterDevice => device(EntryMeta::of_kind(Kind::Char), stat),
        FileType::BlockDevice => device(EntryMeta::of_kind(Kind::Block), stat),
        FileType::Fifo => EntryMeta::of_kind(Kind::Fifo),
        _ => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&dir, name, flags, Mode::empty()).map_err(std::io::Error::from)?;
            let (mut hasher, mut buffer) = (xxhash_rust::xxh3::Xxh3::new(), vec![0; 128 << 10]);
            let mut file = File::from(fd);
            loop {
                match file.read(&mut buffer).context(|| format!("read {:?}", escape(name)))? {
                    0 => break,
                    n => hasher.update(&buffer[..n]),
                }
            }
            EntryMeta::file(u64::try_from(stat.st_size).unwrap_or(0), hasher.digest())
        }
    };
    let (mut meta, path) = (meta, fd_path(&dir).join(OsStr::from_bytes(name)));
    if meta.kind != Kind::Whiteout {
        meta = meta.with_xattrs(xattr::list(&path)?);
    }
    if meta.kind == Kind::Dir && xattr::is_opaque(&path)? {
        meta.set_opaque();
    }
    let mtime = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
    Ok(EntryMeta { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, mtime, ..meta })
}

fn device(meta: EntryMeta, stat: &Stat) -> EntryMeta {
    meta.with_device(rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
}
