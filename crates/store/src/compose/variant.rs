//! A layer's tar, unpacked once more for one place in one stack.

use super::View;
use crate::blob;
use crate::error::{Context, Error, Result};
use crate::index::{Inner, Lease};
use crate::inflate::{WINDOW_LOG_MAX, inflate};
use crate::record::LayerRecord;
use crate::store::Store;
use crate::trash::Scratch;
use crate::unpack::{Below, unpack};
use crate::wanted::Wanted;
use std::fs::File;
use std::io::{BufReader, Read};
use strata_oci::digest::Hasher;
use strata_oci::{Descriptor, Digest};
use strata_sys::durable;
use strata_sys::path::Root;

/// How much is read of a blob at a time.
const CHUNK: usize = 128 << 10;

impl Store {
    /// Whether a layer can be used at any place: if it depends on that, one of its compressed tars must be here. The lease
    /// keeps both.
    pub(crate) fn hold_layer_for_any_place(&self, lease: &Lease, diff_id: &Digest) -> bool {
        let Some(record) = self.hold_layer(lease, diff_id.hex()) else { return false };
        !record.depends_on_position() || self.find_blob(lease, diff_id).is_some()
    }

    /// A blob of a layer that is here: the image's own, or another image's, which may be compressed differently.
    pub(super) fn blob_of(&self, lease: &Lease, diff_id: &Digest, own: &Descriptor) -> Result<Descriptor> {
        {
            let mut inner = self.index.lock();
            if inner.blobs.contains_key(&own.digest) {
                inner.held(lease).blobs.insert(own.digest.clone());
                return Ok(own.clone());
            }
        }
        self.find_blob(lease, diff_id).ok_or_else(|| {
            Error::not_found(format!(
                "its place in this image needs it to be unpacked anew, but its blob {} is not in the store: pull it again",
                own.digest
            ))
        })
    }

    /// Notes from which blob a layer was unpacked, before a ref says so.
    pub(crate) fn remember_blob(&self, diff_id: &Digest, blob: &Descriptor) {
        let inner = &mut *self.index.lock();
        inner.unpacked_from.retain(|_, blob| inner.blobs.contains_key(&blob.digest));
        inner.unpacked_from.insert(diff_id.clone(), blob.clone());
    }

    fn find_blob(&self, lease: &Lease, diff_id: &Digest) -> Option<Descriptor> {
        let mut inner = self.index.lock();
        let known = inner.refs.values().flat_map(|r| &r.layers).filter(|l| l.diff_id == *diff_id);
        let mut known =
            inner.unpacked_from.get(diff_id).cloned().into_iter().chain(known.map(|l| (&l.blob).into()));
        let found: Descriptor = known.find(|b: &Descriptor| inner.blobs.contains_key(&b.digest))?;
        drop(known);
        inner.held(lease).blobs.insert(found.digest.clone());
        Some(found)
    }

    /// Makes a layer's variant with this key, as long as `goes_on` says that somebody waits for it.
    pub(crate) fn unpack_in_place(
        &self,
        lease: &Lease,
        key: &str,
        base: &LayerRecord,
        view: &View,
        blob: &Descriptor,
        goes_on: &(dyn Fn() -> Result<()> + Sync),
    ) -> Result<()> {
        let scratch = Scratch::new(&self.layout, "layer");
        let fs = self.make_layer_dir(&scratch)?;
        let side = scratch.path().join("links");
        durable::mkdir_all(&side, 0o700)?;
        let alone = Root::open(&self.layer_fs(base.diff_id.hex()))?;
        let below = Below::new(view, base, alone, durable::open_dir(&side)?)?;
        let mut tar = self.read_layer_blob(blob)?;
        let mut ahead = Wanted::new(BufReader::with_capacity(CHUNK, &mut tar), goes_on);
        let unpacked = unpack(fs, &mut ahead, &base.diff_id, &self.options.limits, Some(below))?;
        let found = tar.hasher.finish();
        if found != base.diff_id {
            return Err(Error::damaged(format!(
                "the blob {} has become another tar, of digest {found}: pull the image again",
                blob.digest
            )));
        }
        std::fs::remove_dir(&side).context(|| "remove the directory of links".into())?;
        let (record, measured) = unpacked.finish(&scratch.path())?;
        goes_on()?;
        self.publish_layer(lease, key, &scratch, record, measured)
    }

    /// Opens a compressed tar.
    pub(crate) fn read_layer_blob(&self, blob: &Descriptor) -> Result<Hashed<'_>> {
        let compression = blob.compression().map_err(|e| Error::invalid(e.to_string()))?;
        let path = blob::path(&self.layout, &blob.digest);
        let file = File::open(&path).context(|| format!("blob {}", blob.digest))?;
        let file = BufReader::with_capacity(CHUNK, file);
        // It has been taken: limits of the day, which may have been others then, do not count any more.
        let tar = inflate(compression, file, &self.windows, WINDOW_LOG_MAX, None);
        Ok(Hashed { tar, hasher: Hasher::sha256() })
    }
}

impl Inner {
    /// Whether another image may have a layer at a place for which its tar must be unpacked once more.
    pub(crate) fn may_be_unpacked_anew(&self, diff_id: &Digest) -> bool {
        self.layers.get(diff_id.hex()).is_some_and(|record| record.depends_on_position())
    }
}

/// A tar, hashed as it is read.
pub(crate) struct Hashed<'a> {
    tar: Box<dyn Read + 'a>,
    pub(crate) hasher: Hasher,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.tar.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}
