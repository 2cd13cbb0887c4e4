//! From layers that were unpacked as if nothing lay below them to a stack that equals sequential extraction.
//!
//! A layer's own directory (keyed by diff ID) is used wherever what is below makes no difference. Where it does, the stack
//! gets a variant of the layer, keyed by chain ID: a copy, mended against an overlay of what is below it.

mod variant;

use crate::error::{Context, Error, Result};
use crate::escape::escape;
use crate::index::Lease;
use crate::record::LayerRecord;
use crate::store::Store;
use crate::trash::Scratch;
use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use strata_oci::{Digest, config};
use strata_sys::mount::{Attrs, Overlay};
use strata_sys::path::Root;

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

    /// What is at a path, its last component not followed.
    pub(crate) fn lookup(&self, path: &[u8]) -> Result<Option<Stat>> {
        let path = OsStr::from_bytes(path);
        match self.root.resolve(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(fd) => {
                Ok(Some(rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH).map_err(std::io::Error::from)?))
            }
            Err(e) if matches!(e.errno, rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl Store {
    /// The keys of an image's layers, lowest first, for each of its diff IDs.
    pub(crate) fn compose(&self, lease: &Lease, diff_ids: &[Digest]) -> Result<Vec<String>> {
        let mut keys: Vec<String> = Vec::with_capacity(diff_ids.len());
        let chain = config::chain_ids(diff_ids);
        for (n, diff_id) in diff_ids.iter().enumerate() {
            let base = self.hold_layer(lease, diff_id.hex()).ok_or_else(|| {
                Error::not_found(format!("layer {diff_id} is not in the store: it must be fetched first"))
            })?;
            let repeated = diff_ids[n + 1..].contains(diff_id);
            let key = if base.depends_on_position() && !repeated {
                // Its own occurrences further down are not below it: it is stacked once.
                let others = keys.iter().zip(diff_ids).filter(|(_, other)| *other != diff_id);
                let below: Vec<String> = others.map(|(key, _)| key.clone()).collect();
                self.place(lease, diff_id, &base, &chain[n], &stack_of(&below))
                    .map_err(|e| e.context(format!("layer {diff_id}")))?
            } else {
                // One that occurs again higher up counts only there.
                diff_id.hex().to_owned()
            };
            keys.push(key);
        }
        // Every occurrence names the directory that is stacked.
        for n in (0..keys.len()).rev() {
            if let Some(above) = diff_ids.iter().rposition(|d| *d == diff_ids[n]) {
                keys[n] = keys[above].clone();
            }
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

    fn place(
        &self,
        lease: &Lease,
        diff_id: &Digest,
        base: &LayerRecord,
        chain: &Digest,
        below: &[String],
    ) -> Result<String> {
        let view = self.view(below, false)?;
        if !makes_difference(base, &view)? {
            return Ok(diff_id.hex().to_owned());
        }
        let key = format!("chain-{}", chain.hex());
        if self.hold_layer(lease, &key).is_none() {
            let scratch = Scratch::new(&self.layout, "layer");
            let record = variant::build(&self.layer_fs(diff_id.hex()), &scratch, base, &view)?;
            self.publish_layer(lease, &key, &scratch, record)?;
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
        let overlay = Overlay { lowers: &lowers, upper: None, volatile: false };
        let mount =
            overlay.mount(Attrs { readonly: true, ..Attrs::default() }).context(|| "overlay".into())?;
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
fn stack_of(keys: &[String]) -> Vec<String> {
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
    for path in &base.unlisted {
        if let Some(stat) = below.lookup(path)?
            && matches!(FileType::from_raw_mode(stat.st_mode), FileType::Directory | FileType::Symlink)
        {
            return Ok(true);
        }
    }
    for path in &base.whiteouts {
        if below.lookup(path)?.is_none() {
            tracing::debug!(path = %escape(path), "whiteout of nothing");
            return Ok(true);
        }
    }
    Ok(false)
}
