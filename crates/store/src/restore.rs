//! Bringing back single blobs of images that are here.

use crate::blob;
use crate::error::{Context, Error, Kind, Result};
use crate::index::{BlobFile, Lease};
use crate::record::RefRecord;
use crate::store::Store;
use crate::trash::Scratch;
use std::ffi::OsStr;
use std::io::{Read, Write};
use strata_oci::digest::Hasher;
use strata_oci::{Descriptor, Digest, Reference};
use strata_sys::durable;

/// How much of a blob is moved at a time.
const CHUNK: usize = 128 << 10;

impl RefRecord {
    /// Whether a blob belongs to the image that this names: a layer, its config, its manifest, or the index that led to it.
    pub(crate) fn has_blob(&self, digest: &Digest) -> bool {
        self.image == *digest
            || self.manifest.digest == *digest
            || self.pulled.as_ref() == Some(digest)
            || self.layers.iter().any(|l| l.blob.digest == *digest)
    }
}

impl Store {
    /// Where a blob can be fetched again: `repository@digest`, once for each repository from which an image was pulled that
    /// has this blob, also where that image is damaged and not listed.
    pub fn registry_names(&self, blob: &Digest) -> Vec<Reference> {
        let inner = self.index.lock();
        let mut names: Vec<Reference> = Vec::new();
        for r in inner.refs.values().filter(|r| r.has_blob(blob)) {
            let Ok(name) = Reference::parse(&r.name) else { continue };
            let Some(digest) = r.pulled.as_ref().or_else(|| name.digest()) else { continue };
            let name = name.with_digest(digest.clone());
            let same = |n: &Reference| (n.registry(), n.repository()) == (name.registry(), name.repository());
            if !names.iter().any(same) {
                names.push(name);
            }
        }
        names
    }

    /// The names of the images that have a blob, for messages: an image without a name by its ID.
    pub fn images_with_blob(&self, blob: &Digest) -> Vec<String> {
        let inner = self.index.lock();
        inner.refs.values().filter(|r| r.has_blob(blob)).map(|r| r.name.clone()).collect()
    }

    /// Writes a blob anew, in place of what may be under its name, durably: it is on disk when this returns, and the lease
    /// keeps it.
    ///
    /// # Errors
    /// What `source` reports, as it was; [`Kind::Invalid`] if size or digest are wrong. What was there stays then.
    pub fn restore_blob(&self, lease: &Lease, blob: &Descriptor, source: &mut dyn Read) -> Result<()> {
        let what = || format!("blob {}", blob.digest);
        let scratch = Scratch::new(&self.layout, "blob");
        copy_checked(blob, source, &scratch).context(what)?;
        let name = blob::name(&blob.digest);
        let written = BlobFile::at(&scratch.path(), blob.size);
        let mut inner = self.index.lock();
        inner.held(lease).blobs.insert(blob.digest.clone());
        durable::rename(
            &self.layout.tmp.fd,
            OsStr::new(&scratch.name),
            &self.layout.blobs.fd,
            OsStr::new(&name),
        )
        .context(what)?;
        inner.blobs.insert(blob.digest.clone(), written);
        drop(inner);
        let dir = self.layout.blobs.path.join(blob.digest.algorithm().as_str());
        durable::open_dir(&dir).and_then(durable::sync_dir).context(what)
    }
}

/// Writes what has the right size and digest into tmp/, synced.
fn copy_checked(blob: &Descriptor, source: &mut dyn Read, scratch: &Scratch) -> Result<()> {
    let mut file = scratch.create().context(|| "create".into())?;
    let mut hasher = Hasher::new(blob.digest.algorithm());
    let (mut buffer, mut total) = (vec![0; CHUNK], 0_u64);
    loop {
        let n = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::new(Kind::Io, e.to_string())),
        };
        total += n as u64;
        if total > blob.size {
            return Err(Error::invalid(format!("it has more than {} bytes", blob.size)));
        }
        hasher.update(&buffer[..n]);
        file.write_all(&buffer[..n]).context(|| "write".into())?;
    }
    if total != blob.size {
        return Err(Error::invalid(format!("it has {total} bytes instead of {}", blob.size)));
    }
    let digest = hasher.finish();
    if digest != blob.digest {
        return Err(Error::invalid(format!("its bytes have the digest {digest}")));
    }
    file.sync_all().context(|| "sync".into())
}
