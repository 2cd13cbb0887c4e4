//! Reading files' contents beside the walk.

use super::super::meter::Meter;
use super::Damage;
use crate::entries::EntryMeta;
use crate::walk::Item;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use xxhash_rust::xxh3::Xxh3;

/// How many files are read at a time.
pub(super) const THREADS: usize = 2;
/// How many wait, each with an open descriptor.
const WAITING: usize = 64;
/// How much is read at a time.
const BUFFER: usize = 256 << 10;

/// A file to be read.
pub(super) struct Job {
    file: File,
    path: Vec<u8>,
    size: u64,
    checksum: u64,
}

impl Job {
    pub(super) fn open(item: &Item<'_>, meta: &EntryMeta) -> std::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // A check leaves no trace; on file systems that do not allow that, it leaves this one.
        let fd = match rustix::fs::openat(item.dir, item.name, flags | OFlags::NOATIME, Mode::empty()) {
            Err(rustix::io::Errno::PERM) => rustix::fs::openat(item.dir, item.name, flags, Mode::empty())?,
            other => other?,
        };
        let path = item.path.to_vec();
        Ok(Self { file: File::from(fd), path, size: meta.size, checksum: meta.checksum })
    }
}

/// The end to which files are given.
pub(super) struct Jobs(SyncSender<Job>);

impl Jobs {
    pub(super) fn send(&self, job: Job) {
        // Readers end only after this end was dropped.
        let _ = self.0.send(job);
    }
}

/// The end from which readers take.
pub(super) type Queue = Arc<Mutex<Receiver<Job>>>;

/// Both ends.
pub(super) fn queue() -> (Jobs, Queue) {
    let (send, receive) = sync_channel(WAITING);
    (Jobs(send), Arc::new(Mutex::new(receive)))
}

/// Those who read, and what they found.
pub(super) struct Readers<'a> {
    meter: &'a Meter<'a>,
    found: Mutex<Damage>,
}

impl<'a> Readers<'a> {
    pub(super) fn new(meter: &'a Meter<'a>) -> Self {
        Self { meter, found: Mutex::default() }
    }

    /// Reads until there is nothing more.
    pub(super) fn work(&self, queue: &Queue) {
        if let Err(e) = strata_sys::priority::background_thread() {
            tracing::debug!(error = %e, "reading has the priority of everything else");
        }
        let mut buffer = vec![0; BUFFER];
        let mut going_on = true;
        loop {
            let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(mut job) = job else { return };
            if !going_on {
                continue;
            }
            let wrong = match self.checksum(&mut job.file, &mut buffer) {
                Ok(None) => {
                    going_on = false;
                    continue;
                }
                Ok(Some(read)) => {
                    (read != (job.size, job.checksum)).then(|| "its content is not what it was".to_owned())
                }
                Err(e) => Some(format!("it cannot be read: {e}")),
            };
            if let Some(wrong) = wrong {
                self.found.lock().unwrap_or_else(PoisonError::into_inner).add(&job.path, wrong);
            }
        }
    }

    /// Size and checksum; `None` if the check was cancelled.
    fn checksum(&self, file: &mut File, buffer: &mut [u8]) -> std::io::Result<Option<(u64, u64)>> {
        let (mut hasher, mut size) = (Xxh3::new(), 0);
        loop {
            match file.read(buffer) {
                Ok(0) => return Ok(Some((size, hasher.digest()))),
                Ok(n) => {
                    size += n as u64;
                    hasher.update(buffer.get(..n).unwrap_or_default());
                    if !self.meter.read(n as u64) {
                        return Ok(None);
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    pub(super) fn into_found(self) -> Damage {
        self.found.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
