//! One blob of an image that is here, fetched again: for repair, and for a push of an image whose compressed layers were
//! discarded.

use super::bridge::bridge;
use super::layer::pump;
use super::{Images, of_content};
use crate::error::{Error, Kind, Result};
use std::sync::Arc;
use strata_api::cri::AuthConfig;
use strata_oci::document::{self, MAX_SIZE};
use strata_oci::{Descriptor, Digest, Reference};
use strata_store::Lease;

impl Images {
    /// Fetches a layer, a config, a manifest or an index again from the repositories that images with this blob were pulled
    /// from, one after the other. It takes the place of what may be under its name, durably, and the lease keeps it. A
    /// blob that was missing and that somebody else has brought back meanwhile is not fetched twice.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`] if no image with this blob came from a registry; else the last repository's kind. The
    /// text names every repository that was asked, and what to do.
    pub(crate) async fn refetch(
        &self,
        lease: &Arc<Lease>,
        blob: &Descriptor,
        auth: Option<&AuthConfig>,
    ) -> Result<()> {
        let missing = !self.store.has_blob(lease, &blob.digest);
        let _turn = self.turns.take(&blob.digest).await;
        if missing && self.store.has_blob(lease, &blob.digest) {
            return Ok(());
        }
        let mut failures: Vec<(Reference, Error)> = Vec::new();
        for name in self.store.registry_names(&blob.digest) {
            match self.refetch_from(lease, &name, blob, auth).await {
                Ok(()) => return Ok(()),
                Err(error) => failures.push((name, error)),
            }
        }
        Err(nowhere(&blob.digest, &self.store.images_with_blob(&blob.digest), &failures))
    }

    async fn refetch_from(
        &self,
        lease: &Arc<Lease>,
        name: &Reference,
        blob: &Descriptor,
        auth: Option<&AuthConfig>,
    ) -> Result<()> {
        if is_document(&blob.media_type) {
            if blob.size > MAX_SIZE as u64 {
                let why =
                    format!("{} bytes are too many for a manifest; at most {MAX_SIZE} are read", blob.size);
                return Err(Error::new(Kind::ResourceExhausted, why));
            }
            let fetched = self.registry.manifest(name, &blob.digest.to_string(), auth).await?;
            // Of an index only the digest is on record, which the client has checked.
            let blob = Descriptor { size: fetched.bytes.len() as u64, ..blob.clone() };
            return self.restore(lease, blob, std::io::Cursor::new(fetched.bytes)).await;
        }
        let stream = self.registry.blob(name, &blob.digest, blob.size, auth).await?;
        let (feed, reader) = bridge();
        let (fed, restored) =
            tokio::join!(pump(stream, feed, &self.pulls), self.restore(lease, blob.clone(), reader));
        // Where the transfer failed, the reader only saw that it was given up.
        fed.and(restored)
    }

    async fn restore(
        &self,
        lease: &Arc<Lease>,
        blob: Descriptor,
        mut source: impl std::io::Read + Send + 'static,
    ) -> Result<()> {
        let (store, lease) = (Arc::clone(&self.store), Arc::clone(lease));
        let work = move || store.restore_blob(&lease, &blob, &mut source);
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|e| Error::internal(format!("storing a blob: {e}")))?.map_err(of_content)
    }
}

/// Manifests and indexes are served under another path than blobs are (distribution spec, "Pulling manifests").
fn is_document(media_type: &str) -> bool {
    document::ACCEPTED.contains(&media_type)
}

/// Nobody has it.
fn nowhere(blob: &Digest, images: &[String], failures: &[(Reference, Error)]) -> Error {
    let of = match images {
        [] => String::new(),
        images => format!(" of {}", images.join(", ")),
    };
    let Some((_, last)) = failures.last() else {
        let why = format!(
            "blob {blob}{of} cannot be fetched again: no image with it was pulled from a registry; pull, load or build one that has it"
        );
        return Error::precondition(why);
    };
    let tried: Vec<_> = failures.iter().map(|(name, e)| format!("{name}: {e}")).collect();
    let why = format!("blob {blob}{of} cannot be fetched again; tried {}", tried.join("; then "));
    Error::new(last.kind(), why)
}
