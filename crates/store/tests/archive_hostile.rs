//! Hostile and broken archives end in an error that says what is wrong, and leave nothing behind.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Options may get more fields.
#![allow(clippy::needless_update)]

#[path = "common/archives.rs"]
mod archives;
mod common;

use archives::*;
use common::{Tar, assert_tidy, gzip, layers_on_disk, open, privileged};
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use strata_oci::Platform;
use strata_oci::document::{OCI_INDEX, OCI_MANIFEST};
use strata_store::{ArchiveFormat, Kind, Limits, LoadStep, Options, Store};

/// An image, and one that claims another layer for its own.
struct Image {
    /// All blobs of the image, without an index.
    good: Files,
    listed: Value,
    lying: String,
    second: Vec<u8>,
    whole: Vec<u8>,
}

fn image() -> Image {
    let tar = Tar::new().file("f", "x").done();
    let blob = gzip(&tar);
    let conf = config(&[&tar], "amd64");
    let mani = manifest(&conf, std::slice::from_ref(&blob));
    let good = layout().blob(&conf).blob(&blob).blob(&mani);
    let listed = descriptor(OCI_MANIFEST, &mani);
    let second = gzip(&Tar::new().file("g", "y").done());
    let lying = manifest(&conf, std::slice::from_ref(&second));
    let whole = indexed(&good, listed.clone());
    Image { good, listed, lying, second, whole }
}

fn indexed(files: &Files, listed: Value) -> Vec<u8> {
    files.clone().json("index.json", &index(&[listed])).done()
}

type Case = (&'static str, Vec<u8>, &'static str);

fn cases(dir: &Path) -> Vec<Case> {
    [broken(), oci(), docker_archives(dir)].concat()
}

fn broken() -> Vec<Case> {
    let whole = image().whole;
    vec![
        ("nothing", vec![], "no archive of images"),
        ("no tar", b"hello, world".repeat(100), "checksum"),
        (
            "a file system",
            Tar::new().dir("etc/", 0o755).file("etc/passwd", "").done(),
            "no archive of images",
        ),
        ("xz", b"\xfd7zXZ\0garbage".to_vec(), "xz -dc"),
        ("cut off", whole[..whole.len() / 2 + 100].to_vec(), "it ends"),
        ("gzip cut off", gzip(&whole)[..200].to_vec(), ""),
    ]
}

fn oci() -> Vec<Case> {
    let Image { good, listed, lying, second, .. } = image();
    // Of oci-layout, config, layer and manifest.
    let some = |of: &[usize]| Files(of.iter().map(|at| good.0[*at].clone()).collect());
    let evil_tar = Tar::new().file("../evil", "x").done();
    let evil = gzip(&evil_tar);
    let evil_conf = config(&[&evil_tar], "amd64");
    let evil_mani = manifest(&evil_conf, std::slice::from_ref(&evil));
    let mut wrong_size = listed.clone();
    wrong_size["size"] = json!(7);
    // Indexes that lie in each other, the listed one outermost.
    let (mut deep, mut outermost) = (good.clone(), index(std::slice::from_ref(&listed)).to_string());
    for _ in 0..6 {
        deep = deep.blob(&outermost);
        outermost = index(&[descriptor(OCI_INDEX, &outermost)]).to_string();
    }
    let deep = deep.blob(&outermost);
    vec![
        ("no index", good.done(), "without index.json"),
        ("index of nothing", layout().json("index.json", &index(&[])).done(), "holds no image"),
        (
            "wrong version",
            Files::default().file("oci-layout", r#"{"imageLayoutVersion":"2.0.0"}"#).done(),
            "2.0.0",
        ),
        ("index.json is no JSON", layout().file("index.json", "<html>").done(), "index.json"),
        ("a large index.json", layout().file("index.json", vec![b' '; 5 << 20]).done(), "too many"),
        (
            "blob of another digest",
            good.clone().file(&format!("blobs/sha256/{}", "a".repeat(64)), "x").done(),
            "digest",
        ),
        ("manifest is not there", indexed(&layout(), listed.clone()), "does not hold it"),
        ("manifest of another size", indexed(&good, wrong_size), "instead of 7"),
        ("config is not there", indexed(&some(&[0, 3]), listed.clone()), "not in the archive"),
        ("layer is not there", indexed(&some(&[0, 1, 3]), listed), "neither in the archive"),
        (
            "layer is another",
            indexed(&good.clone().blob(&lying).blob(&second), descriptor(OCI_MANIFEST, &lying)),
            "image config says",
        ),
        (
            "layer leaves its root",
            indexed(
                &layout().blob(&evil).blob(&evil_conf).blob(&evil_mani),
                descriptor(OCI_MANIFEST, &evil_mani),
            ),
            "../evil",
        ),
        ("indexes too deep", indexed(&deep, descriptor(OCI_INDEX, &outermost)), "more than"),
    ]
}

fn docker_archives(dir: &Path) -> Vec<Case> {
    let docker =
        |config: &str| Files::default().json("manifest.json", &json!([{ "Config": config, "Layers": [] }]));
    let outside = format!("{}{}/secret", "../".repeat(20), dir.display());
    let nameless = docker("c");
    vec![
        ("config outside", docker(&outside).done(), "which manifest.json names"),
        (
            "link outside",
            nameless.clone().link(tar::EntryType::Symlink, "c", &outside).done(),
            "which manifest.json names",
        ),
        (
            "links in a circle",
            nameless
                .clone()
                .link(tar::EntryType::Symlink, "c", "d")
                .link(tar::EntryType::Symlink, "d", "c")
                .done(),
            "which manifest.json names",
        ),
        (
            "fewer layers than the config",
            nameless.clone().file("c", config(&[b"a tar"], "amd64")).done(),
            "names 1 layers",
        ),
        (
            "manifest.json is null",
            Files::default().file("manifest.json", "null").done(),
            "no archive of images",
        ),
        ("a config of deep JSON", nameless.clone().file("c", "[".repeat(100_000)).done(), "config"),
        ("Docker's first form", Files::default().file("repositories", "{}").done(), "older than 1.10"),
    ]
}

#[test]
fn hostile_and_broken_archives_leave_nothing() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), "outside").unwrap();
    let store = open(dir.path());
    for (what, archive, words) in cases(dir.path()) {
        let error = load(&store, &archive).expect_err(what);
        assert!(error.to_string().contains(words), "{what}: {error}");
        assert_eq!(error.kind(), Kind::Invalid, "{what}: {error}");
        assert!(error.to_string().len() < 1500, "{what}: {error}");
        assert!(store.images().is_empty(), "{what}");
        assert_eq!(layers_on_disk(dir.path()), 0, "{what}");
        assert_eq!(blobs_on_disk(dir.path()), 0, "{what}");
    }
    // One bad image spoils the archive: the good one before it does not stay.
    let Image { good, listed, lying, second, whole } = image();
    let both = good.blob(&lying).blob(&second);
    let both = both.json("index.json", &index(&[listed, descriptor(OCI_MANIFEST, &lying)]));
    load(&store, &both.done()).unwrap_err();
    assert!(store.images().is_empty());
    assert_eq!((layers_on_disk(dir.path()), blobs_on_disk(dir.path())), (0, 0));
    assert_eq!(load(&store, &whole).unwrap().len(), 1);
    assert_tidy(dir.path());
}

#[test]
fn an_archive_beyond_the_limits_is_not_put_down() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { layer_size: 10_000, image_size: 20_000, ..Limits::default() };
    let store = Store::open(&dir.path().join("store"), Options { limits, ..Options::default() }).unwrap();
    let large = Files::default().file("large", vec![0; 10_001]);
    let many = (0..5).fold(Files::default(), |files, n| files.file(&n.to_string(), vec![0; 5_000]));
    let entries = Files((0..100_001).map(|_| ("d".into(), tar::EntryType::Directory, Vec::new())).collect());
    for (archive, words) in [(large, "limits.layer_size"), (many, "limits.image_size"), (entries, "entries")]
    {
        let error = load(&store, &gzip(&archive.done())).unwrap_err();
        assert_eq!(error.kind(), Kind::Limit);
        assert!(error.to_string().contains(words), "{error}");
    }
    assert_tidy(dir.path());
}

#[test]
fn a_load_that_nobody_waits_for_leaves_nothing() {
    if !privileged() {
        return;
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let archive = save(&two_images(from.path()), &["one", "two"], ArchiveFormat::Oci);
    let store = open(to.path());
    let platform = Platform::host();
    struct Cut<'a>(&'a [u8]);
    impl Read for Cut<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(out)? {
                0 => Err(std::io::Error::other("the client went away")),
                n => Ok(n),
            }
        }
    }
    for at in [0, 3, 700, archive.len() / 2, archive.len() - 1] {
        let error = store.load_archive(&mut Cut(&archive[..at]), &platform, &|_| {}, &|| false).unwrap_err();
        assert!(error.to_string().contains("the client went away"), "{at}: {error}");
        assert_eq!(error.kind(), Kind::Io);
    }
    // While layers are unpacked, too.
    let stopped = AtomicBool::new(false);
    let unpacked = AtomicU64::new(0);
    let step = |step: LoadStep<'_>| {
        if let LoadStep::Unpacked(_) = step {
            unpacked.fetch_add(1, Ordering::SeqCst);
            stopped.store(true, Ordering::SeqCst);
        }
    };
    let stop = || stopped.load(Ordering::SeqCst);
    let error = store.load_archive(&mut &archive[..], &platform, &step, &stop).unwrap_err();
    assert!(error.to_string().contains("given up"), "{error}");
    assert_eq!(unpacked.load(Ordering::SeqCst), 1);
    assert!(store.images().is_empty());
    assert_eq!((layers_on_disk(to.path()), blobs_on_disk(to.path())), (0, 0));
    assert_tidy(to.path());
}
