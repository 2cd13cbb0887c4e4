//! A disk in memory that remembers each write and each flush, so that the power can be cut between any two of them.
//!
//! A FUSE file system of this process has it as a file, which a loop device makes a block device of. The kernel sends the
//! device's writes as they come, and a flush as fsync(2). Until then, a disk may have any part of what it was sent.

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
    Request, WriteFlags,
};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

/// Of the disk; small enough for its journal to come round.
pub const SIZE: u64 = 192 << 20;
const BLOCK: usize = 4096;
/// What a disk writes whole or not at all: ext4 takes it for granted of its superblock, which is not mounted otherwise.
const SECTOR: usize = 1024;
/// Attributes never change.
const FOREVER: Duration = Duration::from_secs(1 << 30);

/// What is on a disk; copies share what is the same.
#[derive(Clone)]
pub struct Content(Vec<Option<Arc<[u8; BLOCK]>>>);

impl Default for Content {
    fn default() -> Self {
        Self(vec![None; usize::try_from(SIZE).unwrap() / BLOCK])
    }
}

impl Content {
    fn read(&self, at: u64, size: usize) -> Vec<u8> {
        let at = usize::try_from(at).unwrap();
        let mut bytes = vec![0; size.min(usize::try_from(SIZE).unwrap().saturating_sub(at))];
        for_blocks(at, bytes.len(), |block, within, range| {
            if let Some(block) = &self.0[block] {
                bytes[range.clone()].copy_from_slice(&block[within..within + range.len()]);
            }
        });
        bytes
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        for_blocks(usize::try_from(at).unwrap(), bytes.len(), |block, within, range| {
            let block = Arc::make_mut(self.0[block].get_or_insert_with(|| Arc::new([0; BLOCK])));
            block[within..within + range.len()].copy_from_slice(&bytes[range]);
        });
    }
}

fn for_blocks(at: usize, size: usize, mut each: impl FnMut(usize, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < size {
        let within = (at + done) % BLOCK;
        let n = (BLOCK - within).min(size - done);
        each((at + done) / BLOCK, within, done..done + n);
        done += n;
    }
}

/// What a disk was told.
#[derive(Clone)]
enum Event {
    Write(u64, Arc<[u8]>),
    Flush,
}

#[derive(Default)]
struct State {
    live: Content,
    /// Since recording began; `None` before.
    events: Option<Vec<Event>>,
    /// A disk as a power cut left it, and how often there was one.
    cut: Content,
    cuts: u64,
}

/// The file system.
#[derive(Clone, Default)]
struct Disks(Arc<Mutex<State>>);

const LIVE: u64 = 2;
/// The first of those that were cut: each has a number of its own, for the kernel remembers what it has read.
const CUT: u64 = 3;

impl Disks {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn attributes(ino: u64) -> FileAttr {
        let dir = ino == 1;
        FileAttr {
            ino: INodeNo(ino),
            size: if dir { 0 } else { SIZE },
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if dir { FileType::Directory } else { FileType::RegularFile },
            perm: if dir { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Disks {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str().and_then(|name| name.parse().ok()) {
            Some(ino @ LIVE..) => reply.entry(&FOREVER, &Self::attributes(ino), Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &Self::attributes(ino.0));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Every write comes at once, and nothing is read from a cache.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        at: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.lock();
        let content = if ino.0 == LIVE { &state.live } else { &state.cut };
        reply.data(&content.read(at, size as usize));
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        at: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.lock();
        if ino.0 == LIVE {
            state.live.write(at, bytes);
            if let Some(events) = &mut state.events {
                events.push(Event::Write(at, bytes.into()));
            }
        } else {
            state.cut.write(at, bytes);
        }
        reply.written(u32::try_from(bytes.len()).unwrap());
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if ino.0 == LIVE
            && let Some(events) = &mut self.lock().events
        {
            events.push(Event::Flush);
        }
        reply.ok();
    }
}

/// How a disk treats what it was sent after the last flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// It has it all: the cut was between two writes.
    Kept,
    /// It has nothing of it.
    Lost,
    /// It has some of it, and of some only the first or the last sectors.
    Some,
}

/// The disk. Its file systems are seen only by the thread that made it and what that starts.
pub struct Disk {
    disks: Disks,
    /// Unmounted before the directory is removed that it is in.
    _session: BackgroundSession,
    at: tempfile::TempDir,
}

impl Disk {
    /// An empty one, or `None` where there is no FUSE.
    pub fn new() -> Option<Self> {
        if !Path::new("/dev/fuse").exists() {
            eprintln!("skipped: no /dev/fuse");
            return None;
        }
        let (disks, at) = (Disks::default(), tempfile::tempdir().unwrap());
        std::fs::create_dir(at.path().join("disks")).unwrap();
        let session = fuser::spawn_mount(disks.clone(), at.path().join("disks"), &Config::default()).unwrap();
        Some(Self { disks, _session: session, at })
    }

    /// Makes a file system on it, mounts it, and remembers everything from then on.
    pub fn format(&self) -> Mount {
        // Nothing is left to be initialized in the background.
        let options =
            ["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", "-J", "size=4", "-N", "16384"];
        run(Command::new("mkfs.ext4").args(options).arg(self.path(LIVE)));
        let mount = self.mount(LIVE);
        run(Command::new("sync").arg("-f").arg(&mount.0));
        let mut state = self.disks.lock();
        state.cut = state.live.clone();
        state.events = Some(Vec::new());
        mount
    }

    fn path(&self, number: u64) -> PathBuf {
        self.at.path().join("disks").join(number.to_string())
    }

    fn mount(&self, number: u64) -> Mount {
        let at = self.at.path().join(format!("at-{number}"));
        std::fs::create_dir(&at).unwrap();
        // The loop device goes with the mount.
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(self.path(number)).arg(&at));
        Mount(at)
    }

    /// How many writes and flushes there were.
    pub fn events(&self) -> usize {
        self.disks.lock().events.as_ref().map_or(0, Vec::len)
    }

    /// Stops remembering, and hands out what there was for cutting.
    pub fn power(&self) -> Power<'_> {
        let mut state = self.disks.lock();
        let (events, flushed) = (state.events.take().unwrap(), state.cut.clone());
        Power { disk: self, events, flushed, done: 0 }
    }
}

/// What the power can be cut off from.
pub struct Power<'a> {
    disk: &'a Disk,
    events: Vec<Event>,
    /// As the disk was after the last flush that was looked at.
    flushed: Content,
    done: usize,
}

impl Power<'_> {
    pub fn events(&self) -> usize {
        self.events.len()
    }

    /// The file system as it is after a cut before event number `at`, which must not be less than the last one.
    pub fn cut(&mut self, at: usize, cache: Cache, random: &mut Random) -> Mount {
        let flush = self.events[..at].iter().rposition(|e| matches!(e, Event::Flush)).unwrap_or(0);
        for event in self.events.get(self.done..flush).into_iter().flatten() {
            if let Event::Write(at, bytes) = event {
                self.flushed.write(*at, bytes);
            }
        }
        self.done = self.done.max(flush);
        let mut content = self.flushed.clone();
        for event in &self.events[self.done..at] {
            let Event::Write(at, bytes) = event else { continue };
            let sectors = bytes.len() / SECTOR;
            let part = match cache {
                Cache::Kept => 0..sectors,
                Cache::Lost => 0..0,
                Cache::Some => match random.below(4) {
                    0 => 0..0,
                    1 => 0..random.below(sectors + 1),
                    2 => random.below(sectors + 1)..sectors,
                    _ => 0..sectors,
                },
            };
            content.write(at + (part.start * SECTOR) as u64, &bytes[part.start * SECTOR..part.end * SECTOR]);
        }
        let mut state = self.disk.disks.lock();
        state.cut = content;
        state.cuts += 1;
        let number = CUT + state.cuts;
        drop(state);
        self.disk.mount(number)
    }
}

/// A mounted file system.
pub struct Mount(PathBuf);

impl Mount {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Another test may just be starting a program, which has every file of this process open until it runs. What
        // is still mounted when the process ends would be synced by the thread that is to serve the disk: it never ends.
        for _ in 0..5000 {
            if nix::mount::umount(&self.0) != Err(nix::errno::Errno::EBUSY) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        eprintln!("{} is in use", self.0.display());
    }
}

fn run(command: &mut Command) {
    let done = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Numbers that look random and can be had again (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap() % end.max(1)
    }
}
