//! What the store promises to those who use it, on the real kernel.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Tar, assert_tidy, container, layers_on_disk, mount, open, privileged, pull};
use std::fs;
use strata_store::{ChangeKind, CommitOptions, Kind, Options, RecordKind, Store};

fn busybox() -> Vec<u8> {
    Tar::new().dir("bin/", 0o755).file("bin/busybox", "program").symlink("bin/sh", "busybox").done()
}

fn base() -> Vec<u8> {
    Tar::new().dir("etc/", 0o755).file("etc/motd", "hello").dir("var/", 0o755).file("var/data", "old").done()
}

fn changes(store: &Store, id: &str) -> Vec<String> {
    store.diff(id).unwrap().iter().map(ToString::to_string).collect()
}

#[test]
fn a_layer_is_stored_once_at_whatever_depth() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let alone = pull(&store, "alone", &[busybox()]).unwrap();
    let above = pull(&store, "above", &[base(), busybox()]).unwrap();
    assert_eq!(layers_on_disk(dir.path()), 2);
    assert_eq!(alone.layers[0].key, above.layers[1].key);
    let usage = store.usage();
    assert_eq!(usage.layers.iter().map(|l| l.size).sum::<u64>(), above.size);
    assert!(usage.layers.iter().all(|l| l.images.contains(&above.id)));
    assert_tidy(dir.path());
}

#[test]
fn what_is_kept_is_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let image = pull(&store, "base:1", &[base(), busybox()]).unwrap();
    let (id, root) = container(&store, 1, &image);
    fs::write(root.path().join("new"), "made").unwrap();
    let options = CommitOptions {
        name: Some("mine:2".parse().unwrap()),
        config: image.config.config.clone(),
        ..CommitOptions::default()
    };
    store.commit(&id, &options).unwrap();
    let kept = dir.path().join("store");
    let mut files = 0;
    let mut check = |dir: std::path::PathBuf| {
        for entry in fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap()) {
            let meta = entry.metadata().unwrap();
            if meta.is_file() {
                let mode = meta.permissions().mode() & 0o7777;
                assert_eq!(mode, 0o600, "{} has the mode {mode:o}", entry.path().display());
                files += 1;
            }
        }
    };
    check(kept.join("refs"));
    check(kept.join("blobs/sha256"));
    for layer in fs::read_dir(kept.join("layers")).unwrap() {
        check(layer.unwrap().path());
    }
    // Two names; three layers with two files each; their blobs, two manifests and two configs.
    assert_eq!(files, 2 + 3 * 2 + 3 + 2 + 2);
}

#[test]
fn diff_commit_and_history() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let image = pull(&store, "base:1", &[base(), busybox()]).unwrap();
    let (id, root) = container(&store, 1, &image);
    assert_eq!(changes(&store, &id), Vec::<String>::new());
    fs::write(root.path().join("etc/motd"), "changed").unwrap();
    fs::write(root.path().join("new"), "made").unwrap();
    fs::remove_file(root.path().join("bin/sh")).unwrap();
    assert_eq!(changes(&store, &id), ["C /bin", "D /bin/sh", "C /etc", "C /etc/motd", "A /new"]);
    let lower = dir.path().join("store/layers").join(&image.layers[0].key).join("fs/etc/motd");
    assert_eq!(fs::read_to_string(lower).unwrap(), "hello", "the lower file stays as it was");

    let options = CommitOptions {
        name: Some("mine:2".parse().unwrap()),
        comment: "why".into(),
        created_by: "/bin/sh".into(),
        config: image.config.config.clone(),
        ..CommitOptions::default()
    };
    let committed = store.commit(&id, &options).unwrap();
    assert_eq!(committed.layers.len(), 3);
    assert!(committed.irreplaceable());
    let (second, merged) = container(&store, 2, &committed);
    assert_eq!(merged.read("etc/motd").unwrap(), "changed");
    assert_eq!(merged.read("new").unwrap(), "made");
    assert!(merged.read("bin/sh").is_none() && merged.read("bin/busybox").is_some());
    assert_eq!(changes(&store, &second), Vec::<String>::new());

    let history = store.history(&committed);
    assert_eq!(history.len(), 3);
    assert_eq!(history[0].image.as_ref(), Some(&committed.id));
    assert_eq!(
        (history[0].comment.as_str(), history[0].tags.as_slice()),
        ("why", &["docker.io/library/mine:2".into()][..])
    );
    assert_eq!(history[1].image.as_ref(), Some(&image.id), "an image of this node ends here");
    assert_eq!(history[2].image, None, "and none there");

    drop((root, merged));
    store.remove_container(&second).unwrap();
    assert!(store.diff(&second).unwrap_err().kind() == Kind::NotFound);
    assert!(store.diff(&id).is_ok(), "removing one container leaves the others alone");
    assert_tidy(dir.path());
}

#[test]
fn a_replaced_directory_shows_what_is_gone_from_it() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let image = pull(&store, "base", &[base()]).unwrap();
    let (id, root) = container(&store, 1, &image);
    fs::remove_dir_all(root.path().join("var")).unwrap();
    fs::create_dir(root.path().join("var")).unwrap();
    fs::write(root.path().join("var/fresh"), "").unwrap();
    fs::remove_dir_all(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc"), "a file now").unwrap();
    assert_eq!(changes(&store, &id), ["C /etc", "C /var", "D /var/data", "A /var/fresh"]);
    assert!(store.diff(&id).unwrap().iter().all(|c| c.path != b"/" && c.kind <= ChangeKind::Deleted));
    let committed = store.commit(&id, &CommitOptions::default()).unwrap();
    assert!(committed.repo_tags.is_empty());
    let (_, merged) = container(&store, 2, &committed);
    assert_eq!(merged.read("etc").unwrap(), "a file now");
    assert!(merged.read("var/data").is_none() && merged.read("var/fresh").is_some());
}

#[test]
fn commit_keeps_everything_a_file_has() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let image = pull(&store, "base", &[base()]).unwrap();
    let (id, root) = container(&store, 1, &image);
    let path = |p: &str| root.path().join(p);
    fs::write(path("suid"), "x").unwrap();
    std::os::unix::fs::chown(path("suid"), Some(1000), Some(3_000_000)).unwrap();
    fs::set_permissions(path("suid"), fs::Permissions::from_mode(0o4755)).unwrap();
    rustix::fs::setxattr(path("suid"), "user.note", b"kept\0bytes", rustix::fs::XattrFlags::empty()).unwrap();
    fs::hard_link(path("suid"), path("linked")).unwrap();
    let long = "d".repeat(200);
    fs::create_dir(path(&long)).unwrap();
    fs::write(path(&format!("{long}/{}", "f".repeat(200))), "deep").unwrap();
    nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let committed = store.commit(&id, &CommitOptions::default()).unwrap();
    let (_, merged) = container(&store, 2, &committed);
    let (was, is) = (fs::metadata(path("suid")).unwrap(), fs::metadata(merged.path().join("suid")).unwrap());
    assert_eq!((is.mode(), is.uid(), is.gid(), is.nlink()), (was.mode(), 1000, 3_000_000, 2));
    assert_eq!((is.mtime(), is.mtime_nsec()), (was.mtime(), was.mtime_nsec()));
    let mut value = [0; 20];
    let n = rustix::fs::getxattr(merged.path().join("suid"), "user.note", &mut value).unwrap();
    assert_eq!(&value[..n], b"kept\0bytes");
    assert_eq!(merged.read(&format!("{long}/{}", "f".repeat(200))).unwrap(), "deep");
    fs::write(path(".wh.x"), "").unwrap();
    let error = store.commit(&id, &CommitOptions::default()).unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.to_string().contains(".wh."), "{error}");
    drop((root, merged));
    assert_tidy(dir.path());
}

#[test]
fn an_image_in_use_stays_and_goes_with_all_it_had() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let image = pull(&store, "base:1", &[base(), busybox()]).unwrap();
    let other = pull(&store, "other", &[busybox()]).unwrap();
    let (id, root) = container(&store, 1, &image);
    let refused =
        store.remove_image(&image.id, None, false, |users| format!("used by {users:?}")).unwrap_err();
    assert_eq!(refused.kind(), Kind::InUse);
    assert!(refused.to_string().contains(&id));
    drop(root);
    store.remove_container(&id).unwrap();
    let removed = store.remove_image(&image.id, None, false, |_| String::new()).unwrap();
    assert_eq!(removed.untagged[0], "docker.io/library/base:1");
    assert_eq!(removed.deleted, [image.id.to_string(), image.layers[0].diff_id.to_string()]);
    assert_eq!(store.images().len(), 1);
    assert_eq!(layers_on_disk(dir.path()), 1, "the shared layer stays");
    assert!(store.resolve("other").unwrap().id == other.id);
    assert!(
        store.remove_image(&image.id, None, false, |_| String::new()).unwrap_err().kind() == Kind::NotFound
    );
    assert_tidy(dir.path());
}

#[test]
fn names_are_given_moved_and_found() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = pull(&store, "app:latest", &[base()]).unwrap();
    let second = pull(&store, "app:latest", &[busybox()]).unwrap();
    let first = store.image(&first.id).unwrap();
    assert!(first.repo_tags.is_empty(), "the name moved");
    assert_eq!(first.repo_digests.len(), 1, "and the image is still known by its digest");
    assert_eq!(store.resolve("app").unwrap().id, second.id);
    assert_eq!(store.resolve(&first.repo_digests[0]).unwrap().id, first.id);
    for text in [first.id.to_string(), first.id.hex().into(), first.id.hex()[..12].into()] {
        assert_eq!(store.resolve(&text).unwrap().id, first.id, "{text}");
    }
    assert_eq!(store.resolve("nothing").unwrap_err().to_string(), "No such image: nothing");
    store.tag(&first.id, &"again:1".parse().unwrap()).unwrap();
    assert_eq!(store.resolve("again:1").unwrap().id, first.id);
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.images().len(), 2);
    assert_eq!(store.resolve("again:1").unwrap().id, first.id);
    assert!(!store.explain("again:1").unwrap().is_empty());
}

#[test]
fn everything_is_there_again_after_opening() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (pod, id, before);
    {
        let store = open(dir.path());
        let image = pull(&store, "base:1", &[base(), busybox()]).unwrap();
        let (container, root) = container(&store, 7, &image);
        fs::write(root.path().join("kept"), "kept").unwrap();
        id = container;
        pod = "ab".repeat(32);
        store.put_record(RecordKind::Pod, &pod, b"{\"format\":1}").unwrap();
        store.put_record(RecordKind::Exit, &id, b"{\"code\":3}").unwrap();
        before = format!("{:?}", store.images());
        assert_eq!(Store::open(store.root(), Options::default()).unwrap_err().kind(), Kind::Locked);
    }
    let store = open(dir.path());
    assert_eq!(format!("{:?}", store.images()), before);
    assert_eq!(store.containers()[0].1.as_ref().unwrap().get(), "{\"name\":\"test\"}");
    let (id_of_pod, record) = store.pods().unwrap().remove(0);
    assert_eq!((id_of_pod, record.unwrap()), (pod.clone(), b"{\"format\":1}".to_vec()));
    assert_eq!(store.record(RecordKind::Exit, &id).unwrap().unwrap(), b"{\"code\":3}");
    assert_eq!(mount(&store, &id).read("kept").unwrap(), "kept");
    store.remove_pod(&pod).unwrap();
    store.remove_pod(&pod).unwrap();
    assert!(store.pods().unwrap().is_empty());
    assert!(store.put_record(RecordKind::Pod, "../../x", b"{}").is_err());
    store.remove_container(&id).unwrap();
    assert_eq!(store.put_record(RecordKind::Exit, &id, b"{}").unwrap_err().kind(), Kind::NotFound);
    assert_eq!(store.put_container(&id, b"{}").unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_newer_format_is_refused() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    pull(&store, "base", &[base()]).unwrap();
    drop(store);
    let refs = dir.path().join("store/refs");
    let file = fs::read_dir(&refs).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&file).unwrap().replace("\"format\":1", "\"format\":99");
    fs::write(&file, text).unwrap();
    let error = Store::open(&dir.path().join("store"), Options::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::NewerFormat);
    assert!(error.to_string().contains("upgrade"), "{error}");
}
