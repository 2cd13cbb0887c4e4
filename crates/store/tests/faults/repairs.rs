//! What repairs are about: damage that is done behind the store's back, and who still has what was lost.

use crate::scenes::{CONTAINER, pull_app, pull_below, two_images};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use strata_oci::document::OCI_LAYER_GZIP;
use strata_oci::{Descriptor, Digest};
use strata_store::{BlobSource, FsckEvent, FsckOptions, FsckSummary, Lease, Problem, Result, Store};
use strata_sys::mount::{Attrs, Overlay};
use strata_sys::path::{Root, fd_path};

/// Files that are not what their layer's list of sums says, once they have been damaged.
const DAMAGED: [&str; 2] = ["usr/lib/small", "usr/lib/top"];

/// A layer with a file that was changed, one that is missing, and one too many.
pub fn damage(store: &Store) {
    let image = pull_below(store);
    damage_base(&store.root().join("layers").join(&image.layers[0].key));
}

fn damage_base(layer: &Path) {
    fs::write(layer.join("fs/usr/lib/small"), "SMALL").unwrap();
    fs::remove_file(layer.join("fs/gone")).unwrap();
    fs::write(layer.join("fs/extra"), "").unwrap();
}

/// Both layers of a container: the lower one, and the variant of the upper one.
pub fn damage_under_a_container(store: &Store) {
    pull_below(store);
    let image = pull_app(store).unwrap();
    let lease = store.lease("before").unwrap();
    store.create_snapshot(&lease, CONTAINER, &image).unwrap();
    store.put_container(CONTAINER, b"{}").unwrap();
    let layer = |n: usize| store.root().join("layers").join(&image.layers[n].key);
    assert!(image.layers[1].key.starts_with("chain-"));
    damage_base(&layer(0));
    fs::write(layer(1).join("fs/usr/lib/top"), "TOP").unwrap();
}

/// The same, and what could be unpacked again: one blob is lost, one cut off, a manifest and a config are others.
pub fn damage_everything(store: &Store) {
    damage_under_a_container(store);
    keep(store);
    let image = store.resolve("app:1").unwrap();
    cut(&blob(store, &image.layers[0].blob.digest));
    fs::remove_file(blob(store, &image.layers[1].blob.digest)).unwrap();
    fs::write(blob(store, &image.id), "{}").unwrap();
    cut(&blob(store, &store.resolve("below:1").unwrap().manifest.digest));
}

/// One blob is cut off, and one is lost.
pub fn damage_blobs(store: &Store) {
    two_images(store);
    keep(store);
    let image = store.resolve("app:1").unwrap();
    cut(&blob(store, &image.layers[0].blob.digest));
    fs::remove_file(blob(store, &image.layers[1].blob.digest)).unwrap();
}

fn blob(store: &Store, digest: &Digest) -> PathBuf {
    store.root().join("blobs/sha256").join(digest.hex())
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// Where the registry has its blobs.
fn shelf(store: &Store) -> PathBuf {
    store.root().with_file_name("shelf")
}

/// All blobs go into the registry.
fn keep(store: &Store) {
    fs::create_dir(shelf(store)).unwrap();
    for entry in fs::read_dir(store.root().join("blobs/sha256")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), shelf(store).join(entry.file_name())).unwrap();
    }
}

struct Registry<'a>(&'a Store);

impl Registry<'_> {
    fn restore(&self, lease: &Lease, blob: &Descriptor) -> Result<()> {
        let bytes = fs::read(shelf(self.0).join(blob.digest.hex())).unwrap();
        let blob = Descriptor { size: bytes.len() as u64, ..blob.clone() };
        self.0.restore_blob(lease, &blob, &mut bytes.as_slice())
    }
}

impl BlobSource for Registry<'_> {
    fn fetch(&self, lease: &Arc<Lease>, blob: &Descriptor) -> std::result::Result<(), String> {
        self.restore(lease, blob).map_err(|e| e.to_string())
    }
}

/// Brings back every blob that the registry has, one after the other.
pub fn restore(store: &Store) -> Result<()> {
    let lease = store.lease("restore")?;
    let names = fs::read_dir(shelf(store)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.collect::<BTreeSet<_>>().iter().try_for_each(|name| {
        let digest = Digest::parse(&format!("sha256:{name}")).unwrap();
        let blob = Descriptor { media_type: OCI_LAYER_GZIP.into(), digest, size: 0 };
        Registry(store).restore(&lease, &blob)
    })
}

/// Checks, and repairs if that is wanted; what was found.
pub fn fsck(
    store: &Store,
    repair: bool,
    source: Option<&dyn BlobSource>,
) -> Result<(FsckSummary, Vec<Problem>)> {
    let problems = Mutex::new(Vec::new());
    let tell = |event: FsckEvent| {
        if let FsckEvent::Problem(problem) = event {
            problems.lock().unwrap().push(problem);
        }
    };
    let cancel = AtomicBool::new(false);
    let options = FsckOptions { repair, quick: false, source, tell: &tell, cancel: &cancel };
    let summary = store.fsck(&options)?;
    Ok((summary, problems.into_inner().unwrap()))
}

pub fn repair(store: &Store) -> Result<()> {
    repair_from(store, None)
}

/// Images that were not listed are afterwards.
pub fn repair_from_a_registry(store: &Store) -> Result<()> {
    repair_from(store, Some(&Registry(store)))?;
    ["below:1", "app:1"].iter().try_for_each(|name| store.resolve(name).map(drop))
}

fn repair_from(store: &Store, source: Option<&dyn BlobSource>) -> Result<()> {
    let (summary, problems) = fsck(store, true, source)?;
    if summary.clean() { Ok(()) } else { Err(std::io::Error::other(format!("{problems:?}")).into()) }
}

/// A container that runs: its root file system, mounted without the store's help.
pub struct Running(Root);

impl Running {
    pub fn start(store: &Path) -> Self {
        let dir = store.join("containers").join(CONTAINER);
        let record = fs::read(dir.join("container.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        let layers = record["layers"].as_array().unwrap().iter();
        let mut lowers: Vec<_> =
            layers.map(|key| store.join("layers").join(key.as_str().unwrap()).join("fs")).collect();
        lowers.push(store.join("mountpoints"));
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        let overlay = Overlay { lowers: &lowers, upper: Some((&upper, &work)), volatile: false, label: None };
        Self(Root::from_fd(overlay.mount(Attrs::default()).unwrap()))
    }

    /// It shows files of every layer that it has not looked at before.
    pub fn looks_around(&self) {
        self.has(&["tmp/t", "tmp/x/y"]);
    }

    /// It has all its files, and can change those of its layers.
    pub fn goes_on(&self) {
        self.has(&["tmp/t", "tmp/x/y", "usr/lib/big", "usr/lib/small", "usr/lib/top"]);
        let root = fd_path(&self.0);
        let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(root.join("usr/lib/big"), mode(0o600)).unwrap();
        fs::rename(root.join("tmp/t"), root.join("tmp/moved")).unwrap();
        fs::write(root.join("usr/lib/new"), "new").unwrap();
        let mut names: Vec<_> = fs::read_dir(root.join("usr/lib"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["big", "new", "small", "top"]);
    }

    fn has(&self, paths: &[&str]) {
        let root = fd_path(&self.0);
        let lists = ["sums/base", "sums/top"].map(|list| fs::read_to_string(root.join(list)).unwrap());
        for path in paths {
            let bytes = fs::read(root.join(path)).unwrap_or_else(|e| panic!("the container's {path}: {e}"));
            let text = std::str::from_utf8(&bytes).unwrap();
            let right = lists.iter().any(|list| list.contains(&crate::check::sums(&[(path, text)])));
            assert!(right || DAMAGED.contains(path), "the container's {path} is another");
        }
    }
}
