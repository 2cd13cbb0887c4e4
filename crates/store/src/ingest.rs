//! One pass from a compressed stream to a layer's directory.
//!
//! ```text
//!   source ─▶ digest, blob file ─▶ decompress ─┬▶ diff ID
//!                                              └▶ unpack ─▶ content of files
//! ```
//! Each stage is a thread, so that one large layer keeps several cores busy. What lies between them are buffers of which
//! there are so many ([`buffers`](crate::buffers)), so memory is bounded however many layers come at once. A tar that is not
//! compressed goes to the last stage at once: its digest is its diff ID.

use crate::blob;
use crate::buffers::{Share, Supply};
use crate::chunks::{Chunks, Sender, channel};
use crate::error::{Context, Error, Kind, Result};
use crate::index::Lease;
use crate::inflate::{Windows, inflate};
use crate::limits::Allowance;
use crate::measure::Footprint;
use crate::record::LayerRecord;
use crate::store::Store;
use crate::threads::{joined, stage};
use crate::trash::{Scratch, create_private};
use crate::unpack::{Unpacked, unpack};
use crate::wanted::Wanted;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;
use strata_oci::digest::{Algorithm, Digest, Hasher};
use strata_oci::{Compression, Descriptor};
use strata_sys::durable;

/// How much of a blob is written before the disk is told to begin: the sync at the end of a pull then finds it nearly done.
const WRITE_OUT: u64 = 8 << 20;

/// A layer that is about to be fetched.
#[derive(Clone, Copy, Debug)]
pub struct LayerSource<'a> {
    /// The compressed tar: media type, digest and size must be met.
    pub blob: &'a Descriptor,
    /// The digest that the tar itself must have.
    pub diff_id: &'a Digest,
}

/// How far a layer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Compressed bytes that have been read.
    Read(u64),
    /// All of it has been read; the rest is being unpacked.
    Unpacking,
}

impl Store {
    /// Whether a layer is here, with what its place in an image may ask for; if so, the lease keeps it.
    pub fn has_layer(&self, lease: &Lease, diff_id: &Digest) -> bool {
        self.hold_layer_for_any_place(lease, diff_id)
    }

    /// Whether nothing of a layer is lacking: its directory as [`has_layer`](Self::has_layer) has it, and its blob in this
    /// compression, unless blobs are discarded. If so, the lease keeps both.
    pub fn has_whole_layer(&self, lease: &Lease, layer: LayerSource<'_>) -> bool {
        self.has_layer(lease, layer.diff_id)
            && (self.options.discard_blobs || self.has_blob(lease, &layer.blob.digest))
    }

    /// Fetches and unpacks a layer. Its directory and its blob appear together at the end, or not at all.
    ///
    /// # Errors
    /// What `source` reports, as it was; [`Invalid`](crate::Kind::Invalid) if digest, size, diff ID or archive are wrong.
    pub fn ingest_layer(
        &self,
        lease: &Lease,
        layer: LayerSource<'_>,
        source: &mut (dyn Read + Send),
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<()> {
        let compression = layer.blob.compression().map_err(|e| Error::invalid(e.to_string()))?;
        let limits = &self.options.limits;
        let mut allowance = Allowance::new(limits, layer.blob.size, lease)
            .map_err(|e| e.context(format!("layer {}", layer.blob.digest)))?;
        let beyond = &AtomicBool::new(false);
        let goes_on = || lease.go_on();
        let source = &mut Wanted::new(source, &goes_on);
        let blob_file = Scratch::new(&self.layout, "blob");
        let layer_dir = Scratch::new(&self.layout, "layer");
        let fs = self.make_layer_dir(&layer_dir)?;
        let share = self.buffers.share();
        let unpacked = std::thread::scope(|scope| {
            let (to_unpack, tar) = channel();
            let mut tar = Wanted::new(tar, &goes_on);
            let unpacking = stage(scope, "unpack", move || {
                noting(beyond, unpack(fs, &mut tar, layer.diff_id, limits, None))
            })?;
            let inflater = Inflater {
                compression,
                windows: &self.windows,
                window_log: limits.zstd_window_log,
                allowance: &mut allowance,
                beyond,
            };
            let (read, diff_id) =
                read_and_inflate(scope, layer.blob, inflater, &share, to_unpack, |supply, out| {
                    receive(layer.blob, source, &blob_file, supply, out, beyond, progress)
                })?;
            let unpacked = joined(unpacking);
            // What came first in the pipeline is what went wrong; the stages after it only saw its end.
            read?;
            // Unpacking fails before inflating does where it stops reading.
            let (unpacked, diff_id) = match (unpacked, diff_id) {
                (Err(e), Ok(_)) | (Ok(_), Err(e)) => Err(e),
                (Err(unpacking), Err(e)) => Err(e.and(&unpacking)),
                (Ok(unpacked), Ok(diff_id)) => Ok((unpacked, diff_id)),
            }?;
            if diff_id != *layer.diff_id {
                return Err(Error::invalid(format!(
                    "the uncompressed layer has the digest {diff_id}, the image config says {}",
                    layer.diff_id
                )));
            }
            Ok(unpacked)
        })
        .map_err(|e| e.context(format!("layer {}", layer.blob.digest)))?;
        lease.go_on()?;
        allowance.keep();
        // A layer that is here is not fetched again: its blob must be here by then.
        self.publish_blob(lease, &layer.blob.digest, &blob_file, layer.blob.size)?;
        self.publish_unpacked(lease, layer.diff_id, &layer_dir, unpacked)?;
        self.remember_blob(layer.diff_id, layer.blob);
        Ok(())
    }

    /// Unpacks a layer whose blob is here.
    ///
    /// # Errors
    /// If the blob is not here, or as [`ingest_layer`](Self::ingest_layer); [`Kind::Damaged`] if a disk has damaged the blob,
    /// which is then discarded.
    pub fn unpack_blob(
        &self,
        lease: &Lease,
        layer: LayerSource<'_>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<()> {
        let path = blob::path(&self.layout, &layer.blob.digest);
        let mut file = File::open(&path).context(|| format!("blob {}", layer.blob.digest))?;
        self.ingest_layer(lease, layer, &mut file, progress).map_err(|e| {
            let digest = &layer.blob.digest;
            if e.kind() != Kind::Invalid || self.drop_if_damaged(digest) {
                return e;
            }
            Error::damaged(format!("blob {digest} was damaged on disk and is gone: it must be fetched again"))
        })
    }

    pub(crate) fn make_layer_dir(&self, scratch: &Scratch) -> Result<std::os::fd::OwnedFd> {
        scratch.make_dir()?;
        let fs = scratch.path().join("fs");
        // Overlayfs shows the upper directory's attributes for the root; this one is only entered.
        strata_sys::durable::mkdir_all(&fs, 0o755)?;
        Ok(strata_sys::durable::open_dir(&fs)?)
    }

    pub(crate) fn publish_unpacked(
        &self,
        lease: &Lease,
        diff_id: &Digest,
        scratch: &Scratch,
        unpacked: Unpacked,
    ) -> Result<()> {
        let (record, measured) = unpacked.finish(&scratch.path())?;
        self.publish_layer(lease, diff_id.hex(), scratch, record, measured)
    }

    /// Gives a layer's directory in tmp/ its name. If that is taken, another operation was faster with the same layer.
    pub(crate) fn publish_layer(
        &self,
        lease: &Lease,
        key: &str,
        scratch: &Scratch,
        mut record: LayerRecord,
        fs: Option<Footprint>,
    ) -> Result<()> {
        let bytes = self.measure_layer(key, scratch, &mut record, fs)?;
        let made = create_private(&scratch.path().join("layer.json"));
        made.and_then(|mut file| file.write_all(&bytes)).context(|| format!("write layer {key}"))?;
        let mut inner = self.index.lock();
        inner.held(lease).layers.insert(key.to_owned());
        if inner.layers.contains_key(key) {
            return Ok(());
        }
        if !self.layout.publish(&scratch.name, &self.layout.layers, key)? {
            // A directory that could not be read at the start: this one takes its place.
            self.layout.discard(&self.layout.layers, key)?;
            self.layout.publish(&scratch.name, &self.layout.layers, key)?;
        }
        inner.unsynced.layers.insert(key.to_owned());
        inner.layers.insert(key.to_owned(), Arc::new(record));
        Ok(())
    }
}

/// Notes that a bound was met: whatever else comes, it is too much, and nobody waits for anything any more.
fn noting<T>(beyond: &AtomicBool, result: Result<T>) -> Result<T> {
    if result.as_ref().is_err_and(|e| e.kind() == Kind::Limit) {
        beyond.store(true, Ordering::Relaxed);
    }
    result
}

/// The stages before unpacking. Of what came out: whether the source was read, and the digest of the tar.
fn read_and_inflate<'scope, 'l: 'scope>(
    scope: &'scope Scope<'scope, '_>,
    blob: &Descriptor,
    inflater: Inflater<'scope, 'l>,
    share: &Share,
    to_unpack: Sender,
    receive: impl FnOnce(Supply, Vec<Sender>) -> Result<()>,
) -> Result<(Result<()>, Result<Digest>)> {
    if inflater.compression == Compression::None && blob.digest.algorithm() == Algorithm::Sha256 {
        inflater.allowance.spend(usize::try_from(blob.size).unwrap_or(usize::MAX))?;
        let read = receive(share.supply(), vec![to_unpack]);
        return Ok((read, Ok(blob.digest.clone())));
    }
    let beyond = inflater.beyond;
    let (for_blob, for_tar) = share.supplies();
    let (to_inflate, compressed) = channel();
    let (to_hash, tar) = channel();
    let hashing = stage(scope, "hash", move || Ok(hash(tar)))?;
    let inflating = stage(scope, "inflate", move || {
        noting(beyond, inflater.run(compressed, for_tar, &[to_hash, to_unpack]))
    })?;
    let read = receive(for_blob, vec![to_inflate]);
    if read.is_err() {
        beyond.store(true, Ordering::Relaxed);
    }
    let inflated = joined(inflating);
    let diff_id = joined(hashing);
    Ok((read, inflated.and(diff_id)))
}

/// Reads the source to its end, whatever the stages after it do: only then is it known whether the bytes were right. If
/// they were too many, that does not matter.
fn receive(
    expected: &Descriptor,
    source: &mut (dyn Read + Send),
    blob_file: &Scratch,
    mut supply: Supply,
    mut out: Vec<Sender>,
    beyond: &AtomicBool,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<()> {
    let mut file = WrittenOut::create(blob_file)?;
    let mut hasher = Hasher::new(expected.digest.algorithm());
    let (mut total, mut ended) = (0_u64, false);
    while !ended {
        let mut chunk = supply.chunk();
        while !chunk.is_full() && !ended {
            let n = chunk.read_from(source).map_err(|e| Error::new(Kind::Io, e.to_string()))?;
            ended = n == 0;
            total += n as u64;
            if total > expected.size {
                return Err(Error::invalid(format!(
                    "it has more than the {} bytes its manifest says",
                    expected.size
                )));
            }
            progress(Progress::Read(total));
        }
        let chunk = Arc::new(chunk);
        // The next stage begins with it while it is hashed and written here.
        out.retain(|stage| stage.send(chunk.clone()).is_ok());
        hasher.update(&chunk);
        file.write(&chunk)?;
        if beyond.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
    if total != expected.size {
        return Err(Error::invalid(format!("it has {total} bytes, its manifest says {}", expected.size)));
    }
    let digest = hasher.finish();
    if digest != expected.digest {
        return Err(Error::invalid(format!("its bytes have the digest {digest}")));
    }
    progress(Progress::Unpacking);
    Ok(())
}

/// A long file that goes to the disk while it is being written.
struct WrittenOut {
    file: File,
    at: u64,
    begun: u64,
}

impl WrittenOut {
    fn create(scratch: &Scratch) -> Result<Self> {
        let file = scratch.create().context(|| "create blob".into())?;
        Ok(Self { file, at: 0, begun: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).context(|| "write blob".into())?;
        self.at += bytes.len() as u64;
        if self.at - self.begun >= WRITE_OUT {
            durable::start_writing(&self.file, self.begun, self.at - self.begun);
            self.begun = self.at;
        }
        Ok(())
    }
}

/// The stage that makes the tar of what was fetched, within bounds.
struct Inflater<'a, 'l> {
    compression: Compression,
    windows: &'a Windows,
    window_log: u32,
    allowance: &'a mut Allowance<'l>,
    beyond: &'a AtomicBool,
}

impl Inflater<'_, '_> {
    fn run(self, compressed: Chunks, mut supply: Supply, out: &[Sender]) -> Result<()> {
        let stop = Some(self.beyond);
        let mut tar = inflate(self.compression, compressed, self.windows, self.window_log, stop);
        let (mut ended, mut result) = (false, Ok(()));
        while !ended {
            let mut chunk = supply.chunk();
            while !chunk.is_full() && !ended {
                let read = chunk.read_from(&mut *tar).context(|| "decompress".into());
                match read.and_then(|n| self.allowance.spend(n).map(|()| n)) {
                    Ok(n) => ended = n == 0,
                    // What came before is passed on, so that it can be said which entry this happened in.
                    Err(e) => (ended, result) = (true, Err(e)),
                }
            }
            let chunk = Arc::new(chunk);
            // A stage that has failed reports it itself, and nothing more is worth doing.
            if out.iter().any(|stage| stage.send(chunk.clone()).is_err()) {
                break;
            }
        }
        result
    }
}

fn hash(tar: Chunks) -> Digest {
    let mut hasher = Hasher::sha256();
    tar.for_each(|chunk| hasher.update(&chunk));
    hasher.finish()
}
