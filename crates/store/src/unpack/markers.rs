//! Whiteouts and opaque directories: which ones count, and what they become on disk.

use super::tree::{self, Node, join, name_of, parent_of, prefix_ends};
use super::{Attrs, Unpacker};
use crate::entries::{EntryMeta, Kind as EntryKind};
use crate::error::{Context, Result};
use crate::escape::escape;
use crate::xattr;
use rustix::fs::{FileType, Mode};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use strata_oci::whiteout::{self, Entry};
use strata_sys::path::fd_path;

/// A whiteout as an archive has it.
pub(super) struct Marker {
    /// The components of the directory that it stands in.
    pub(super) dir: Vec<Vec<u8>>,
    /// What it hides there; `None`: everything.
    pub(super) name: Option<Vec<u8>>,
}

/// The markers of a layer by their archived paths. What is hidden with its directory needs no marker of its own.
pub(super) fn parse<'a>(paths: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<Marker> {
    let mut markers = Vec::new();
    let mut hidden: BTreeSet<Vec<u8>> = BTreeSet::new();
    for path in paths {
        let name = match whiteout::classify(name_of(path)) {
            Entry::Whiteout(name) => Some(name.to_vec()),
            Entry::Opaque => None,
            _ => continue,
        };
        let dir = parent_of(path);
        if let Some(name) = &name {
            hidden.insert(join(dir, name));
        }
        markers.push((dir, name));
    }
    markers.retain(|(dir, _)| !prefix_ends(dir).into_iter().any(|end| hidden.contains(&dir[..end])));
    let parts = |dir| tree::clean(dir).unwrap_or_default().into_iter().map(<[u8]>::to_vec).collect();
    markers.into_iter().map(|(dir, name)| Marker { dir: parts(dir), name }).collect()
}

impl Unpacker<'_> {
    /// Writes what hides lower layers; whether the root does.
    pub(super) fn finish_markers(&mut self) -> Result<Hiding> {
        let (hidden, mut opaque) = match &self.below {
            Some(below) => (below.hidden().clone(), below.opaque().clone()),
            None => self.markers_alone(),
        };
        opaque.append(&mut self.renewed);
        // A whiteout beside a re-creation of the same name hides what a directory has below, and says nothing about a file.
        let (again, gone): (BTreeSet<_>, BTreeSet<_>) =
            hidden.into_iter().partition(|p| self.tree.get(p).is_some());
        opaque.extend(again.into_iter().filter(|p| self.tree.is_dir(p)));
        let mut hiding = Hiding { root: opaque.contains(&b""[..]), ..Hiding::default() };
        if hiding.root {
            return Ok(hiding);
        }
        // Outer ones first: what they hide needs nothing more.
        for path in opaque {
            let is_gone = prefix_ends(&path).into_iter().any(|end| gone.contains(&path[..end]));
            if !is_gone && !self.is_settled(&path, &hiding) {
                self.mark_opaque(&path).context(|| format!("opaque directory {:?}", escape(&path)))?;
                hiding.opaque.push(path);
            }
        }
        for path in gone {
            if !self.is_settled(&path, &hiding) {
                self.write_whiteout(&path).context(|| format!("whiteout {:?}", escape(&path)))?;
                hiding.whiteouts.push(path);
            }
        }
        Ok(hiding)
    }

    /// What the markers hide if every directory that the layer does not list is a directory below.
    fn markers_alone(&mut self) -> (BTreeSet<Vec<u8>>, BTreeSet<Vec<u8>>) {
        let (mut hidden, mut opaque) = (BTreeSet::new(), BTreeSet::new());
        for marker in parse(&self.markers) {
            // In a file of this layer, or a loop of its symlinks, there is nothing to hide.
            let Ok(dir) = self.tree.resolve(&marker.dir, None) else { continue };
            match marker.name {
                Some(name) => hidden.insert(join(&dir, &name)),
                None => opaque.insert(dir),
            };
        }
        (hidden, opaque)
    }

    /// Whether nothing of lower layers can be seen at a path anyway.
    fn is_settled(&self, path: &[u8], hiding: &Hiding) -> bool {
        prefix_ends(path).into_iter().any(|end| {
            let prefix = &path[..end];
            let listed = |list: &[Vec<u8>]| list.binary_search_by(|p| p.as_slice().cmp(prefix)).is_ok();
            listed(&hiding.whiteouts)
                || listed(&hiding.opaque)
                || !matches!(self.tree.get(prefix), None | Some(Node::Dir { .. }))
        })
    }

    fn write_whiteout(&mut self, path: &[u8]) -> Result<()> {
        self.ensure_dir(parent_of(path))?;
        let dir = self.parent_fd(path)?;
        rustix::fs::mknodat(&dir, name_of(path), FileType::CharacterDevice, Mode::empty(), 0)
            .map_err(std::io::Error::from)?;
        let meta = EntryMeta::of_kind(EntryKind::Whiteout).with(&Attrs::default());
        self.tree.insert(path, &meta);
        Ok(())
    }

    fn mark_opaque(&mut self, path: &[u8]) -> Result<()> {
        self.ensure_dir(path)?;
        let dir = self.parent_fd(path)?;
        xattr::set(&fd_path(&dir).join(OsStr::from_bytes(name_of(path))), xattr::OVERLAY_OPAQUE, b"y")?;
        // A check knows it by this.
        self.tree.set_opaque(path);
        Ok(())
    }
}

/// What a layer hides, as it is on disk.
#[derive(Default)]
pub(super) struct Hiding {
    pub(super) root: bool,
    pub(super) whiteouts: Vec<Vec<u8>>,
    pub(super) opaque: Vec<Vec<u8>>,
}

impl Hiding {
    /// Whether anything of the layer hides something.
    pub(super) fn any(&self) -> bool {
        self.root || !self.whiteouts.is_empty() || !self.opaque.is_empty()
    }
}
