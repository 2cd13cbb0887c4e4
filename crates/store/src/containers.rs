//! Containers and pods on disk: the writable layer, and the records that must outlive a reboot.

use crate::compose::View;
use crate::error::{Context, Error, Kind, Result};
use crate::image::Image;
use crate::index::{ContainerUse, Lease};
use crate::layout::Dir;
use crate::record::{self, ContainerFile, FORMAT, RootAttrs};
use crate::shift::IdShift;
use crate::store::Store;
use crate::unpack::times;
use crate::xattr;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};
use serde_json::value::RawValue;
use std::ffi::{CString, OsStr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata_sys::durable;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// `pods/<id>/pod.json`
    Pod,
    /// `containers/<id>/exit.json`
    Exit,
}

impl RecordKind {
    fn file(self) -> &'static str {
        match self {
            Self::Pod => "pod.json",
            Self::Exit => "exit.json",
        }
    }
}

/// A container's root file system, ready to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Read-only layers, topmost first.
    pub lowers: Vec<PathBuf>,
    /// The writable one.
    pub upper: PathBuf,
    /// What overlayfs needs beside it.
    pub work: PathBuf,
}

impl Store {
    /// Makes a container's writable layer on top of an image, which the container keeps from now on.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`] if the ID is taken, [`Kind::NotFound`] if the image is gone.
    pub fn create_snapshot(&self, lease: &Lease, id: &str, image: &Image) -> Result<Snapshot> {
        self.create_shifted_snapshot(lease, id, image, None)
    }

    /// As [`Self::create_snapshot`], for a container in a user namespace: the writable layer is its root's.
    ///
    /// # Errors
    /// As there.
    pub fn create_shifted_snapshot(
        &self,
        lease: &Lease,
        id: &str,
        image: &Image,
        ids: Option<IdShift>,
    ) -> Result<Snapshot> {
        check_id(id)?;
        let stack = owned(image.stack());
        self.claim(lease, id, image, &stack, ids)?;
        let dir = self.layout.containers.path.join(id);
        let made = rustix::fs::mkdirat(CWD, &dir, Mode::from_raw_mode(0o700))
            .map_err(std::io::Error::from)
            .context(|| format!("mkdir {}", dir.display()));
        let filled = made.and_then(|()| self.fill_snapshot(&dir, &stack, ids));
        if filled.is_err() {
            // The first error is the one to tell.
            let _ = self.remove_container(id);
        }
        filled
    }

    /// Keeps what an image consists of while an operation reads it, even if the image is removed meanwhile.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if it is gone already.
    pub fn hold_image(&self, lease: &Lease, image: &Image) -> Result<()> {
        let mut inner = self.index.lock();
        if !inner.images.contains_key(&image.id) {
            return Err(removed_just_now(image));
        }
        let refs: Vec<_> = inner.refs.values().filter(|r| r.image == image.id).cloned().collect();
        let held = inner.held(lease);
        for r in refs {
            held.layers.extend(r.layer_keys().map(ToOwned::to_owned));
            held.blobs.extend(r.blobs().cloned());
        }
        Ok(())
    }

    /// From here on the image counts as used, and its layers stay.
    fn claim(
        &self,
        lease: &Lease,
        id: &str,
        image: &Image,
        stack: &[String],
        ids: Option<IdShift>,
    ) -> Result<()> {
        let mut inner = self.index.lock();
        if inner.containers.contains_key(id) {
            return Err(Error::new(Kind::AlreadyExists, format!("container {id} exists already")));
        }
        if !inner.images.contains_key(&image.id) || stack.iter().any(|key| !inner.layers.contains_key(key)) {
            return Err(removed_just_now(image));
        }
        inner.held(lease).layers.extend(stack.iter().cloned());
        let using =
            ContainerUse { image: image.id.clone(), layers: stack.to_vec(), mounted: Vec::new(), ids };
        inner.containers.insert(id.to_owned(), using);
        drop(inner);
        self.sizes.watch(id);
        Ok(())
    }

    fn fill_snapshot(&self, dir: &Path, stack: &[String], ids: Option<IdShift>) -> Result<Snapshot> {
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        durable::mkdir_all(&upper, 0o755)?;
        durable::mkdir_all(&work, 0o700)?;
        // Merged directories show the topmost one's attributes, and the upper is the root's.
        let listed = self.stack_records(stack)?.iter().find_map(|r| r.root.clone());
        apply_root(&upper, listed.as_ref())?;
        if let Some(ids) = ids {
            let (uid, gid) = listed.as_ref().map_or((0, 0), |root| (root.uid, root.gid));
            std::os::unix::fs::lchown(&upper, Some(ids.user_on_host(uid)), Some(ids.group_on_host(gid)))
                .context(|| format!("chown {}", upper.display()))?;
        }
        let mut lowers = self.lowers(stack)?;
        lowers.push(self.layout.mountpoints.clone());
        Ok(Snapshot { lowers, upper, work })
    }

    /// The root file system of a container that is here.
    ///
    /// # Errors
    /// If it is not, or one of its layers is missing.
    pub fn snapshot(&self, id: &str) -> Result<Snapshot> {
        let stack = self.container_stack(id)?;
        let mut lowers = self.lowers(&stack)?;
        lowers.push(self.layout.mountpoints.clone());
        let dir = self.layout.containers.path.join(id);
        Ok(Snapshot { lowers, upper: dir.join("upper"), work: dir.join("work") })
    }

    /// Empties a container's work directory, in which a mount without `volatile` may have left something.
    ///
    /// # Errors
    /// If it cannot be made anew.
    pub fn reset_work(&self, id: &str) -> Result<()> {
        let work = self.layout.containers.path.join(id).join("work");
        crate::trash::remove_tree(&work).context(|| format!("empty {}", work.display()))?;
        Ok(durable::mkdir_all(&work, 0o700)?)
    }

    /// Writes a container's record durably. The first one makes the container itself durable.
    ///
    /// # Errors
    /// If there is no such container, the record is no JSON, or the disk fails.
    pub fn put_container(&self, id: &str, json: &[u8]) -> Result<()> {
        check_id(id)?;
        let text = String::from_utf8_lossy(json).into_owned();
        let record =
            RawValue::from_string(text).map_err(|e| Error::invalid(format!("record of {id}: {e}")))?;
        let known = self.index.lock().containers.get(id).cloned();
        let using = known.ok_or_else(|| Error::not_found(format!("No such container: {id}")))?;
        let ContainerUse { image, layers, mounted, ids } = using;
        let file = ContainerFile { format: FORMAT, image, layers, mounted, ids, record };
        self.write_record(&self.layout.containers, id, "container.json", &record::to_json(id, &file)?)
    }

    /// The records of all containers by their IDs, each with why it cannot be read if so.
    pub fn containers(&self) -> Vec<(String, Result<Box<RawValue>>)> {
        let ids: Vec<String> = self.index.lock().containers.keys().cloned().collect();
        ids.into_iter()
            .map(|id| {
                let path = self.layout.containers.path.join(&id).join("container.json");
                let record = record::read::<ContainerFile>(&path).map(|f| f.record);
                (id, record)
            })
            .collect()
    }

    /// Whether there is a container of this ID, or one is being made.
    pub fn has_container(&self, id: &str) -> bool {
        self.index.lock().containers.contains_key(id)
    }

    /// Removes a container: its record and its writable layer, and nothing else. Absence is success.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn remove_container(&self, id: &str) -> Result<()> {
        check_id(id)?;
        self.layout.discard(&self.layout.containers, id).context(|| format!("container {id}"))?;
        // Its layers stay until it cannot come back.
        durable::sync_dir(&self.layout.containers.fd)?;
        self.index.lock().containers.remove(id);
        self.sizes.forget(id);
        if let Err(e) = self.collect_replaced() {
            tracing::warn!(error = %e, "damaged layers that were replaced are kept until the next collection");
        }
        Ok(())
    }

    /// Writes a record durably.
    ///
    /// # Errors
    /// If the disk fails, or there is no container for an exit record.
    pub fn put_record(&self, kind: RecordKind, id: &str, json: &[u8]) -> Result<()> {
        check_id(id)?;
        self.write_record(self.record_dir(kind), id, kind.file(), json)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// If it cannot be read; absence is `None`.
    pub fn record(&self, kind: RecordKind, id: &str) -> Result<Option<Vec<u8>>> {
        check_id(id)?;
        let path = self.record_dir(kind).path.join(id).join(kind.file());
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::from(e).context(format!("read {}", path.display()))),
        }
    }

    /// The records of all pods by their IDs, each with why it cannot be read if so.
    ///
    /// # Errors
    /// If their directory cannot be read.
    pub fn pods(&self) -> Result<Vec<(String, Result<Vec<u8>>)>> {
        let mut pods = Vec::new();
        // A check tells of other names.
        for id in self.layout.pods.names()?.into_iter().filter(|name| check_id(name).is_ok()) {
            match self.record(RecordKind::Pod, &id).transpose() {
                Some(record) => pods.push((id, record)),
                // Creation never came as far as its record.
                None => self.layout.discard(&self.layout.pods, &id)?,
            }
        }
        Ok(pods)
    }

    /// Removes a pod's record. Absence is success.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn remove_pod(&self, id: &str) -> Result<()> {
        check_id(id)?;
        self.layout.discard(&self.layout.pods, id).context(|| format!("pod {id}"))?;
        Ok(durable::sync_dir(&self.layout.pods.fd)?)
    }

    /// Removes a container's exit record: it is about to run again.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn remove_exit(&self, id: &str) -> Result<()> {
        check_id(id)?;
        let dir = durable::open_dir(&self.layout.containers.path.join(id))?;
        Ok(durable::remove_file(&dir, OsStr::new(RecordKind::Exit.file()))?)
    }

    /// A merged, read-only look at an image, for reading what it says about users.
    ///
    /// # Errors
    /// If a layer is missing.
    pub fn image_view(&self, image: &Image) -> Result<ImageView> {
        self.view(&owned(image.stack()), false).map(ImageView)
    }

    fn record_dir(&self, kind: RecordKind) -> &Dir {
        match kind {
            RecordKind::Pod => &self.layout.pods,
            RecordKind::Exit => &self.layout.containers,
        }
    }

    fn write_record(&self, dir: &Dir, id: &str, name: &str, bytes: &[u8]) -> Result<()> {
        let path = dir.path.join(id);
        // A container's directory is made with its writable layer: a record must not bring back one that was removed.
        if name == "pod.json" {
            make_durable(dir, &path)?;
        }
        let own = durable::open_dir(&path).map_err(|e| match e.errno {
            rustix::io::Errno::NOENT => Error::not_found(format!("No such container: {id}")),
            _ => e.into(),
        })?;
        durable::write_file(&own, OsStr::new(name), bytes, 0o600).context(|| format!("record of {id}"))?;
        // The first record makes the directory durable too; whether it is the first, an earlier failure may have hidden.
        if name == "container.json" {
            durable::sync_dir(&dir.fd)?;
        }
        Ok(())
    }

    pub(crate) fn upper(&self, id: &str) -> PathBuf {
        self.layout.containers.path.join(id).join("upper")
    }

    pub(crate) fn container_stack(&self, id: &str) -> Result<Vec<String>> {
        let inner = self.index.lock();
        let using =
            inner.containers.get(id).ok_or_else(|| Error::not_found(format!("No such container: {id}")))?;
        Ok(using.layers.clone())
    }

    pub(crate) fn container_ids(&self, id: &str) -> Option<IdShift> {
        self.index.lock().containers.get(id).and_then(|using| using.ids)
    }

    pub(crate) fn container_image(&self, id: &str) -> Result<(Arc<Image>, Vec<String>)> {
        let stack = self.container_stack(id)?;
        let inner = self.index.lock();
        let image = inner.containers.get(id).and_then(|u| inner.images.get(&u.image)).cloned();
        image
            .map(|i| (i, stack))
            .ok_or_else(|| Error::not_found(format!("the image of container {id} is gone")))
    }
}

/// A look at an image; gone when dropped.
#[derive(Debug)]
pub struct ImageView(View);

impl ImageView {
    /// The image's root directory.
    pub fn root(&self) -> &strata_sys::path::Root {
        self.0.root()
    }
}

pub(crate) fn removed_just_now(image: &Image) -> Error {
    Error::not_found(format!("No such image: {}: it was removed just now; pull it again", image.id))
}

pub(crate) fn owned(stack: Vec<&str>) -> Vec<String> {
    stack.into_iter().map(ToOwned::to_owned).collect()
}

/// Makes a directory, durably: whoever finds it here need not sync it again.
fn make_durable(parent: &Dir, path: &Path) -> Result<()> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o700)) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => return Ok(()),
        Err(e) => return Err(std::io::Error::from(e)).context(|| format!("mkdir {}", path.display())),
    }
    durable::sync_dir(&parent.fd).map_err(|e| {
        // The next attempt makes it anew, and syncs it then; this failure is the one to tell.
        let _ = rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR);
        e.into()
    })
}

/// IDs become file names.
pub(crate) fn check_id(id: &str) -> Result<()> {
    if id.len() == 64 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{:?} is no ID of 64 hexadecimal digits",
        id.chars().take(80).collect::<String>()
    )))
}

/// Gives a directory the attributes that a layer lists for its root.
pub(crate) fn apply_root(upper: &Path, listed: Option<&RootAttrs>) -> Result<()> {
    let fail = |e: rustix::io::Errno| std::io::Error::from(e);
    let Some(a) = listed else {
        let mode = Mode::from_raw_mode(0o755);
        return Ok(rustix::fs::chmodat(CWD, upper, mode, AtFlags::empty()).map_err(fail)?);
    };
    rustix::fs::chownat(CWD, upper, Some(Uid::from_raw(a.uid)), Some(Gid::from_raw(a.gid)), AtFlags::empty())
        .map_err(fail)?;
    rustix::fs::chmodat(CWD, upper, Mode::from_raw_mode(a.mode), AtFlags::empty()).map_err(fail)?;
    for (name, value) in &a.xattrs {
        let name = CString::new(name.as_str()).map_err(|_| Error::damaged("xattr name with a zero byte"))?;
        xattr::set(upper, &name, value)?;
    }
    Ok(rustix::fs::utimensat(CWD, upper, &times(a.mtime), AtFlags::empty()).map_err(fail)?)
}
