//! Hard links: to files of the layer, and to files of lower layers, which come up with all their names.

use super::Unpacker;
use super::archive::Entry;
use super::tree::{self, Node, join, name_of, parent_of};
use crate::copy;
use crate::error::{Error, Result};
use crate::escape::escape;
use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use strata_sys::path::remove_at;

/// A file of a lower layer that something of this layer is linked to.
pub(super) struct BroughtUp {
    /// What it is below.
    stat: Stat,
    /// The path by which it was found.
    target: Vec<u8>,
    /// Its copy's name beside the layer.
    side_name: String,
    /// Its number in the tree.
    group: u32,
}

impl Unpacker<'_> {
    /// A hard link: to a file of this layer, or to one below, which only the image's stack can tell.
    pub(super) fn hard_link(&mut self, entry: &Entry, path: &[u8], name: &[u8]) -> Result<()> {
        if entry.link.is_empty() {
            return Err(Error::invalid("a hard link without a target"));
        }
        let parts = tree::clean(&entry.link)?;
        let (last, parents) = parts.split_last().ok_or_else(|| Error::invalid("a hard link to the root"))?;
        let target = join(&self.tree.resolve(parents, self.below.as_ref())?, last);
        if target == *path {
            return Ok(());
        }
        match self.tree.get(&target) {
            // Below, one that is not listed may turn out to be a symlink.
            Some(Node::Dir { listed: false }) if self.below.is_none() => {
                self.clear(path, name)?;
                self.links.insert(path.to_vec(), target);
                Ok(())
            }
            Some(Node::Dir { .. }) => Err(Error::invalid("a hard link to a directory")),
            Some(_) => {
                let meta = self.tree.meta(&target).unwrap_or_default();
                self.clear(path, name)?;
                let from = self
                    .root
                    .resolve(OsStr::from_bytes(parent_of(&target)), OFlags::PATH | OFlags::DIRECTORY)?;
                link(&from, last, self.parent_fd(path)?, name)?;
                self.tree.link(path, &target, &meta);
                Ok(())
            }
            None if self.below.is_some() => self.link_below(path, name, target),
            None => {
                self.clear(path, name)?;
                self.links.insert(path.to_vec(), target);
                Ok(())
            }
        }
    }

    fn link_below(&mut self, path: &[u8], name: &[u8], target: Vec<u8>) -> Result<()> {
        let missing = || Error::invalid(format!("its target {:?} is in no layer", escape(&target)));
        let Some(below) = &self.below else { return Err(missing()) };
        let stat = below.lookup(&target)?.ok_or_else(missing)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(Error::invalid("a hard link to a directory"));
        }
        let id = (stat.st_dev, stat.st_ino);
        let at = match self.brought_up_at.get(&id) {
            Some(at) => *at,
            None => {
                let side_name = self.brought_up.len().to_string();
                copy::one(
                    below.parent(&target)?,
                    name_of(&target),
                    &below.side,
                    side_name.as_bytes(),
                    &stat,
                )?;
                self.brought_up.push(BroughtUp { stat, target, side_name, group: 0 });
                self.brought_up_at.insert(id, self.brought_up.len() - 1);
                self.brought_up.len() - 1
            }
        };
        self.clear(path, name)?;
        self.link_up(at, path)
    }

    /// Makes a name of a file that was brought up.
    fn link_up(&mut self, at: usize, path: &[u8]) -> Result<()> {
        let dir = self.parent_fd(path)?;
        let (Some(file), Some(below)) = (self.brought_up.get_mut(at), &self.below) else { return Ok(()) };
        link(&below.side, file.side_name.as_bytes(), dir, name_of(path))?;
        let known = (file.group > 0).then(|| self.tree.name_in(file.group)).flatten().cloned();
        if let Some(first) = known {
            let meta = self.tree.meta(&first).unwrap_or_default();
            self.tree.link(path, &first, &meta);
            return Ok(());
        }
        let meta = copy::meta_of(&below.side, file.side_name.as_bytes(), &file.stat)?;
        self.tree.insert(path, &meta);
        file.group = self.tree.group_of(path);
        Ok(())
    }

    /// Brings up the other names of each such file: those that can still be seen.
    pub(super) fn finish_links(&mut self) -> Result<()> {
        let Some(below) = &self.below else { return Ok(()) };
        // What was linked to one may have been replaced since.
        let used = |file: &&BroughtUp| self.tree.name_in(file.group).is_some();
        let several = self.brought_up.iter().filter(used).filter(|file| file.stat.st_nlink > 1);
        let several = several.map(|file| (file.stat.st_dev, file.stat.st_ino)).collect();
        let mut names = below.names_of(&several)?;
        for at in 0..self.brought_up.len() {
            let Some(file) = self.brought_up.get(at) else { break };
            if self.tree.name_in(file.group).is_some() {
                let alone = || vec![file.target.clone()];
                for name in names.remove(&(file.stat.st_dev, file.stat.st_ino)).unwrap_or_else(alone) {
                    self.bring_up(at, &name)?;
                }
            }
            if let (Some(file), Some(below)) = (self.brought_up.get(at), &self.below) {
                remove_at(&below.side, OsStr::new(&file.side_name), false)?;
            }
        }
        Ok(())
    }

    fn bring_up(&mut self, at: usize, name: &[u8]) -> Result<()> {
        let Some(below) = &self.below else { return Ok(()) };
        let replaced = |end: usize| !matches!(self.tree.get(&name[..end]), None | Some(Node::Dir { .. }));
        if below.hides(name)
            || self.tree.get(name).is_some()
            || tree::prefix_ends(name).into_iter().any(replaced)
        {
            return Ok(());
        }
        self.ensure_dir(parent_of(name))?;
        self.link_up(at, name)
    }
}

fn link(from: impl AsFd, name: &[u8], to: impl AsFd, new: &[u8]) -> Result<()> {
    Ok(rustix::fs::linkat(from, name, to, new, AtFlags::empty()).map_err(std::io::Error::from)?)
}
