//! Opening the store: the lock, and the index rebuilt from the directories.

use crate::buffers::Buffers;
use crate::containers::check_id;
use crate::error::{Context, Error, Kind, Result};
use crate::gc::GcTotals;
use crate::image::Image;
use crate::index::{BlobFile, ContainerUse, Index, Inner, Lease};
use crate::inflate::Windows;
use crate::layout::Layout;
use crate::limits::Limits;
use crate::record::{self, ContainerFile, LayerRecord, RefRecord};
use crate::trash::Reaper;
use crate::writable::Sizes;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
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
    /// What all pipelines that run have to share.
    pub(crate) buffers: Buffers,
    pub(crate) windows: Windows,
    /// Held during a sync that a ref depends on.
    pub(crate) syncing: Mutex<()>,
    /// Held while the store is checked.
    pub(crate) checking: Mutex<()>,
    /// Keeps everything as long as there are refs that cannot be read, or nobody knows yet whether there are.
    protection: Mutex<Option<Lease>>,
    /// Held while names of images change, their fsyncs included: one change at a time. Taken before the index's lock, which
    /// is not held meanwhile, so that nobody but another such change waits for the disk.
    pub(crate) naming: Mutex<()>,
    pub(crate) sizes: Sizes,
    pub(crate) collected: Mutex<GcTotals>,
    /// Whose records were damaged when this was opened.
    pub(crate) lost_containers: Vec<String>,
    // Not used again: the thread lives as long as this.
    _reaper: Reaper,
}

impl Store {
    /// Opens the store below `root`, and makes it if there is none. What an interrupted operation left is deleted.
    ///
    /// # Errors
    /// [`Kind::Locked`] if another process has it open, [`Kind::NewerFormat`] if a newer release wrote it.
    pub fn open(root: &Path, options: Options) -> Result<Arc<Self>> {
        let (store, unreadable) = Self::load(root, options, Opening::ToServe)?;
        if unreadable.is_empty() {
            // Layers and blobs that were renamed but that no ref came to need; a power cut may have lost parts of them.
            store.collect_replaced()?;
            store.gc(false)?;
        } else {
            let files = unreadable.join(", ");
            tracing::warn!(
                %files,
                "references to images cannot be read: nothing is collected until `strata fsck --repair` has decided about them"
            );
            store.protect(&format!(
                "references to images cannot be read ({files}): run `strata fsck --repair`"
            ))?;
        }
        Ok(store)
    }

    /// Opens the store for [`fsck`](Self::fsck), when no daemon serves it: nothing is collected, not even what no ref needs,
    /// since it may be a ref that is lost; and a container whose record is damaged is no reason to give up.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_to_check(root: &Path, options: Options) -> Result<Arc<Self>> {
        let (store, _) = Self::load(root, options, Opening::ToCheck)?;
        store.protect("the store is being checked")?;
        Ok(store)
    }

    /// Opens the store; with the files of refs that cannot be read.
    fn load(root: &Path, options: Options, opening: Opening) -> Result<(Arc<Self>, Vec<String>)> {
        let layout = Arc::new(Layout::open(root)?);
        for name in layout.tmp.names()? {
            layout.discard(&layout.tmp, &name)?;
        }
        let index = Arc::new(Index::default());
        let (unreadable, lost_containers) = {
            let mut inner = index.lock();
            load_blobs(&layout, &mut inner)?;
            load_layers(&layout, &mut inner)?;
            let unreadable = load_refs(&layout, &mut inner)?;
            (unreadable, load_containers(&layout, &mut inner, opening)?)
        };
        let reaper = Reaper::start(layout.clone()).context(|| "start the deleting thread".into())?;
        let sizes = Sizes::start(layout.clone()).context(|| "start the measuring thread".into())?;
        index.lock().containers.keys().for_each(|id| sizes.watch(id));
        let store = Arc::new(Self {
            layout,
            index,
            options,
            buffers: Buffers::default(),
            windows: Windows::default(),
            syncing: Mutex::default(),
            checking: Mutex::default(),
            protection: Mutex::default(),
            naming: Mutex::default(),
            sizes,
            collected: Mutex::default(),
            lost_containers,
            _reaper: reaper,
        });
        Ok((store, unreadable))
    }

    /// Keeps every layer and blob from collection.
    fn protect(&self, why: &str) -> Result<()> {
        let lease = self.lease(why)?;
        let names = self.layout.layers.names()?;
        let mut inner = self.index.lock();
        let blobs: Vec<Digest> = inner.blobs.keys().cloned().collect();
        let held = inner.held(&lease);
        held.layers.extend(names);
        held.blobs.extend(blobs);
        drop(inner);
        *self.protection.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease);
        Ok(())
    }

    /// Lets what nothing needs be collected again.
    pub(crate) fn unprotect(&self) {
        let lease = self.protection.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(lease);
    }

    /// Whether an operation other than this one, and other than the protection, holds a blob.
    pub(crate) fn is_worked_on(&self, own: &Lease, digest: &Digest) -> bool {
        let protection = self.protection.lock().unwrap_or_else(PoisonError::into_inner);
        let aside = [Some(own.id()), protection.as_ref().map(Lease::id)];
        let inner = self.index.lock();
        inner.leases.iter().any(|(id, held)| !aside.contains(&Some(*id)) && held.blobs.contains(digest))
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

/// What the store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    ToServe,
    ToCheck,
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
        // What an interrupted repair was about to put in place of a layer: the next collection takes it.
        if key.starts_with("repair.") {
            continue;
        }
        let path = layout.layers.path.join(&key).join("layer.json");
        match record::read_whole::<LayerRecord>(&path) {
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

/// Loads the refs; the files of those that cannot be read.
fn load_refs(layout: &Layout, inner: &mut Inner) -> Result<Vec<String>> {
    let mut unreadable = Vec::new();
    // The check tells of names that nothing of the store has.
    for name in layout.refs.names()?.into_iter().filter(|n| crate::refs::is_file_name(n)) {
        match record::read_whole::<RefRecord>(&layout.refs.path.join(&name)) {
            Ok(r) if crate::refs::file_name(&r.name) == name => {
                let disk = crate::refs::disk(layout, &name);
                inner.refs.insert(r.name.clone(), Arc::new(RefRecord { disk, ..r }));
            }
            Ok(r) => {
                tracing::warn!(file = %name, image = %r.name, "image reference is called by another name's digest");
                unreadable.push(name);
            }
            Err(e) if e.kind() == Kind::NewerFormat => return Err(e),
            Err(e) => {
                tracing::warn!(file = %name, error = %e, "image reference cannot be read");
                unreadable.push(name);
            }
        }
    }
    let ids: std::collections::BTreeSet<_> = inner.refs.values().map(|r| r.image.clone()).collect();
    for id in ids {
        if let Err(e) = Image::index(layout, inner, &id) {
            tracing::warn!(image = %id, error = %e, "image is damaged and not listed; pull it again");
        }
    }
    Ok(unreadable)
}

fn wrote_something(upper: &Path) -> bool {
    std::fs::read_dir(upper).is_ok_and(|mut entries| entries.next().is_some())
}

/// Loads the containers; the IDs of those whose records are damaged.
fn load_containers(layout: &Layout, inner: &mut Inner, opening: Opening) -> Result<Vec<String>> {
    let mut lost = Vec::new();
    // The check tells of names that nothing of the store has.
    for id in layout.containers.names()?.into_iter().filter(|name| check_id(name).is_ok()) {
        let path = layout.containers.path.join(&id).join("container.json");
        match record::read::<ContainerFile>(&path) {
            Ok(file) => {
                let using = ContainerUse {
                    image: file.image,
                    layers: file.layers,
                    mounted: file.mounted,
                    ids: file.ids,
                };
                inner.containers.insert(id, using);
            }
            Err(e) if e.kind() == Kind::NewerFormat => return Err(e),
            // The check itself says what is wrong with it.
            Err(_) if opening == Opening::ToCheck => {}
            // Creation never came as far as its record, and nobody was told of this container; unless something was
            // written in it, and the record was lost.
            Err(e) if e.errno() == Some(rustix::io::Errno::NOENT) => {
                if wrote_something(&layout.containers.path.join(&id).join("upper")) {
                    let to = layout.put_away(&layout.containers, &id)?;
                    tracing::warn!(container = %id, %to, "container has lost its record; what was written in it is kept there");
                } else {
                    layout.discard(&layout.containers, &id)?;
                }
            }
            // One container's damage must not keep a node from starting: what it wrote is kept, for people to look at.
            Err(e) if is_damage(&e) => {
                let to = layout.put_away(&layout.containers, &id)?;
                tracing::error!(container = %id, error = %e, %to, "container's record is damaged; its files are kept there");
                lost.push(id);
            }
            Err(e) => return Err(e.context(format!("container {id}"))),
        }
    }
    Ok(lost)
}

/// Whether a file cannot be read because of what is on the disk: trying again, or another limit, would not help.
fn is_damage(e: &Error) -> bool {
    use rustix::io::Errno;
    let of_disk = [Errno::IO, Errno::ISDIR, Errno::NOTDIR, Errno::LOOP, Errno::UCLEAN, Errno::BADMSG];
    e.kind() == Kind::Damaged || e.errno().is_some_and(|errno| of_disk.contains(&errno))
}
