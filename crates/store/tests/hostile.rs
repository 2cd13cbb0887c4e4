//! Hostile and broken layers end in an error that names the entry, and leave nothing behind; so does a pull that stops.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Tar, assert_tidy, layer_of, layers_on_disk, open, private_mounts, privileged, pull};
use std::fs;
use std::io::Read;
use strata_oci::Digest;
use strata_store::{Kind, LayerSource};

#[test]
fn hostile_entries_are_refused() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("outside"), "safe").unwrap();
    let store = open(dir.path());
    for (what, tar) in [
        ("../outside", Tar::new().file("../outside", "owned").done()),
        ("a/../../outside", Tar::new().file("a/../../outside", "owned").done()),
        ("dev", Tar::new().node("dev", tar::EntryType::Char).done()),
        ("loop/x", Tar::new().symlink("loop", "loop").file("loop/x", "").done()),
        ("f/x", Tar::new().file("f", "").file("f/x", "").done()),
        ("odd", Tar::new().node("odd", tar::EntryType::new(b'Z')).done()),
        (".wh.", Tar::new().file(".wh.", "").done()),
        ("link", Tar::new().dir("d/", 0o755).hard_link("link", "d").done()),
        ("up", Tar::new().hard_link("up", "../../outside").done()),
    ] {
        let error = pull(&store, "bad", &[tar]).unwrap_err();
        assert!(error.to_string().contains(what), "{what}: {error}");
        assert_eq!(error.kind(), Kind::Invalid, "{what}: {error}");
    }
    assert_eq!(fs::read_to_string(dir.path().join("outside")).unwrap(), "safe");
    assert!(store.images().is_empty());
    assert_eq!(layers_on_disk(dir.path()), 0);
    store.gc(false).unwrap();
    assert_tidy(dir.path());
}

#[test]
fn symlinks_lead_nowhere_else() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let store = open(dir.path());
    let target = outside.to_str().unwrap();
    let tar = Tar::new()
        .symlink("abs", target)
        .file("abs/f", "x")
        .symlink("up", "../../../..")
        .file("up/g", "x")
        .done();
    let image = pull(&store, "a", &[tar]).unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let fs_dir = dir.path().join("store/layers").join(&image.layers[0].key).join("fs");
    assert!(fs_dir.join(target.trim_start_matches('/')).join("f").exists());
    assert!(fs_dir.join("g").exists());
}

#[test]
fn wrong_bytes_are_refused() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (blob, descriptor, diff_id) = layer_of(&Tar::new().file("f", &"content".repeat(50_000)).done());
    let try_it = |bytes: &[u8], descriptor: &strata_oci::Descriptor, diff_id: &Digest| {
        let lease = store.lease("test").unwrap();
        let source = LayerSource { blob: descriptor, diff_id };
        store.ingest_layer(&lease, source, &mut &bytes[..], &|_| {}).unwrap_err()
    };
    let mut flipped = blob.clone();
    flipped[blob.len() / 2] ^= 1;
    assert!(try_it(&flipped, &descriptor, &diff_id).to_string().contains("have the digest"));
    let cut = try_it(&blob[..blob.len() / 2], &descriptor, &diff_id).to_string();
    assert!(cut.contains("its manifest says"), "{cut}");
    let long = [blob.as_slice(), b"garbage"].concat();
    assert!(try_it(&long, &descriptor, &diff_id).to_string().contains("more than"));
    let wrong = try_it(&blob, &descriptor, &Digest::sha256_of(b"other"));
    assert!(wrong.to_string().contains("image config says"), "{wrong}");
    let plain = strata_oci::Descriptor {
        media_type: "application/vnd.oci.image.layer.v1.tar+zstd".into(),
        ..descriptor.clone()
    };
    assert_eq!(try_it(&blob, &plain, &diff_id).kind(), Kind::Invalid);
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            self.0 += 1;
            if self.0 > 3 {
                Err(std::io::Error::other("the network went away"))
            } else {
                Ok(out.len().min(100))
            }
        }
    }
    let lease = store.lease("test").unwrap();
    let source = LayerSource { blob: &descriptor, diff_id: &diff_id };
    let error = store.ingest_layer(&lease, source, &mut Broken(0), &|_| {}).unwrap_err();
    assert!(error.to_string().contains("the network went away"), "{error}");
    drop(lease);
    assert_eq!(layers_on_disk(dir.path()), 0);
    assert_tidy(dir.path());
}

#[test]
fn an_interrupted_pull_leaves_nothing_after_opening() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (blob, descriptor, diff_id) = layer_of(&Tar::new().file("f", "x").done());
    let lease = store.lease("test").unwrap();
    let source = LayerSource { blob: &descriptor, diff_id: &diff_id };
    store.ingest_layer(&lease, source, &mut blob.as_slice(), &|_| {}).unwrap();
    assert_eq!(store.gc(false).unwrap(), strata_store::GcReport::default(), "the lease keeps the layer");
    fs::write(dir.path().join("store/tmp/half"), "half").unwrap();
    fs::create_dir(dir.path().join("store/containers").join("cd".repeat(32))).unwrap();
    drop(lease);
    drop(store);
    let store = open(dir.path());
    assert_eq!(layers_on_disk(dir.path()), 0, "a layer that no image names is trash");
    assert!(store.containers().is_empty());
    assert_eq!(fs::read_dir(dir.path().join("store/containers")).unwrap().count(), 0);
    assert_tidy(dir.path());
}

#[test]
fn a_damaged_image_is_not_listed_and_pulling_it_again_mends_it() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let layers = [Tar::new().file("f", "x").done()];
    let image = pull(&store, "a", &layers).unwrap();
    drop(store);
    fs::remove_file(dir.path().join("store/layers").join(&image.layers[0].key).join("layer.json")).unwrap();
    let store = open(dir.path());
    assert!(store.images().is_empty());
    let again = pull(&store, "a", &layers).unwrap();
    assert_eq!(again.id, image.id);
    assert_eq!(store.images().len(), 1);
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.images().len(), 1, "the layer itself was mended");
    drop(store);
    fs::remove_file(dir.path().join("store/layers").join(&image.layers[0].key).join("layer.json")).unwrap();
    let store = open(dir.path());
    let other = pull(&store, "a", &[Tar::new().file("g", "y").done()]).unwrap();
    assert_eq!(store.resolve("a").unwrap().id, other.id, "a damaged image does not hold on to its name");
}

#[test]
fn a_full_disk_is_told_of_with_the_entry_that_did_not_fit() {
    if !privileged() {
        return;
    }
    private_mounts();
    let dir = tempfile::tempdir().unwrap();
    let room = c"size=4m";
    nix::mount::mount(Some("none"), dir.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), Some(room))
        .unwrap();
    let store = open(dir.path());
    let (long, short) = ("x".repeat(300_000), "x".repeat(3_000));
    // A long file's content and a short one's take different ways.
    for (data, kept) in [(long, 5), (short, 500)] {
        let name = |n: usize| format!("file-{n}");
        let tar = (0..40 * kept).fold(Tar::new(), |tar, n| tar.file(&name(n), &data)).done();
        let error = pull(&store, "big", &[tar]).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), Kind::Io, "{text}");
        assert!(text.contains("entry \"file-") && text.contains("No space left on device"), "{text}");
        assert_eq!(layers_on_disk(dir.path()), 0);
        store.gc(false).unwrap();
        assert_tidy(dir.path());
        // There is room again for what fits.
        let fits = (0..kept).fold(Tar::new(), |tar, n| tar.file(&name(n), &data)).done();
        let image = pull(&store, "small", &[fits]).unwrap();
        store.remove_image(&image.id, None, true, |_| String::new()).unwrap();
        store.gc(false).unwrap();
        assert_tidy(dir.path());
    }
    drop(store);
    nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
}
