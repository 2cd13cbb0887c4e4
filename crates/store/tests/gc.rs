//! What is collected, what is not and why, and that nobody waits for it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Tar, assert_tidy, container, layer_of, open, privileged, pull};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use strata_store::{Explained, GcReport, Kind, LayerSource, Lease, Reason, Store, Thing};

fn base() -> Vec<u8> {
    Tar::new().dir("d/", 0o750).file("d/low", "low").done()
}

/// Depends on its position: its directory is not listed.
fn above() -> Vec<u8> {
    Tar::new().file("d/high", "high").done()
}

fn ingest(store: &Store, lease: &Lease, tar: &[u8]) -> strata_oci::Digest {
    let (blob, descriptor, diff_id) = layer_of(tar);
    let source = LayerSource { blob: &descriptor, diff_id: &diff_id };
    store.ingest_layer(lease, source, &mut blob.as_slice(), &|_| {}).unwrap();
    diff_id
}

fn only(store: &Store, what: &str) -> Explained {
    let mut found = store.explain(what).unwrap();
    assert_eq!(found.len(), 1, "{what}: {found:?}");
    found.remove(0)
}

#[test]
fn everything_says_why_it_is_kept() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let image = pull(&store, "app:1", &[base(), above()]).unwrap();
    let (id, root) = container(&store, 1, &image);
    let name = "docker.io/library/app:1".to_owned();

    for what in ["app:1", image.id.as_str(), image.id.short(), &image.id.hex()[..20]] {
        let found = only(&store, what);
        assert_eq!(found.thing, Thing::Image(image.id.clone()));
        assert_eq!(found.reasons, [Reason::Name(name.clone()), Reason::Container(id.clone())], "{what}");
    }
    let belongs = |part| Reason::Image {
        id: image.id.clone(),
        part,
        names: vec![name.clone()],
        containers: vec![id.clone()],
    };
    let variant = &image.layers[1];
    assert!(variant.key.starts_with("chain-"));
    let found = only(&store, &variant.key);
    assert_eq!(found.thing, Thing::Layer(variant.key.clone()));
    assert_eq!(found.reasons, [belongs("a layer"), Reason::Container(id.clone())]);
    assert!(found.bytes.unwrap() > 0);
    // The one it was made from is on no stack.
    let found = only(&store, variant.diff_id.as_str());
    assert_eq!(found.thing, Thing::Layer(variant.diff_id.to_string()));
    assert_eq!(found.reasons, [Reason::BaseOf { variant: variant.key.clone(), image: image.id.clone() }]);
    assert_eq!(only(&store, image.manifest.digest.as_str()).reasons, [belongs("the manifest")]);
    assert_eq!(only(&store, variant.blob.digest.hex()).reasons, [belongs("a compressed layer")]);
    assert_eq!(only(&store, &id).thing, Thing::Container(id.clone()));
    assert!(!only(&store, "mountpoints").reasons.is_empty());
    drop(root);
}

#[test]
fn an_operation_that_runs_is_named_and_nothing_is_named_nothing() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let lease = store.lease("pull of example.com/x").unwrap();
    let diff_id = ingest(&store, &lease, &base());
    assert_eq!(store.gc(false).unwrap(), GcReport::default());
    match only(&store, diff_id.as_str()).reasons.as_slice() {
        [Reason::Operation { what, .. }] => assert_eq!(what, "pull of example.com/x"),
        other => panic!("{other:?}"),
    }
    drop(lease);
    let found = only(&store, diff_id.as_str());
    assert_eq!(found.reasons, []);
    let dry = store.gc(true).unwrap();
    assert_eq!((dry.layers.len(), dry.blobs.len()), (1, 1));
    assert_eq!(Some(dry.layers[0].bytes), found.bytes);
    assert_eq!(store.gc(false).unwrap(), dry, "what was said is what is done");
    assert_eq!(store.explain(diff_id.as_str()).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(store.gc(false).unwrap(), GcReport::default());
    for missing in ["sha256:", "", "no-such-thing", "xyz", "f"] {
        assert_eq!(store.explain(missing).unwrap_err().kind(), Kind::NotFound, "{missing:?}");
    }
    assert_tidy(dir.path());
}

#[test]
fn the_beginning_of_several_names_them() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let lease = store.lease("test").unwrap();
    // As many as two digits can tell apart: some begin alike.
    for n in 0..=256_u32 {
        store.put_blob(&lease, &n.to_le_bytes()).unwrap();
    }
    let digests: Vec<_> = (0..=256_u32).map(|n| strata_oci::Digest::sha256_of(&n.to_le_bytes())).collect();
    let twice = digests.iter().find(|d| digests.iter().filter(|o| o.hex()[..2] == d.hex()[..2]).count() > 1);
    let twice = twice.unwrap();
    let error = store.explain(&twice.hex()[..2]).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("ambiguous") && error.to_string().contains("blob sha256:"), "{error}");
    assert_eq!(only(&store, twice.hex()).thing, Thing::Blob(twice.clone()));
}

/// How many layers are collected at once; 300 if it is not set.
const LAYERS: &str = "STRATA_GC_LAYERS";

/// Collects hundreds of layers while somebody asks for one all the time.
#[test]
fn a_collection_lets_others_in() {
    let layers = std::env::var(LAYERS).map_or(300, |n| n.parse::<usize>().unwrap());
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let store = open(dir.path());
    let kept = store.lease("one that stays").unwrap();
    let kept_layer = ingest(&store, &kept, &base());
    let lease = store.lease("garbage to be").unwrap();
    for n in 0..layers {
        ingest(&store, &lease, &Tar::new().file("f", &n.to_string()).done());
    }
    drop(lease);
    let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let (collected, (answers, longest)) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let (mut answers, mut longest) = (0, Duration::ZERO);
            while !done.load(Ordering::Acquire) {
                let asked = Instant::now();
                assert!(store.has_layer(&kept, &kept_layer));
                if begun.load(Ordering::Acquire) {
                    answers += 1;
                    longest = longest.max(asked.elapsed());
                }
                std::thread::sleep(Duration::from_micros(50));
            }
            (answers, longest)
        });
        begun.store(true, Ordering::Release);
        let began = Instant::now();
        let report = store.gc(false).unwrap();
        println!("{layers} layers were collected in {:?}", began.elapsed());
        done.store(true, Ordering::Release);
        (report, asking.join().unwrap())
    });
    println!("{answers} answers during the collection, the slowest after {longest:?}");
    assert_eq!((collected.layers.len(), collected.blobs.len()), (layers, layers));
    assert!(answers > 0, "nobody was let in");
    assert_eq!(store.usage().layers.len(), 1);
    wait_until("the trash is empty", || names(&dir.path().join("store/trash")).is_empty());
    assert_tidy(dir.path());
}

/// A directory deeper than a path can say, as programs in containers make them.
fn nest(at: &Path, depth: usize) {
    use rustix::fs::{Mode, OFlags, mkdirat, openat};
    let mut here = strata_sys::durable::open_dir(at).unwrap();
    for _ in 0..depth {
        mkdirat(&here, "a-long-name-of-a-directory", Mode::RWXU).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        here = openat(&here, "a-long-name-of-a-directory", flags, Mode::empty()).unwrap();
    }
}

#[test]
fn what_a_container_leaves_goes_however_deep_it_is() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let image = pull(&store, "base", &[base()]).unwrap();
    let (id, root) = container(&store, 1, &image);
    drop(root);
    let upper = dir.path().join("store/containers").join(&id).join("upper");
    nest(&upper, 2000);
    store.measure_writable(std::slice::from_ref(&id), Duration::from_secs(60));
    assert_eq!(store.writable(&id).unwrap().layer_inodes, 2001);
    store.remove_container(&id).unwrap();
    // A stop does not wait for it, and the next start goes on.
    drop(store);
    let store = open(dir.path());
    wait_until("the trash is empty", || names(&dir.path().join("store/trash")).is_empty());
    drop(store);
}

#[test]
fn what_cannot_be_deleted_does_not_keep_the_rest() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let image = pull(&store, "base", &[base()]).unwrap();
    let (id, root) = container(&store, 1, &image);
    drop(root);
    let upper = dir.path().join("store/containers").join(&id).join("upper");
    fs::write(upper.join("stuck"), "x").unwrap();
    fs::write(upper.join("loose"), "x").unwrap();
    let chattr = |flag: &str, path: &Path| Command::new("chattr").arg(flag).arg(path).status();
    if !chattr("+i", &upper.join("stuck")).is_ok_and(|s| s.success()) {
        println!("skipped: files cannot be made immutable here");
        return;
    }
    store.remove_container(&id).unwrap();
    store.remove_image(&image.id, None, false, |_| String::new()).unwrap();
    let trash = dir.path().join("store/trash");
    let of_container = |name: &String| name.starts_with(&id);
    wait_until("only the stuck file is left", || {
        let left = names(&trash);
        left.len() == 1 && left.iter().all(of_container) && {
            let upper = trash.join(&left[0]).join("upper");
            names(&upper) == ["stuck"]
        }
    });
    let stuck = trash.join(&names(&trash)[0]).join("upper/stuck");
    assert!(chattr("-i", &stuck).unwrap().success());
    wait_until("it was tried again", || names(&trash).is_empty());
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
