//! Images that are mounted in containers of other images.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Tar, container, open, privileged, pull};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use strata_store::{Kind, Reason};
use strata_sys::mount::{Attrs, Overlay};
use strata_sys::path::{Root, fd_path};

fn merged(stack: &[PathBuf]) -> Root {
    let overlay = Overlay { lowers: stack, upper: None, volatile: false, label: None };
    Root::from_fd(overlay.mount(Attrs { readonly: true, ..Attrs::default() }).unwrap())
}

#[test]
fn a_mounted_image_is_whole_and_is_kept_by_its_container() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let own = pull(&store, "app:1", &[Tar::new().dir("bin/", 0o755).done()]).unwrap();
    let low = Tar::new().dir("./", 0o751).dir("data/", 0o755).file("data/low", "low").file("data/gone", "x");
    let high = Tar::new().dir("data/", 0o755).file("data/high", "high").file("data/.wh.gone", "");
    let data = pull(&store, "data:1", &[low.done(), high.done()]).unwrap();
    let (id, root) = container(&store, 1, &own);
    let lease = store.lease("test").unwrap();
    store.add_mounted_image(&lease, &id, &data).unwrap();
    store.add_mounted_image(&lease, &id, &own).unwrap();
    store.put_container(&id, b"{\"name\":\"test\"}").unwrap();
    drop(lease);

    let look = |store: &strata_store::Store| {
        let stacks = store.mounted_images(&id).unwrap();
        assert_eq!(stacks.len(), 2);
        let data = merged(&stacks[0]);
        assert_eq!(data.read_to_string("data/low", 10).unwrap(), "low");
        assert_eq!(data.read_to_string("data/high", 10).unwrap(), "high");
        assert!(!data.exists("data/gone").unwrap());
        let mode = std::fs::metadata(fd_path(&data)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o751, "the root's attributes are the image's");
        assert!(merged(&stacks[1]).exists("bin").unwrap());
    };
    look(&store);
    let refused = store.remove_image(&data.id, None, false, |users| users.join(" ")).unwrap_err();
    assert_eq!((refused.kind(), refused.to_string()), (Kind::InUse, id.clone()));
    assert!(store.explain("data:1").unwrap()[0].reasons.contains(&Reason::Container(id.clone())));

    // Its record says so to the next daemon.
    drop((root, store));
    let store = open(dir.path());
    look(&store);
    assert!(store.remove_image(&data.id, None, false, |_| String::new()).is_err());
    let layer = dir.path().join("store/layers").join(&data.layers[0].key);
    assert!(std::fs::metadata(&layer).unwrap().is_dir() && layer.metadata().unwrap().uid() == 0);
    store.remove_container(&id).unwrap();
    store.remove_image(&data.id, None, false, |_| String::new()).unwrap();
    assert!(!layer.exists());
}

#[test]
fn neither_image_nor_container_need_be_there_any_more() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let own = pull(&store, "app:1", &[Tar::new().dir("bin/", 0o755).done()]).unwrap();
    let data = pull(&store, "data:1", &[Tar::new().file("f", "x").done()]).unwrap();
    let (id, _root) = container(&store, 1, &own);
    store.remove_image(&data.id, None, false, |_| String::new()).unwrap();
    let lease = store.lease("test").unwrap();
    assert_eq!(store.add_mounted_image(&lease, &id, &data).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(store.mounted_images(&id).unwrap().len(), 0);
    let other = "0".repeat(64);
    assert_eq!(store.add_mounted_image(&lease, &other, &own).unwrap_err().kind(), Kind::NotFound);
}
