//! A container's writable layer becomes a layer and an image.

use crate::chunks::{Chunks, Fan, channel};
use crate::error::{Context, Error, Result};
use crate::history::{now, rfc3339};
use crate::image::{Image, NewImage};
use crate::index::Lease;
use crate::pack::pack;
use crate::record::Origin;
use crate::store::Store;
use crate::threads::{joined, stage};
use crate::trash::Scratch;
use crate::unpack::unpack;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use strata_oci::config::{Execution, History, ImageConfig};
use strata_oci::digest::Hasher;
use strata_oci::document::{OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST};
use strata_oci::{Descriptor, Digest, Manifest, Reference};
use strata_sys::durable;

/// What a commit says about itself.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    /// The new image's name; without one it is only known by its ID.
    pub name: Option<Reference>,
    /// Who made it; empty: as the image below.
    pub author: String,
    /// Why.
    pub comment: String,
    /// The command that made the layer, for the history.
    pub created_by: String,
    /// How containers of the new image run.
    pub config: Execution,
}

impl Store {
    /// Makes an image of a container's image and its writable layer. The caller has paused it, or does not mind.
    ///
    /// # Errors
    /// If there is no such container, its image is gone, or the layer cannot be written.
    pub fn commit(&self, container: &str, options: &CommitOptions) -> Result<Arc<Image>> {
        let lease = self.lease(&format!("commit of container {container}"))?;
        let (image, stack) = self.container_image(container)?;
        let upper = durable::open_dir(&self.upper(container))?;
        let root = self.stack_records(&stack)?.iter().find_map(|r| r.root.clone());
        let ids = self.container_ids(container);
        let (blob, diff_id) = self.pack_layer(&lease, |out| {
            let below = self.view(&stack, true)?;
            pack(&upper, &below, root.as_ref(), ids, out)
        })?;
        let layers = image.layers.iter().map(|l| l.blob.clone()).chain([blob]).collect();
        self.commit_on_top(&lease, &image, layers, diff_id, options)
    }

    fn commit_on_top(
        &self,
        lease: &Lease,
        image: &Image,
        layers: Vec<Descriptor>,
        diff_id: Digest,
        options: &CommitOptions,
    ) -> Result<Arc<Image>> {
        for layer in &image.layers {
            self.hold_layer(lease, layer.diff_id.hex());
        }
        let created = Some(rfc3339(now()));
        let mut config: ImageConfig = image.config.clone();
        config.created.clone_from(&created);
        if !options.author.is_empty() {
            config.author.clone_from(&options.author);
        }
        config.config = options.config.clone();
        config.rootfs.diff_ids.push(diff_id);
        config.history.push(History {
            created,
            created_by: options.created_by.clone(),
            author: options.author.clone(),
            comment: options.comment.clone(),
            empty_layer: false,
        });
        let config = config.to_json();
        let id = self.put_blob(lease, &config)?;
        let config = Descriptor { media_type: OCI_CONFIG.into(), digest: id, size: config.len() as u64 };
        let manifest = Manifest { config, layers }.to_json();
        self.commit_image(
            lease,
            &NewImage {
                media_type: OCI_MANIFEST.into(),
                manifest: &manifest,
                names: options.name.iter().cloned().collect(),
                pulled: None,
                origin: Origin::Commit,
            },
        )
    }

    /// Writes a layer that `produce` makes the tar of: compressed as a blob and unpacked, in one pass.
    pub(crate) fn pack_layer(
        &self,
        lease: &Lease,
        produce: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<(Descriptor, Digest)> {
        let blob_file = Scratch::new(&self.layout, "blob");
        let layer_dir = Scratch::new(&self.layout, "layer");
        let fs = self.make_layer_dir(&layer_dir)?;
        let file = blob_file.create().context(|| "create blob".into())?;
        let limits = &self.options.limits;
        // The record names the digest, which is only known at the end.
        let unknown = Digest::sha256_of(b"");
        let share = self.buffers.share();
        let (blob, diff_id, mut unpacked) = std::thread::scope(|scope| {
            let (to_compress, tar) = channel();
            let (to_unpack, mut tar_again) = channel();
            let compressing = stage(scope, "compress", move || compress(tar, file))?;
            let unpacking =
                stage(scope, "unpack", move || unpack(fs, &mut tar_again, &unknown, limits, None))?;
            let produced = {
                let mut fan = Fan::new(vec![to_compress, to_unpack], share.supply());
                produce(&mut fan).and_then(|()| Ok(fan.flush()?))
            };
            let (compressed, unpacked) = (joined(compressing), joined(unpacking));
            produced?;
            let (blob, diff_id) = compressed?;
            Ok::<_, Error>((blob, diff_id, unpacked?))
        })?;
        unpacked.record.diff_id = diff_id.clone();
        self.publish_blob(lease, &blob.digest, &blob_file, blob.size)?;
        self.publish_unpacked(lease, &diff_id, &layer_dir, unpacked)?;
        Ok((blob, diff_id))
    }
}

fn compress(tar: Chunks, file: File) -> Result<(Descriptor, Digest)> {
    let mut gzip = flate2::write::GzEncoder::new(
        Counted { file, hasher: Hasher::sha256(), size: 0 },
        flate2::Compression::default(),
    );
    let mut hasher = Hasher::sha256();
    for chunk in tar {
        hasher.update(&chunk);
        gzip.write_all(&chunk).context(|| "write blob".into())?;
    }
    let written = gzip.finish().context(|| "write blob".into())?;
    let blob =
        Descriptor { media_type: OCI_LAYER_GZIP.into(), digest: written.hasher.finish(), size: written.size };
    Ok((blob, hasher.finish()))
}

struct Counted {
    file: File,
    hasher: Hasher,
    size: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
