//! What the workers do: for each operation of the store what must be there before, and the operation itself.

use crate::archives;
use crate::check;
use crate::common::{self, Tar};
use crate::repairs;
use crate::watch::{be_watched, mark};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata_oci::Reference;
use strata_store::{ArchiveFormat, CommitOptions, Image, LayerSource, Options, RecordKind, Result, Store};

const DIRECTORY: &str = "STRATA_FAULTS_DIRECTORY";
const SCENE: &str = "STRATA_FAULTS_SCENE";
const AFTER: &str = "STRATA_FAULTS_AFTER";

/// What a worker does after the operation in which a step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It collects garbage, and ends.
    Collect,
    /// It does the same again, and then that.
    Again,
}

/// An operation of the store.
pub struct Scene {
    pub name: &'static str,
    pub options: fn() -> Options,
    /// What is done before, undisturbed.
    pub before: fn(&Store),
    /// The operation; doing it again, whether it failed or not, is no error.
    pub act: fn(&Store) -> Result<()>,
    /// Whether something is damaged until it has succeeded.
    pub repairs: bool,
    /// Whether [`CONTAINER`] runs all the while, mounted by somebody who is neither failed nor killed.
    pub running: bool,
    /// Whether two do it at once: what one of them is told says nothing of the other's.
    pub two: bool,
    /// Names that are listed whatever becomes of it.
    pub stay: &'static [&'static str],
}

const POD: &str = "11111111111111111111111111111111111111111111111111111111111111aa";
pub const CONTAINER: &str = "22222222222222222222222222222222222222222222222222222222222222bb";

/// One image, of which nothing is wanted.
const PLAIN: Scene = Scene {
    name: "",
    options: Options::default,
    before: |store| drop(pull_below(store)),
    act: |_| Ok(()),
    repairs: false,
    running: false,
    two: false,
    stay: &["below:1"],
};

pub const SCENES: &[Scene] = &[
    Scene { name: "open", before: |_| {}, stay: &[], ..PLAIN },
    Scene { name: "pull", act: |store| pull_app(store).map(drop), ..PLAIN },
    Scene {
        name: "pull without blobs",
        options: discarding,
        before: |_| {},
        act: |store| pull_app(store).map(drop),
        stay: &[],
        ..PLAIN
    },
    Scene {
        name: "pull of a name that moves",
        act: |store| common::pull(store, "below:1", &[base(), top()]).map(drop),
        ..PLAIN
    },
    Scene { name: "commit", before: changed_container, act: commit, ..PLAIN },
    Scene { name: "tag", before: two_images, act: tag, stay: &["below:1", "app:1"], ..PLAIN },
    Scene { name: "remove", before: two_images, act: remove, ..PLAIN },
    Scene { name: "collect", before: litter, act: collect, ..PLAIN },
    Scene { name: "load", before: archive, act: load, ..PLAIN },
    Scene { name: "repair", before: repairs::damage, act: repairs::repair, repairs: true, ..PLAIN },
    Scene {
        name: "repair under a container",
        before: repairs::damage_under_a_container,
        act: repairs::repair,
        repairs: true,
        running: true,
        stay: &["below:1", "app:1"],
        ..PLAIN
    },
    Scene {
        name: "repair from a registry",
        before: repairs::damage_everything,
        act: repairs::repair_from_a_registry,
        repairs: true,
        running: true,
        // Damaged documents keep images from being listed.
        stay: &[],
        ..PLAIN
    },
    Scene {
        name: "restore",
        before: repairs::damage_blobs,
        act: repairs::restore,
        repairs: true,
        stay: &["below:1", "app:1"],
        ..PLAIN
    },
    Scene { name: "container", act: container, ..PLAIN },
];

#[allow(clippy::needless_update)]
fn discarding() -> Options {
    Options { discard_blobs: true, ..Options::default() }
}

/// A little of everything, again and again, by one and by two: for cutting the power.
const CHURN: Scene = Scene { name: "churn", before: |_| {}, act: crate::churn::churn, stay: &[], ..PLAIN };
const CHURN_OF_TWO: Scene =
    Scene { name: "churn of two", act: crate::churn::churn_of_two, two: true, ..CHURN };

pub fn all() -> impl Iterator<Item = &'static Scene> {
    SCENES.iter().chain([&CHURN, &CHURN_OF_TWO])
}

pub fn scene(name: &str) -> &'static Scene {
    all().find(|s| s.name == name).unwrap()
}

/// The environment of a worker.
pub fn variables(scene: &Scene, dir: &Path, after: After) -> Vec<(&'static str, String)> {
    vec![
        (DIRECTORY, dir.to_str().unwrap().to_owned()),
        (SCENE, scene.name.to_owned()),
        (AFTER, format!("{after:?}")),
    ]
}

/// In the worker.
pub fn work_if_asked() {
    let Some(dir) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let scene = scene(&std::env::var(SCENE).unwrap());
    be_watched();
    let opening = scene.name == "open";
    if opening {
        mark("begin");
    }
    let store = match Store::open(&dir.join("store"), (scene.options)()) {
        Ok(store) => store,
        Err(e) if opening => {
            mark("end");
            eprintln!("open failed: {e}");
            Store::open(&dir.join("store"), (scene.options)()).unwrap()
        }
        Err(e) => panic!("{e}"),
    };
    (scene.before)(&store);
    if !opening {
        mark("begin");
    }
    let done = (scene.act)(&store);
    check::wait_for_trash(&dir);
    mark("end");
    eprintln!("{}: {done:?}", scene.name);
    let again = std::env::var(AFTER).unwrap() == format!("{:?}", After::Again);
    if again {
        (scene.act)(&store).unwrap();
    }
    check::settled(&store, &dir, scene, again || done.is_ok());
}

pub fn pull_below(store: &Store) -> Arc<Image> {
    common::pull(store, "below:1", &[base()]).unwrap()
}

pub fn pull_app(store: &Store) -> Result<Arc<Image>> {
    common::pull(store, "app:1", &[base(), top()])
}

pub fn two_images(store: &Store) {
    pull_below(store);
    pull_app(store).unwrap();
}

/// A layer with some of everything, and a list of what is in it.
pub fn base() -> Vec<u8> {
    let big = "0123456789abcdef".repeat(20_000);
    let files = [("usr/lib/big", big.as_str()), ("usr/lib/small", "small"), ("tmp/t", "t")];
    let mut tar =
        Tar::new().dir("usr/", 0o711).dir("usr/lib/", 0o750).dir("tmp/", 0o1777).dir("sums/", 0o755);
    for (path, text) in files {
        tar = tar.file(path, text);
    }
    let tar = tar.symlink("lib", "usr/lib").hard_link("usr/linked", "usr/lib/small").file("gone", "gone");
    tar.file("sums/base", &check::sums(&files)).done()
}

/// One that is not the same on top of the other as alone.
pub fn top() -> Vec<u8> {
    let files = [("usr/lib/top", "top"), ("tmp/x/y", "y")];
    let mut tar = Tar::new();
    for (path, text) in files {
        tar = tar.file(path, text);
    }
    // What is hidden, and what was never there.
    tar.file(".wh.gone", "").file("tmp/.wh.ghost", "").file("sums/top", &check::sums(&files)).done()
}

fn changed_container(store: &Store) {
    let image = pull_below(store);
    let lease = store.lease("before").unwrap();
    let snapshot = store.create_snapshot(&lease, CONTAINER, &image).unwrap();
    store.put_container(CONTAINER, b"{}").unwrap();
    let files = [("mine", "mine"), ("dir/too", "this too")];
    std::fs::create_dir(snapshot.upper.join("dir")).unwrap();
    std::fs::create_dir(snapshot.upper.join("sums")).unwrap();
    for (path, text) in files {
        std::fs::write(snapshot.upper.join(path), text).unwrap();
    }
    std::fs::write(snapshot.upper.join("sums/mine"), check::sums(&files)).unwrap();
}

fn commit(store: &Store) -> Result<()> {
    let name = Some(Reference::parse("mine:1").unwrap());
    store.commit(CONTAINER, &CommitOptions { name, ..CommitOptions::default() }).map(drop)
}

/// A new name, one that moves and leaves its image with another, and one that moves and was the last.
fn tag(store: &Store) -> Result<()> {
    let name = |name: &str| Reference::parse(name).unwrap();
    let (below, app) = (store.resolve("below:1")?.id.clone(), store.resolve("app:1")?.id.clone());
    store.tag(&below, &name("other:1"))?;
    store.tag(&app, &name("other:1"))?;
    if below != app {
        store.tag(&below, &name("app:1"))?;
        let app = store.resolve("other:1")?.id.clone();
        store.tag(&app, &name("app:1"))?;
    }
    Ok(())
}

fn remove(store: &Store) -> Result<()> {
    let Ok(image) = store.resolve("app:1") else { return store.gc(false).map(drop) };
    store.remove_image(&image.id, None, false, |_| String::new()).map(drop)
}

/// Layers and blobs that nothing needs, and a temporary file's like.
fn litter(store: &Store) {
    pull_below(store);
    let lease = store.lease("before").unwrap();
    let (blob, descriptor, diff_id) = common::layer_of(&top());
    let source = LayerSource { blob: &descriptor, diff_id: &diff_id };
    store.ingest_layer(&lease, source, &mut blob.as_slice(), &|_| {}).unwrap();
    store.put_blob(&lease, b"litter").unwrap();
}

fn collect(store: &Store) -> Result<()> {
    store.gc(false).map(drop)
}

fn archive_of(store: &Store) -> PathBuf {
    store.root().with_file_name("archive.tar")
}

fn archive(store: &Store) {
    pull_below(store);
    let image = pull_app(store).unwrap();
    let bytes = archives::save(store, &["app:1"], ArchiveFormat::Oci);
    std::fs::write(archive_of(store), bytes).unwrap();
    store.remove_image(&image.id, None, false, |_| String::new()).unwrap();
}

fn load(store: &Store) -> Result<()> {
    archives::load(store, &std::fs::read(archive_of(store)).unwrap()).map(drop)
}

/// A pod and its container, from the first record to the last.
fn container(store: &Store) -> Result<()> {
    // What an earlier attempt could not remove.
    store.remove_container(CONTAINER)?;
    let made = make_container(store);
    // What a daemon does, whether it succeeded or not.
    let gone = store.remove_container(CONTAINER);
    let pod = store.remove_pod(POD);
    made.and(gone).and(pod)
}

fn make_container(store: &Store) -> Result<()> {
    store.put_record(RecordKind::Pod, POD, b"{\"ready\":false}")?;
    store.put_record(RecordKind::Pod, POD, b"{\"ready\":true}")?;
    let lease = store.lease("container")?;
    let image = store.resolve("below:1")?;
    store.create_snapshot(&lease, CONTAINER, &image)?;
    store.put_container(CONTAINER, b"{\"state\":\"created\"}")?;
    store.put_container(CONTAINER, b"{\"state\":\"running\"}")?;
    store.put_record(RecordKind::Exit, CONTAINER, b"{\"code\":1}")?;
    store.remove_exit(CONTAINER)?;
    store.reset_work(CONTAINER)?;
    store.put_record(RecordKind::Exit, CONTAINER, b"{\"code\":2}")
}
