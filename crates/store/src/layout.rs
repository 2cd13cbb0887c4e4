//! Where things are below the store's root, and how names become visible there.

use crate::error::{Context, Error, Kind, Result};
use crate::trash::Bin;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use strata_oci::digest::Algorithm;
use strata_sys::durable;

/// What a check could make nothing of. The root of a file system may have one of its own.
const LOST: &str = "lost+found";

/// Everything that belongs below the root; the last two are the daemon's own.
pub(crate) const NAMES: [&str; 13] = [
    "lock",
    "blobs",
    "layers",
    "refs",
    "pods",
    "containers",
    "mountpoints",
    "tmp",
    "trash",
    "replaced",
    LOST,
    "pod-cidr",
    "seccomp",
];

/// Directories that every container has something mounted on.
pub(crate) const MOUNTPOINT_DIRS: [&str; 4] = ["dev", "etc", "proc", "sys"];
/// Files in `etc` that every container has something mounted on.
pub(crate) const MOUNTPOINT_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// A directory of the store: its descriptor for calls, its path for messages and overlay options.
#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) fd: OwnedFd,
    pub(crate) path: PathBuf,
}

impl Dir {
    fn make(root: &Path, name: &str) -> Result<Self> {
        let path = root.join(name);
        durable::mkdir_all(&path, 0o700)?;
        Ok(Self { fd: durable::open_dir(&path)?, path })
    }

    /// Removes what an interrupted write has left beside its name.
    fn remove_unfinished(&self) -> Result<()> {
        for entry in std::fs::read_dir(&self.path).context(|| format!("read {}", self.path.display()))? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
                std::fs::remove_file(&path).context(|| format!("remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// All names in it; one that is no text as much of it as is.
    pub(crate) fn all_names(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.path).context(|| format!("read {}", self.path.display()))?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// The names in it, but those of unfinished writes.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path).context(|| format!("read {}", self.path.display()))? {
            if let Ok(name) = entry?.file_name().into_string()
                && !name.starts_with('.')
            {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// The directories of a store.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) root: Dir,
    pub(crate) blobs: Dir,
    pub(crate) layers: Dir,
    pub(crate) refs: Dir,
    pub(crate) pods: Dir,
    pub(crate) containers: Dir,
    pub(crate) mountpoints: PathBuf,
    pub(crate) tmp: Dir,
    pub(crate) trash: Dir,
    pub(crate) bin: Bin,
    /// Damaged layers that containers may have mounted.
    pub(crate) replaced: Dir,
    unique: u128,
    counter: AtomicU64,
    // Dropped last: another daemon may have the rest once this is gone.
    _lock: OwnedFd,
}

impl Layout {
    /// Makes what is missing and takes the lock.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        make_root(path)?;
        let root = Dir { fd: durable::open_dir(path)?, path: path.to_owned() };
        let lock = lock(&root)?;
        let mountpoints = path.join("mountpoints");
        let layout = Self {
            blobs: blobs(path)?,
            layers: Dir::make(path, "layers")?,
            refs: Dir::make(path, "refs")?,
            pods: Dir::make(path, "pods")?,
            containers: Dir::make(path, "containers")?,
            tmp: Dir::make(path, "tmp")?,
            trash: Dir::make(path, "trash")?,
            bin: Bin::default(),
            replaced: Dir::make(path, "replaced")?,
            mountpoints,
            root,
            unique: jiff::Timestamp::now().as_nanosecond().unsigned_abs(),
            counter: AtomicU64::new(0),
            _lock: lock,
        };
        layout.refs.remove_unfinished()?;
        make_mountpoints(&layout.mountpoints)?;
        durable::sync_dir(&layout.root.fd)?;
        Ok(layout)
    }

    /// A name that nothing in tmp/ or trash/ has, left by an earlier process or made by this one.
    pub(crate) fn fresh_name(&self, what: &str) -> String {
        let what = what.rsplit('/').next().unwrap_or(what);
        format!("{what}.{:x}-{}", self.unique, self.counter.fetch_add(1, Ordering::Relaxed))
    }

    /// Puts what is in tmp/ under its name; `false` if that is taken, and tmp/ keeps it.
    pub(crate) fn publish(&self, tmp: &str, to: &Dir, name: &str) -> Result<bool> {
        Ok(durable::rename_new(&self.tmp.fd, OsStr::new(tmp), &to.fd, OsStr::new(name))?)
    }

    /// Moves a name out of the way, into trash/, from where it is deleted in the background; absence is success.
    pub(crate) fn discard(&self, from: &Dir, name: &str) -> Result<()> {
        self.discard_sized(from, name, None)
    }

    /// The same for something of which it is known how many bytes it takes up on disk.
    pub(crate) fn discard_sized(&self, from: &Dir, name: &str, bytes: Option<u64>) -> Result<()> {
        let to = self.fresh_name(name);
        match durable::rename(&from.fd, OsStr::new(name), &self.trash.fd, OsStr::new(&to)) {
            Err(e) if e.errno == rustix::io::Errno::NOENT => Ok(()),
            Err(e) => Err(e.into()),
            Ok(()) => {
                self.bin.filled(to, bytes);
                Ok(())
            }
        }
    }

    /// Moves a name into `lost+found/`, for somebody to look at; where it is now, below the root.
    pub(crate) fn put_away(&self, from: &Dir, name: &str) -> Result<String> {
        let moved = self.put_away_path(&from.path.join(name))?;
        moved.ok_or_else(|| Error::not_found(format!("{} is gone", from.path.join(name).display())))
    }

    /// The same by a path below the root; `None` if nothing is there.
    pub(crate) fn put_away_path(&self, path: &Path) -> Result<Option<String>> {
        let lost = self.root.path.join(LOST);
        durable::mkdir_all(&lost, 0o700)?;
        let parent = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let to = self.fresh_name(&format!("{parent}-{name}"));
        match std::fs::rename(path, lost.join(&to)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.context(|| format!("move {} into {LOST}/", path.display()))?,
        }
        durable::sync_dir(durable::open_dir(&lost)?)?;
        Ok(Some(format!("{LOST}/{to}")))
    }

    /// A descriptor that sees every write error from now on (syncfs(2)).
    pub(crate) fn sync_point(&self) -> Result<SyncPoint> {
        Ok(SyncPoint(durable::open_dir(&self.root.path)?))
    }
}

/// Opened before the first write of an operation, used after its last.
#[derive(Debug)]
pub(crate) struct SyncPoint(OwnedFd);

impl SyncPoint {
    /// Everything written to the store's file system since then is on disk, or an error tells that it is not.
    pub(crate) fn sync(&self) -> Result<()> {
        Ok(durable::syncfs(&self.0)?)
    }
}

/// Makes the root, and its parents, durably: what is synced in it later must be found after a power cut.
fn make_root(path: &Path) -> Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|p| !p.exists()).collect();
    durable::mkdir_all(path, 0o700)?;
    for parent in missing.iter().filter_map(|p| p.parent()) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        durable::sync_dir(durable::open_dir(parent)?)?;
    }
    Ok(())
}

/// Blobs lie one level lower, by algorithm: their names are `sha256/<hex>`.
fn blobs(root: &Path) -> Result<Dir> {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        durable::mkdir_all(&root.join("blobs").join(algorithm.as_str()), 0o700)?;
    }
    Dir::make(root, "blobs")
}

fn lock(root: &Dir) -> Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let path = root.path.join("lock");
    let fd = rustix::fs::openat(root.fd.as_fd(), "lock", flags, Mode::RUSR | Mode::WUSR)
        .map_err(std::io::Error::from)
        .context(|| format!("open {}", path.display()))?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(fd),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::new(
            Kind::Locked,
            format!(
                "{} is locked: another stratad uses this root; stop it, or choose another --root",
                path.display()
            ),
        )),
        Err(e) => Err(Error::from(std::io::Error::from(e)).context(format!("flock {}", path.display()))),
    }
}

/// Directories and empty files that every container has something mounted on. As the lowest layer of each, they are not
/// made in the writable one, where `diff` would show what nobody changed.
pub(crate) fn make_mountpoints(path: &Path) -> Result<()> {
    for dir in MOUNTPOINT_DIRS {
        durable::mkdir_all(&path.join(dir), 0o755)?;
    }
    for file in MOUNTPOINT_FILES {
        let file = path.join("etc").join(file);
        let made = std::fs::OpenOptions::new().create(true).append(true).open(&file);
        made.context(|| format!("make {}", file.display()))?;
    }
    Ok(())
}
