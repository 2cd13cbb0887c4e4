//! Damage of every kind, found and repaired, on the real kernel.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod alone;
mod blobs;
#[path = "../common/mod.rs"]
mod common;
mod damage;
mod rig;

use common::{Tar, assert_tidy, container, layers_on_disk, mount, open, privileged, pull};
use rig::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use strata_oci::config::RootFs;
use strata_oci::document::{OCI_CONFIG, OCI_MANIFEST};
use strata_oci::{Descriptor, Digest, ImageConfig, Manifest, Reference};
use strata_store::{
    FsckEvent, FsckOptions, Kind, LayerSource, Limits, NewImage, Options, Origin, Problem, Store, What,
};

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

/// What a power cut leaves of a pull: names that the disk has, of files whose content it has not.
#[test]
fn what_an_unfinished_pull_leaves_is_told_from_damage() {
    let Some(Rig { dir, store, image, shelf }) = Rig::new() else { return };
    drop(store);
    let key = "ab".repeat(32);
    let torn = dir.path().join("store/layers").join(&key);
    fs::create_dir_all(torn.join("fs")).unwrap();
    fs::write(torn.join("layer.json"), "").unwrap();
    fs::write(torn.join("entries"), "").unwrap();
    let blob = dir.path().join("store/blobs/sha256").join(&key);
    fs::write(&blob, "").unwrap();
    let (problems, _) = check(&offline(dir.path()), false, false, &shelf);
    let ours: Vec<_> = problems.iter().filter(|p| p.id.contains(&key)).collect();
    assert!(ours.len() == problems.len() && ours.len() >= 2, "{problems:#?}");
    assert!(ours.iter().all(|p| p.action.contains("needs it") && p.images.is_empty()), "{problems:#?}");
    let needed = dir.path().join("store/layers").join(&image.layers[0].key).join("layer.json");
    let good = fs::read(&needed).unwrap();
    cut(&needed);
    let (problems, _) = check(&offline(dir.path()), false, false, &shelf);
    assert!(problems.iter().any(|p| p.action.contains("unpacks the layer again")), "{problems:#?}");
    fs::write(&needed, good).unwrap();
    let store = open(dir.path());
    assert!(!torn.exists() && !blob.exists(), "the start collects it");
    assert_clean(&store);
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
fn a_container_whose_record_is_damaged_does_not_keep_the_others_from_starting() {
    let Some(Rig { dir, store, image, .. }) = Rig::new() else { return };
    let (damaged, root) = container(&store, 1, &image);
    let (whole, other) = container(&store, 2, &image);
    fs::write(root.path().join("etc/mine"), "work").unwrap();
    drop((root, other, store));
    let containers = dir.path().join("store/containers");
    flip(&containers.join(&damaged).join("container.json"), 20);
    let store = open(dir.path());
    let left: Vec<_> =
        fs::read_dir(&containers).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(left, [whole]);
    let kept: Vec<_> =
        fs::read_dir(dir.path().join("store/lost+found")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(fs::read_to_string(kept[0].join("upper/etc/mine")).unwrap(), "work");
    assert_clean(&store);
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

/// Limits are for what comes in: what is here was within those of its day.
#[test]
fn a_layer_of_a_wide_window_is_unpacked_again_under_a_narrower_limit() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let open = |zstd_window_log| {
        let limits = Limits { zstd_window_log, ..Limits::default() };
        Store::open(&dir.path().join("store"), Options { limits, ..Options::default() }).unwrap()
    };
    let store = open(28);
    let tar = Tar::new().file("motd", "hello").file("more", &"more".repeat(1000)).done();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    std::io::copy(&mut tar.as_slice(), &mut encoder).unwrap();
    let bytes = encoder.finish().unwrap();
    let described = |media_type: &str, bytes: &[u8]| Descriptor {
        media_type: media_type.into(),
        digest: Digest::sha256_of(bytes),
        size: bytes.len() as u64,
    };
    let (blob, diff_id) =
        (described("application/vnd.oci.image.layer.v1.tar+zstd", &bytes), Digest::sha256_of(&tar));
    let lease = store.lease("test").unwrap();
    let layer = LayerSource { blob: &blob, diff_id: &diff_id };
    store.ingest_layer(&lease, layer, &mut bytes.as_slice(), &|_| {}).unwrap();
    let rootfs = RootFs { diff_ids: vec![diff_id.clone()], ..RootFs::default() };
    let config = ImageConfig { os: "linux".into(), rootfs, ..ImageConfig::default() }.to_json();
    store.put_blob(&lease, &config).unwrap();
    let manifest = Manifest { config: described(OCI_CONFIG, &config), layers: vec![blob] }.to_json();
    let new = NewImage {
        media_type: OCI_MANIFEST.into(),
        manifest: &manifest,
        names: vec![Reference::parse("wide:1").unwrap()],
        pulled: None,
        origin: Origin::Pull,
    };
    store.commit_image(&lease, &new).unwrap();
    let motd = dir.path().join("store/layers").join(diff_id.hex()).join("fs/motd");
    drop((lease, store));
    fs::write(&motd, "jello").unwrap();
    let store = open(20);
    let (problems, summary) = check(&store, true, false, &Shelf::default());
    assert!(problems.len() == 1 && summary.repaired == 1, "{problems:#?}");
    assert_eq!(fs::read_to_string(&motd).unwrap(), "hello");
}
