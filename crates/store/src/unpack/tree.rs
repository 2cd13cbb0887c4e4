//! The layer's tree in memory: what is where, and where symlinks of the same layer lead.

use super::below::{Below, Found};
use crate::entries::{EntryMeta, Kind};
use crate::error::{Context, Error, Result};
use crate::escape::escape;
use rustix::fs::OFlags;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use strata_oci::whiteout;
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
pub(super) struct Tree {
    nodes: BTreeMap<Vec<u8>, (Node, EntryMeta)>,
    /// Names of one file have the same number.
    groups: BTreeMap<Vec<u8>, u32>,
    /// The names of each such file.
    members: BTreeMap<u32, BTreeSet<Vec<u8>>>,
    next_group: u32,
    /// Paths that were taken for directories of a lower layer, of which the tree says so no longer.
    passed: BTreeSet<Vec<u8>>,
}

/// What a layer takes up.
pub(super) struct Sizes {
    pub(super) bytes: u64,
    pub(super) disk: u64,
    pub(super) inodes: u64,
}

/// The most bytes of a path: what the kernel takes, with a zero at its end (linux/limits.h).
pub(super) const PATH_MAX: usize = 4095;

/// The components of an archived path; a leading slash and `.` are dropped, `..` goes back but never out.
pub(super) fn clean(path: &[u8]) -> Result<Vec<Vec<u8>>> {
    if path.len() > PATH_MAX {
        return Err(Error::invalid(format!("the path has more than {PATH_MAX} bytes")));
    }
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or_else(|| Error::invalid("the path leaves the layer"))?;
            }
            _ if part.contains(&0) => return Err(Error::invalid("the path has a zero byte")),
            // A whiteout's name never becomes one of a file.
            _ if part.strip_prefix(whiteout::PREFIX).unwrap_or(part).len() > 255 => {
                return Err(Error::invalid("a path component has more than 255 bytes"));
            }
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
        self.nodes.get(path).map(|(node, _)| node)
    }

    pub(super) fn is_dir(&self, path: &[u8]) -> bool {
        path.is_empty() || matches!(self.get(path), Some(Node::Dir { .. }))
    }

    pub(super) fn get_mut(&mut self, path: &[u8]) -> Option<&mut (Node, EntryMeta)> {
        self.nodes.get_mut(path)
    }

    pub(super) fn meta(&self, path: &[u8]) -> Option<&EntryMeta> {
        self.nodes.get(path).map(|(_, meta)| meta)
    }

    pub(super) fn insert(&mut self, path: Vec<u8>, node: Node) {
        self.insert_with(path, node, EntryMeta::default());
    }

    pub(super) fn insert_with(&mut self, path: Vec<u8>, node: Node, meta: EntryMeta) {
        if node == (Node::Dir { listed: true }) && self.get(&path) == Some(&Node::Dir { listed: false }) {
            self.passed.insert(path.clone());
        }
        self.nodes.insert(path, (node, meta));
    }

    /// A further name of a file.
    pub(super) fn link(&mut self, path: Vec<u8>, target: &[u8], node: Node, meta: EntryMeta) {
        let group = self.group_of(target);
        self.join_group(&path, group);
        self.insert_with(path, node, meta);
    }

    /// The number of the file that has this name.
    pub(super) fn group_of(&mut self, path: &[u8]) -> u32 {
        if let Some(group) = self.groups.get(path) {
            return *group;
        }
        self.next_group += 1;
        self.join_group(path, self.next_group);
        self.next_group
    }

    fn join_group(&mut self, path: &[u8], group: u32) {
        self.groups.insert(path.to_vec(), group);
        self.members.entry(group).or_default().insert(path.to_vec());
    }

    /// A name of a file that has a number.
    pub(super) fn name_in(&self, group: u32) -> Option<&Vec<u8>> {
        self.members.get(&group)?.first()
    }

    /// Forgets a path and everything below it.
    pub(super) fn remove(&mut self, path: &[u8]) {
        let below = join(path, b"");
        let inside = self.nodes.range(below.clone()..).map(|(k, _)| k);
        let mut gone: Vec<_> = inside.take_while(|k| k.starts_with(&below)).cloned().collect();
        gone.push(path.to_vec());
        for path in gone {
            let removed = self.nodes.remove(&path);
            if let Some(group) = self.groups.remove(&path)
                && let Some(names) = self.members.get_mut(&group)
            {
                names.remove(&path);
            }
            if removed.is_some_and(|(node, _)| node == Node::Dir { listed: false }) {
                self.passed.insert(path);
            }
        }
    }

    /// Where a path of directories leads, through symlinks of this layer and of those below, as sequential extraction would
    /// follow them. Without a look at what is below, what is not there is taken for a directory.
    pub(super) fn resolve(&mut self, parts: &[Vec<u8>], below: Option<&Below<'_>>) -> Result<Vec<u8>> {
        let mut todo: VecDeque<Vec<u8>> = parts.iter().cloned().collect();
        let (mut here, mut links) = (Vec::new(), 0);
        while let Some(part) = todo.pop_front() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    if !self.is_dir(&here) {
                        self.passed.insert(here.clone());
                    }
                    let end = here.iter().rposition(|b| *b == b'/').unwrap_or(0);
                    here.truncate(end);
                    continue;
                }
                _ => {}
            }
            let next = join(&here, &part);
            let found = match (self.get(&next), below) {
                (Some(Node::Symlink(target)), _) => Found::Symlink(target.clone()),
                (Some(Node::File), _) => Found::Other,
                (None, Some(below)) => below.find(&next)?,
                (Some(Node::Dir { .. }), _) | (None, None) => Found::Dir,
            };
            match found {
                Found::Symlink(target) => {
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
                Found::Other => {
                    return Err(Error::invalid(format!("{:?} is no directory", escape(&next))));
                }
                Found::Dir | Found::Nothing => here = next,
            }
        }
        Ok(here)
    }

    /// Directories that were made for what is in them only.
    pub(super) fn unlisted(&self) -> Vec<Vec<u8>> {
        let unlisted = self.nodes.iter().filter(|(_, (node, _))| *node == Node::Dir { listed: false });
        unlisted.map(|(path, _)| path.clone()).collect()
    }

    /// Of those, the ones that have nothing in them but whiteouts.
    pub(super) fn hollow(&self) -> Vec<Vec<u8>> {
        let mut filled: BTreeSet<&[u8]> = BTreeSet::new();
        let mut hollow = Vec::new();
        // What is in a directory comes before it.
        for (path, (node, meta)) in self.nodes.iter().rev() {
            if *node == (Node::Dir { listed: false }) && !filled.contains(path.as_slice()) {
                hollow.push(path.clone());
            } else if meta.kind != Kind::Whiteout {
                filled.insert(parent_of(path));
            }
        }
        hollow.reverse();
        hollow
    }

    /// See [`Tree::passed`].
    pub(super) fn passed(&self) -> Vec<Vec<u8>> {
        self.passed.iter().cloned().collect()
    }

    /// Sets what creating files in directories has changed, innermost first.
    pub(super) fn set_directory_times(&self, root: &Root) -> Result<()> {
        for (path, (node, meta)) in self.nodes.iter().rev() {
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
        let mut counted = BTreeSet::new();
        for (path, (_, meta)) in &self.nodes {
            if self.groups.get(path).is_some_and(|group| !counted.insert(*group)) {
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

    /// Everything by path; of names of one file, those after the first say which that is.
    pub(super) fn into_entries(self) -> Vec<(Vec<u8>, EntryMeta)> {
        let mut first: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let mut entries = Vec::with_capacity(self.nodes.len());
        for (path, (_, mut meta)) in self.nodes {
            if let Some(group) = self.groups.get(&path) {
                match first.get(group) {
                    Some(target) => meta = meta.hard_link(target),
                    None => {
                        first.insert(*group, path.clone());
                    }
                }
            }
            entries.push((path, meta));
        }
        entries
    }
}

pub(super) fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(b"", |i| &path[..i])
}

pub(super) fn name_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(path, |i| &path[i + 1..])
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
        let mut resolve = |p: &[u8]| tree.resolve(&clean(p).unwrap(), None);
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
        assert_eq!(tree.nodes.keys().collect::<Vec<_>>(), [&b"a-b".to_vec(), &b"ab".to_vec()]);
    }

    #[test]
    fn what_was_a_lower_directory_for_a_while_is_remembered() {
        let mut tree = Tree::default();
        tree.insert(b"lib".to_vec(), Node::Dir { listed: false });
        tree.insert(b"lib".to_vec(), Node::Dir { listed: true });
        tree.insert(b"opt".to_vec(), Node::Dir { listed: false });
        tree.remove(b"opt");
        tree.insert(b"link".to_vec(), Node::Symlink(b"var/../x".to_vec()));
        assert_eq!(tree.resolve(&clean(b"link/y").unwrap(), None).unwrap(), b"x/y");
        assert_eq!(tree.passed(), [b"lib".to_vec(), b"opt".to_vec(), b"var".to_vec()]);
    }

    #[test]
    fn hollow_directories_have_only_whiteouts_in_them() {
        let mut tree = Tree::default();
        for dir in [&b"a"[..], b"a/b", b"c", b"c/d"] {
            tree.insert(dir.to_vec(), Node::Dir { listed: false });
        }
        tree.insert_with(b"a/b/x".to_vec(), Node::File, EntryMeta::of_kind(Kind::Whiteout));
        tree.insert(b"c/file".to_vec(), Node::File);
        assert_eq!(tree.hollow(), [b"a".to_vec(), b"a/b".to_vec(), b"c/d".to_vec()]);
    }

    #[test]
    fn names_of_one_file_point_to_the_first_of_them() {
        let mut tree = Tree::default();
        tree.insert_with(b"b".to_vec(), Node::File, EntryMeta::file(3, 7));
        tree.link(b"a".to_vec(), b"b", Node::File, EntryMeta::file(3, 7));
        tree.link(b"c".to_vec(), b"a", Node::File, EntryMeta::file(3, 7));
        tree.remove(b"b");
        tree.insert_with(b"b".to_vec(), Node::File, EntryMeta::file(1, 1));
        assert_eq!((tree.sizes().inodes, tree.sizes().bytes), (2, 4));
        let links: Vec<_> = tree.into_entries().into_iter().map(|(_, m)| m.hard_link).collect();
        assert_eq!(links, [None, None, Some(b"a".to_vec())]);
    }
}
