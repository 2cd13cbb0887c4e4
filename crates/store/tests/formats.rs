//! Stores of other releases: one of format 1 is opened, one of a newer format says what to do.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Tar, container, open, privileged};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use strata_oci::Digest;
use strata_store::{FsckEvent, FsckOptions, FsckSummary, Kind, Options, Problem, Store};

const MTIME: u64 = 1_600_000_000;

/// A store as the first release wrote it: without checksums in records, with lists of format 1.
struct Old {
    dir: tempfile::TempDir,
    layer: PathBuf,
    record: PathBuf,
}

fn blob(root: &Path, bytes: &[u8]) -> Digest {
    let digest = Digest::sha256_of(bytes);
    fs::write(root.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    digest
}

fn touch(path: &Path) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(MTIME);
    fs::File::open(path).unwrap().set_times(fs::FileTimes::new().set_modified(time)).unwrap();
}

fn old_store() -> Old {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    for name in ["blobs/sha256", "blobs/sha512", "layers", "refs", "pods", "containers", "tmp", "trash"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let tar = Tar::new().dir("etc/", 0o755).file("etc/motd", "hello").symlink("link", "etc/motd");
    let tar = tar.hard_link("same", "etc/motd").done();
    let layer = blob(&root, &tar);
    let config = format!(
        "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{{}},\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{layer}\"]}}}}"
    );
    let image = blob(&root, config.as_bytes());
    let media = "application/vnd.oci.image";
    let manifest = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{media}.manifest.v1+json\",\"config\":{{\"mediaType\":\"{media}.config.v1+json\",\"digest\":\"{image}\",\"size\":{}}},\"layers\":[{{\"mediaType\":\"{media}.layer.v1.tar\",\"digest\":\"{layer}\",\"size\":{}}}]}}",
        config.len(),
        tar.len()
    );
    let digest = blob(&root, manifest.as_bytes());
    let name = "registry.test/old:1";
    let reference = format!(
        "{{\"format\":1,\"name\":\"{name}\",\"image\":\"{image}\",\"manifest\":{{\"media_type\":\"{media}.manifest.v1+json\",\"digest\":\"{digest}\",\"size\":{}}},\"pulled\":\"{digest}\",\"layers\":[{{\"diff_id\":\"{layer}\",\"key\":\"{}\",\"blob\":{{\"media_type\":\"{media}.layer.v1.tar\",\"digest\":\"{layer}\",\"size\":{}}}}}],\"origin\":\"pull\",\"since\":1}}",
        manifest.len(),
        layer.hex(),
        tar.len()
    );
    let record = root.join("refs").join(Digest::sha256_of(name.as_bytes()).hex());
    fs::write(&record, reference).unwrap();
    let layer_dir = root.join("layers").join(layer.hex());
    old_layer(&layer_dir, &layer);
    Old { dir, layer: layer_dir, record }
}

fn old_layer(dir: &Path, diff_id: &Digest) {
    let fs_dir = dir.join("fs");
    fs::create_dir_all(fs_dir.join("etc")).unwrap();
    fs::write(fs_dir.join("etc/motd"), "hello").unwrap();
    fs::set_permissions(fs_dir.join("etc/motd"), PermissionsExt::from_mode(0o644)).unwrap();
    fs::hard_link(fs_dir.join("etc/motd"), fs_dir.join("same")).unwrap();
    fs::set_permissions(fs_dir.join("etc"), PermissionsExt::from_mode(0o755)).unwrap();
    symlink("etc/motd", fs_dir.join("link")).unwrap();
    let time = rustix::fs::Timespec { tv_sec: i64::try_from(MTIME).unwrap(), tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    let nofollow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, fs_dir.join("link"), &times, nofollow).unwrap();
    touch(&fs_dir.join("etc/motd"));
    touch(&fs_dir.join("etc"));
    let record = format!(
        "{{\"format\":1,\"diff_id\":\"{diff_id}\",\"size\":5,\"disk\":12288,\"inodes\":4,\"root\":null,\"root_opaque\":false,\"unlisted\":[],\"whiteouts\":[],\"links\":[]}}"
    );
    fs::write(dir.join("layer.json"), record).unwrap();
    // XXH3 of "hello" with no seed.
    let sum = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(b"hello"));
    let list = format!(
        "strata-entries 1\nd 755 0 0 0 {MTIME}.000000000 0000000000000000 1 etc\nf 644 0 0 5 {MTIME}.000000000 {sum} 1 etc/motd\nl 777 0 0 8 {MTIME}.000000000 0000000000000000 0 link\tetc/motd\nh 644 0 0 5 {MTIME}.000000000 {sum} 1 same\tetc/motd\n"
    );
    fs::write(dir.join("entries"), list).unwrap();
}

fn check(store: &Store, repair: bool) -> (Vec<Problem>, FsckSummary) {
    let problems = Mutex::new(Vec::new());
    let tell = |event| {
        if let FsckEvent::Problem(p) = event {
            problems.lock().unwrap().push(p);
        }
    };
    let cancel = AtomicBool::new(false);
    let summary = store
        .fsck(&FsckOptions { repair, quick: false, source: None, tell: &tell, cancel: &cancel })
        .unwrap();
    (problems.into_inner().unwrap(), summary)
}

#[test]
fn a_store_of_format_1_is_opened_checked_and_recorded_anew() {
    if !privileged() {
        return;
    }
    let old = old_store();
    let store = open(old.dir.path());
    let image = store.resolve("registry.test/old:1").unwrap();
    let (_, root) = container(&store, 1, &image);
    assert_eq!(root.read("same").unwrap(), "hello");
    let (problems, summary) = check(&store, false);
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(summary.notes[0].contains("fsck --repair records such layers anew"), "{summary:?}");
    fs::set_permissions(old.layer.join("fs/etc/motd"), PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(check(&store, false).0.len(), 2, "both names of the file");
    assert!(check(&store, true).1.clean());
    let (problems, summary) = check(&store, false);
    assert!(problems.is_empty() && summary.notes.is_empty(), "{problems:#?} {summary:?}");
    assert!(fs::read_to_string(old.layer.join("entries")).unwrap().starts_with("strata-entries 2\n"));
}

#[test]
fn an_undamaged_layer_of_format_1_is_recorded_anew() {
    if !privileged() {
        return;
    }
    let old = old_store();
    let store = open(old.dir.path());
    let (problems, summary) = check(&store, true);
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(summary.notes[0].contains("1 layers recorded by an older release"), "{summary:?}");
    assert!(check(&store, false).1.notes.is_empty());
}

#[test]
fn a_newer_format_is_refused_and_says_what_to_do() {
    if !privileged() {
        return;
    }
    let old = old_store();
    for path in [old.record.clone(), old.layer.join("layer.json")] {
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"format\":1", "\"format\":2")).unwrap();
        for opened in [
            Store::open(&old.dir.path().join("store"), Options::default()),
            Store::open_to_check(&old.dir.path().join("store"), Options::default()),
        ] {
            let e = opened.unwrap_err();
            assert_eq!(e.kind(), Kind::NewerFormat);
            assert!(e.to_string().contains(&path.display().to_string()), "{e}");
            assert!(e.to_string().contains("upgrade stratad"), "{e}");
        }
        fs::write(&path, text).unwrap();
    }
    let store = open(old.dir.path());
    let list = old.layer.join("entries");
    let text = fs::read_to_string(&list).unwrap();
    fs::write(&list, text.replace("strata-entries 1", "strata-entries 3")).unwrap();
    let cancel = AtomicBool::new(false);
    let options = FsckOptions { repair: true, quick: false, source: None, tell: &|_| {}, cancel: &cancel };
    assert_eq!(store.fsck(&options).unwrap_err().kind(), Kind::NewerFormat);
}
