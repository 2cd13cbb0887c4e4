//! Containers are made of images that others pull, name, remove and collect at the same time. Each is whole, or is refused
//! because its image is gone.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Tar, assert_tidy, mount, privileged, pull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use strata_store::{Image, Kind, Options, Store};

const ROUNDS: usize = 10_000;
const IMAGES: usize = 6;
/// One container in so many is mounted and read through the overlay, the others through their layers.
const MOUNTED: usize = 20;

/// Layers that the images share in part, so that what one leaves another keeps.
fn layers(n: usize) -> Vec<Vec<u8>> {
    let layer = |n: usize| Tar::new().dir("d/", 0o750).file(&format!("d/{n}"), &n.to_string()).done();
    // The topmost does not list its directory: on top of the others it becomes a variant.
    let top = Tar::new().file(&format!("d/top{n}"), "top").done();
    vec![layer(n % 2), layer(10 + n % 3), top]
}

fn files(n: usize) -> Vec<(String, String)> {
    let number = |n: usize| (format!("d/{n}"), n.to_string());
    vec![number(n % 2), number(10 + n % 3), (format!("d/top{n}"), "top".into())]
}

/// In memory: what is raced for is the order of renames, not the disk's speed.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

struct Race {
    store: Arc<Store>,
    next: AtomicUsize,
    made: AtomicUsize,
    refused: AtomicUsize,
    done: AtomicBool,
}

impl Race {
    /// One round: a container of an image that may be going at this moment.
    fn make(&self, round: usize) {
        let (n, image) = self.one_that_is_here(round);
        let id = format!("{round:064x}");
        let lease = self.store.lease("creation").unwrap();
        let made = self.store.hold_image(&lease, &image).and_then(|()| {
            // As the daemon reads the image's users: nothing of it may go while it is held.
            if round.is_multiple_of(MOUNTED) {
                let view = self.store.image_view(&image)?;
                let (path, text) = files(n).swap_remove(2);
                assert_eq!(view.root().read_to_string(&path, 100).unwrap(), text, "a held image is whole");
            }
            self.store.create_snapshot(&lease, &id, &image)
        });
        drop(lease);
        match made {
            Ok(snapshot) => {
                self.whole(round, n, &id, &snapshot);
                self.store.remove_container(&id).unwrap();
                self.made.fetch_add(1, Ordering::Relaxed);
            }
            Err(e) => {
                assert_eq!(e.kind(), Kind::NotFound, "round {round}: {e}");
                assert!(!self.store.has_container(&id), "a refused container leaves nothing");
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// An image that is here now, and perhaps not any more when it is needed.
    fn one_that_is_here(&self, round: usize) -> (usize, Arc<Image>) {
        for n in (round..).map(|n| n % IMAGES) {
            match self.store.resolve(&format!("image:{n}")) {
                Ok(image) => return (n, image),
                Err(e) => assert_eq!(e.kind(), Kind::NotFound, "{e}"),
            }
            std::thread::yield_now();
        }
        unreachable!("the range has no end")
    }

    fn whole(&self, round: usize, n: usize, id: &str, snapshot: &strata_store::Snapshot) {
        for lower in &snapshot.lowers {
            assert!(lower.is_dir(), "round {round}: {} is gone", lower.display());
        }
        for (path, text) in files(n) {
            let found = snapshot.lowers.iter().find_map(|l| std::fs::read_to_string(l.join(&path)).ok());
            assert_eq!(found.as_ref(), Some(&text), "round {round}: {path} through the layers");
        }
        if round.is_multiple_of(MOUNTED) {
            let root = mount(&self.store, id);
            for (path, text) in files(n) {
                assert_eq!(root.read(&path), Some(text), "round {round}: {path} through the overlay");
            }
        }
    }

    fn pull(&self, n: usize) {
        match pull(&self.store, &format!("image:{n}"), &layers(n)) {
            Ok(image) => assert_eq!(image.layers.len(), 3),
            Err(e) => panic!("a pull holds what it needs: {e}"),
        }
    }

    fn remove(&self, n: usize) {
        let Ok(image) = self.store.resolve(&format!("image:{n}")) else { return };
        match self.store.remove_image(&image.id, None, false, |_| String::new()) {
            Ok(removed) => assert_eq!(removed.deleted[0], image.id.to_string()),
            Err(e) => assert!(matches!(e.kind(), Kind::NotFound | Kind::InUse), "{e}"),
        }
    }

    fn until_done(&self, mut work: impl FnMut(usize)) {
        let mut n = 0;
        while !self.done.load(Ordering::Acquire) {
            work(n);
            n += 1;
        }
    }
}

#[test]
fn removal_races_with_creation() {
    if !privileged() {
        return;
    }
    let dir = directory();
    let race = Race {
        store: Store::open(&dir.path().join("store"), Options::default()).unwrap(),
        next: AtomicUsize::new(0),
        made: AtomicUsize::new(0),
        refused: AtomicUsize::new(0),
        done: AtomicBool::new(false),
    };
    (0..IMAGES).for_each(|n| race.pull(n));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            race.until_done(|n| {
                race.pull(n % IMAGES);
                std::thread::sleep(Duration::from_micros(300));
            });
        });
        scope.spawn(|| {
            race.until_done(|n| {
                race.remove(n * 5 % IMAGES);
                // Names that come and go are no reason for an image to.
                if let Ok(image) = race.store.resolve(&format!("image:{}", n % IMAGES)) {
                    let other = "other:1".parse().unwrap();
                    match race.store.tag(&image.id, &other) {
                        Ok(()) => {}
                        Err(e) => assert_eq!(e.kind(), Kind::NotFound, "{e}"),
                    }
                }
                std::thread::sleep(Duration::from_micros(500));
            });
        });
        scope.spawn(|| {
            race.until_done(|_| {
                race.store.gc(false).unwrap();
                let usage = race.store.usage();
                assert!(usage.reclaimable <= usage.image_bytes);
                std::thread::sleep(Duration::from_micros(300));
            });
        });
        let makers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while let round @ 0..ROUNDS = race.next.fetch_add(1, Ordering::Relaxed) {
                        race.make(round);
                    }
                })
            })
            .collect();
        let failed = makers.into_iter().map(std::thread::ScopedJoinHandle::join).find(Result::is_err);
        race.done.store(true, Ordering::Release);
        if let Some(Err(panic)) = failed {
            std::panic::resume_unwind(panic);
        }
    });
    let (made, refused) = (race.made.load(Ordering::Relaxed), race.refused.load(Ordering::Relaxed));
    assert_eq!(made + refused, ROUNDS);
    // Both sides of the race have been seen.
    println!("{made} made, {refused} refused");
    assert!(made > ROUNDS / 20 && refused > 0, "{made} made, {refused} refused");
    after(&race.store, dir.path());
}

/// Nothing is left but what the names that are left need.
fn after(store: &Store, dir: &std::path::Path) {
    for image in store.images() {
        store.remove_image(&image.id, None, false, |_| String::new()).unwrap();
    }
    assert_eq!(store.gc(true).unwrap(), strata_store::GcReport::default());
    assert_tidy(dir);
    assert_eq!(std::fs::read_dir(dir.join("store/layers")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(dir.join("store/blobs/sha256")).unwrap().count(), 0);
    assert_eq!(store.usage().image_bytes, 0);
}
