//! How big containers' writable layers are. Nobody who asks waits for a walk: a thread of low priority measures one container
//! after another, and the last value is told, with its time.
//!
//! A walk rests as long as it works, and a container is measured again after a period, or after twenty times as long as it took:
//! whatever is in the layers, measuring takes a small share of one processor.

use crate::error::{Context, Error, Result};
use crate::layout::Layout;
use crate::measure;
use crate::store::Store;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use strata_sys::durable;

/// How old a value gets, as long as walks are short.
const PERIOD: Duration = Duration::from_secs(10);
/// How much longer than a walk the time until the next one is at least.
const SHARE: u32 = 20;
/// When a new container is measured first: its start is not disturbed.
const SOON: Duration = Duration::from_millis(500);
/// How long is worked before a rest of the same length.
const SLICE: Duration = Duration::from_millis(5);

/// What a container takes up, when it was measured last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writable {
    /// Bytes of the regular files in its writable layer, hard links once: what Docker calls its size.
    pub size: u64,
    /// Bytes on disk of its writable layer.
    pub layer_disk: u64,
    /// Inodes of its writable layer.
    pub layer_inodes: u64,
    /// Bytes on disk of everything that is the container's: the layer, overlayfs's work directory, its records.
    pub disk: u64,
    /// Inodes of all that.
    pub inodes: u64,
    /// When, in nanoseconds since 1970.
    pub measured_at: i64,
}

/// The measuring thread and what it knows.
#[derive(Debug)]
pub(crate) struct Sizes {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<HashMap<String, Known>>,
    changed: Condvar,
    stopping: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    value: Option<Writable>,
    /// How many times it was measured, or it was tried.
    rounds: u64,
    due: Instant,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Waits until a container is due; `None` to stop.
    fn next(&self) -> Option<String> {
        let mut known = self.lock();
        loop {
            if self.stopping() {
                return None;
            }
            let first = known.iter().min_by_key(|(_, k)| k.due).map(|(id, k)| (id.clone(), k.due));
            let now = Instant::now();
            known = match first {
                Some((id, due)) if due <= now => return Some(id),
                Some((_, due)) => {
                    let waited = self.changed.wait_timeout(known, due - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(known).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn measured(&self, id: &str, value: Option<Writable>, took: Duration) {
        let mut known = self.lock();
        // One that was removed meanwhile does not come back.
        if let Some(entry) = known.get_mut(id) {
            entry.value = value.or(entry.value);
            entry.rounds += 1;
            entry.due = Instant::now() + PERIOD.max(took.saturating_mul(SHARE));
        }
        drop(known);
        self.changed.notify_all();
    }
}

impl Sizes {
    pub(crate) fn start(layout: Arc<Layout>) -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let own = shared.clone();
        let thread = std::thread::Builder::new()
            .name("strata-sizes".into())
            .spawn(move || measuring(&layout, &own))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A container is there.
    pub(crate) fn watch(&self, id: &str) {
        let known = Known { value: None, rounds: 0, due: Instant::now() + SOON };
        self.shared.lock().insert(id.to_owned(), known);
        self.shared.changed.notify_all();
    }

    /// A container is gone.
    pub(crate) fn forget(&self, id: &str) {
        self.shared.lock().remove(id);
        // Nobody waits for it any longer.
        self.shared.changed.notify_all();
    }

    fn refresh(&self, ids: &[String], patience: Duration) {
        let end = Instant::now() + patience;
        let mut known = self.shared.lock();
        let now = Instant::now();
        let mut waiting: Vec<(&String, u64)> = Vec::new();
        for id in ids {
            if let Some(entry) = known.get_mut(id) {
                // A walk that is under way began before now, so its result is not what is asked for, unless it is the first.
                entry.due = entry.due.min(now);
                waiting.push((id, entry.rounds + 1));
            }
        }
        self.shared.changed.notify_all();
        loop {
            waiting.retain(|(id, rounds)| known.get(*id).is_some_and(|k| k.rounds < *rounds));
            let left = end.saturating_duration_since(Instant::now());
            if waiting.is_empty() || left.is_zero() || self.shared.stopping() {
                return;
            }
            let waited = self.shared.changed.wait_timeout(known, left);
            known = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Sizes {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        drop(self.shared.lock());
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn measuring(layout: &Layout, shared: &Shared) {
    if let Err(e) = strata_sys::priority::background_thread() {
        tracing::debug!(error = %e, "measuring has the priority of everything else");
    }
    while let Some(id) = shared.next() {
        let began = Instant::now();
        let value = match measure(layout, shared, &id) {
            Ok(value) => Some(value),
            Err(e) => {
                // It is being made or removed, or its program moves directories about: the last value stays.
                tracing::debug!(container = %id, error = %e, "writable layer cannot be measured now");
                None
            }
        };
        shared.measured(&id, value, began.elapsed());
    }
}

fn measure(layout: &Layout, shared: &Shared, id: &str) -> Result<Writable> {
    let mut began = Instant::now();
    let mut pace = || {
        if began.elapsed() >= SLICE {
            std::thread::sleep(SLICE);
            began = Instant::now();
        }
        if shared.stopping() { Err(Error::invalid("stopped")) } else { Ok(()) }
    };
    let dir = durable::open_dir(&layout.containers.path.join(id)).context(|| format!("container {id}"))?;
    let upper = durable::open_dir(&layout.containers.path.join(id).join("upper"))?;
    let around = measure::tree(dir, Some(b"upper"), &mut pace)?;
    let layer = measure::tree(upper, None, &mut pace)?;
    Ok(Writable {
        size: layer.size,
        layer_disk: layer.disk,
        layer_inodes: layer.inodes,
        disk: layer.disk.saturating_add(around.disk),
        inodes: layer.inodes.saturating_add(around.inodes),
        measured_at: crate::history::now(),
    })
}

impl Store {
    /// What a container takes up, as it was measured last: `None` if that has not happened yet, which takes about a second
    /// for a new container, or if there is no such container. Nothing is read for it.
    pub fn writable(&self, id: &str) -> Option<Writable> {
        self.sizes.shared.lock().get(id).and_then(|known| known.value)
    }

    /// Has these containers measured now, and waits for that, but no longer than `patience`: for people, who have just changed
    /// something. It is the background thread that measures, at its own pace.
    pub fn measure_writable(&self, ids: &[String], patience: Duration) {
        self.sizes.refresh(ids, patience);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_walks_are_rare_and_removed_containers_stay_away() {
        let shared = Shared::default();
        let now = Instant::now();
        shared.lock().insert("a".into(), Known { value: None, rounds: 0, due: now });
        assert_eq!(shared.next().as_deref(), Some("a"));
        let value = Writable { size: 1, ..Writable::default() };
        shared.measured("a", Some(value), Duration::from_secs(60));
        let entry = shared.lock()["a"];
        assert_eq!((entry.value, entry.rounds), (Some(value), 1));
        assert!(entry.due >= now + Duration::from_secs(60) * SHARE);
        // A failure keeps what was known.
        shared.measured("a", None, Duration::ZERO);
        assert_eq!(shared.lock()["a"].value, Some(value));
        shared.lock().remove("a");
        shared.measured("a", Some(value), Duration::ZERO);
        assert!(shared.lock().is_empty());
        shared.stopping.store(true, Ordering::Release);
        assert_eq!(shared.next(), None);
    }
}
