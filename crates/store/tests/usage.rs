//! What the store says it takes up is what the file system has lost to it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use common::{Tar, assert_tidy, container, open, private_mounts, privileged, pull};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strata_store::{CommitOptions, Image, Store, Usage};

/// A file system of its own, in a file. The mount goes with the test's thread, whatever becomes of it.
struct Disk(PathBuf);

impl Disk {
    /// `None` where this machine cannot mount one.
    fn new(dir: &Path) -> Option<Self> {
        private_mounts();
        let (file, at) = (dir.join("disk"), dir.join("mounted"));
        fs::File::create(&file).unwrap().set_len(512 << 20).unwrap();
        fs::create_dir(&at).unwrap();
        let run = |program: &str, args: &[&str]| {
            let done = Command::new(program).args(args).args([&file]).output();
            done.is_ok_and(|o| o.status.success())
        };
        let mount = |at: &Path| {
            let mut mount = Command::new("mount");
            mount.args(["-o", "loop"]).arg(&file).arg(at).output().is_ok_and(|o| o.status.success())
        };
        if run("mkfs.ext4", &["-q", "-m", "0", "-E", "lazy_itable_init=0"]) && mount(&at) {
            return Some(Self(at));
        }
        println!("skipped: no loop device can be mounted here");
        None
    }

    /// Bytes that are not free, once everything has been written.
    fn used(&self) -> u64 {
        let dir = fs::File::open(&self.0).unwrap();
        rustix::fs::syncfs(&dir).unwrap();
        let s = rustix::fs::fstatvfs(&dir).unwrap();
        (s.f_blocks - s.f_bfree) * s.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Text that does not compress to nothing.
fn noise(seed: u64, bytes: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let letter = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'a' + u8::try_from(state % 26).unwrap())
    };
    (0..bytes).map(letter).collect()
}

fn small_files() -> Vec<u8> {
    let mut tar = Tar::new().dir("many/", 0o750);
    for n in 0..1500 {
        tar = tar.file(&format!("many/a-name-that-fills-directories-{n:05}"), &noise(n, 100));
    }
    tar.done()
}

fn big_files() -> Vec<u8> {
    let tar = Tar::new().dir("big/", 0o755).file("big/noise", &noise(7, 5 << 20));
    // It compresses to nothing, but takes up blocks unless holes are made.
    let tar = tar.file("big/zeros", &"\0".repeat(2 << 20)).hard_link("big/again", "big/noise");
    tar.symlink("big/short", "noise").symlink("big/long", &"../".repeat(30)).done()
}

/// On top of something that has `many`, its directory is not listed: a variant.
fn position() -> Vec<u8> {
    Tar::new().file("many/more", &noise(8, 1 << 20)).done()
}

fn assert_close(said: u64, lost: u64, what: &str) {
    let difference = said.abs_diff(lost);
    assert!(difference * 100 <= lost, "{what}: {said} are said, {lost} are lost: {difference} apart");
}

fn measured(store: &Store, ids: &[String]) -> Usage {
    store.measure_writable(ids, Duration::from_secs(60));
    store.usage()
}

/// Every row is in a total, and every total is of its rows.
fn assert_adds_up(usage: &Usage) {
    let parts = || usage.layers.iter().chain(&usage.blobs);
    assert_eq!(parts().map(|p| p.disk).sum::<u64>() + usage.name_bytes, usage.image_bytes);
    let containers = usage.containers.iter().map(|c| c.writable.unwrap().disk);
    assert_eq!(containers.sum::<u64>(), usage.container_bytes);
    // What images share, counted once, what only one of them has, and what none has any more.
    let shared = parts().filter(|p| p.images.len() > 1).map(|p| p.disk).sum::<u64>();
    let nobodys = parts().filter(|p| p.images.is_empty()).map(|p| p.disk).sum::<u64>();
    let unique = usage.images.iter().map(|i| i.unique).sum::<u64>();
    assert_eq!(shared + unique + nobodys, usage.image_bytes);
    for image in &usage.images {
        let own = parts().filter(|p| p.images.len() > 1 && p.images.contains(&image.image.id));
        assert_eq!(own.map(|p| p.disk).sum::<u64>(), image.shared);
    }
}

fn images(store: &Store) -> Vec<Arc<Image>> {
    vec![
        pull(store, "base:1", &[small_files()]).unwrap(),
        pull(store, "both:1", &[small_files(), big_files()]).unwrap(),
        pull(store, "variant:1", &[small_files(), position()]).unwrap(),
    ]
}

fn write_data(root: &Path) {
    fs::write(root.join("data"), noise(9, 3 << 20)).unwrap();
    fs::create_dir(root.join("dir")).unwrap();
    for n in 0..300 {
        fs::write(root.join(format!("dir/{n}")), noise(n, 10)).unwrap();
    }
    fs::hard_link(root.join("data"), root.join("dir/again")).unwrap();
    fs::write(root.join("many/changed"), "x").unwrap();
}

#[test]
fn the_sum_is_what_the_file_system_has_lost() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(dir.path()) else { return };
    let store = open(&disk.0);
    let before = disk.used();
    let images = images(&store);
    assert_ne!(images[2].layers[1].key, images[2].layers[1].diff_id.hex(), "it is a variant");
    let pulled = measured(&store, &[]);
    assert_adds_up(&pulled);
    assert_close(pulled.image_bytes, disk.used() - before, "three images");
    assert_eq!(pulled.reclaimable, pulled.image_bytes, "nobody uses them");

    let made: Vec<_> = [(1, &images[1]), (2, &images[2])].map(|(n, i)| container(&store, n, i)).into();
    write_data(&made[0].1.path());
    write_data(&made[1].1.path());
    fs::File::create(made[1].1.path().join("sparse")).unwrap().set_len(1 << 30).unwrap();
    let ids: Vec<String> = made.iter().map(|(id, _)| id.clone()).collect();
    drop(made);
    let committed = store.commit(&ids[0], &CommitOptions::default()).unwrap();
    let used = measured(&store, &ids);
    assert_adds_up(&used);
    assert_close(used.image_bytes + used.container_bytes, disk.used() - before, "images and containers");
    let size = used.containers.iter().find(|c| c.id == ids[1]).unwrap().writable.unwrap();
    assert_eq!(size.size, (3 << 20) + (1 << 30) + 300 * 10 + 1, "as ls adds it up");
    assert!(size.layer_disk < 10 << 20 && size.disk > size.layer_disk);

    // Used are `both` and `variant`, with the layer that the variant was made from; `base` is a part of both.
    let of = |id| used.images.iter().find(|u| u.image.id == id).unwrap();
    let idle = of(images[0].id.clone()).unique + of(committed.id.clone()).unique;
    assert_eq!(used.reclaimable, idle);

    // Opened again, everything is as it was.
    drop(store);
    let store = open(&disk.0);
    let again = measured(&store, &ids);
    assert_adds_up(&again);
    assert_eq!((again.image_bytes, again.reclaimable), (used.image_bytes, used.reclaimable));
    assert_eq!(again.image_inodes, used.image_inodes);

    // What unique promised is what removing frees.
    let (had, unique) = (disk.used(), of(committed.id.clone()).unique);
    let removed = store.remove_image(&committed.id, None, false, |_| String::new()).unwrap();
    assert_eq!(removed.bytes, unique);
    assert_tidy(&disk.0);
    assert_close(unique, had - disk.used(), "a removed image");
    ids.iter().for_each(|id| store.remove_container(id).unwrap());
    for image in images {
        store.remove_image(&image.id, None, false, |_| String::new()).unwrap();
    }
    assert_tidy(&disk.0);
    let rest = store.usage();
    assert_eq!((rest.image_bytes, rest.image_inodes, rest.container_bytes, rest.trash_bytes), (0, 0, 0, 0));
    // Directories do not shrink.
    assert!(disk.used() - before < 200_000, "{} are left", disk.used() - before);
}

#[test]
fn the_base_of_a_variant_is_its_images() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let below = Tar::new().dir("d/", 0o750).file("d/low", "low").done();
    let image = pull(&store, "variant", &[below.clone(), position_in_d()]).unwrap();
    let usage = store.usage();
    assert_adds_up(&usage);
    assert_eq!(usage.layers.len(), 3, "the variant beside what it was made from");
    assert!(usage.layers.iter().all(|l| l.images == [image.id.clone()]));
    assert_eq!(usage.images[0].unique, usage.image_bytes);
    assert_eq!(store.image_disk(&image.id), usage.image_bytes);
    let (id, root) = container(&store, 1, &image);
    assert_eq!(store.usage().reclaimable, 0, "all of it is needed");
    drop(root);
    store.remove_container(&id).unwrap();
    assert_eq!(store.usage().reclaimable, usage.image_bytes);
    // What another image has too is shared, the base included.
    let other = pull(&store, "alone", &[position_in_d()]).unwrap();
    let usage = store.usage();
    assert_adds_up(&usage);
    let base: BTreeSet<_> = usage
        .layers
        .iter()
        .find(|l| l.name == other.layers[0].diff_id.to_string())
        .unwrap()
        .images
        .iter()
        .collect();
    assert_eq!(base, [&image.id, &other.id].into());
}

fn position_in_d() -> Vec<u8> {
    Tar::new().file("d/high", "high").done()
}

#[test]
fn containers_are_measured_without_being_asked() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let image = pull(&store, "base", &[position_in_d()]).unwrap();
    let (id, root) = container(&store, 1, &image);
    let begun = jiff::Timestamp::now().as_nanosecond();
    let until = Instant::now() + Duration::from_secs(60);
    let first = loop {
        if let Some(first) = store.writable(&id) {
            break first;
        }
        assert!(Instant::now() < until, "it is not measured in the background");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(i128::from(first.measured_at) >= begun && first.layer_inodes == 1);
    fs::write(root.path().join("new"), noise(1, 100_000)).unwrap();
    store.measure_writable(std::slice::from_ref(&id), Duration::from_secs(60));
    let second = store.writable(&id).unwrap();
    assert!(second.size == 100_000 && second.measured_at > first.measured_at, "{second:?}");
    assert!(second.layer_disk >= 100_000 && second.layer_inodes == 2);
    drop(root);
    store.remove_container(&id).unwrap();
    assert_eq!(store.writable(&id), None);
}
