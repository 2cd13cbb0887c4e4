//! Stacks whose merged tree must be that of sequential extraction although a layer depends on what is below it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Tar, assert_tidy, container, layer_of, layers_on_disk, open, privileged, pull, pull_for};
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use strata_store::{Options, Store};

#[test]
fn unlisted_parents_are_as_they_are_below() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let low = Tar::new()
        .dir("tmp/", 0o1777)
        .dir("usr/", 0o755)
        .dir("usr/lib/", 0o750)
        .symlink("lib", "usr/lib")
        .done();
    let high = Tar::new().file("tmp/x", "x").file("lib/new", "n").file("fresh/y", "y").done();
    let image = pull(&store, "a", &[low, high.clone()]).unwrap();
    let (_, root) = container(&store, 1, &image);
    let mode = |p: &str| fs::symlink_metadata(root.path().join(p)).unwrap().mode() & 0o7777;
    assert_eq!((mode("tmp"), mode("usr/lib"), mode("fresh")), (0o1777, 0o750, 0o755));
    assert!(fs::symlink_metadata(root.path().join("lib")).unwrap().is_symlink());
    assert_eq!(root.read("usr/lib/new").unwrap(), "n");
    assert_eq!(fs::metadata(root.path().join("tmp")).unwrap().mtime(), 1_600_000_000);
    assert_eq!(layers_on_disk(dir.path()), 3, "the layer and its variant");
    // Where nothing is below, the layer itself serves.
    let alone = pull(&store, "b", &[high]).unwrap();
    assert_eq!(alone.layers[0].key, alone.layers[0].diff_id.hex());
    drop(root);
    assert_tidy(dir.path());
}

#[test]
fn links_to_files_below_bring_the_whole_group_up() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let low = Tar::new().dir("d/", 0o700).owned("d/a", 0o4755, 7).hard_link("d/b", "d/a").done();
    let high = Tar::new().hard_link("c", "d/a").done();
    let image = pull(&store, "a", &[low, high.clone()]).unwrap();
    let (_, root) = container(&store, 1, &image);
    let stat = |p: &str| fs::metadata(root.path().join(p)).unwrap();
    assert_eq!((stat("c").ino(), stat("d/b").ino()), (stat("d/a").ino(), stat("d/a").ino()));
    assert_eq!((stat("c").nlink(), stat("c").mode() & 0o7777, stat("c").uid()), (3, 0o4755, 7));
    assert_eq!(stat("d").mode() & 0o7777, 0o700);
    let error = pull(&store, "b", &[high]).unwrap_err().to_string();
    assert!(error.contains("d/a") && error.contains("in no layer"), "{error}");
    assert!(store.resolve("b").is_err());
}

#[test]
fn whiteouts_hide_what_is_below_and_show_no_ghosts() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let low = Tar::new()
        .dir("d/", 0o755)
        .file("d/a", "a")
        .file("d/b", "b")
        .dir("e/", 0o755)
        .file("e/x", "x")
        .done();
    let high = Tar::new()
        .dir("d/", 0o755)
        .file("d/.wh.a", "")
        .dir("new/", 0o755)
        .file("new/.wh.ghost", "")
        .dir("e/", 0o755)
        .file("e/.wh..wh..opq", "")
        .file("e/y", "y")
        .file(".wh.gone", "")
        .done();
    let image = pull(&store, "a", &[low, high]).unwrap();
    let (_, root) = container(&store, 1, &image);
    let names = |p: &str| {
        let mut names: Vec<_> = fs::read_dir(root.path().join(p))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("d"), ["b"]);
    assert_eq!(names("new"), Vec::<String>::new());
    assert_eq!(names("e"), ["y"]);
}

#[test]
fn a_whiteout_beside_a_re_creation_hides_only_what_is_below() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let low = Tar::new().dir("d/", 0o755).file("d/old", "o").file("f", "old").done();
    for (n, high) in [
        Tar::new()
            .file(".wh.d", "")
            .dir("d/", 0o700)
            .file("d/new", "n")
            .file(".wh.f", "")
            .file("f", "new")
            .done(),
        Tar::new()
            .dir("d/", 0o700)
            .file("d/new", "n")
            .file(".wh.d", "")
            .file("f", "new")
            .file(".wh.f", "")
            .done(),
    ]
    .into_iter()
    .enumerate()
    {
        let image = pull(&store, &format!("a:{n}"), &[low.clone(), high]).unwrap();
        let (_, root) = container(&store, u8::try_from(n).unwrap(), &image);
        assert_eq!(root.read("f").unwrap(), "new");
        assert_eq!(root.read("d/new").unwrap(), "n");
        assert!(root.read("d/old").is_none());
    }
}

#[test]
fn the_same_layer_twice_is_stacked_once() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (one, two) = (Tar::new().file("f", "one").done(), Tar::new().file("f", "two").done());
    let empty = Tar::new().done();
    let image = pull(&store, "a", &[one.clone(), empty.clone(), two, empty, one]).unwrap();
    let (_, root) = container(&store, 1, &image);
    assert_eq!(root.read("f").unwrap(), "one");
    assert_eq!(image.layers.len(), 5);
    assert_eq!(store.history(&image).len(), 5);
}

#[test]
fn the_topmost_listed_root_counts() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let low = Tar::new().dir("./", 0o711).file("a", "a").done();
    let image = pull(&store, "a", &[low, Tar::new().file("b", "b").done()]).unwrap();
    let (_, root) = container(&store, 1, &image);
    assert_eq!(fs::metadata(root.path()).unwrap().mode() & 0o7777, 0o711);
}

#[test]
fn files_become_directories_and_back() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let low = Tar::new().file("x", "file").dir("y/", 0o755).file("y/in", "in").done();
    let high = Tar::new().dir("x/", 0o755).file("x/in", "now").file("y", "file").done();
    let image = pull(&store, "a", &[low, high]).unwrap();
    let (_, root) = container(&store, 1, &image);
    assert_eq!(root.read("x/in").unwrap(), "now");
    assert_eq!(root.read("y").unwrap(), "file");
    // Within one layer the last entry counts.
    let both = Tar::new().dir("z/", 0o755).file("z/in", "").file("z", "file").file("z", "last").done();
    let image = pull(&store, "b", &[both]).unwrap();
    let (_, root) = container(&store, 2, &image);
    assert_eq!(root.read("z").unwrap(), "last");
}

#[test]
fn a_whiteout_in_a_layer_that_occurs_twice_still_hides() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let low = Tar::new().file("w", "w").file("x", "x").done();
    let hides = Tar::new().file(".wh.w", "").done();
    let image = pull(&store, "a", &[low, hides.clone(), hides]).unwrap();
    let (_, root) = container(&store, 1, &image);
    assert!(root.read("w").is_none() && root.read("x").is_some());
}

#[test]
fn whiteouts_below_a_hidden_directory_are_hidden_with_it() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let low = Tar::new().dir("d/", 0o755).file("d/x", "x").dir("e/", 0o755).file("e/x", "x").done();
    let high =
        Tar::new().file(".wh.d", "").file("d/.wh.x", "").file(".wh.e", "").file("e/.wh..wh..opq", "").done();
    let image = pull(&store, "a", &[low, high]).unwrap();
    let (_, root) = container(&store, 1, &image);
    assert_eq!(
        fs::read_dir(root.path())
            .unwrap()
            .filter(|e| {
                let name = e.as_ref().unwrap().file_name();
                name == "d" || name == "e"
            })
            .count(),
        0
    );
}

#[test]
fn ordinary_stacks_share_their_layers_at_every_place() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let base = Tar::new()
        .dir("etc/", 0o755)
        .file("etc/passwd", "root")
        .dir("tmp/", 0o1777)
        .dir("usr/", 0o755)
        .dir("usr/bin/", 0o755)
        .symlink("bin", "usr/bin")
        .done();
    // As archivers of overlay file systems write them: parents are listed, whiteouts stand in directories that are merged.
    let packages = Tar::new()
        .dir("etc/", 0o755)
        .file("etc/.wh.passwd", "")
        .file("etc/.wh.nothing", "")
        .dir("usr/", 0o755)
        .dir("usr/bin/", 0o755)
        .file("usr/bin/tool", "#!")
        .dir("usr/share/", 0o755)
        .file("usr/share/.wh..wh..opq", "")
        .file(".wh.gone", "")
        .done();
    let app = Tar::new().dir("app/", 0o755).file("app/main", "m").hard_link("app/again", "app/main").done();
    for (n, tars) in
        [vec![base.clone(), packages.clone(), app.clone()], vec![base, app, packages]].iter().enumerate()
    {
        let image = pull(&store, &format!("a:{n}"), tars).unwrap();
        for layer in &image.layers {
            assert_eq!(layer.key, layer.diff_id.hex());
        }
    }
    assert_eq!(layers_on_disk(dir.path()), 3);
}

#[test]
fn a_layer_finds_its_place_although_blobs_are_discarded() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let options = Options { discard_blobs: true, ..Options::default() };
    let store = Store::open(&dir.path().join("store"), options).unwrap();
    let depends = Tar::new().file("lib/x", "x").done();
    let plain = Tar::new().dir("usr/", 0o755).dir("usr/lib/", 0o700).symlink("lib", "usr/lib").done();
    pull(&store, "alone", std::slice::from_ref(&depends)).unwrap();
    let image = pull(&store, "b", &[plain.clone(), depends.clone()]).unwrap();
    let (_, root) = container(&store, 1, &image);
    assert_eq!(root.read("usr/lib/x").unwrap(), "x");
    // Only what may be needed again was kept.
    let has = |tar: &[u8]| dir.path().join("store/blobs/sha256").join(layer_of(tar).1.digest.hex()).exists();
    assert!(has(&depends) && !has(&plain));
    // Where it was lost, the layer counts as missing, and is fetched again.
    fs::remove_file(dir.path().join("store/blobs/sha256").join(layer_of(&depends).1.digest.hex())).unwrap();
    drop((root, image, store));
    let store = open(dir.path());
    let lease = store.lease("test").unwrap();
    let diff_id = |tar: &[u8]| layer_of(tar).2;
    assert!(!store.has_layer(&lease, &diff_id(&depends)) && store.has_layer(&lease, &diff_id(&plain)));
    let other = Tar::new().dir("lib/", 0o711).done();
    let image = pull(&store, "c", &[other, depends]).unwrap();
    let (_, root) = container(&store, 2, &image);
    assert_eq!(fs::metadata(root.path().join("lib")).unwrap().mode() & 0o7777, 0o711);
}

#[test]
fn an_entry_that_cannot_be_at_its_place_is_named() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let low = Tar::new().file("file", "").done();
    for high in [Tar::new().file("file/x", "").done(), Tar::new().hard_link("y", "file/x").done()] {
        let error = pull(&store, "a", &[low.clone(), high]).unwrap_err().to_string();
        assert!(error.contains("\"file") && error.contains("no directory"), "{error}");
    }
    assert!(store.resolve("a").is_err());
}

/// Text that compresses to about half of it.
fn noise(seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        format!("{state:016x}")
    };
    (0..8192).map(|_| next()).collect()
}

#[test]
fn a_variant_ends_with_the_operation_that_it_is_made_for() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let low = Tar::new().dir("lib/", 0o711).done();
    let high = (0..64).fold(Tar::new(), |tar, n| tar.file(&format!("lib/{n}"), &noise(n))).done();
    pull(&store, "low", std::slice::from_ref(&low)).unwrap();
    pull(&store, "high", std::slice::from_ref(&high)).unwrap();
    // The layer's blob comes through a pipe, and in the middle of it nobody waits any more.
    let (bytes, blob, _) = layer_of(&high);
    let path = dir.path().join("store/blobs/sha256").join(blob.digest.hex());
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let lease = store.lease("test").unwrap();
    let (made, written) = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut pipe = fs::OpenOptions::new().write(true).open(&path)?;
            pipe.write_all(&bytes[..bytes.len() / 2])?;
            lease.end();
            pipe.write_all(&bytes[bytes.len() / 2..])
        });
        let made = pull_for(&store, &lease, "both", &[low.clone(), high.clone()]);
        // Where nothing has read from it the writer waits still.
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        drop(fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(&path));
        (made, writing.join().unwrap())
    });
    let error = made.unwrap_err().to_string();
    assert!(error.contains("given up") && error.contains("entry \"lib/"), "{error}");
    assert_eq!(written.unwrap_err().kind(), ErrorKind::BrokenPipe, "it was not read to its end");
    assert!(store.resolve("both").is_err());
    assert_eq!(layers_on_disk(dir.path()), 2);
    assert_tidy(dir.path());
    // Nor is an image made for it where all layers are there.
    fs::remove_file(&path).unwrap();
    fs::write(&path, &bytes).unwrap();
    assert!(pull_for(&store, &lease, "low-again", std::slice::from_ref(&low)).is_err());
    assert!(store.resolve("low-again").is_err());
    pull(&store, "both", &[low, high]).unwrap();
    assert_eq!(layers_on_disk(dir.path()), 3);
}
