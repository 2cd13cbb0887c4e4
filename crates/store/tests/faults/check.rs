//! Whether what a store lists is whole, and whether there is anything else in it.

use crate::repairs;
use crate::scenes::Scene;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use strata_store::{Image, Store};
use strata_sys::path::fd_path;
use xxhash_rust::xxh3::xxh3_64;

/// A list of files and what is in them, for a layer to carry with it.
pub fn sums(files: &[(&str, &str)]) -> String {
    files.iter().map(|(path, text)| format!("{path} {:016x}\n", xxh3_64(text.as_bytes()))).collect()
}

/// Waits for the deleting thread, but not for long: what it could not delete stays.
pub fn wait_for_trash(dir: &Path) {
    for _ in 0..100 {
        if fs::read_dir(dir.join("store/trash")).map_or(0, Iterator::count) == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Everything that is listed is whole, what must be listed is, and one collection leaves nothing else. Until a repair has been
/// done, a check tells of every image that is not whole.
pub fn settled(store: &Store, dir: &Path, scene: &Scene, done: bool) {
    for name in scene.stay {
        store.resolve(name).unwrap_or_else(|e| panic!("{name} is not listed: {e}"));
    }
    let (mut damaged, mut problems) = (BTreeSet::new(), Vec::new());
    if scene.repairs {
        problems = repairs::fsck(store, false, None).unwrap().1;
        damaged.extend(problems.iter().flat_map(|p| p.images.iter().cloned()));
        assert!(!done || problems.is_empty(), "after a repair: {problems:#?}");
    }
    let discards = (scene.options)().discard_blobs;
    for image in store.images().iter().filter(|i| !i.repo_tags.iter().any(|name| damaged.contains(name))) {
        let looked = std::panic::AssertUnwindSafe(|| whole(store, dir, image, !discards));
        if let Err(panic) = std::panic::catch_unwind(looked) {
            eprintln!("the check told of {problems:#?}");
            std::panic::resume_unwind(panic);
        }
    }
    store.gc(false).unwrap();
    nothing_else(store, dir, &damaged);
}

/// An image's blobs have their digests, its layers are as they were unpacked, and the merged tree has every file that its
/// layers say it has.
pub fn whole(store: &Store, dir: &Path, image: &Image, blobs: bool) {
    let max = 16 << 20;
    store.read_blob(&image.id, max).unwrap();
    store.read_blob(&image.manifest.digest, max).unwrap();
    for layer in &image.layers {
        if blobs {
            store.read_blob(&layer.blob.digest, max).unwrap();
        }
        as_unpacked(&dir.join("store/layers").join(&layer.key));
    }
    let view = store.image_view(image).unwrap();
    let root = fd_path(view.root());
    let mut lists = 0;
    for list in fs::read_dir(root.join("sums")).unwrap() {
        for line in fs::read_to_string(list.unwrap().path()).unwrap().lines() {
            let (path, sum) = line.split_once(' ').unwrap();
            let bytes = fs::read(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert_eq!(format!("{:016x}", xxh3_64(&bytes)), sum, "{path} of {:?}", image.repo_tags);
        }
        lists += 1;
    }
    assert_eq!(lists, image.layers.len(), "every layer has brought a list: {:?}", image.repo_tags);
}

/// The files of a layer are those of its `entries`, and these are not cut off.
fn as_unpacked(layer: &Path) {
    let list = fs::read_to_string(layer.join("entries")).unwrap();
    let mut lines = list.lines();
    assert_eq!(lines.next().unwrap(), "strata-entries 2", "{}", layer.display());
    let end: Vec<&str> = lines.next_back().unwrap().split(' ').collect();
    assert_eq!(end[..2], ["end".to_owned(), lines.clone().count().to_string()], "{}", layer.display());
    let mut listed = BTreeMap::new();
    for line in lines {
        let (fields, _target) = line.split_once('\t').unwrap_or((line, ""));
        let fields: Vec<&str> = fields.splitn(9, ' ').collect();
        listed.insert(fields[8].to_owned(), fields[..8].iter().map(|f| (*f).to_owned()).collect::<Vec<_>>());
    }
    let mut found = BTreeSet::new();
    let root = layer.join("fs");
    let mut todo = vec![root.clone()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        if !name.is_empty() {
            let entry = listed.get(&name).unwrap_or_else(|| panic!("{} is not listed", path.display()));
            same(entry, &path, &meta);
            found.insert(name);
        }
    }
    let missing: Vec<_> = listed.keys().filter(|name| !found.contains(*name)).collect();
    assert!(missing.is_empty(), "{}: {missing:?} are missing", layer.display());
    serde_json::from_slice::<Value>(&fs::read(layer.join("layer.json")).unwrap()).unwrap();
}

fn same(entry: &[String], path: &Path, meta: &fs::Metadata) {
    let at = path.display();
    let kind = entry[0].as_str();
    let right = match kind {
        "f" | "h" => meta.is_file(),
        "d" => meta.is_dir(),
        "l" => meta.is_symlink(),
        _ => !(meta.is_file() || meta.is_dir() || meta.is_symlink()),
    };
    assert!(right, "{at} is no {kind}");
    if kind == "w" {
        return;
    }
    assert_eq!(format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()), entry[5], "{at}");
    let mode = format!("{:o}", meta.mode() & 0o7777);
    assert_eq!([mode, meta.uid().to_string(), meta.gid().to_string()], entry[1..4], "{at}");
    if meta.is_file() {
        let bytes = fs::read(path).unwrap();
        let is = [bytes.len().to_string(), format!("{:016x}", xxh3_64(&bytes))];
        assert_eq!([&is[0], &is[1]], [&entry[4], &entry[6]], "{at}");
    }
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

/// Nothing is there that no image and no container needs. Images whose names are `damaged` need not be listed.
pub fn nothing_else(store: &Store, dir: &Path, damaged: &BTreeSet<String>) {
    let at = |name: &str| dir.join("store").join(name);
    let images = store.images();
    let hex = |digest: &Value| digest.as_str().unwrap().split_once(':').unwrap().1.to_owned();
    let (mut layers, mut blobs) = (BTreeSet::new(), BTreeSet::new());
    // One whose name could not be removed for certain has no ref, and all the rest.
    for image in &images {
        for layer in &image.layers {
            layers.extend([layer.key.clone(), layer.diff_id.hex().to_owned()]);
            blobs.insert(layer.blob.digest.hex().to_owned());
        }
        blobs.extend([image.id.hex().to_owned(), image.manifest.digest.hex().to_owned()]);
    }
    for name in names(&at("refs")) {
        let bytes = fs::read(at("refs").join(&name)).unwrap();
        let record: Value = serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("refs/{name}: {e}"));
        let id = record["image"].as_str().unwrap();
        let listed = images.iter().any(|i| i.id.to_string() == id);
        let excused = damaged.contains(record["name"].as_str().unwrap());
        assert!(listed || excused, "refs/{name} is of {id}, which is not listed");
        for layer in record["layers"].as_array().unwrap() {
            layers.extend([layer["key"].as_str().unwrap().to_owned(), hex(&layer["diff_id"])]);
            blobs.insert(hex(&layer["blob"]["digest"]));
        }
        blobs.extend([hex(&record["image"]), hex(&record["manifest"]["digest"])]);
    }
    let unneeded: Vec<_> = names(&at("layers")).difference(&layers).cloned().collect();
    assert!(unneeded.is_empty(), "layers of no image: {unneeded:?}");
    let unneeded: Vec<_> = names(&at("blobs/sha256")).difference(&blobs).cloned().collect();
    assert!(unneeded.is_empty(), "blobs of no image: {unneeded:?}");
    for name in names(&at("replaced")) {
        let users = fs::read_to_string(at("replaced").join(&name).join("containers"))
            .unwrap_or_else(|e| panic!("replaced/{name} is of no container: {e}"));
        let used = users.lines().any(|id| at("containers").join(id).exists());
        assert!(used, "replaced/{name} is of {users:?}, which are gone");
    }
    store.pods().unwrap();
    for (kind, file) in [("containers", "container.json"), ("pods", "pod.json")] {
        for id in names(&at(kind)) {
            assert!(at(kind).join(&id).join(file).exists(), "{kind}/{id} has no record");
        }
    }
    for name in ["tmp", "trash"] {
        for _ in 0..500 {
            if names(&at(name)).is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(4));
        }
        assert!(names(&at(name)).is_empty(), "{name} has {:?}", names(&at(name)));
    }
}
