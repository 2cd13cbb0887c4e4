//! Deleting in the background what was renamed into trash/.
//!
//! One thread with the lowest priority removes one thing after another and rests as long as it works, so that a tree of a
//! hundred thousand files delays neither a start, nor a stop, nor another's fsync. What cannot be removed is tried again
//! after a while, ever more rarely; the rest does not wait for it.

mod remove;

use crate::error::Result;
use crate::layout::Layout;
pub(crate) use remove::remove_tree;
use remove::{Ended, Pace};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use strata_sys::durable;

/// How long after a failure the same thing is tried again; twice as long after each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// But not longer than this.
const LAST_RETRY: Duration = Duration::from_secs(600);

/// What is known of trash/: whether something was put there, and how much.
#[derive(Debug, Default)]
pub(crate) struct Bin {
    state: Mutex<State>,
    changed: Condvar,
    stopping: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    filled: bool,
    /// Bytes on disk by name, where they were known when it was discarded.
    sizes: HashMap<String, u64>,
}

impl Bin {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was renamed into trash/.
    pub(crate) fn filled(&self, name: String, bytes: Option<u64>) {
        let mut state = self.lock();
        state.filled = true;
        if let Some(bytes) = bytes {
            state.sizes.insert(name, bytes);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Bytes on disk of what waits to be deleted, as far as they are known.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().sizes.values().sum()
    }

    fn emptied(&self, name: &str) {
        self.lock().sizes.remove(name);
    }

    fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        // The waiting thread has looked at the flag, or holds the lock, or waits: it does not miss this.
        drop(self.lock());
        self.changed.notify_all();
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Waits until there is something to do; `false` to stop.
    fn wait(&self, retry: Option<Instant>) -> bool {
        let mut state = self.lock();
        loop {
            if self.stopping() {
                return false;
            }
            if std::mem::take(&mut state.filled) {
                return true;
            }
            state = match retry.map(|at| at.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return true,
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// The thread that empties trash/.
#[derive(Debug)]
pub(crate) struct Reaper {
    layout: Arc<Layout>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Reaper {
    /// Starts it; it empties trash/ at once.
    pub(crate) fn start(layout: Arc<Layout>) -> std::io::Result<Self> {
        let own = layout.clone();
        let thread = std::thread::Builder::new().name("strata-trash".into()).spawn(move || empty(&own))?;
        layout.bin.lock().filled = true;
        layout.bin.changed.notify_all();
        Ok(Self { layout, thread: Some(thread) })
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.layout.bin.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// When something that could not be removed is tried again.
#[derive(Debug)]
struct Retry {
    after: Duration,
    at: Instant,
}

impl Retry {
    fn following(earlier: Option<&Self>, now: Instant) -> Self {
        let after = earlier.map_or(FIRST_RETRY, |r| r.after.saturating_mul(2).min(LAST_RETRY));
        Self { after, at: now + after }
    }
}

fn empty(layout: &Layout) {
    if let Err(e) = strata_sys::priority::background_thread() {
        tracing::debug!(error = %e, "deleting has the priority of everything else");
    }
    let mut retries: HashMap<String, Retry> = HashMap::new();
    while layout.bin.wait(retries.values().map(|r| r.at).min()) {
        match listed(layout) {
            Ok(names) => pass(layout, &names, &mut retries),
            Err(e) => {
                tracing::warn!(error = %e, "trash cannot be listed or synced");
                let retry = Retry::following(retries.get(""), Instant::now());
                retries.insert(String::new(), retry);
            }
        }
    }
}

/// What is in trash/, for certain: nothing is deleted that a power cut could bring back, in part, under its old name.
fn listed(layout: &Layout) -> Result<Vec<String>> {
    let names = layout.trash.names()?;
    if !names.is_empty() {
        // A rename is on disk with either directory.
        durable::sync_dir(&layout.trash.fd)?;
    }
    Ok(names)
}

fn pass(layout: &Layout, names: &[String], retries: &mut HashMap<String, Retry>) {
    retries.retain(|name, _| names.contains(name));
    for name in names {
        if retries.get(name).is_some_and(|r| r.at > Instant::now()) {
            continue;
        }
        let path = layout.trash.path.join(name);
        match remove::remove(&path, &mut Pace::gentle(&layout.bin.stopping)) {
            Ok(Ended::Removed) => {
                layout.bin.emptied(name);
                retries.remove(name);
            }
            Ok(Ended::Stopped) => return,
            Err(e) => {
                let retry = Retry::following(retries.get(name), Instant::now());
                tracing::warn!(
                    path = %path.display(), error = %e, again_in = ?retry.after,
                    "cannot be deleted; it takes up space until it can"
                );
                retries.insert(name.clone(), retry);
            }
        }
    }
}

/// A new file that only its owner can read.
pub(crate) fn create_private(path: &Path) -> std::io::Result<File> {
    File::options().read(true).write(true).create_new(true).mode(0o600).open(path)
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

    /// Makes it a file that only its owner can read, whatever the umask is (stratad's is 0, for what it unpacks).
    pub(crate) fn create(&self) -> std::io::Result<File> {
        create_private(&self.path())
    }

    /// Makes it a directory.
    pub(crate) fn make_dir(&self) -> Result<OwnedFd> {
        durable::mkdir_all(&self.path(), 0o700)?;
        Ok(durable::open_dir(&self.path())?)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        use rustix::fs::{AtFlags, unlinkat};
        use rustix::io::Errno;
        // Usually it has been renamed, or is one file or an empty directory. Nobody waits for a tree to be removed, and what
        // cannot be removed now is tried again: both as with all trash.
        let name = self.name.as_str();
        let done = match unlinkat(&self.layout.tmp.fd, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => unlinkat(&self.layout.tmp.fd, name, AtFlags::REMOVEDIR),
            other => other,
        };
        if let Err(e) = done
            && e != Errno::NOENT
            && let Err(also) = self.layout.discard(&self.layout.tmp, name)
        {
            tracing::warn!(name, error = %e, %also, "cannot be removed from tmp/; the next start tries again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_tried_again_ever_more_rarely() {
        let now = Instant::now();
        let mut retry = Retry::following(None, now);
        assert_eq!(retry.at - now, FIRST_RETRY);
        for _ in 0..20 {
            let next = Retry::following(Some(&retry), now);
            assert!(next.after > retry.after || next.after == LAST_RETRY);
            retry = next;
        }
        assert_eq!(retry.at - now, LAST_RETRY);
    }

    #[test]
    fn nothing_wakes_the_thread_without_a_reason() {
        let bin = Bin::default();
        bin.filled("a".into(), Some(5));
        bin.filled("b".into(), None);
        assert_eq!(bin.bytes(), 5);
        assert!(bin.wait(None), "two discards are one reason");
        let soon = Instant::now() + Duration::from_millis(20);
        assert!(bin.wait(Some(soon)) && Instant::now() >= soon);
        bin.emptied("a");
        assert_eq!(bin.bytes(), 0);
        bin.stop();
        assert!(!bin.wait(None));
    }
}
