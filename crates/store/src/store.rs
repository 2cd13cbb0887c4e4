//! Opening the store: the lock, and the index rebuilt from the directories.

use crate::error::{Context, Error, Kind, Result};
use crate::image::Image;
use crate::index::{BlobFile, ContainerUse, Index, Inner, Lease};
use crate::layout::Layout;
use crate::limits::Limits;
use crate::record::{self, ContainerFile, LayerRecord, RefRecord};
use crate::trash::Reaper;
use crate::writable::Sizes;
use std::path::Path;
use std::sync::{Arc, Mutex};
use strata_oci::Digest;

/// What can be chosen.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Delete compressed layers once an image is complete.
    pub discard_blobs: bool,
    /// How much an image may ask for.
    pub limits: Limits,
}

/// The store. One process at a time has a root open.
#[derive(Debug)]
pub struct Store {
    pub(crate) layout: Arc<Layout>,
    pub(crate) index: Arc<Index>,
    pub(crate) options: Options,
    /// Held during a sync that a ref depends on.
    pub(crate) syncing: Mutex<()>,
    /// Held while names of images change, their fsyncs included: one change at a time. Taken before the index's lock, which
    /// is not held meanwhile, so that nobody but another such change waits for the disk.
    pub(crate) naming: Mutex<()>,
    pub(crate) sizes: Sizes,
    // Not used again: the thread lives as long as this.
    _reaper: Reaper,
}

impl Store {
    /// Opens the store below `root`, and makes it if there is none. What an interrupted operation left is deleted.
    ///
    /// # Errors
    /// [`Kind::Locked`] if another process has it open, [`Kind::NewerFormat`] if a newer release wrote it.
    pub fn open(root: &Path, options: Options) -> Result<Arc<Self>> {
        let layout = Arc::new(Layout::open(root)?);
        for name in layout.tmp.names()? {
            layout.discard(&layout.tmp, &name)?;
        }
        let index = Arc::new(Index::default());
        {
            let mut inner = index.lock();
            load_blobs(&layout, &mut inner)?;
            load_layers(&layout, &mut inner)?;
            load_refs(&layout, &mut inner)?;
            load_containers(&layout, &mut inner)?;
        }
        let reaper = Reaper::start(layout.clone()).context(|| "start the deleting thread".into())?;
        let sizes = Sizes::start(layout.clone()).context(|| "start the measuring thread".into())?;
        index.lock().containers.keys().for_each(|id| sizes.watch(id));
        let store = Arc::new(Self {
            layout,
            index,
            options,
            syncing: Mutex::default(),
            naming: Mutex::default(),
            sizes,
            _reaper: reaper,
        });
        // Layers and blobs that were renamed but that no ref came to need; a power cut may have lost parts of them.
        store.gc(false)?;
        Ok(store)
    }

    /// A lease for an operation; `why` names it in `gc --explain`.
    ///
    /// # Errors
    /// If the store's directory cannot be opened.
    pub fn lease(&self, why: &str) -> Result<Lease> {
        Ok(Lease::new(&self.index, self.layout.sync_point()?, why))
    }

    /// How much an image may ask for.
    pub fn limits(&self) -> &Limits {
        &self.options.limits
    }

    /// The store's root directory.
    pub fn root(&self) -> &Path {
        &self.layout.root.path
    }
}

fn load_blobs(layout: &Layout, inner: &mut Inner) -> Result<()> {
    for algorithm in layout.blobs.names()? {
        let dir = layout.blobs.path.join(&algorithm);
        for entry in std::fs::read_dir(&dir).context(|| format!("read {}", dir.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            if let Ok(digest) = Digest::parse(&format!("{algorithm}:{}", name.to_string_lossy())) {
                inner.blobs.insert(digest, BlobFile::at(&entry.path(), entry.metadata()?.len()));
            }
        }
    }
    Ok(())
}

fn load_layers(layout: &Layout, inner: &mut Inner) -> Result<()> {
    for key in layout.layers.names()? {
        let path = layout.layers.path.join(&key).join("layer.json");
        match record::read::<LayerRecord>(&path) {
            Ok(layer) => {
                inner.layers.insert(key, Arc::new(layer));
            }
            Err(e) if e.kind() == Kind::NewerFormat => return Err(e),
            // Without its record the layer is of no use; if an image needs it, loading the image says so.
            Err(e) => tracing::warn!(layer = %key, error = %e, "layer cannot be read"),
        }
    }
    Ok(())
}

fn load_refs(layout: &Layout, inner: &mut Inner) -> Result<()> {
    for name in layout.refs.names()? {
        match record::read::<RefRecord>(&layout.refs.path.join(&name)) {
            Ok(r) => {
                let disk = crate::refs::disk(layout, &name);
                inner.refs.insert(r.name.clone(), Arc::new(RefRecord { disk, ..r }));
            }
            Err(e) if e.kind() == Kind::NewerFormat => return Err(e),
            Err(e) => tracing::warn!(file = %name, error = %e, "image reference cannot be read"),
        }
    }
    let ids: std::collections::BTreeSet<_> = inner.refs.values().map(|r| r.image.clone()).collect();
    for id in ids {
        if let Err(e) = Image::index(layout, inner, &id) {
            tracing::warn!(image = %id, error = %e, "image is damaged and not listed; pull it again");
        }
    }
    Ok(())
}

fn load_containers(layout: &Layout, inner: &mut Inner) -> Result<()> {
    for id in layout.containers.names()? {
        let path = layout.containers.path.join(&id).join("container.json");
        match record::read::<ContainerFile>(&path) {
            Ok(file) => {
                let using = ContainerUse { image: file.image, layers: file.layers };
                inner.containers.insert(id, using);
            }
            Err(e) if e.kind() == Kind::NewerFormat => return Err(e),
            // Creation never came as far as its record: nobody was told of this container.
            Err(e) if e.errno() == Some(rustix::io::Errno::NOENT) => {
                layout.discard(&layout.containers, &id)?;
            }
            Err(e) => {
                return Err(Error::damaged(format!("container {id}: {e}; move {} away", path.display())));
            }
        }
    }
    Ok(())
}
