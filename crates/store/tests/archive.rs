//! Archives: what is saved is what is loaded, byte for byte; others' archives of every form; hostile ones leave nothing.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Options may get more fields.
#![allow(clippy::needless_update)]

#[path = "common/archives.rs"]
mod archives;
mod common;

use archives::*;
use common::{Tar, assert_tidy, gzip, layers_on_disk, open, privileged, pull};
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;
use strata_oci::Digest;
use strata_oci::document::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use strata_store::{ArchiveFormat, Kind, Options, Origin, Store};

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
        let all = images
            .iter()
            .map(|i| i.names.iter().map(strata_oci::Reference::familiar).collect::<Vec<_>>().join(" "));
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
    assert_eq!(blobs_on_disk(dir.path()), 3);
    store.release_layers(&lease, &missing);
    assert_eq!(blobs_on_disk(dir.path()), 2, "manifest and config stay");
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
    assert_eq!(error.kind(), Kind::Damaged, "{error}");
    assert!(error.to_string().contains("fsck"), "{error}");
}
