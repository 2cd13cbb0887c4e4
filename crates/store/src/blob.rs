//! Content-addressed files: manifests, configs, compressed layers.

use crate::error::{Context, Error, Result};
use crate::index::{BlobFile, Lease};
use crate::layout::Layout;
use crate::store::Store;
use crate::trash::Scratch;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use strata_oci::Digest;
use strata_oci::digest::Hasher;

/// Blobs of at most so many bytes are verified whenever they are looked up: the hash of a megabyte takes a millisecond.
const SMALL: u64 = 1 << 20;

/// A blob's name below `blobs/`.
pub(crate) fn name(digest: &Digest) -> String {
    format!("{}/{}", digest.algorithm(), digest.hex())
}

pub(crate) fn path(layout: &Layout, digest: &Digest) -> PathBuf {
    layout.blobs.path.join(name(digest))
}

/// Reads a whole blob and checks its digest.
pub(crate) fn read(layout: &Layout, digest: &Digest, max: usize) -> Result<Vec<u8>> {
    let file = File::open(path(layout, digest)).context(|| format!("blob {digest}"))?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).context(|| format!("blob {digest}"))?;
    if bytes.len() > max {
        return Err(Error::invalid(format!("blob {digest} has more than {max} bytes")));
    }
    if !digest.verifies(&bytes) {
        return Err(Error::damaged(format!("blob {digest} does not match its digest; pull the image again")));
    }
    Ok(bytes)
}

/// Whether a blob's bytes have its digest; what the disk has lost has not.
fn verified(layout: &Layout, digest: &Digest) -> bool {
    let mut file = match File::open(path(layout, digest)) {
        Ok(file) => file,
        Err(e) => return !is_lost(&e),
    };
    let (mut hasher, mut buffer) = (Hasher::new(digest.algorithm()), vec![0; 64 << 10]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return hasher.finish() == *digest,
            Ok(n) => hasher.update(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return !is_lost(&e),
        }
    }
}

/// Whether a failure to read speaks of the disk; want of descriptors or memory passes, and says nothing about the blob.
fn is_lost(e: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(e);
    errno.is_some_and(|e| matches!(e, Errno::NOENT | Errno::IO | Errno::BADMSG | Errno::UCLEAN))
}

impl Store {
    /// Whether a blob is here; if so, the lease keeps it. One that is small, as documents are, is compared with its digest:
    /// it must not keep those who ask from fetching it again if a disk has damaged it.
    pub fn has_blob(&self, lease: &Lease, digest: &Digest) -> bool {
        let size = {
            let mut inner = self.index.lock();
            let Some(size) = inner.blobs.get(digest).map(|b| b.size) else { return false };
            inner.held(lease).blobs.insert(digest.clone());
            size
        };
        size > SMALL || self.drop_if_damaged(digest)
    }

    /// Takes a blob away whose bytes do not have its digest any more; whether it is good, and stays.
    pub(crate) fn drop_if_damaged(&self, digest: &Digest) -> bool {
        let inode = || rustix::fs::lstat(path(&self.layout, digest)).map(|s| s.st_ino).ok();
        let before = inode();
        if verified(&self.layout, digest) {
            return true;
        }
        let mut inner = self.index.lock();
        // Somebody else may have put it right meanwhile.
        if before.is_some() && inode() != before {
            return inner.blobs.contains_key(digest);
        }
        tracing::warn!(blob = %digest, "blob does not have its digest and is discarded; it is fetched again when it is needed");
        inner.blobs.remove(digest);
        if let Err(e) = self.layout.discard(&self.layout.blobs, &name(digest)) {
            tracing::warn!(blob = %digest, error = %e, "damaged blob cannot be discarded");
        }
        false
    }

    /// A blob's bytes, checked against its digest.
    ///
    /// # Errors
    /// If it is not here, has more than `max` bytes, or is damaged.
    pub fn read_blob(&self, digest: &Digest, max: usize) -> Result<Vec<u8>> {
        read(&self.layout, digest, max)
    }

    /// Stores bytes under their SHA-256 digest.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn put_blob(&self, lease: &Lease, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::sha256_of(bytes);
        self.put_blob_as(lease, &digest, bytes)?;
        Ok(digest)
    }

    /// Stores bytes under a digest that they must have.
    ///
    /// # Errors
    /// If they do not, or cannot be written.
    pub fn put_blob_as(&self, lease: &Lease, digest: &Digest, bytes: &[u8]) -> Result<()> {
        if !digest.verifies(bytes) {
            return Err(Error::invalid(format!("{} bytes do not have the digest {digest}", bytes.len())));
        }
        if self.has_blob(lease, digest) {
            return Ok(());
        }
        let scratch = Scratch::new(&self.layout, "blob");
        let written = scratch.create().and_then(|mut file| file.write_all(bytes));
        written.context(|| format!("write blob {digest}"))?;
        self.publish_blob(lease, digest, &scratch, bytes.len() as u64)
    }

    /// Gives a file in tmp/, which has this digest, its name.
    pub(crate) fn publish_blob(
        &self,
        lease: &Lease,
        digest: &Digest,
        file: &Scratch,
        size: u64,
    ) -> Result<()> {
        let written = BlobFile::at(&file.path(), size);
        let mut proved = false;
        loop {
            let mut inner = self.index.lock();
            inner.held(lease).blobs.insert(digest.clone());
            let published = self.layout.publish(&file.name, &self.layout.blobs, &name(digest))?;
            if published {
                inner.unsynced.blobs.insert(digest.clone());
            }
            if published || proved {
                inner.blobs.insert(digest.clone(), written);
                return Ok(());
            }
            drop(inner);
            // The name is taken: another operation was faster with the same bytes, or a disk has damaged them since.
            proved = self.drop_if_damaged(digest);
        }
    }
}
