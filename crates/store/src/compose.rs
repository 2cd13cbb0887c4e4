//! From layers that were unpacked as if nothing lay below them to a stack that equals sequential extraction.
//!
//! A layer's own directory (keyed by diff ID) is used wherever what is below makes no difference. Where it does, the stack
//! gets a variant of the layer, keyed by chain ID: its tar, unpacked once more with an overlay of what is below it in view.
//! What an archive does below symlinks and to hard links depends on the order of its entries, so no copy of the directory
//! could be mended to the same; the compressed tar of a layer that may need it is kept.

pub(crate) mod variant;

use crate::error::{Context, Error, Result};
use crate::escape::escape;
use crate::index::Lease;
use crate::record::LayerRecord;
use crate::store::Store;
use crate::trash::Scratch;
use crate::unpack::Attrs;
use crate::xattr;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use strata_oci::{Descriptor, Digest, config};
use strata_sys::mount::{self, Overlay};
use strata_sys::path::{Root, fd_path};

/// How often a lookup is repeated that lost a race against a rename (openat2(2), `EAGAIN`).
const RETRIES: usize = 64;

/// A merged, read-only look at some layers. Nothing is attached anywhere: it goes with its descriptor.
#[derive(Debug)]
pub(crate) struct View {
    root: Root,
    // The empty directory below them; overlayfs takes no single lower layer.
    _empty: Scratch,
}

impl View {
    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    /// What is at a path. No symlink is followed, neither at its end nor on the way.
    pub(crate) fn lookup(&self, path: &[u8]) -> Result<Option<Stat>> {
        lookup(&self.root, path)
    }
}

/// What is at a path below a root. No symlink is followed, neither at its end nor on the way.
pub(crate) fn lookup(root: &Root, path: &[u8]) -> Result<Option<Stat>> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |e: Errno| Error::from(std::io::Error::from(e)).context(format!("stat {:?}", escape(path)));
    for _ in 0..RETRIES {
        return match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Ok(fd) => rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH).map(Some).map_err(failed),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(e) => Err(failed(e)),
        };
    }
    Err(failed(Errno::AGAIN))
}

impl Store {
    /// The keys of an image's layers, lowest first, for each of its diff IDs; `blobs` are what they were unpacked from.
    pub(crate) fn compose(
        &self,
        lease: &Lease,
        diff_ids: &[Digest],
        blobs: &[Descriptor],
    ) -> Result<Vec<String>> {
        let mut keys: Vec<String> = Vec::with_capacity(diff_ids.len());
        let chain = config::chain_ids(diff_ids);
        for ((diff_id, chain), blob) in diff_ids.iter().zip(&chain).zip(blobs) {
            let base = self.hold_layer(lease, diff_id.hex()).ok_or_else(|| {
                Error::not_found(format!("layer {diff_id} is not in the store: it must be fetched first"))
            })?;
            let key = if base.depends_on_position() {
                self.place(lease, &base, chain, &stack_of(&keys), blob)
                    .map_err(|e| e.context(format!("layer {diff_id}")))?
            } else {
                diff_id.hex().to_owned()
            };
            keys.push(key);
        }
        Ok(keys)
    }

    /// The layer with this key, held by the lease.
    pub(crate) fn hold_layer(&self, lease: &Lease, key: &str) -> Option<std::sync::Arc<LayerRecord>> {
        let mut inner = self.index.lock();
        let record = inner.layers.get(key).cloned()?;
        inner.held(lease).layers.insert(key.to_owned());
        Some(record)
    }

    /// The key of a layer at its place in a stack.
    fn place(
        &self,
        lease: &Lease,
        base: &LayerRecord,
        chain: &Digest,
        below: &[String],
        blob: &Descriptor,
    ) -> Result<String> {
        let view = self.view(below, false)?;
        if !makes_difference(base, &view)? {
            return Ok(base.diff_id.hex().to_owned());
        }
        let key = format!("chain-{}", chain.hex());
        if self.hold_layer(lease, &key).is_none() {
            let blob = self.blob_of(lease, &base.diff_id, blob)?;
            self.unpack_in_place(lease, &key, base, &view, &blob, &|| lease.go_on())?;
        }
        Ok(key)
    }

    /// A merged look at layers, topmost first; `mountpoints` puts the runtime's below them.
    pub(crate) fn view(&self, stack: &[String], mountpoints: bool) -> Result<View> {
        let empty = Scratch::new(&self.layout, "empty");
        empty.make_dir()?;
        let mut lowers = self.lowers(stack)?;
        if mountpoints {
            lowers.push(self.layout.mountpoints.clone());
        }
        if lowers.is_empty() {
            return Ok(View { root: Root::open(&empty.path())?, _empty: empty });
        }
        lowers.push(empty.path());
        let overlay = Overlay { lowers: &lowers, upper: None, volatile: false, label: None };
        let mount = overlay
            .mount(mount::Attrs { readonly: true, ..mount::Attrs::default() })
            .context(|| "overlay".into())?;
        Ok(View { root: Root::from_fd(mount), _empty: empty })
    }

    /// The directories of a stack, topmost first, down to one that hides everything below it.
    pub(crate) fn lowers(&self, stack: &[String]) -> Result<Vec<PathBuf>> {
        let records = self.stack_records(stack)?;
        let end = records.iter().position(|r| r.root_opaque).map_or(stack.len(), |n| n + 1);
        Ok(stack[..end].iter().map(|key| self.layer_fs(key)).collect())
    }
}

/// The keys below, as overlayfs stacks them: topmost first, each once.
pub(crate) fn stack_of(keys: &[String]) -> Vec<String> {
    let mut stack: Vec<String> = Vec::with_capacity(keys.len());
    for key in keys.iter().rev() {
        if !stack.contains(key) {
            stack.push(key.clone());
        }
    }
    stack
}

/// Whether a layer's own directory would show something else than sequential extraction on top of `below`.
fn makes_difference(base: &LayerRecord, below: &View) -> Result<bool> {
    if !base.links.is_empty() {
        return Ok(true);
    }
    let hidden = |path: &[u8]| {
        base.root_opaque
            || prefixes(path).any(|p| base.opaque.binary_search_by(|o| o.as_slice().cmp(p)).is_ok())
    };
    let there = |path: &[u8]| if hidden(path) { Ok(None) } else { below.lookup(path) };
    let kind = |stat: &Stat| FileType::from_raw_mode(stat.st_mode);
    for path in &base.unlisted {
        match there(path)? {
            Some(stat) if kind(&stat) != FileType::Directory || !is_plain(&stat, path, below)? => {
                return Ok(true);
            }
            None if base.hollow.binary_search(path).is_ok() => return Ok(true),
            _ => {}
        }
    }
    for path in &base.passed {
        if there(path)?.is_some_and(|stat| kind(&stat) != FileType::Directory) {
            return Ok(true);
        }
    }
    for path in &base.whiteouts {
        let parent = parent_of(path);
        // A directory of several layers is merged, and shows no whiteouts; one of a single layer is read as it is.
        let merged = || Ok::<_, Error>(there(parent)?.is_some_and(|s| kind(&s) == FileType::Directory));
        if there(path)?.is_none() && !merged()? {
            tracing::debug!(path = %escape(path), "whiteout of nothing");
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a directory is as the unpacker makes one that nobody lists.
fn is_plain(stat: &Stat, path: &[u8], below: &View) -> Result<bool> {
    let plain = Attrs::unlisted();
    let same_time = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)) == plain.mtime;
    if (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) != (plain.mode, plain.uid, plain.gid) || !same_time {
        return Ok(false);
    }
    let fd = below.root().resolve(OsStr::from_bytes(path), OFlags::PATH | OFlags::NOFOLLOW)?;
    Ok(xattr::list_followed(&fd_path(&fd))?.is_empty())
}

/// The directories that a path lies in, but for the root.
fn prefixes(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| &path[..i])
}

fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(b"", |i| &path[..i])
}
