//! A layer's tar becomes a directory.
//!
//! ```text
//!   entry ─▶ its parent, through symlinks of this layer ─▶ openat2 beneath the layer's root ─▶ *at() by one name
//! ```
//!
//! The layer is unpacked as if nothing lay below it, and what depends on that is recorded ([`LayerRecord`]). Where an image
//! is composed in which it matters, the same tar is unpacked once more, with a look at what is below ([`Below`]). Nobody
//! else writes to the directory, so the tree in memory is what is on disk.

pub(crate) mod archive;
mod attrs;
mod batch;
mod below;
mod content;
mod file;
mod late;
mod links;
mod markers;
mod place;
mod tree;
mod unpacked;

use crate::chunks::Source;
use crate::entries::{EntryMeta, Kind as EntryKind};
use crate::error::{Context, Error, Result};
use crate::escape::escape;
use crate::limits::{Census, Limits};
use crate::measure::Footprint;
use crate::record::{FORMAT, LayerRecord, RootAttrs};
use crate::threads::{joined, stage};
use crate::xattr;
use archive::Archive;
pub(crate) use attrs::{Attrs, times};
pub(crate) use below::Below;
use content::Writer;
use rustix::fs::{Mode, OFlags};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;
use strata_oci::Digest;
use strata_oci::whiteout::{self, Entry};
use strata_sys::path::{Root, fd_path, remove_at};
use tree::{Node, Tree, name_of, parent_of};
pub(crate) use unpacked::Unpacked;

/// Unpacks a tar into an empty directory; for one place in one stack, with what is below it.
///
/// # Errors
/// [`Invalid`](crate::Kind::Invalid) or [`Limit`](crate::Kind::Limit), naming the entry, if the archive is broken or hostile.
pub(crate) fn unpack(
    root: OwnedFd,
    tar: &mut dyn Source,
    diff_id: &Digest,
    limits: &Limits,
    below: Option<Below<'_>>,
) -> Result<Unpacked> {
    std::thread::scope(|scope| {
        let (writer, given) = content::writer();
        let writing = stage(scope, "write", || content::write_all(given))?;
        let made = make(root, tar, limits, below, writer);
        // If that has failed the tree could not be finished.
        let written = joined(writing)?;
        made?.finish(diff_id, written)
    })
}

/// Makes the tree; the content of its files is handed on.
fn make<'b>(
    root: OwnedFd,
    tar: &mut dyn Source,
    limits: &'b Limits,
    below: Option<Below<'b>>,
    writer: Writer,
) -> Result<Unpacker<'b>> {
    let mut unpacker = Unpacker {
        root: Root::from_fd(root),
        tree: Tree::default(),
        below,
        dir: None,
        parent: None,
        markers: BTreeSet::new(),
        renewed: BTreeSet::new(),
        links: BTreeMap::new(),
        brought_up: Vec::new(),
        brought_up_at: HashMap::new(),
        late: BTreeMap::new(),
        root_attrs: None,
        census: Census::new(limits),
        measured: Some(Footprint::default()),
        writer: Some(writer),
    };
    let mut archive = Archive::new(tar);
    let mut last: Option<Vec<u8>> = None;
    while let Some(mut entry) = archive.next().map_err(|e| after(last.as_deref(), e))? {
        unpacker.entry(&mut archive, &mut entry).map_err(|e| e.context(entry_name(&entry.path)))?;
        unpacker.pass_on()?;
        last = Some(entry.path);
    }
    archive.finish().map_err(|e| after(last.as_deref(), e))?;
    let rest = unpacker.writer.take().map(Writer::end).transpose()?;
    unpacker.add(rest.unwrap_or_default());
    Ok(unpacker)
}

/// Says where what is broken is not an entry itself but what says that there is one.
fn after(last: Option<&[u8]>, e: Error) -> Error {
    match last {
        Some(last) => e.context(format!("after {}", entry_name(last))),
        None => e.context("first entry"),
    }
}

/// How errors name an entry.
fn entry_name(path: &[u8]) -> String {
    const MOST: usize = 300;
    match path.get(..MOST) {
        Some(start) => format!("entry {:?}… ({} bytes)", escape(start), path.len()),
        None => format!("entry {:?}", escape(path)),
    }
}

struct Unpacker<'b> {
    root: Root,
    tree: Tree,
    below: Option<Below<'b>>,
    /// The directory of the last entry: the next one is usually in it too.
    dir: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// What the last entry's directory was called, and where it is: as long as nothing is removed, all of that path is there.
    parent: Option<(Vec<u8>, Rc<[u8]>)>,
    /// Whiteouts as they are archived.
    markers: BTreeSet<Vec<u8>>,
    /// Directories in whose place the layer had something else before: what is below them is hidden.
    renewed: BTreeSet<Vec<u8>>,
    /// Hard links to what this layer has not got, as far as it has come.
    links: BTreeMap<Vec<u8>, Vec<u8>>,
    brought_up: Vec<links::BroughtUp>,
    /// Which of them has a device and an inode.
    brought_up_at: HashMap<below::FileId, usize>,
    late: BTreeMap<Vec<u8>, late::Late>,
    root_attrs: Option<RootAttrs>,
    census: Census<'b>,
    /// Of what is there so far but for directories, as long as nothing of it has been removed.
    measured: Option<Footprint>,
    /// To the thread that writes the content of files, until all entries are there.
    writer: Option<Writer>,
}

impl Unpacker<'_> {
    fn entry(&mut self, archive: &mut Archive<'_>, entry: &mut archive::Entry) -> Result<()> {
        let kept: usize = entry.attrs.xattrs.iter().map(|(_, value)| value.len()).sum();
        self.count(entry.path.len() + entry.link.len() + kept)?;
        let parts = tree::clean(&entry.path)?;
        self.fit_time(&mut entry.attrs)?;
        let Some((name, parents)) = parts.split_last() else {
            return self.root_entry(entry);
        };
        match whiteout::classify(name) {
            Entry::Plain(name) => {
                let parent = self.parent_of_entry(parents)?;
                self.place(archive, entry, &parent, name)
            }
            Entry::Whiteout(_) | Entry::Opaque => {
                self.markers.insert(parts.join(&b'/'));
                Ok(())
            }
            Entry::Ignored => Ok(()),
            Entry::Invalid => Err(Error::invalid("a whiteout of no name")),
        }
    }

    /// Short files that are enough for a batch go on.
    fn pass_on(&mut self) -> Result<()> {
        let written = self.writer.as_mut().map(Writer::pass_on).transpose()?;
        self.add(written.unwrap_or_default());
        Ok(())
    }

    /// Counts up what something takes up that is there.
    fn add(&mut self, there: Footprint) {
        self.measured = self.measured.map(|all| all.and(there));
    }

    /// Where an entry's directory is, which is made if it is not there.
    fn parent_of_entry(&mut self, parents: &[&[u8]]) -> Result<Rc<[u8]>> {
        let listed = parents.join(&b'/');
        if let Some((last, there)) = &self.parent
            && *last == listed
        {
            return Ok(there.clone());
        }
        let there: Rc<[u8]> = self.tree.resolve(parents, self.below.as_ref())?.into();
        self.ensure_dir(&there)?;
        self.parent = Some((listed, there.clone()));
        Ok(there)
    }

    fn root_entry(&mut self, entry: &archive::Entry) -> Result<()> {
        if !entry.is_dir() {
            return Err(Error::invalid("the root must be a directory"));
        }
        self.root_attrs = Some(entry.attrs.for_root());
        Ok(())
    }

    /// Counts what is kept in memory of an entry, or of a directory that it implies.
    fn count(&mut self, bytes: usize) -> Result<()> {
        // What is below has been counted, and what it makes necessary is not this layer's fault.
        if self.below.is_some() { Ok(()) } else { self.census.entry(bytes) }
    }

    /// Makes of a time that the file system cannot keep the nearest one that it can: ext4's end in 2446.
    fn fit_time(&self, attrs: &mut Attrs) -> Result<()> {
        if (0..1 << 31).contains(&attrs.mtime.0) {
            return Ok(());
        }
        // The root's own times come from its record.
        let try_it = || {
            rustix::fs::futimens(&self.root, &times(attrs.mtime))?;
            rustix::fs::fstat(&self.root)
        };
        let stat = try_it().map_err(std::io::Error::from).context(|| format!("mtime {}", attrs.mtime.0))?;
        attrs.mtime = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
        Ok(())
    }

    fn directory(&mut self, path: &[u8], name: &[u8], attrs: &Attrs) -> Result<()> {
        let linked = self.links.contains_key(path);
        match self.tree.get(path) {
            // The attributes that it had are replaced, all of them (OCI image spec, layer.md "Changeset over existing files").
            Some(Node::Dir { .. }) => {
                let dir = self.parent_fd(path)?;
                xattr::clear(&fd_path(&dir).join(OsStr::from_bytes(name)))?;
            }
            other => {
                if other.is_some() || linked {
                    self.renew(path);
                }
                self.clear(path, name)?;
                let dir = self.parent_fd(path)?;
                rustix::fs::mkdirat(&dir, name, Mode::RWXU).map_err(std::io::Error::from)?;
            }
        }
        self.apply_dir(path, attrs)?;
        let meta = EntryMeta::of_kind(EntryKind::Dir).with(attrs);
        self.tree.insert(path, &meta);
        Ok(())
    }

    /// What was here before has removed what is below, which must not come back with the directory.
    fn renew(&mut self, path: &[u8]) {
        self.renewed.insert(path.to_vec());
        if let Some(below) = &mut self.below {
            below.renew(path);
        }
    }

    /// Removes what an earlier entry put at a path: the last one counts.
    fn clear(&mut self, path: &[u8], name: &[u8]) -> Result<()> {
        self.links.remove(path);
        let there = self.tree.get(path);
        if there.is_some() {
            self.measured = None;
            self.parent = None;
        }
        match there {
            None => return Ok(()),
            Some(Node::Dir { .. }) => {
                self.dir = None;
                let dir = self.parent_fd(path)?;
                crate::trash::remove_tree(&fd_path(&dir).join(OsStr::from_bytes(name)))?;
            }
            Some(_) => {
                remove_at(self.parent_fd(path)?, OsStr::from_bytes(name), false)?;
            }
        }
        self.tree.remove(path);
        Ok(())
    }

    /// Makes the directories of a path that the layer has not listed (yet).
    fn ensure_dir(&mut self, path: &[u8]) -> Result<()> {
        for end in tree::prefix_ends(path) {
            let prefix = &path[..end];
            match self.tree.get(prefix) {
                Some(Node::Dir { .. }) => {}
                Some(_) => return Err(Error::invalid(format!("{:?} is no directory", escape(prefix)))),
                None => {
                    self.count(prefix.len())?;
                    let dir = self.parent_fd(prefix)?;
                    rustix::fs::mkdirat(&dir, name_of(prefix), Mode::RWXU).map_err(std::io::Error::from)?;
                    let there = self.below.as_ref().map(|b| b.dir_attrs(prefix)).transpose()?.flatten();
                    let attrs = there.unwrap_or_else(Attrs::unlisted);
                    self.apply_dir(prefix, &attrs)?;
                    let meta = EntryMeta::of_kind(EntryKind::Dir).with(&attrs);
                    self.tree.imply(prefix, &meta);
                }
            }
        }
        Ok(())
    }

    fn parent_fd(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>> {
        let parent = parent_of(path);
        if let Some((open, fd)) = &self.dir
            && open == parent
        {
            return Ok(fd.clone());
        }
        let fd = self.root.resolve(OsStr::from_bytes(parent), OFlags::PATH | OFlags::DIRECTORY)?;
        let fd = Rc::new(fd);
        self.dir = Some((parent.to_vec(), fd.clone()));
        Ok(fd)
    }

    fn finish(mut self, diff_id: &Digest, written: Footprint) -> Result<Unpacked> {
        self.finish_links()?;
        let hiding = self.finish_markers()?;
        // What a lower layer hands up, what hides it, and what comes late are seldom, and counted by walking.
        if self.below.is_some() || hiding.any() || !self.late.is_empty() {
            self.measured = None;
        }
        self.finish_late()?;
        let measured = self.measured.map(|rest| rest.and(written));
        let mut record = LayerRecord {
            format: FORMAT,
            diff_id: diff_id.clone(),
            size: self.tree.size(),
            // Measured when it is published.
            disk: 0,
            inodes: 0,
            root: self.root_attrs,
            root_opaque: hiding.root,
            unlisted: Vec::new(),
            hollow: Vec::new(),
            passed: Vec::new(),
            whiteouts: Vec::new(),
            opaque: Vec::new(),
            markers: Vec::new(),
            links: Vec::new(),
        };
        // For its own place, everything has been decided.
        if self.below.is_none() {
            record.unlisted = self.tree.unlisted();
            record.hollow = self.tree.hollow();
            record.passed = self.tree.passed();
            record.whiteouts = hiding.whiteouts;
            record.opaque = hiding.opaque;
            record.markers = self.markers.into_iter().collect();
            record.links = self.links.into_iter().flat_map(|(link, target)| [link, target]).collect();
        }
        Ok(Unpacked { record, entries: self.tree.into_entries(), measured, root: self.root })
    }
}
