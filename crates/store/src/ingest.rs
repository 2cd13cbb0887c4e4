//! One pass from a compressed stream to a layer's directory.
//!
//! ```text
//!   source ─▶ digest, blob file ─▶ decompress ─┬▶ diff ID
//!                                              └▶ unpack
//! ```
//! Each stage is a thread; a few chunks lie between two of them, so memory is bounded and both cores are busy.

use crate::blob;
use crate::entries;
use crate::error::{Context, Error, Kind, Result};
use crate::index::Lease;
use crate::limits::Allowance;
use crate::record::LayerRecord;
use crate::store::Store;
use crate::trash::Scratch;
use crate::unpack::{Unpacked, unpack};
use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use strata_oci::digest::{Digest, Hasher};
use strata_oci::{Compression, Descriptor};

/// How much travels at a time: below the size from which the allocator maps and unmaps memory for each.
const CHUNK: usize = 96 << 10;
/// How many chunks lie between two stages.
const DEPTH: usize = 16;

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

type Chunk = Arc<[u8]>;

impl Store {
    /// Whether a layer is here; if so, the lease keeps it.
    pub fn has_layer(&self, lease: &Lease, diff_id: &Digest) -> bool {
        self.hold_layer_for_any_place(lease, diff_id)
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
        let mut budget = Allowance::new(limits, layer.blob.size, lease)
            .map_err(|e| e.context(format!("layer {}", layer.blob.digest)))?;
        let spend = |bytes| budget.spend(bytes);
        let beyond = &AtomicBool::new(false);
        let blob_file = Scratch::new(&self.layout, "blob");
        let layer_dir = Scratch::new(&self.layout, "layer");
        let fs = self.make_layer_dir(&layer_dir)?;
        let unpacked = std::thread::scope(|scope| {
            let (to_inflate, compressed) = sync_channel::<Chunk>(DEPTH);
            let (to_hash, tar) = sync_channel::<Chunk>(DEPTH);
            let (to_unpack, tar_again) = sync_channel::<Chunk>(DEPTH);
            let inflating = scope.spawn(move || {
                let window_log = limits.zstd_window_log;
                let inflated = inflate(compressed, compression, window_log, spend, &[to_hash, to_unpack]);
                noting(beyond, inflated)
            });
            let hashing = scope.spawn(move || hash(&tar));
            let unpacking = scope.spawn(move || {
                noting(beyond, unpack(fs, &mut Chunks::new(tar_again), layer.diff_id, limits, None))
            });
            let read = receive(layer.blob, source, &blob_file, to_inflate, beyond, progress);
            let inflated = joined(inflating.join());
            let diff_id = joined(hashing.join());
            let unpacked = joined(unpacking.join());
            // What came first in the pipeline is what went wrong; the stages after it only saw its end.
            read?;
            // Unpacking fails before inflating does where it stops reading.
            let unpacked = match (unpacked, inflated) {
                (Err(e), Ok(())) | (Ok(_), Err(e)) => Err(e),
                (Err(unpacking), Err(e)) => Err(e.and(&unpacking)),
                (Ok(u), Ok(())) => Ok(u),
            }?;
            let diff_id = diff_id?;
            if diff_id != *layer.diff_id {
                return Err(Error::invalid(format!(
                    "the uncompressed layer has the digest {diff_id}, the image config says {}",
                    layer.diff_id
                )));
            }
            Ok(unpacked)
        })
        .map_err(|e| e.context(format!("layer {}", layer.blob.digest)))?;
        budget.keep();
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
        entries::write(&scratch.path().join("entries"), &unpacked.entries)?;
        self.publish_layer(lease, diff_id.hex(), scratch, unpacked.record)
    }

    /// Gives a layer's directory in tmp/ its name. If that is taken, another operation was faster with the same layer.
    pub(crate) fn publish_layer(
        &self,
        lease: &Lease,
        key: &str,
        scratch: &Scratch,
        mut record: LayerRecord,
    ) -> Result<()> {
        let bytes = self.measure_layer(key, scratch, &mut record)?;
        std::fs::write(scratch.path().join("layer.json"), bytes).context(|| format!("write layer {key}"))?;
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

/// Notes that a bound was met: whatever else comes, it is too much.
fn noting<T>(beyond: &AtomicBool, result: Result<T>) -> Result<T> {
    if result.as_ref().is_err_and(|e| e.kind() == Kind::Limit) {
        beyond.store(true, Ordering::Relaxed);
    }
    result
}

fn joined<T>(result: std::thread::Result<Result<T>>) -> Result<T> {
    result.unwrap_or_else(|_| Err(Error::damaged("a stage of the pipeline panicked; this is a bug")))
}

/// Reads the source to its end, whatever the stages after it do: only then is it known whether the bytes were right. If
/// they were too many, that does not matter.
fn receive(
    expected: &Descriptor,
    source: &mut (dyn Read + Send),
    blob_file: &Scratch,
    out: SyncSender<Chunk>,
    beyond: &AtomicBool,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<()> {
    let mut file = File::create_new(blob_file.path()).context(|| "create blob".into())?;
    let mut hasher = Hasher::new(expected.digest.algorithm());
    let (mut buffer, mut total, mut out) = (vec![0; CHUNK], 0_u64, Some(out));
    loop {
        let n = source.read(&mut buffer).map_err(|e| Error::new(Kind::Io, e.to_string()))?;
        if n == 0 {
            break;
        }
        total += n as u64;
        if total > expected.size {
            return Err(Error::invalid(format!(
                "it has more than the {} bytes its manifest says",
                expected.size
            )));
        }
        hasher.update(&buffer[..n]);
        file.write_all(&buffer[..n]).context(|| "write blob".into())?;
        if let Some(sender) = &out
            && sender.send(buffer[..n].into()).is_err()
        {
            out = None;
        }
        progress(Progress::Read(total));
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

fn inflate(
    compressed: Receiver<Chunk>,
    compression: Compression,
    window_log: u32,
    mut spend: impl FnMut(usize) -> Result<()>,
    out: &[SyncSender<Chunk>],
) -> Result<()> {
    let chunks = Chunks::new(compressed);
    let mut tar: Box<dyn Read> = match compression {
        Compression::None => Box::new(chunks),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(chunks)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(chunks).context(|| "zstd".into())?;
            decoder.window_log_max(window_log).context(|| "limits.zstd_window_log".into())?;
            Box::new(decoder)
        }
    };
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = tar.read(&mut buffer).context(|| "decompress".into())?;
        if n == 0 {
            return Ok(());
        }
        spend(n)?;
        let chunk: Chunk = buffer[..n].into();
        // A stage that has failed reports it itself, and nothing more is worth doing.
        if out.iter().any(|stage| stage.send(chunk.clone()).is_err()) {
            return Ok(());
        }
    }
}

fn hash(tar: &Receiver<Chunk>) -> Result<Digest> {
    let mut hasher = Hasher::sha256();
    tar.iter().for_each(|chunk| hasher.update(&chunk));
    Ok(hasher.finish())
}

/// The receiving end of a stage as a reader.
pub(crate) struct Chunks {
    from: Receiver<Chunk>,
    chunk: Chunk,
    at: usize,
}

impl Chunks {
    pub(crate) fn new(from: Receiver<Chunk>) -> Self {
        Self { from, chunk: Arc::new([]), at: 0 }
    }
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.chunk.len() {
            match self.from.recv() {
                Ok(chunk) => (self.chunk, self.at) = (chunk, 0),
                Err(_) => return Ok(0),
            }
        }
        let n = out.len().min(self.chunk.len() - self.at);
        out[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// The sending end of several stages as a writer.
pub(crate) struct Fan {
    to: Vec<SyncSender<Chunk>>,
    buffer: Vec<u8>,
}

impl Fan {
    pub(crate) fn channel() -> (SyncSender<Chunk>, Chunks) {
        let (send, receive) = sync_channel(DEPTH);
        (send, Chunks::new(receive))
    }

    pub(crate) fn new(to: Vec<SyncSender<Chunk>>) -> Self {
        Self { to, buffer: Vec::with_capacity(CHUNK) }
    }
}

impl Write for Fan {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..n]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if !self.buffer.is_empty() {
            let chunk: Chunk = self.buffer.as_slice().into();
            self.buffer.clear();
            for stage in &self.to {
                let _ = stage.send(chunk.clone());
            }
        }
        Ok(())
    }
}
