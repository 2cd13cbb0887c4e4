//! How far a check is.

use super::event::{FsckEvent, FsckOptions};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often progress is told.
const PACE: Duration = Duration::from_millis(100);

/// Counts bytes, and tells of them now and then.
pub(super) struct Meter<'a> {
    tell: &'a (dyn Fn(FsckEvent) + Sync),
    cancel: &'a AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
    last: Mutex<Option<Instant>>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(options: &FsckOptions<'a>) -> Self {
        let (done, total) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { tell: options.tell, cancel: options.cancel, done, total, last: Mutex::new(None) }
    }

    pub(super) fn tell(&self, event: FsckEvent) {
        (self.tell)(event);
    }

    pub(super) fn expect(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    /// Whether to go on after so many more bytes.
    pub(super) fn read(&self, bytes: u64) -> bool {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        let now = Instant::now();
        if let Ok(mut last) = self.last.try_lock()
            && last.is_none_or(|last| now.duration_since(last) >= PACE)
        {
            *last = Some(now);
            drop(last);
            self.progress();
        }
        !self.cancel.load(Ordering::Relaxed)
    }

    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// All there was to read has been read, however much it was thought to be.
    pub(super) fn finish(&self) {
        self.total.store(self.done(), Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.progress();
    }

    fn progress(&self) {
        let done = self.done();
        // Layers that arrive meanwhile are checked too.
        let total = self.total.load(Ordering::Relaxed).max(done);
        (self.tell)(FsckEvent::Progress { done, total });
    }
}
