//! What one entry of an archive puts into the layer.

use super::archive::{self, Archive};
use super::tree;
use super::{Unpacker, content, file};
use crate::entries::{EntryMeta, Kind};
use crate::error::{Context, Error, Result};
use crate::escape::escape;
use crate::measure;
use rustix::fs::{FileType, Mode};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use tar::EntryType;

impl Unpacker<'_> {
    pub(super) fn place(
        &mut self,
        archive: &mut Archive<'_>,
        entry: &archive::Entry,
        parent: &[u8],
        name: &[u8],
    ) -> Result<()> {
        let (path, attrs) = (tree::join(parent, name), &entry.attrs);
        if path.len() > tree::PATH_MAX {
            return Err(Error::invalid(format!("its path has more than {} bytes", tree::PATH_MAX)));
        }
        if entry.is_dir() {
            return self.directory(&path, name, attrs);
        }
        if entry.kind.is_hard_link() {
            return self.hard_link(entry, &path, name);
        }
        self.clear(&path, name)?;
        let dir = self.parent_fd(&path)?;
        use EntryType as T;
        let meta = match entry.kind {
            T::Regular | T::Continuous | T::GNUSparse => {
                self.census.file(entry.size)?;
                let writer = self.writer.as_mut().ok_or_else(content::gone)?;
                let (meta, measured) = file::make(archive, entry, &dir, name, writer)?;
                self.add(measured.unwrap_or_default());
                self.tree.insert(&path, &meta.with(attrs));
                return Ok(());
            }
            T::Symlink => {
                make_symlink(&entry.link, &dir, name)?;
                attrs.apply_node(&dir, name, true)?;
                EntryMeta::link(&entry.link)
            }
            T::Char | T::Block | T::Fifo => {
                if entry.kind != T::Fifo {
                    self.census.device()?;
                }
                let meta = make_node(entry, &dir, name)?;
                attrs.apply_node(&dir, name, false)?;
                meta
            }
            other => {
                let letter = escape(&[other.as_byte()]);
                return Err(Error::invalid(format!("entry type {letter:?} is not supported")));
            }
        };
        if let Some(measured) = &mut self.measured {
            measured.count(&measure::stat(&dir, name)?);
        }
        self.tree.insert(&path, &meta.with(attrs));
        Ok(())
    }
}

fn make_symlink(target: &[u8], dir: impl AsFd, name: &[u8]) -> Result<()> {
    if target.is_empty() {
        return Err(Error::invalid("a symlink without a target"));
    }
    if target.len() > tree::PATH_MAX || target.contains(&0) {
        let max = tree::PATH_MAX;
        return Err(Error::invalid(format!("its target has more than {max} bytes, or a zero byte")));
    }
    let made = rustix::fs::symlinkat(OsStr::from_bytes(target), dir, name);
    made.map_err(std::io::Error::from).context(|| format!("symlink to {:?}", escape(target)))
}

fn make_node(entry: &archive::Entry, dir: impl AsFd, name: &[u8]) -> Result<EntryMeta> {
    let (major, minor) = entry.device;
    let (file_type, kind) = match entry.kind {
        EntryType::Char => (FileType::CharacterDevice, Kind::Char),
        EntryType::Block => (FileType::BlockDevice, Kind::Block),
        _ => (FileType::Fifo, Kind::Fifo),
    };
    // overlayfs would take it for a whiteout.
    if kind == Kind::Char && entry.device == (0, 0) {
        return Err(Error::invalid("a character device 0:0 would hide a file of a lower layer"));
    }
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(dir, name, file_type, Mode::RUSR | Mode::WUSR, device)
        .map_err(std::io::Error::from)
        .context(|| format!("make the node {major}:{minor}"))?;
    Ok(EntryMeta::of_kind(kind).with_device(major, minor))
}
