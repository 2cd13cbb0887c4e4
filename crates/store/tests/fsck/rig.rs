//! A store with an image, what damages it, and what its registry still has.

use crate::common::{Tar, assert_tidy, open, privileged, pull};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use strata_oci::{Descriptor, Digest};
use strata_store::{BlobSource, FsckEvent, FsckOptions, FsckSummary, Image, Lease, Problem, Store};

/// What a registry has.
#[derive(Default)]
pub(crate) struct Shelf(pub(crate) BTreeMap<Digest, Vec<u8>>);

impl Shelf {
    /// All that a store has.
    pub(crate) fn of(store: &Path) -> Self {
        let files = fs::read_dir(store.join("blobs/sha256")).unwrap();
        Self(
            files.map(|f| fs::read(f.unwrap().path()).unwrap()).map(|b| (Digest::sha256_of(&b), b)).collect(),
        )
    }
}

pub(crate) struct Registry<'a>(&'a Store, &'a Shelf);

impl BlobSource for Registry<'_> {
    fn fetch(&self, lease: &Arc<Lease>, blob: &Descriptor) -> Result<(), String> {
        let bytes = self.1.0.get(&blob.digest).ok_or("the registry does not have it")?;
        let blob = Descriptor { size: bytes.len() as u64, ..blob.clone() };
        self.0.restore_blob(lease, &blob, &mut bytes.as_slice()).map_err(|e| e.to_string())
    }
}

pub(crate) fn check(store: &Store, repair: bool, quick: bool, shelf: &Shelf) -> (Vec<Problem>, FsckSummary) {
    let (problems, source) = (Mutex::new(Vec::new()), Registry(store, shelf));
    let tell = |event| {
        if let FsckEvent::Problem(p) = event {
            problems.lock().unwrap().push(p);
        }
    };
    let cancel = AtomicBool::new(false);
    let options = FsckOptions { repair, quick, source: Some(&source), tell: &tell, cancel: &cancel };
    let summary = store.fsck(&options).unwrap();
    let problems = problems.into_inner().unwrap();
    assert_eq!(summary.problems, problems.len() as u64);
    assert_eq!(summary.repaired, problems.iter().filter(|p| p.repaired).count() as u64);
    (problems, summary)
}

pub(crate) fn assert_clean(store: &Store) {
    let (problems, summary) = check(store, false, false, &Shelf::default());
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(summary.clean() && summary.notes.is_empty(), "{summary:?}");
}

pub(crate) fn text(p: &Problem) -> String {
    format!("{} {}: {}: {}", p.what, p.id, p.path, p.problem)
}

/// Everything below a directory, but what the store empties by itself and access times.
pub(crate) fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(dir: &Path, all: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let m = fs::symlink_metadata(&path).unwrap();
            let mut names = vec![0; 4096];
            let n = rustix::fs::llistxattr(&path, &mut names[..]).unwrap_or(0);
            let mut xattrs = String::new();
            for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
                let mut value = vec![0; 4096];
                let n = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap();
                xattrs += &format!("{}={:?} ", String::from_utf8_lossy(name), &value[..n]);
            }
            let content = if m.is_file() {
                Digest::sha256_of(&fs::read(&path).unwrap()).to_string()
            } else {
                String::new()
            };
            let target = fs::read_link(&path).unwrap_or_default();
            let mtime = if m.rdev() == 0 && !m.is_dir() && !m.is_file() { 0 } else { m.mtime() };
            let size = if m.is_dir() { 0 } else { m.len() };
            all.insert(
                path.clone(),
                format!(
                    "{:o} {}:{} {mtime} {size} {} {} {target:?} {xattrs}{content}",
                    m.mode(),
                    m.uid(),
                    m.gid(),
                    m.rdev(),
                    m.nlink()
                ),
            );
            if m.is_dir() && !["tmp", "trash"].iter().any(|d| path == Path::new(d)) {
                walk(&path, all);
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(root, &mut all);
    all
}

/// One file with an extended attribute.
pub(crate) fn with_xattr() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut h = tar::Header::new_gnu();
    h.set_entry_type(tar::EntryType::Directory);
    h.set_mode(0o755);
    h.set_mtime(1_600_000_000);
    h.set_size(0);
    tar.append_data(&mut h, "marked/", &b""[..]).unwrap();
    tar.append_pax_extensions([("SCHILY.xattr.user.mark", &b"here"[..])]).unwrap();
    let mut h = tar::Header::new_gnu();
    h.set_mode(0o644);
    h.set_mtime(1_600_000_000);
    h.set_size(1);
    tar.append_data(&mut h, "marked/file", &b"x"[..]).unwrap();
    tar.into_inner().unwrap()
}

pub(crate) fn lowest() -> Vec<u8> {
    let tar =
        Tar::new().dir("etc/", 0o700).file("etc/motd", "hello").dir("usr/", 0o755).dir("usr/lib/", 0o755);
    let tar = tar.file("usr/lib/a", "library").hard_link("usr/lib/b", "usr/lib/a").symlink("lib", "usr/lib");
    let tar = tar.dir("var/", 0o755).file("var/gone", "x").dir("opq/", 0o755).file("opq/old", "x");
    tar.dir("nodes/", 0o755).node("nodes/fifo", tar::EntryType::Fifo).dir("nodes/empty/", 0o755).done()
}

pub(crate) fn upper() -> Vec<u8> {
    let tar = Tar::new().dir("var/", 0o755).file("var/.wh.gone", "").dir("opq/", 0o755);
    tar.file("opq/.wh..wh..opq", "").file("opq/new", "y").done()
}

/// It does not list `etc`, which has another mode below than it would get: the layer depends on its place.
pub(crate) fn placed() -> Vec<u8> {
    Tar::new().file("etc/extra", "more").done()
}

pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Arc<Store>,
    pub(crate) image: Arc<Image>,
    pub(crate) shelf: Shelf,
}

impl Rig {
    pub(crate) fn new() -> Option<Self> {
        if !privileged() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let image =
            pull(&store, "registry.test/app:1", &[lowest(), upper(), with_xattr(), placed()]).unwrap();
        assert!(image.layers[3].key.starts_with("chain-"));
        let shelf = Shelf::of(&dir.path().join("store"));
        assert_clean(&store);
        Some(Self { dir, store, image, shelf })
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub(crate) fn layer(&self, n: usize) -> PathBuf {
        self.root().join("layers").join(&self.image.layers[n].key)
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn only_ref(&self) -> PathBuf {
        fs::read_dir(self.root().join("refs")).unwrap().next().unwrap().unwrap().path()
    }
}

/// Finds damage, leaves it alone, repairs it, and finds nothing more.
pub(crate) fn found_and_repaired(rig: &Rig, what: &str, damage: impl FnOnce(&Rig), expected: &str) {
    let before = snapshot(&rig.root());
    damage(rig);
    let damaged = snapshot(&rig.root());
    assert_ne!(damaged, before, "{what}: no damage was done");
    let (problems, summary) = check(&rig.store, false, false, &rig.shelf);
    assert!(!summary.clean(), "{what}: nothing was found");
    assert!(problems.iter().any(|p| text(p).contains(expected)), "{what}: {problems:#?}");
    assert!(problems.iter().all(|p| !p.repaired && !p.action.is_empty()), "{what}: {problems:#?}");
    assert_eq!(snapshot(&rig.root()), damaged, "{what}: something was changed without being asked to");
    let (problems, summary) = check(&rig.store, true, false, &rig.shelf);
    assert!(summary.clean() && summary.problems > 0, "{what}: {problems:#?}");
    assert_clean(&rig.store);
    assert_tidy(rig.dir.path());
    assert_eq!(differences(&before, &snapshot(&rig.root())), Vec::<String>::new(), "{what}");
    assert!(rig.store.resolve("registry.test/app:1").is_ok(), "{what}: the image is not listed");
}

/// Where the files of layers are not what they were.
pub(crate) fn differences(
    before: &BTreeMap<PathBuf, String>,
    after: &BTreeMap<PathBuf, String>,
) -> Vec<String> {
    let of = |s: &BTreeMap<PathBuf, String>| -> BTreeMap<String, String> {
        let paths = s.iter().map(|(p, t)| (p.display().to_string(), t.clone()));
        paths.filter(|(p, _)| p.contains("/layers/") && p.contains("/fs/")).collect()
    };
    let (before, after) = (of(before), of(after));
    let all: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let changed = all.into_iter().filter(|p| before.get(*p) != after.get(*p));
    changed.map(|p| format!("{p}: {:?} {:?}", before.get(p), after.get(p))).collect()
}

pub(crate) type Damage = (&'static str, fn(&Rig), &'static str);

pub(crate) fn set_time(path: &Path) {
    let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    fs::File::open(path).unwrap().set_times(time).unwrap();
}

/// Changes a byte and nothing else that could be seen.
pub(crate) fn flip(path: &Path, at: usize) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
    fs::File::open(path).unwrap().set_times(fs::FileTimes::new().set_modified(time)).unwrap();
}

pub(crate) fn cut(path: &Path) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}
