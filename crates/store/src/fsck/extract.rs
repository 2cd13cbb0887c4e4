//! A layer unpacked again from its blob, and put in place of the damaged one.

use super::Run;
use crate::buffers::CHUNK;
use crate::error::{Error, Result};
use crate::trash::Scratch;
use crate::unpack::unpack;
use crate::wanted::Wanted;
use std::io::BufReader;
use strata_oci::{Descriptor, Digest};

impl Run<'_> {
    /// Whether a blob is here and good, which nothing is unpacked from before.
    pub(super) fn is_good(&mut self, blob: &Descriptor) -> Result<(), String> {
        if self.good.contains(&blob.digest) {
            return Ok(());
        }
        if let Some(problem) = self.verify(&blob.digest, Some(blob.size), false) {
            return Err(format!("blob {}: {problem}", blob.digest));
        }
        self.stopped().map_err(|e| e.to_string())?;
        self.good.insert(blob.digest.clone());
        Ok(())
    }

    /// Unpacks a layer from a good blob, and swaps it in.
    pub(super) fn extract(&self, key: &str, diff_id: &Digest, from: &Descriptor) -> Result<()> {
        let scratch = Scratch::new(&self.store.layout, "layer");
        let fs = self.store.make_layer_dir(&scratch)?;
        let mut tar = self.store.read_layer_blob(from)?;
        let stopped = || self.stopped();
        let mut ahead = Wanted::new(BufReader::with_capacity(CHUNK, &mut tar), &stopped);
        let unpacked = unpack(fs, &mut ahead, diff_id, &self.store.options.limits, None)?;
        let found = tar.hasher.finish();
        if found != *diff_id {
            return Err(Error::damaged(format!("blob {} has the layer {found}", from.digest)));
        }
        let (record, measured) = unpacked.finish(&scratch.path())?;
        let spare = self.spare_key();
        self.store.publish_layer(&self.lease, &spare, &scratch, record, measured)?;
        self.store.swap_layer(&self.lease, key, &spare)
    }

    /// A name below `layers/` for one that is about to take the place of another.
    pub(super) fn spare_key(&self) -> String {
        self.store.layout.fresh_name("repair")
    }

    /// Where blobs are not kept, neither is one that was fetched for repair.
    pub(super) fn drop_unwanted(&self, blob: &Descriptor) {
        if self.store.options.discard_blobs {
            self.store.discard_layer_blobs(&self.lease, std::slice::from_ref(blob));
        }
    }
}
