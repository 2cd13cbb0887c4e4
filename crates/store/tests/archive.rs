//! Archives: what is saved is what is loaded, byte for byte; others' archives of every form; hostile ones leave nothing.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Tar, assert_tidy, gzip, layers_on_disk, open, privileged, pull};
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use strata_oci::document::{OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST};
use strata_oci::{Digest, Platform};
use strata_store::{ArchiveFormat, Kind, LoadStep, Loaded, Options, Origin, Result, Store};

fn save(store: &Store, names: &[&str], format: ArchiveFormat) -> Vec<u8> {
    let lease = store.lease("test").unwrap();
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let images = store.export(&lease, &names).unwrap();
    let mut out = Vec::new();
    store.write_archive(&images, format, &mut out).unwrap();
    out
}

fn load(store: &Store, archive: &[u8]) -> Result<Vec<Loaded>> {
    let platform: Platform = "linux/amd64".parse().unwrap();
    store.load_archive(&mut &archive[..], &platform, &|_| {}, &|| false)
}

fn names(loaded: &Loaded) -> Vec<String> {
    loaded.names.iter().map(ToString::to_string).collect()
}

/// Two images that share a layer, under three names.
fn two_images(dir: &Path) -> Arc<Store> {
    let store = open(dir);
    let shared = Tar::new().dir("d/", 0o755).file("d/shared", &"s".repeat(100_000)).done();
    pull(&store, "one:1", std::slice::from_ref(&shared)).unwrap();
    let two = pull(&store, "registry.example/team/two:latest", &[Tar::new().file("f", "x").done(), shared])
        .unwrap();
    store.tag(&two.id, &"two:extra".parse().unwrap()).unwrap();
    store
}

fn entry_names(archive: &[u8]) -> Vec<String> {
    let mut tar = tar::Archive::new(archive);
    tar.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect()
}

#[test]
fn what_is_saved_is_loaded_byte_for_byte() {
    if !privileged() {
        return;
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = two_images(from.path());
    let all = ["one:1", "registry.example/team/two", "two:extra"];
    for format in [ArchiveFormat::Docker, ArchiveFormat::Oci] {
        let archive = save(&store, &all, format);
        assert_eq!(archive, save(&store, &all, format), "the same images make the same bytes");
        let entries = entry_names(&archive);
        let mut sorted = entries.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(entries, sorted, "sorted, and each blob once");
        let blobs = entries.iter().filter(|n| n.starts_with("blobs/sha256/") && n.len() > 20).count();
        assert_eq!(blobs, 2 + 2 + 2, "two layers, two configs, two manifests");
        assert_eq!(entries.contains(&"manifest.json".to_owned()), format == ArchiveFormat::Docker);

        let other = open(to.path());
        for packed in [archive.clone(), gzip(&archive), zstd::encode_all(&archive[..], 1).unwrap()] {
            let loaded = load(&other, &packed).unwrap();
            assert_eq!(loaded.len(), 2);
            assert_eq!(names(&loaded[0]), ["docker.io/library/one:1"]);
            assert_eq!(
                names(&loaded[1]),
                ["docker.io/library/two:extra", "registry.example/team/two:latest"]
            );
            for here in &loaded {
                let there = store.image(&here.image.id).unwrap();
                assert_eq!(here.image.manifest, there.manifest);
                assert_eq!((here.image.origin, here.image.irreplaceable()), (Origin::Load, true));
                assert_eq!(here.image.layers, there.layers);
                assert_eq!(here.image.repo_tags, there.repo_tags);
            }
            assert_eq!(layers_on_disk(to.path()), 2);
        }
        assert_eq!(save(&other, &all, format), archive, "and saved again from there, too");
        assert_tidy(to.path());
        for image in other.images() {
            other.remove_image(&image.id, None, false, |_| String::new()).unwrap();
        }
        drop(other);
        assert_eq!(layers_on_disk(to.path()), 0);
    }
    // A name that an image has already stays as it is, with what its registry knew it by.
    let archive = save(&store, &["one:1"], ArchiveFormat::Docker);
    let again = load(&store, &archive).unwrap();
    assert_eq!(again[0].image.origin, Origin::Pull);
    assert_eq!(again[0].image.repo_digests.len(), 1);
}

#[test]
fn what_save_means_by_a_name() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = two_images(dir.path());
    let one = store.resolve("one:1").unwrap();
    store.tag(&one.id, &"one:2".parse().unwrap()).unwrap();
    let lease = store.lease("test").unwrap();
    let meant = |what: &[&str]| {
        let what: Vec<String> = what.iter().map(|n| (*n).to_owned()).collect();
        let images = store.export(&lease, &what)?;
        let all = images.iter().map(|i| i.names.iter().map(|n| n.familiar()).collect::<Vec<_>>().join(" "));
        Ok::<_, strata_store::Error>(all.collect::<Vec<_>>())
    };
    assert_eq!(meant(&["one"]).unwrap(), ["one:1 one:2"], "a repository's name means all its tags");
    assert_eq!(meant(&["one:2", "one:1", "one:1"]).unwrap(), ["one:1 one:2"]);
    assert_eq!(meant(&["one:2", "two:extra"]).unwrap(), ["one:2", "two:extra"]);
    assert_eq!(meant(&[one.id.short()]).unwrap(), [""], "an ID gives no name");
    assert_eq!(meant(&[one.repo_digests[0].as_str()]).unwrap(), [""]);
    assert_eq!(meant(&["one:3"]).unwrap_err().kind(), Kind::NotFound);
    // Several images with one tag: OCI's readers find each by its whole name.
    let archive = save(&store, &["one:1", "registry.example/team/two"], ArchiveFormat::Oci);
    assert_eq!(ref_names(&archive), ["1", "latest"]);
    store.tag(&one.id, &"one:latest".parse().unwrap()).unwrap();
    let archive = save(&store, &["one:latest", "registry.example/team/two"], ArchiveFormat::Oci);
    assert_eq!(ref_names(&archive), ["docker.io/library/one:latest", "registry.example/team/two:latest"]);
}

fn ref_names(archive: &[u8]) -> Vec<String> {
    let index: Value = serde_json::from_slice(&read_entry(archive, "index.json")).unwrap();
    let all = index["manifests"].as_array().unwrap().iter();
    all.map(|m| m["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap().to_owned()).collect()
}

fn read_entry(archive: &[u8], name: &str) -> Vec<u8> {
    let mut tar = tar::Archive::new(archive);
    let mut entry =
        tar.entries().unwrap().map(|e| e.unwrap()).find(|e| e.path().unwrap() == Path::new(name)).unwrap();
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).unwrap();
    bytes
}

/// An archive, file by file.
#[derive(Clone, Default)]
struct Files(Vec<(String, tar::EntryType, Vec<u8>)>);

impl Files {
    fn file(mut self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.0.push((name.into(), tar::EntryType::Regular, bytes.as_ref().to_vec()));
        self
    }

    fn link(mut self, kind: tar::EntryType, name: &str, target: &str) -> Self {
        self.0.push((name.into(), kind, target.as_bytes().to_vec()));
        self
    }

    fn blob(self, bytes: impl AsRef<[u8]>) -> Self {
        let name = format!("blobs/sha256/{}", Digest::sha256_of(bytes.as_ref()).hex());
        self.file(&name, bytes)
    }

    fn json(self, name: &str, value: &Value) -> Self {
        self.file(name, value.to_string())
    }

    fn done(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, kind, bytes) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            // Hostile names must come through as they are.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            if *kind == tar::EntryType::Regular {
                header.set_size(bytes.len() as u64);
                header.set_cksum();
                tar.append(&header, &bytes[..]).unwrap();
            } else {
                header.as_old_mut().linkname[..bytes.len()].copy_from_slice(bytes);
                header.set_size(0);
                header.set_cksum();
                tar.append(&header, std::io::empty()).unwrap();
            }
        }
        tar.into_inner().unwrap()
    }
}

fn config(tars: &[&[u8]], architecture: &str) -> String {
    let diff_ids: Vec<_> = tars.iter().map(|t| Digest::sha256_of(t).to_string()).collect();
    json!({ "os": "linux", "architecture": architecture, "rootfs": { "type": "layers", "diff_ids": diff_ids } })
        .to_string()
}

fn descriptor(media_type: &str, bytes: impl AsRef<[u8]>) -> Value {
    let bytes = bytes.as_ref();
    json!({ "mediaType": media_type, "digest": Digest::sha256_of(bytes).as_str(), "size": bytes.len() })
}

fn manifest(config: &str, layers: &[Vec<u8>]) -> String {
    let layers: Vec<_> = layers.iter().map(|l| descriptor(OCI_LAYER_GZIP, l)).collect();
    json!({ "schemaVersion": 2, "config": descriptor(OCI_CONFIG, config), "layers": layers }).to_string()
}

fn layout() -> Files {
    Files::default().file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
}

fn index(manifests: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "manifests": manifests })
}

/// `docker save` before 25: a directory per layer, layers that are alike as links, uncompressed, the manifest at the end.
fn old_docker(link: tar::EntryType) -> (Files, Vec<Vec<u8>>) {
    let a = Tar::new().dir("etc/", 0o755).file("etc/a", "a").done();
    let b = Tar::new().file("b", "b").done();
    let config = config(&[&a, &b, &a], "amd64");
    let name = format!("{}.json", Digest::sha256_of(config.as_bytes()).hex());
    let target = if link == tar::EntryType::Symlink { "../aa/layer.tar" } else { "aa/layer.tar" };
    let files = Files::default()
        .file(&name, &config)
        .file("aa/VERSION", "1.0")
        .file("aa/json", "{}")
        .file("aa/layer.tar", &a)
        .link(link, "cc/layer.tar", target)
        .file("bb/layer.tar", &b)
        .json(
            "manifest.json",
            &json!([{ "Config": name, "RepoTags": ["team/old:v1", "old"],
                "Layers": ["aa/layer.tar", "bb/layer.tar", "cc/layer.tar"] }]),
        );
    (files, vec![a, b])
}

#[test]
fn dockers_old_form() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut manifests = Vec::new();
    for link in [tar::EntryType::Symlink, tar::EntryType::Link] {
        let (files, tars) = old_docker(link);
        let loaded = load(&store, &files.done()).unwrap();
        // Docker reads a name without a tag as one with `latest`.
        assert_eq!(names(&loaded[0]), ["docker.io/team/old:v1", "docker.io/library/old:latest"]);
        let image = &loaded[0].image;
        let blobs: Vec<_> = image.layers.iter().map(|l| l.blob.digest.clone()).collect();
        let digests: Vec<_> = [0, 1, 0].map(|n| Digest::sha256_of(&tars[n])).into();
        assert_eq!(blobs, digests, "layers stay as they came");
        manifests.push(image.manifest.clone());
    }
    assert_eq!(manifests[0], manifests[1], "and so what is made of them is always the same");
    // Its own form keeps what was made.
    let archive = save(&store, &["team/old:v1"], ArchiveFormat::Docker);
    let other = tempfile::tempdir().unwrap();
    assert_eq!(load(&open(other.path()), &archive).unwrap()[0].image.manifest, manifests[0]);
}

#[test]
fn an_oci_layout_that_contradicts_its_config_gives_way_to_the_manifest_beside_it() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tars = [Tar::new().file("a", "a").done(), Tar::new().file("b", "b").done()];
    let config = config(&[&tars[0], &tars[1]], "amd64");
    let layer = |t: &Vec<u8>| descriptor("application/vnd.oci.image.layer.v1.tar", t);
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::sha256_of(bytes).hex());
    for layers in [json!([]), json!([layer(&tars[1]), layer(&tars[0])])] {
        let bad = json!({ "schemaVersion": 2, "config": descriptor(OCI_CONFIG, &config), "layers": layers })
            .to_string();
        let docker = json!([{ "Config": blob(config.as_bytes()), "RepoTags": ["x:1"],
            "Layers": [blob(&tars[0]), blob(&tars[1])] }]);
        let files = layout()
            .json("index.json", &index(&[descriptor(OCI_MANIFEST, &bad)]))
            .json("manifest.json", &docker)
            .blob(&bad)
            .blob(&config)
            .blob(&tars[0])
            .blob(&tars[1]);
        let store = open(dir.path());
        let loaded = load(&store, &files.done()).unwrap();
        assert_eq!(names(&loaded[0]), ["docker.io/library/x:1"]);
        assert_eq!(loaded[0].image.layers.len(), 2);
        drop(store);
    }
}

#[test]
fn indexes_names_and_platforms() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tar = Tar::new().file("f", "x").done();
    let blob = gzip(&tar);
    let of = |architecture: &str| {
        let config = config(&[&tar], architecture);
        let manifest = manifest(&config, std::slice::from_ref(&blob));
        let mut listed = descriptor(OCI_MANIFEST, &manifest);
        listed["platform"] = json!({ "os": "linux", "architecture": architecture });
        (config, manifest, listed)
    };
    let (amd, arm) = (of("amd64"), of("arm64"));
    let inner = index(&[arm.2.clone(), amd.2.clone()]).to_string();
    let outer = index(&[descriptor(OCI_INDEX, &inner)]).to_string();
    let named = |mut listed: Value, key: &str, name: &str| {
        listed["annotations"] = json!({ key: name });
        listed
    };
    let (tag, whole) = ("org.opencontainers.image.ref.name", "io.containerd.image.name");
    let blobs = layout().blob(&blob).blob(&amd.0).blob(&amd.1).blob(&outer).blob(&inner);
    let both = blobs.clone().blob(&arm.0).blob(&arm.1);
    let cases = [
        (
            &both,
            vec![named(descriptor(OCI_INDEX, &outer), whole, "a:1")],
            vec!["docker.io/library/a:1"],
            "nested indexes",
        ),
        (&both, vec![amd.2.clone(), arm.2.clone()], vec![], "platforms side by side"),
        (
            &both,
            vec![named(arm.2.clone(), tag, "x"), named(amd.2.clone(), tag, "x")],
            vec![],
            "a bare tag names nothing",
        ),
        (
            &blobs,
            vec![named(amd.2.clone(), tag, "r.example/b:2")],
            vec!["r.example/b:2"],
            "a whole name as the tag",
        ),
        (
            &blobs,
            vec![named(descriptor(OCI_INDEX, &inner), whole, "c:1")],
            vec!["docker.io/library/c:1"],
            "one platform of two is there",
        ),
    ];
    for (files, listed, expected, what) in cases {
        let store = open(dir.path());
        let loaded = load(&store, &files.clone().json("index.json", &index(&listed)).done()).unwrap();
        assert_eq!(loaded.len(), 1, "{what}");
        assert_eq!(loaded[0].image.config.architecture, "amd64", "{what}");
        assert_eq!(names(&loaded[0]), expected, "{what}");
        store.remove_image(&loaded[0].image.id, None, true, |_| String::new()).unwrap();
        drop(store);
    }
    let store = open(dir.path());
    let foreign = layout()
        .blob(&blob)
        .blob(&arm.0)
        .blob(&arm.1)
        .json("index.json", &index(std::slice::from_ref(&arm.2)));
    assert_eq!(
        load(&store, &foreign.done()).unwrap()[0].image.config.architecture,
        "arm64",
        "there is but one"
    );
    let s390 = of("s390x");
    let two = both.blob(&s390.0).blob(&s390.1);
    let two = two.json("index.json", &index(&[named(arm.2, whole, "z"), named(s390.2, whole, "z")]));
    let error = load(&store, &two.done()).unwrap_err().to_string();
    assert!(error.contains("no manifest for linux/amd64") && error.contains("linux/s390x"), "{error}");
}

#[test]
fn hostile_and_broken_archives_leave_nothing() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), "outside").unwrap();
    let store = open(dir.path());
    let tar = Tar::new().file("f", "x").done();
    let blob = gzip(&tar);
    let conf = config(&[&tar], "amd64");
    let mani = manifest(&conf, std::slice::from_ref(&blob));
    let good = layout().blob(&conf).blob(&blob).blob(&mani);
    let indexed = |files: &Files, listed: Value| files.clone().json("index.json", &index(&[listed])).done();
    let listed = descriptor(OCI_MANIFEST, &mani);
    let docker = |item: Value| Files::default().json("manifest.json", &json!([item]));
    let outside = format!("{}/secret", "../".repeat(40)) + &dir.path().display().to_string();
    let evil = gzip(&Tar::new().file("../evil", "x").done());
    let evil_conf = config(&[&Tar::new().file("../evil", "x").done()], "amd64");
    let evil_mani = manifest(&evil_conf, std::slice::from_ref(&evil));
    let second = gzip(&Tar::new().file("g", "y").done());
    let lying = manifest(&conf, std::slice::from_ref(&second));
    let mut wrong_size = listed.clone();
    wrong_size["size"] = json!(7);
    let whole = indexed(&good, listed.clone());
    // Indexes that lie in each other, the listed one outermost.
    let (mut deep, mut outermost) = (good.clone(), index(std::slice::from_ref(&listed)).to_string());
    for _ in 0..6 {
        deep = deep.blob(&outermost);
        outermost = index(&[descriptor(OCI_INDEX, &outermost)]).to_string();
    }
    let deep = deep.blob(&outermost);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", vec![], "no archive of images"),
        ("no tar", b"hello, world".repeat(100), "checksum"),
        (
            "a file system",
            Tar::new().dir("etc/", 0o755).file("etc/passwd", "").done(),
            "no archive of images",
        ),
        ("xz", b"\xfd7zXZ\0garbage".to_vec(), "xz -dc"),
        ("cut off", whole[..whole.len() / 2 + 100].to_vec(), "middle"),
        ("gzip cut off", gzip(&whole)[..200].to_vec(), ""),
        ("trailing garbage", [whole.clone(), b"garbage".to_vec()].concat(), "follows"),
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
        ("config is not there", indexed(&layout().blob(&mani), listed.clone()), "not in the archive"),
        ("layer is not there", indexed(&layout().blob(&mani).blob(&conf), listed), "neither in the archive"),
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
        (
            "config outside",
            docker(json!({ "Config": outside, "Layers": [] })).done(),
            "which manifest.json names",
        ),
        (
            "link outside",
            docker(json!({ "Config": "c", "Layers": [] }))
                .link(tar::EntryType::Symlink, "c", &outside[..99])
                .done(),
            "which manifest.json names",
        ),
        (
            "links in a circle",
            docker(json!({ "Config": "c", "Layers": [] }))
                .link(tar::EntryType::Symlink, "c", "d")
                .link(tar::EntryType::Symlink, "d", "c")
                .done(),
            "which manifest.json names",
        ),
        (
            "fewer layers than the config",
            docker(json!({ "Config": "c", "Layers": [] })).file("c", &conf).done(),
            "names 1 layers",
        ),
        (
            "manifest.json is null",
            Files::default().file("manifest.json", "null").done(),
            "no archive of images",
        ),
        (
            "a config of deep JSON",
            docker(json!({ "Config": "c", "Layers": [] })).file("c", "[".repeat(100_000)).done(),
            "config",
        ),
        ("Docker's first form", Files::default().file("repositories", "{}").done(), "older than 1.10"),
    ];
    for (what, archive, words) in cases {
        let error = load(&store, &archive).expect_err(what);
        assert!(error.to_string().contains(words), "{what}: {error}");
        assert_eq!(error.kind(), Kind::Invalid, "{what}: {error}");
        assert!(error.to_string().len() < 1500, "{what}: {error}");
        assert!(store.images().is_empty(), "{what}");
        assert_eq!(layers_on_disk(dir.path()), 0, "{what}");
        assert_eq!(blobs_on_disk(dir.path()), 0, "{what}");
    }
    // One bad image spoils the archive: the good one before it does not stay.
    let both = good.clone().blob(&lying).blob(&second);
    let both =
        both.json("index.json", &index(&[descriptor(OCI_MANIFEST, &mani), descriptor(OCI_MANIFEST, &lying)]));
    load(&store, &both.done()).unwrap_err();
    assert!(store.images().is_empty());
    assert_eq!((layers_on_disk(dir.path()), blobs_on_disk(dir.path())), (0, 0));
    assert_eq!(load(&store, &whole).unwrap().len(), 1);
    assert_tidy(dir.path());
}

fn blobs_on_disk(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("store/blobs/sha256")).unwrap().count()
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

#[test]
fn discarded_blobs_are_named_and_can_be_brought_back() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let options = Options { discard_blobs: true, ..Options::default() };
    let store = Store::open(&dir.path().join("store"), options).unwrap();
    let tar = Tar::new().file("f", "x").done();
    let image = pull(&store, "a:1", std::slice::from_ref(&tar)).unwrap();
    let lease = store.lease("test").unwrap();
    let exported = store.export(&lease, &["a:1".to_owned()]).unwrap();
    let missing = store.missing_layers(&lease, &exported[0]);
    assert_eq!(missing, [image.layers[0].blob.clone()]);
    let error = store.write_archive(&exported, ArchiveFormat::Docker, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains(missing[0].digest.hex()), "{error}");
    store.restore_blob(&lease, &missing[0], &mut gzip(&tar).as_slice()).unwrap();
    assert!(store.missing_layers(&lease, &exported[0]).is_empty());
    let mut archive = Vec::new();
    store.write_archive(&exported, ArchiveFormat::Docker, &mut archive).unwrap();
    // What was loaded could not be fetched again: its blobs stay.
    let other = tempfile::tempdir().unwrap();
    let options = Options { discard_blobs: true, ..Options::default() };
    let store = Store::open(&other.path().join("store"), options).unwrap();
    load(&store, &archive).unwrap();
    assert_eq!(blobs_on_disk(other.path()), 3);
    // A damaged blob is not passed on.
    let path = store.blob_path(&image.layers[0].blob.digest);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let lease = store.lease("test").unwrap();
    let exported = store.export(&lease, &["a:1".to_owned()]).unwrap();
    let error = store.write_archive(&exported, ArchiveFormat::Oci, &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.to_string().contains("fsck"), "{error}");
}
