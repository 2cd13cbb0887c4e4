//! A process that pulls, commits, tags and removes is killed at random moments; whoever opens the store next finds every listed
//! image whole and nothing else.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Tar, assert_tidy, mount, open, privileged, pull};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use strata_store::{CommitOptions, Store};

/// Where the killed process works; set only for it.
const DIRECTORY: &str = "STRATA_CRASH_TEST_DIRECTORY";

/// What layer `n` has: as many bytes as its content says.
fn layer(n: u32) -> Vec<u8> {
    let text = format!("{n} ").repeat(20_000);
    Tar::new().dir("d/", 0o755).file(&format!("d/f{n}"), &text).file("same", &n.to_string()).done()
}

fn work(dir: &Path) {
    let store = open(dir);
    for n in 0..u32::MAX {
        let name = format!("image:{}", n % 5);
        let image = pull(&store, &name, &[layer(n % 3), layer(n % 7)]).unwrap();
        let id = format!("{n:064x}");
        let lease = store.lease("crash test").unwrap();
        store.create_snapshot(&lease, &id, &image).unwrap();
        store.put_container(&id, b"{}").unwrap();
        drop(lease);
        let root = mount(&store, &id);
        std::fs::write(root.path().join("mine"), n.to_string()).unwrap();
        drop(root);
        let name = Some(format!("mine:{}", n % 3).parse().unwrap());
        let committed = store.commit(&id, &CommitOptions { name, ..CommitOptions::default() }).unwrap();
        store.remove_container(&id).unwrap();
        if n % 2 == 0 {
            store.remove_image(&committed.id, None, false, |_| String::new()).unwrap();
        }
    }
}

#[test]
fn the_process_that_is_killed() {
    if let Some(dir) = std::env::var_os(DIRECTORY) {
        work(&PathBuf::from(dir));
    }
}

#[test]
fn what_is_listed_is_whole() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut seen, mut slow) = (0, 1);
    for round in 0..25 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_process_that_is_killed", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Spread over start-up and several turns of the loop.
        std::thread::sleep(Duration::from_millis(20 + round * 13 % 170) * slow);
        child.kill().unwrap();
        child.wait().unwrap();
        seen += check(dir.path());
        // A slow machine does not get as far in this time.
        if seen == 0 && round % 4 == 3 {
            slow *= 2;
        }
    }
    assert!(seen > 0, "no round came as far as an image");
}

/// Opens the store and looks at everything in it; the number of images.
fn check(dir: &Path) -> usize {
    let store = open(dir);
    for (id, _) in store.containers() {
        store.remove_container(&id).unwrap();
    }
    let images = store.images();
    for (n, image) in images.iter().enumerate() {
        look_at(&store, u32::try_from(n).unwrap(), image);
    }
    let needed: HashSet<&String> = images.iter().flat_map(|i| i.layers.iter().map(|l| &l.key)).collect();
    let stored = std::fs::read_dir(dir.join("store/layers")).unwrap();
    for name in stored.map(|e| e.unwrap().file_name().into_string().unwrap()) {
        assert!(needed.contains(&name), "layer {name} is in no image");
    }
    assert_tidy(dir);
    images.len()
}

fn look_at(store: &Store, n: u32, image: &strata_store::Image) {
    let id = format!("{:064x}", u64::from(n) + (1 << 40));
    let lease = store.lease("check").unwrap();
    store.create_snapshot(&lease, &id, image).unwrap();
    store.put_container(&id, b"{}").unwrap();
    let root = mount(store, &id);
    let top: u32 = root.read("same").unwrap().parse().unwrap();
    assert_eq!(root.read(&format!("d/f{top}")).unwrap(), format!("{top} ").repeat(20_000));
    if image.repo_tags.iter().any(|t| t.contains("/mine:")) {
        assert!(root.read("mine").is_some());
    }
    for layer in &image.layers {
        store.read_blob(&layer.blob.digest, 1 << 20).unwrap();
    }
    drop(root);
    store.remove_container(&id).unwrap();
}
