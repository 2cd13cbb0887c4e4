//! The layer's tree in memory: what is where, and where symlinks of the same layer lead.

use super::below::{Below, Found};
use crate::entries::{EntryMeta, Kind, Marks, Packed};
use crate::error::{Error, Result};
use crate::escape::escape;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use strata_oci::whiteout;

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
    nodes: BTreeSet<Packed>,
    /// The names of each file that has several: those with the same number.
    members: BTreeMap<u32, BTreeSet<Vec<u8>>>,
    next_group: u32,
    /// Paths that were taken for directories of a lower layer, of which the tree says so no longer.
    passed: BTreeSet<Vec<u8>>,
}

/// The most bytes of a path: what the kernel takes, with a zero at its end (linux/limits.h).
pub(super) const PATH_MAX: usize = 4095;

/// The components of an archived path; a leading slash and `.` are dropped, `..` goes back but never out.
pub(super) fn clean(path: &[u8]) -> Result<Vec<&[u8]>> {
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
            _ => parts.push(part),
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
    pub(super) fn get(&self, path: &[u8]) -> Option<Node> {
        self.nodes.get(path).map(node_of)
    }

    pub(super) fn is_dir(&self, path: &[u8]) -> bool {
        path.is_empty() || matches!(self.get(path), Some(Node::Dir { .. }))
    }

    pub(super) fn meta(&self, path: &[u8]) -> Option<EntryMeta> {
        self.nodes.get(path).map(Packed::meta)
    }

    /// Notes that a directory hides what is below it.
    pub(super) fn set_opaque(&mut self, path: &[u8]) {
        if let Some(entry) = self.nodes.get(path) {
            let (mut meta, marks) = (entry.meta(), entry.marks());
            meta.set_opaque();
            self.nodes.replace(Packed::new(path, &meta, marks));
        }
    }

    /// What the layer lists.
    pub(super) fn insert(&mut self, path: &[u8], meta: &EntryMeta) {
        let before = self.nodes.get(path).map(|entry| (entry.kind(), entry.marks()));
        if meta.kind == Kind::Dir && before.is_some_and(|(kind, marks)| kind == Kind::Dir && !marks.listed) {
            self.passed.insert(path.to_vec());
        }
        let group = before.map_or(0, |(_, marks)| marks.group);
        self.nodes.replace(Packed::new(path, meta, Marks { listed: true, group }));
    }

    /// A directory that the layer does not list.
    pub(super) fn imply(&mut self, path: &[u8], meta: &EntryMeta) {
        self.nodes.replace(Packed::new(path, meta, Marks::default()));
    }

    /// A further name of a file.
    pub(super) fn link(&mut self, path: &[u8], target: &[u8], meta: &EntryMeta) {
        let group = self.group_of(target);
        self.insert(path, meta);
        self.join_group(path, group);
    }

    /// The number of the file that has this name.
    pub(super) fn group_of(&mut self, path: &[u8]) -> u32 {
        let group = self.group(path);
        if group != 0 {
            return group;
        }
        self.next_group += 1;
        self.join_group(path, self.next_group);
        self.next_group
    }

    fn group(&self, path: &[u8]) -> u32 {
        self.nodes.get(path).map_or(0, |entry| entry.marks().group)
    }

    fn join_group(&mut self, path: &[u8], group: u32) {
        if let Some(entry) = self.nodes.get(path) {
            let marks = Marks { group, ..entry.marks() };
            self.nodes.replace(Packed::new(path, &entry.meta(), marks));
        }
        self.members.entry(group).or_default().insert(path.to_vec());
    }

    /// A name of a file that has a number.
    pub(super) fn name_in(&self, group: u32) -> Option<&Vec<u8>> {
        self.members.get(&group)?.first()
    }

    /// Forgets a path and everything below it.
    pub(super) fn remove(&mut self, path: &[u8]) {
        let below = join(path, b"");
        let from = (Bound::Included(below.as_slice()), Bound::Unbounded);
        let inside = self.nodes.range::<[u8], _>(from).map(Packed::path);
        let mut gone: Vec<_> = inside.take_while(|k| k.starts_with(&below)).map(<[u8]>::to_vec).collect();
        gone.push(path.to_vec());
        for path in gone {
            let Some(removed) = self.nodes.take(path.as_slice()) else { continue };
            if let Some(names) = self.members.get_mut(&removed.marks().group) {
                names.remove(&path);
            }
            if is_implied(&removed) {
                self.passed.insert(path);
            }
        }
    }

    /// Where a path of directories leads, through symlinks of this layer and of those below, as sequential extraction would
    /// follow them. Without a look at what is below, what is not there is taken for a directory.
    pub(super) fn resolve(
        &mut self,
        parts: &[impl AsRef<[u8]>],
        below: Option<&Below<'_>>,
    ) -> Result<Vec<u8>> {
        let mut todo: VecDeque<Vec<u8>> = parts.iter().map(|part| part.as_ref().to_vec()).collect();
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
                (Some(Node::Symlink(target)), _) => Found::Symlink(target),
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
        self.nodes.iter().filter(|entry| is_implied(entry)).map(|entry| entry.path().to_vec()).collect()
    }

    /// Of those, the ones that have nothing in them but whiteouts.
    pub(super) fn hollow(&self) -> Vec<Vec<u8>> {
        let mut filled: BTreeSet<&[u8]> = BTreeSet::new();
        let mut hollow = Vec::new();
        // What is in a directory comes before it.
        for entry in self.nodes.iter().rev() {
            if is_implied(entry) && !filled.contains(entry.path()) {
                hollow.push(entry.path().to_vec());
            } else if entry.kind() != Kind::Whiteout {
                filled.insert(parent_of(entry.path()));
            }
        }
        hollow.reverse();
        hollow
    }

    /// See [`Tree::passed`].
    pub(super) fn passed(&self) -> Vec<Vec<u8>> {
        self.passed.iter().cloned().collect()
    }

    /// Bytes of regular files, each once, whatever number of names it has.
    pub(super) fn size(&self) -> u64 {
        let mut counted = BTreeSet::new();
        let files = self.nodes.iter().filter(|entry| entry.kind() == Kind::File);
        let once = files.filter(|entry| entry.marks().group == 0 || counted.insert(entry.marks().group));
        once.map(|entry| entry.meta().size).sum()
    }

    /// Everything by path; of names of one file, those after the first say which that is.
    pub(super) fn into_entries(self) -> Vec<Packed> {
        let mut first: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let mut entries = Vec::with_capacity(self.nodes.len());
        for entry in self.nodes {
            let marks = entry.marks();
            match first.get(&marks.group) {
                _ if marks.group == 0 => entries.push(entry),
                Some(target) => {
                    let meta = entry.meta().hard_link(target);
                    entries.push(Packed::new(entry.path(), &meta, marks));
                }
                None => {
                    first.insert(marks.group, entry.path().to_vec());
                    entries.push(entry);
                }
            }
        }
        entries
    }
}

fn node_of(entry: &Packed) -> Node {
    match entry.kind() {
        Kind::Dir => Node::Dir { listed: entry.marks().listed },
        Kind::Symlink => Node::Symlink(entry.meta().target),
        _ => Node::File,
    }
}

fn is_implied(entry: &Packed) -> bool {
    entry.kind() == Kind::Dir && !entry.marks().listed
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

    fn dir() -> EntryMeta {
        EntryMeta::of_kind(Kind::Dir)
    }

    #[test]
    fn symlinks_of_the_layer_are_followed_and_never_lead_out() {
        let mut tree = Tree::default();
        tree.insert(b"lib", &EntryMeta::link(b"usr/lib"));
        tree.insert(b"abs", &EntryMeta::link(b"/../../etc"));
        tree.insert(b"loop", &EntryMeta::link(b"loop"));
        tree.insert(b"file", &EntryMeta::default());
        let mut resolve = |p: &[u8]| tree.resolve(&clean(p).unwrap(), None);
        assert_eq!(resolve(b"lib/x").unwrap(), b"usr/lib/x");
        assert_eq!(resolve(b"/abs/./ssh").unwrap(), b"etc/ssh");
        assert!(resolve(b"loop/x").is_err());
        assert!(resolve(b"file/x").is_err());
        assert!(clean(b"a/../../b").is_err());
        assert_eq!(clean(b"./a//b/../c").unwrap(), [b"a", b"c"]);
        assert_eq!(prefix_ends(b"a/bc/d"), [1, 4, 6]);
    }

    #[test]
    fn removing_a_directory_forgets_only_what_is_in_it() {
        let mut tree = Tree::default();
        for path in [&b"a"[..], b"a/b", b"a/b/c", b"a-b", b"ab"] {
            tree.insert(path, &EntryMeta::default());
        }
        tree.remove(b"a");
        assert_eq!(tree.nodes.iter().map(Packed::path).collect::<Vec<_>>(), [&b"a-b"[..], b"ab"]);
    }

    #[test]
    fn what_was_a_lower_directory_for_a_while_is_remembered() {
        let mut tree = Tree::default();
        tree.imply(b"lib", &dir());
        tree.insert(b"lib", &dir());
        tree.imply(b"opt", &dir());
        tree.remove(b"opt");
        tree.insert(b"link", &EntryMeta::link(b"var/../x"));
        assert_eq!(tree.resolve(&clean(b"link/y").unwrap(), None).unwrap(), b"x/y");
        assert_eq!(tree.passed(), [b"lib".to_vec(), b"opt".to_vec(), b"var".to_vec()]);
    }

    #[test]
    fn hollow_directories_have_only_whiteouts_in_them() {
        let mut tree = Tree::default();
        for path in [&b"a"[..], b"a/b", b"c", b"c/d"] {
            tree.imply(path, &dir());
        }
        tree.insert(b"a/b/x", &EntryMeta::of_kind(Kind::Whiteout));
        tree.insert(b"c/file", &EntryMeta::default());
        assert_eq!(tree.hollow(), [b"a".to_vec(), b"a/b".to_vec(), b"c/d".to_vec()]);
    }

    #[test]
    fn names_of_one_file_point_to_the_first_of_them() {
        let mut tree = Tree::default();
        tree.insert(b"b", &EntryMeta::file(3, 7));
        tree.link(b"a", b"b", &EntryMeta::file(3, 7));
        tree.link(b"c", b"a", &EntryMeta::file(3, 7));
        tree.remove(b"b");
        tree.insert(b"b", &EntryMeta::file(1, 1));
        assert_eq!(tree.size(), 4);
        let links: Vec<_> = tree.into_entries().iter().map(|e| e.meta().hard_link).collect();
        assert_eq!(links, [None, None, Some(b"a".to_vec())]);
    }
}
