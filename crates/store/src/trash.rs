//! Deleting in the background what was renamed into trash/.

use crate::layout::Layout;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use strata_sys::durable;

/// A thread that empties trash/ whenever it is woken.
#[derive(Debug)]
pub(crate) struct Reaper {
    wake: Option<SyncSender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Reaper {
    /// Starts it; it empties trash/ at once.
    pub(crate) fn start(layout: Arc<Layout>) -> std::io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let thread =
            std::thread::Builder::new().name("strata-trash".into()).spawn(move || reap(&layout, &woken))?;
        let reaper = Self { wake: Some(wake), thread: Some(thread) };
        reaper.wake();
        Ok(reaper)
    }

    /// There is something in trash/.
    pub(crate) fn wake(&self) {
        if let Some(wake) = &self.wake {
            match wake.try_send(()) {
                // A full channel means that it will look again anyway; a dead thread leaves it to the next start.
                Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
            }
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn reap(layout: &Layout, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        let names = match layout.trash.names() {
            Ok(names) => names,
            Err(e) => {
                tracing::warn!(error = %e, "trash cannot be listed");
                continue;
            }
        };
        for name in names {
            let path = layout.trash.path.join(&name);
            if let Err(e) = remove_tree(&path) {
                tracing::warn!(path = %path.display(), error = %e, "cannot be deleted; the next start tries again");
            }
        }
    }
}

/// Removes a file or a tree. Symlinks are removed, not followed, and no name is looked up twice (std's walk is by
/// descriptors).
pub(crate) fn remove_tree(path: &std::path::Path) -> std::io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// A name in tmp/ that goes away unless it was published.
#[derive(Debug)]
pub(crate) struct Scratch {
    layout: Arc<Layout>,
    pub(crate) name: String,
}

impl Scratch {
    /// Reserves a name; nothing is made.
    pub(crate) fn new(layout: &Arc<Layout>, what: &str) -> Self {
        Self { layout: layout.clone(), name: layout.fresh_name(what) }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.layout.tmp.path.join(&self.name)
    }

    /// Makes it a directory.
    pub(crate) fn make_dir(&self) -> crate::error::Result<OwnedFd> {
        durable::mkdir_all(&self.path(), 0o700)?;
        Ok(durable::open_dir(&self.path())?)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Usually it has been renamed. If not, and it cannot be removed now, that is tried again as with all trash.
        if let Err(e) = remove_tree(&self.path())
            && let Err(also) = self.layout.discard(&self.layout.tmp, &self.name)
        {
            tracing::warn!(name = %self.name, error = %e, %also, "cannot be removed from tmp/; the next start tries again");
        }
    }
}
