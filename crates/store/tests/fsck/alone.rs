//! A repair touches what is damaged and nothing else, and ends when nobody waits for it any more.

use crate::common::{Tar, open, privileged, pull};
use crate::rig::*;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use strata_store::{FsckOptions, Store};

/// Inode, mtime and ctime of everything below a directory: what is written anew has others.
fn identities(dir: &Path) -> BTreeMap<PathBuf, [i64; 5]> {
    let (mut found, mut todo) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(path) = todo.pop() {
        let m = fs::symlink_metadata(&path).unwrap();
        if m.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let times = [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()];
        found.insert(path, [m.ino().cast_signed(), times[0], times[1], times[2], times[3]]);
    }
    found
}

#[test]
fn only_the_damaged_layer_is_unpacked_again() {
    let Some(rig) = Rig::new() else { return };
    // A layer alone, one that others stand on, and a variant, which is made from its layer and those below; from its own blob,
    // and from the registry where that is lost.
    for (n, file, lost) in
        [(0, "etc/motd", false), (1, "opq/new", false), (2, "marked/file", true), (3, "etc/extra", true)]
    {
        let layers: Vec<PathBuf> =
            fs::read_dir(rig.root().join("layers")).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(layers.len(), 5, "four, and what the variant was made from");
        let before: Vec<_> = layers.iter().map(|layer| identities(layer)).collect();
        let blobs = identities(&rig.root().join("blobs"));
        let (damaged, blob) = (rig.layer(n), rig.blob(&rig.image.layers[n].blob.digest));
        flip(&damaged.join("fs").join(file), 0);
        if lost {
            fs::remove_file(&blob).unwrap();
        }
        let (problems, summary) = check(&rig.store, true, false, &rig.shelf);
        assert!(summary.clean(), "{problems:#?}");
        assert_eq!(summary.problems, if lost { 2 } else { 1 }, "{problems:#?}");
        for (layer, before) in layers.iter().zip(before) {
            let same = identities(layer) == before;
            assert_eq!(same, *layer != damaged, "{} after damage in {file}", layer.display());
        }
        let files = |all: BTreeMap<PathBuf, [i64; 5]>| -> BTreeMap<_, _> {
            all.into_iter().filter(|(path, _)| *path != blob && path.is_file()).collect()
        };
        assert_eq!(files(identities(&rig.root().join("blobs"))), files(blobs), "{file}");
        assert!(blob.is_file());
        assert_clean(&rig.store);
    }
}

/// The layer's files that have been unpacked so far.
fn begun(dir: &Path) -> usize {
    let work = fs::read_dir(dir.join("store/tmp")).unwrap().flatten();
    work.filter_map(|e| fs::read_dir(e.path().join("fs/d")).ok()).map(Iterator::count).sum()
}

#[test]
fn a_repair_that_is_stopped_unpacks_no_further() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let many = (0..20_000).fold(Tar::new(), |tar, n| tar.file(&format!("d/{n}"), "")).done();
    let below = Tar::new().dir("d/", 0o711).done();
    let alone = pull(&store, "alone", std::slice::from_ref(&many)).unwrap();
    let placed = pull(&store, "placed", &[below, many]).unwrap();
    let layer = |key: &str| dir.path().join("store/layers").join(key);
    for key in [&alone.layers[0].key, &placed.layers[1].key] {
        fs::remove_file(layer(key).join("fs/d/7")).unwrap();
        let before = fs::metadata(layer(key)).unwrap().ino();
        let cancel = AtomicBool::new(false);
        let options = FsckOptions { repair: true, quick: true, source: None, tell: &|_| {}, cancel: &cancel };
        let stopped = std::thread::scope(|scope| {
            let checking = scope.spawn(|| store.fsck(&options));
            let limit = Instant::now() + Duration::from_secs(120);
            while begun(dir.path()) < 100 && !checking.is_finished() && Instant::now() < limit {
                std::thread::sleep(Duration::from_millis(1));
            }
            cancel.store(true, Ordering::Relaxed);
            checking.join().unwrap()
        });
        let error = stopped.unwrap_err().to_string();
        assert!(error.contains("stopped before its end"), "{error}");
        assert_eq!(fs::metadata(layer(key)).unwrap().ino(), before, "{key} was made anew all the same");
        mended(&store);
    }
}

#[track_caller]
fn mended(store: &Store) {
    let (problems, summary) = check(store, true, true, &Shelf::default());
    assert!(summary.clean(), "{problems:#?}");
}
