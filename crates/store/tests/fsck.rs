//! Damage of every kind, found and repaired, on the real kernel.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Tar, assert_tidy, container, layers_on_disk, mount, open, privileged, pull};
use rustix::fs::XattrFlags;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use strata_oci::{Descriptor, Digest};
use strata_store::{
    BlobSource, FsckEvent, FsckOptions, FsckSummary, Image, Kind, Lease, Options, Problem, Store, What,
};

/// What a registry has.
#[derive(Default)]
struct Shelf(BTreeMap<Digest, Vec<u8>>);

impl Shelf {
    /// All that a store has.
    fn of(store: &Path) -> Self {
        let files = fs::read_dir(store.join("blobs/sha256")).unwrap();
        Self(
            files.map(|f| fs::read(f.unwrap().path()).unwrap()).map(|b| (Digest::sha256_of(&b), b)).collect(),
        )
    }
}

struct Registry<'a>(&'a Store, &'a Shelf);

impl BlobSource for Registry<'_> {
    fn fetch(&self, lease: &Arc<Lease>, blob: &Descriptor) -> Result<(), String> {
        let bytes = self.1.0.get(&blob.digest).ok_or("the registry does not have it")?;
        let blob = Descriptor { size: bytes.len() as u64, ..blob.clone() };
        self.0.restore_blob(lease, &blob, &mut bytes.as_slice()).map_err(|e| e.to_string())
    }
}

fn check(store: &Store, repair: bool, quick: bool, shelf: &Shelf) -> (Vec<Problem>, FsckSummary) {
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

fn assert_clean(store: &Store) {
    let (problems, summary) = check(store, false, false, &Shelf::default());
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(summary.clean() && summary.notes.is_empty(), "{summary:?}");
}

fn text(p: &Problem) -> String {
    format!("{} {}: {}: {}", p.what, p.id, p.path, p.problem)
}

/// Everything below a directory, but what the store empties by itself and access times.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
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
fn with_xattr() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for dir in ["marked/"] {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(tar::EntryType::Directory);
        h.set_mode(0o755);
        h.set_mtime(1_600_000_000);
        h.set_size(0);
        tar.append_data(&mut h, dir, &b""[..]).unwrap();
    }
    tar.append_pax_extensions([("SCHILY.xattr.user.mark", &b"here"[..])]).unwrap();
    let mut h = tar::Header::new_gnu();
    h.set_mode(0o644);
    h.set_mtime(1_600_000_000);
    h.set_size(1);
    tar.append_data(&mut h, "marked/file", &b"x"[..]).unwrap();
    tar.into_inner().unwrap()
}

fn lowest() -> Vec<u8> {
    let tar =
        Tar::new().dir("etc/", 0o700).file("etc/motd", "hello").dir("usr/", 0o755).dir("usr/lib/", 0o755);
    let tar = tar.file("usr/lib/a", "library").hard_link("usr/lib/b", "usr/lib/a").symlink("lib", "usr/lib");
    let tar = tar.dir("var/", 0o755).file("var/gone", "x").dir("opq/", 0o755).file("opq/old", "x");
    tar.dir("nodes/", 0o755).node("nodes/fifo", tar::EntryType::Fifo).dir("nodes/empty/", 0o755).done()
}

fn upper() -> Vec<u8> {
    let tar = Tar::new().dir("var/", 0o755).file("var/.wh.gone", "").dir("opq/", 0o755);
    tar.file("opq/.wh..wh..opq", "").file("opq/new", "y").done()
}

/// It does not list `etc`, which has another mode below than it would get: the layer depends on its place.
fn placed() -> Vec<u8> {
    Tar::new().file("etc/extra", "more").done()
}

struct Rig {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    image: Arc<Image>,
    shelf: Shelf,
}

impl Rig {
    fn new() -> Option<Self> {
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

    fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn layer(&self, n: usize) -> PathBuf {
        self.root().join("layers").join(&self.image.layers[n].key)
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs/sha256").join(digest.hex())
    }

    fn only_ref(&self) -> PathBuf {
        fs::read_dir(self.root().join("refs")).unwrap().next().unwrap().unwrap().path()
    }
}

/// Finds damage, leaves it alone, repairs it, and finds nothing more.
fn found_and_repaired(rig: &Rig, what: &str, damage: impl FnOnce(&Rig), expected: &str) {
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
fn differences(before: &BTreeMap<PathBuf, String>, after: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let of = |s: &BTreeMap<PathBuf, String>| -> BTreeMap<String, String> {
        let paths = s.iter().map(|(p, t)| (p.display().to_string(), t.clone()));
        paths.filter(|(p, _)| p.contains("/layers/") && p.contains("/fs/")).collect()
    };
    let (before, after) = (of(before), of(after));
    let all: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let changed = all.into_iter().filter(|p| before.get(*p) != after.get(*p));
    changed.map(|p| format!("{p}: {:?} {:?}", before.get(p), after.get(p))).collect()
}

type Damage = (&'static str, fn(&Rig), &'static str);

fn set_time(path: &Path) {
    let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    fs::File::open(path).unwrap().set_times(time).unwrap();
}

/// Changes a byte and nothing else that could be seen.
fn flip(path: &Path, at: usize) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
    fs::File::open(path).unwrap().set_times(fs::FileTimes::new().set_modified(time)).unwrap();
}

fn cut(path: &Path) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

#[test]
fn damaged_files_of_layers() {
    let Some(rig) = Rig::new() else { return };
    let cases: [Damage; 19] = [
        ("a changed byte", |r| flip(&r.layer(0).join("fs/etc/motd"), 1), "its content is not"),
        (
            "a longer file",
            |r| fs::write(r.layer(0).join("fs/etc/motd"), "hello you").unwrap(),
            "9 bytes instead of 5",
        ),
        (
            "a mode",
            |r| {
                fs::set_permissions(r.layer(0).join("fs/etc/motd"), PermissionsExt::from_mode(0o4755))
                    .unwrap()
            },
            "mode 4755 instead of 0644",
        ),
        (
            "an owner",
            |r| std::os::unix::fs::chown(r.layer(0).join("fs/usr/lib"), Some(7), None).unwrap(),
            "owner 7:0 instead of 0:0",
        ),
        ("a time", |r| set_time(&r.layer(0).join("fs/var/gone")), "mtime 0.0"),
        (
            "a value",
            |r| {
                rustix::fs::lsetxattr(
                    r.layer(2).join("fs/marked/file"),
                    c"user.mark",
                    b"gone",
                    XattrFlags::empty(),
                )
                .unwrap()
            },
            "user.mark has another value",
        ),
        (
            "a lost xattr",
            |r| rustix::fs::lremovexattr(r.layer(2).join("fs/marked/file"), c"user.mark").unwrap(),
            "user.mark is missing",
        ),
        (
            "a new xattr",
            |r| {
                rustix::fs::lsetxattr(
                    r.layer(0).join("fs/etc"),
                    c"trusted.overlay.opaque",
                    b"y",
                    XattrFlags::empty(),
                )
                .unwrap()
            },
            "overlay.opaque should not",
        ),
        (
            "a missing file",
            |r| fs::remove_file(r.layer(0).join("fs/etc/motd")).unwrap(),
            "etc/motd: it is missing",
        ),
        ("an extra file", |r| fs::write(r.layer(0).join("fs/etc/more"), "x").unwrap(), "no such file"),
        (
            "a missing directory",
            |r| fs::remove_dir_all(r.layer(0).join("fs/usr")).unwrap(),
            "usr: the directory is missing",
        ),
        (
            "an extra directory",
            |r| fs::create_dir_all(r.layer(0).join("fs/x/y")).unwrap(),
            "x: the layer has no such file",
        ),
        (
            "another sort",
            |r| {
                fs::remove_dir(r.layer(0).join("fs/nodes/empty")).unwrap();
                fs::write(r.layer(0).join("fs/nodes/empty"), "").unwrap()
            },
            "it is a file instead of a directory",
        ),
        (
            "another target",
            |r| {
                fs::remove_file(r.layer(0).join("fs/lib")).unwrap();
                std::os::unix::fs::symlink("usr", r.layer(0).join("fs/lib")).unwrap()
            },
            "another target",
        ),
        (
            "a hard link",
            |r| {
                fs::remove_file(r.layer(0).join("fs/usr/lib/b")).unwrap();
                fs::copy(r.layer(0).join("fs/usr/lib/a"), r.layer(0).join("fs/usr/lib/b")).unwrap();
            },
            "not the same file as",
        ),
        (
            "a link too many",
            |r| fs::hard_link(r.layer(0).join("fs/etc/motd"), r.dir.path().join("outside")).unwrap(),
            "it has 2 names",
        ),
        (
            "an opaque mark",
            |r| rustix::fs::lremovexattr(r.layer(1).join("fs/opq"), c"trusted.overlay.opaque").unwrap(),
            "overlay.opaque is missing",
        ),
        (
            "a whiteout",
            |r| fs::remove_file(r.layer(1).join("fs/var/gone")).unwrap(),
            "the whiteout is missing",
        ),
        ("a variant", |r| flip(&r.layer(3).join("fs/etc/extra"), 0), "chain-"),
    ];
    for (what, damage, expected) in cases {
        found_and_repaired(&rig, what, damage, expected);
    }
}

#[test]
fn damaged_records_of_layers_and_blobs() {
    let Some(rig) = Rig::new() else { return };
    let cases: [Damage; 15] = [
        ("a lost layer", |r| fs::remove_dir_all(r.layer(1)).unwrap(), "it is missing"),
        ("a lost layer.json", |r| fs::remove_file(r.layer(0).join("layer.json")).unwrap(), "layer.json"),
        ("a truncated layer.json", |r| cut(&r.layer(0).join("layer.json")), "layer.json"),
        ("a changed layer.json", |r| flip(&r.layer(0).join("layer.json"), 30), "layer.json"),
        ("a lost list", |r| fs::remove_file(r.layer(0).join("entries")).unwrap(), "entries"),
        ("a truncated list", |r| cut(&r.layer(3).join("entries")), "entries"),
        ("a changed list", |r| flip(&r.layer(0).join("entries"), 60), "checksum"),
        ("something beside", |r| fs::write(r.layer(0).join("notes"), "").unwrap(), "does not belong there"),
        (
            "a lost blob",
            |r| fs::remove_file(r.blob(&r.image.layers[0].blob.digest)).unwrap(),
            "it is missing",
        ),
        ("a truncated blob", |r| cut(&r.blob(&r.image.layers[1].blob.digest)), "bytes instead of"),
        ("a changed blob", |r| flip(&r.blob(&r.image.layers[1].blob.digest), 20), "do not have its digest"),
        ("a lost config", |r| fs::remove_file(r.blob(&r.image.id)).unwrap(), "config: it is missing"),
        ("a changed config", |r| flip(&r.blob(&r.image.id), 40), "config: its bytes"),
        (
            "a lost manifest",
            |r| fs::remove_file(r.blob(&r.image.manifest.digest)).unwrap(),
            "manifest: it is missing",
        ),
        (
            "a layer with its blob",
            |r| {
                fs::remove_dir_all(r.layer(0)).unwrap();
                fs::remove_file(r.blob(&r.image.layers[0].blob.digest)).unwrap()
            },
            "it is missing",
        ),
    ];
    for (what, damage, expected) in cases {
        found_and_repaired(&rig, what, damage, expected);
    }
}

#[test]
fn damaged_refs_and_mount_points_of_a_store_that_is_open() {
    let Some(rig) = Rig::new() else { return };
    let cases: [Damage; 7] = [
        ("a lost ref", |r| fs::remove_file(r.only_ref()).unwrap(), "its file is missing"),
        ("a truncated ref", |r| cut(&r.only_ref()), "ref registry.test/app:1"),
        ("a changed ref", |r| flip(&r.only_ref(), 100), "ref registry.test/app:1"),
        ("a stray ref", |r| fs::write(r.root().join("refs/odd"), "x").unwrap(), "refs/odd"),
        ("a stray blob", |r| fs::write(r.root().join("blobs/sha256/odd"), "x").unwrap(), "blobs/sha256/odd"),
        (
            "a lost mount point",
            |r| fs::remove_file(r.root().join("mountpoints/etc/hosts")).unwrap(),
            "mountpoints/etc/hosts",
        ),
        (
            "a full mount point",
            |r| fs::write(r.root().join("mountpoints/proc/x"), "x").unwrap(),
            "mountpoints/proc/x",
        ),
    ];
    for (what, damage, expected) in cases {
        found_and_repaired(&rig, what, damage, expected);
    }
    assert_eq!(fs::read_dir(rig.root().join("lost+found")).unwrap().count(), 3, "nothing is thrown away");
}

#[test]
fn a_quick_check_reads_no_content() {
    let Some(rig) = Rig::new() else { return };
    flip(&rig.layer(0).join("fs/etc/motd"), 1);
    flip(&rig.blob(&rig.image.layers[0].blob.digest), 20);
    let (problems, summary) = check(&rig.store, false, true, &rig.shelf);
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(summary.layers == 5 && summary.files > 10 && summary.images == 1, "{summary:?}");
    fs::set_permissions(rig.layer(0).join("fs/etc/motd"), PermissionsExt::from_mode(0o600)).unwrap();
    let (problems, _) = check(&rig.store, false, true, &rig.shelf);
    assert_eq!(problems.len(), 1);
    // The damaged blob is met when the layer is unpacked from it.
    let (problems, summary) = check(&rig.store, true, true, &rig.shelf);
    assert!(summary.clean(), "{problems:#?}");
    assert_clean(&rig.store);
}

#[test]
fn what_cannot_be_had_again_stays_and_says_what_to_do() {
    let Some(rig) = Rig::new() else { return };
    fs::remove_file(rig.layer(0).join("fs/etc/motd")).unwrap();
    fs::remove_file(rig.blob(&rig.image.layers[0].blob.digest)).unwrap();
    let before = snapshot(&rig.root());
    let (problems, summary) = check(&rig.store, true, false, &Shelf::default());
    assert_eq!((summary.repaired, summary.problems), (0, 3), "{problems:#?}");
    assert_eq!(snapshot(&rig.root()), before, "nothing is deleted that cannot be had again");
    for p in &problems {
        assert!(p.images.contains(&"registry.test/app:1".to_owned()) || p.what == What::Blob, "{p:?}");
        assert!(
            p.action.contains("the registry does not have it")
                && p.action.contains("again: registry.test/app:1"),
            "{p:?}"
        );
    }
    let (problems, summary) = check(&rig.store, true, false, &rig.shelf);
    assert!(summary.clean(), "{problems:#?}");
    assert_clean(&rig.store);
}

#[test]
fn a_running_container_keeps_its_layer_and_a_new_one_gets_the_repaired() {
    let Some(rig) = Rig::new() else { return };
    let (first, running) = container(&rig.store, 1, &rig.image);
    assert_eq!(running.read("etc/motd").unwrap(), "hello");
    flip(&rig.layer(0).join("fs/etc/motd"), 0);
    fs::remove_file(rig.layer(0).join("fs/var/gone")).unwrap();
    let (problems, summary) = check(&rig.store, true, false, &rig.shelf);
    assert!(summary.clean() && problems.len() == 3, "{problems:#?}");
    // What it has not looked at before is still there for it.
    assert_eq!(running.read("usr/lib/b").unwrap(), "library");
    assert_eq!(running.read("marked/file").unwrap(), "x");
    fs::write(running.path().join("etc/new"), "written").unwrap();
    fs::rename(running.path().join("usr/lib/a"), running.path().join("usr/moved")).unwrap();
    let (second, fresh) = container(&rig.store, 2, &rig.image);
    assert_eq!(fresh.read("etc/motd").unwrap(), "hello");
    let replaced = || fs::read_dir(rig.root().join("replaced")).unwrap().count();
    assert_eq!(replaced(), 1);
    assert_clean(&rig.store);

    // Restarted, it stands on the repaired layer.
    drop(running);
    rig.store.reset_work(&first).unwrap();
    let again = mount(&rig.store, &first);
    assert_eq!(again.read("etc/motd").unwrap(), "hello");
    assert_eq!(again.read("etc/new").unwrap(), "written");
    drop((again, fresh));
    rig.store.remove_container(&second).unwrap();
    assert_eq!(replaced(), 1, "the first container may have it mounted");
    rig.store.remove_container(&first).unwrap();
    assert_eq!(replaced(), 0);
    assert_tidy(rig.dir.path());
}

/// The store after its daemon has ended, opened as `stratad fsck` opens it.
fn offline(dir: &Path) -> Arc<Store> {
    Store::open_to_check(&dir.join("store"), Options::default()).unwrap()
}

#[test]
fn a_ref_that_cannot_be_read_keeps_everything_until_it_is_decided() {
    let Some(Rig { dir, store, image, shelf }) = Rig::new() else { return };
    let file = fs::read_dir(dir.path().join("store/refs")).unwrap().next().unwrap().unwrap().path();
    let layers = layers_on_disk(dir.path());
    drop(store);
    // Its name and its image can still be read.
    cut(&file);
    let store = open(dir.path());
    assert!(store.images().is_empty());
    assert!(store.gc(false).unwrap().layers.is_empty());
    assert_eq!(layers_on_disk(dir.path()), layers);
    let (problems, summary) = check(&store, false, false, &shelf);
    assert!(summary.problems == 2 && problems.iter().any(|p| p.id == "registry.test/app:1"), "{problems:#?}");
    let (problems, summary) = check(&store, true, false, &shelf);
    assert!(summary.clean(), "{problems:#?}");
    assert_eq!(store.resolve("registry.test/app:1").unwrap().id, image.id);
    assert_clean(&store);
    drop(store);

    // Nothing is left of it, and the daemon has not seen it since.
    fs::write(&file, "").unwrap();
    let store = offline(dir.path());
    let (problems, summary) = check(&store, true, false, &shelf);
    assert_eq!((summary.problems, summary.repaired), (2, 1), "{problems:#?}");
    assert!(
        problems.iter().any(|p| p.what == What::Ref && p.action.contains("lost+found/refs-")),
        "{problems:#?}"
    );
    drop(store);
    let store = open(dir.path());
    let listed = store.resolve(image.id.as_str()).unwrap();
    assert!(listed.repo_tags.is_empty() && listed.irreplaceable());
    assert_clean(&store);
    store.remove_image(&image.id, None, false, |_| String::new()).unwrap();
    assert_eq!(layers_on_disk(dir.path()), 0, "what was decided about is collected again");
}

#[test]
fn a_lost_ref_leaves_an_image_that_is_found_before_it_is_collected() {
    let Some(Rig { dir, store, image, shelf }) = Rig::new() else { return };
    let file = fs::read_dir(dir.path().join("store/refs")).unwrap().next().unwrap().unwrap().path();
    let layer = dir.path().join("store/layers").join(&image.layers[1].key);
    drop(store);
    fs::remove_file(&file).unwrap();
    fs::remove_file(layer.join("layer.json")).unwrap();
    let store = offline(dir.path());
    let (problems, _) = check(&store, false, false, &shelf);
    assert!(problems.iter().any(|p| p.what == What::Image && p.id == image.id.to_string()), "{problems:#?}");
    let (problems, summary) = check(&store, true, false, &shelf);
    assert!(summary.clean(), "{problems:#?}");
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.resolve(image.id.short()).unwrap().layers, image.layers);
    let (_, root) = container(&store, 1, &image);
    assert!(root.read("var/gone").is_none() && root.read("etc/extra").is_some());
}

#[test]
fn a_pull_puts_damaged_documents_right_and_lists_the_image_again() {
    let Some(Rig { dir, store, image, .. }) = Rig::new() else { return };
    let root = dir.path().join("store");
    let blob = |d: &Digest| root.join("blobs/sha256").join(d.hex());
    drop(store);
    flip(&blob(&image.id), 20);
    flip(&blob(&image.manifest.digest), 20);
    fs::remove_file(root.join("layers").join(&image.layers[1].key).join("layer.json")).unwrap();
    let store = open(dir.path());
    assert!(store.images().is_empty(), "a damaged image is not listed");
    pull(&store, "registry.test/app:1", &[lowest(), upper(), with_xattr(), placed()]).unwrap();
    assert_eq!(store.resolve("registry.test/app:1").unwrap().id, image.id);
    assert_clean(&store);
}

#[test]
fn only_one_check_at_a_time_and_it_can_be_stopped() {
    let Some(rig) = Rig::new() else { return };
    let cancel = AtomicBool::new(true);
    let options = FsckOptions { repair: true, quick: false, source: None, tell: &|_| {}, cancel: &cancel };
    let e = rig.store.fsck(&options).unwrap_err();
    assert!(e.to_string().contains("stopped"), "{e}");
    let (cancel, second) = (AtomicBool::new(false), Mutex::new(None));
    let tell = |_| {
        let inner = FsckOptions { repair: false, quick: true, source: None, tell: &|_| {}, cancel: &cancel };
        second.lock().unwrap().get_or_insert_with(|| rig.store.fsck(&inner).unwrap_err().kind());
    };
    rig.store
        .fsck(&FsckOptions { repair: false, quick: false, source: None, tell: &tell, cancel: &cancel })
        .unwrap();
    assert_eq!(*second.lock().unwrap(), Some(Kind::InUse));
}

#[test]
fn a_container_whose_record_is_lost_is_not_thrown_away() {
    let Some(Rig { dir, store, image, .. }) = Rig::new() else { return };
    let (written, root) = container(&store, 1, &image);
    let (empty, other) = container(&store, 2, &image);
    fs::write(root.path().join("etc/mine"), "work").unwrap();
    drop((root, other, store));
    let containers = dir.path().join("store/containers");
    for id in [&written, &empty] {
        fs::remove_file(containers.join(id).join("container.json")).unwrap();
    }
    let _store = open(dir.path());
    assert_eq!(fs::read_dir(&containers).unwrap().count(), 0);
    let kept: Vec<_> =
        fs::read_dir(dir.path().join("store/lost+found")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(fs::read_to_string(kept[0].join("upper/etc/mine")).unwrap(), "work");
}

#[test]
fn an_image_that_is_removed_during_a_check_is_not_brought_back() {
    let Some(rig) = Rig::new() else { return };
    flip(&rig.layer(0).join("fs/etc/motd"), 1);
    let (removed, cancel) = (Mutex::new(false), AtomicBool::new(false));
    // Problems of layers are told when names and documents have been checked.
    let tell = |event| {
        if let FsckEvent::Problem(Problem { what: What::Layer, .. }) = event {
            rig.store.remove_image(&rig.image.id, None, false, |_| String::new()).unwrap();
            *removed.lock().unwrap() = true;
        }
    };
    let options = FsckOptions { repair: true, quick: false, source: None, tell: &tell, cancel: &cancel };
    let summary = rig.store.fsck(&options).unwrap();
    assert!(*removed.lock().unwrap() && summary.problems == 1, "{summary:?}");
    assert!(rig.store.images().is_empty());
    rig.store.gc(false).unwrap();
    assert_eq!(layers_on_disk(rig.dir.path()), 0);
    assert_clean(&rig.store);
}

#[test]
fn a_layer_that_is_nested_too_deep_to_be_checked_is_not_called_damaged() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut tar = tar::Builder::new(Vec::new());
    let mut h = tar::Header::new_gnu();
    h.set_entry_type(tar::EntryType::Directory);
    h.set_mode(0o755);
    h.set_size(0);
    tar.append_data(&mut h, "d/".repeat(600), &b""[..]).unwrap();
    pull(&store, "registry.test/deep:1", &[tar.into_inner().unwrap()]).unwrap();
    let (problems, summary) = check(&store, true, false, &Shelf::default());
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(summary.notes[0].contains("not checked to its end"), "{summary:?}");
}
