//! The layer's tree in memory: what is where, and where symlinks of the same layer lead.

use crate::entries::{EntryMeta, Kind};
use crate::error::{Context, Error, Result};
use crate::escape::escape;
use rustix::fs::OFlags;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use strata_sys::path::Root;

/// As the kernel does it (path_resolution(7)).
const MAX_SYMLINKS: usize = 40;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Dir {
        listed: bool,
    },
    Symlink(Vec<u8>),
    /// A file, a device or a whiteout: nothing can be below it.
    File,
}

/// By path without symlinks, without a slash at either end.
#[derive(Default)]
pub(super) struct Tree(BTreeMap<Vec<u8>, (Node, EntryMeta)>);

/// What a layer takes up.
pub(super) struct Sizes {
    pub(super) bytes: u64,
    pub(super) disk: u64,
    pub(super) inodes: u64,
}

/// The components of an archived path; a leading slash and `.` are dropped, `..` goes back but never out.
pub(super) fn clean(path: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or_else(|| Error::invalid("the path leaves the layer"))?;
            }
            _ if part.contains(&0) => return Err(Error::invalid("the path has a zero byte")),
            _ if part.len() > 255 => return Err(Error::invalid("a path component has more than 255 bytes")),
            _ => parts.push(part.to_vec()),
        }
    }
    Ok(parts)
}

pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// Where each prefix of a path that is a path itself ends: `a`, `a/b`, `a/b/c`.
pub(super) fn prefix_ends(path: &[u8]) -> Vec<usize> {
    if path.is_empty() {
        return Vec::new();
    }
    let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i);
    slashes.chain([path.len()]).collect()
}

impl Tree {
    pub(super) fn get(&self, path: &[u8]) -> Option<&Node> {
        self.0.get(path).map(|(node, _)| node)
    }

    pub(super) fn get_mut(&mut self, path: &[u8]) -> Option<&mut (Node, EntryMeta)> {
        self.0.get_mut(path)
    }

    pub(super) fn meta(&self, path: &[u8]) -> Option<&EntryMeta> {
        self.0.get(path).map(|(_, meta)| meta)
    }

    pub(super) fn insert(&mut self, path: Vec<u8>, node: Node) {
        self.0.insert(path, (node, EntryMeta::default()));
    }

    pub(super) fn insert_with(&mut self, path: Vec<u8>, node: Node, meta: EntryMeta) {
        self.0.insert(path, (node, meta));
    }

    /// Forgets a path and everything below it.
    pub(super) fn remove(&mut self, path: &[u8]) {
        self.0.remove(path);
        let below = join(path, b"");
        let gone: Vec<_> = self
            .0
            .range(below.clone()..)
            .map(|(k, _)| k)
            .take_while(|k| k.starts_with(&below))
            .cloned()
            .collect();
        for path in gone {
            self.0.remove(&path);
        }
    }

    /// Where a path of directories leads, through symlinks of this layer, as sequential extraction would follow them.
    /// What is not there is taken as it is: it may be below.
    pub(super) fn resolve(&self, parts: &[Vec<u8>]) -> Result<Vec<u8>> {
        let mut todo: VecDeque<Vec<u8>> = parts.iter().cloned().collect();
        let (mut here, mut links) = (Vec::new(), 0);
        while let Some(part) = todo.pop_front() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    let end = here.iter().rposition(|b| *b == b'/').unwrap_or(0);
                    here.truncate(end);
                    continue;
                }
                _ => {}
            }
            let next = join(&here, &part);
            match self.get(&next) {
                Some(Node::Symlink(target)) => {
                    links += 1;
                    if links > MAX_SYMLINKS {
                        return Err(Error::invalid(format!("too many symlinks at {:?}", escape(&next))));
                    }
                    if target.starts_with(b"/") {
                        here.clear();
                    }
                    for part in target.split(|b| *b == b'/').rev() {
                        todo.push_front(part.to_vec());
                    }
                }
                Some(Node::File) => {
                    return Err(Error::invalid(format!("{:?} is no directory", escape(&next))));
                }
                Some(Node::Dir { .. }) | None => here = next,
            }
        }
        Ok(here)
    }

    /// Directories that were made for what is in them only.
    pub(super) fn unlisted(&self) -> Vec<Vec<u8>> {
        let unlisted = self.0.iter().filter(|(_, (node, _))| *node == Node::Dir { listed: false });
        unlisted.map(|(path, _)| path.clone()).collect()
    }

    /// Sets what creating files in directories has changed, innermost first.
    pub(super) fn set_directory_times(&self, root: &Root) -> Result<()> {
        for (path, (node, meta)) in self.0.iter().rev() {
            if matches!(node, Node::Dir { .. }) {
                let fd = root.resolve(OsStr::from_bytes(path), OFlags::RDONLY | OFlags::DIRECTORY)?;
                rustix::fs::futimens(&fd, &meta.times())
                    .map_err(std::io::Error::from)
                    .context(|| format!("futimens({:?})", escape(path)))?;
            }
        }
        Ok(())
    }

    pub(super) fn sizes(&self) -> Sizes {
        let mut sizes = Sizes { bytes: 0, disk: 4096, inodes: 0 };
        let mut groups = HashSet::new();
        for (path, (_, meta)) in &self.0 {
            if let Some(target) = &meta.hard_link
                && (self.0.contains_key(target) || !groups.insert(target.clone()))
                && target != path
            {
                continue;
            }
            sizes.inodes += 1;
            if meta.kind == Kind::File {
                sizes.bytes += meta.size;
            }
            sizes.disk += meta.disk();
        }
        sizes
    }

    pub(super) fn into_entries(self) -> Vec<(Vec<u8>, EntryMeta)> {
        self.0.into_iter().map(|(path, (_, meta))| (path, meta)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symlinks_of_the_layer_are_followed_and_never_lead_out() {
        let mut tree = Tree::default();
        tree.insert(b"lib".to_vec(), Node::Symlink(b"usr/lib".to_vec()));
        tree.insert(b"abs".to_vec(), Node::Symlink(b"/../../etc".to_vec()));
        tree.insert(b"loop".to_vec(), Node::Symlink(b"loop".to_vec()));
        tree.insert(b"file".to_vec(), Node::File);
        let resolve = |p: &[u8]| tree.resolve(&clean(p).unwrap());
        assert_eq!(resolve(b"lib/x").unwrap(), b"usr/lib/x");
        assert_eq!(resolve(b"/abs/./ssh").unwrap(), b"etc/ssh");
        assert!(resolve(b"loop/x").is_err());
        assert!(resolve(b"file/x").is_err());
        assert!(clean(b"a/../../b").is_err());
        assert_eq!(clean(b"./a//b/../c").unwrap(), [b"a".to_vec(), b"c".to_vec()]);
        assert_eq!(prefix_ends(b"a/bc/d"), [1, 4, 6]);
    }

    #[test]
    fn removing_a_directory_forgets_only_what_is_in_it() {
        let mut tree = Tree::default();
        for path in [&b"a"[..], b"a/b", b"a/b/c", b"a-b", b"ab"] {
            tree.insert(path.to_vec(), Node::File);
        }
        tree.remove(b"a");
        assert_eq!(tree.0.keys().collect::<Vec<_>>(), [&b"a-b".to_vec(), &b"ab".to_vec()]);
    }
}
