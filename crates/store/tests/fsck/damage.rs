//! One case per kind of damage: found, left alone, repaired.

use crate::rig::*;

use rustix::fs::XattrFlags;
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[test]
fn damaged_files_of_layers() {
    let Some(rig) = Rig::new() else { return };
    let cases: [Damage; 11] = [
        ("a changed byte", |r| flip(&r.layer(0).join("fs/etc/motd"), 1), "its content is not"),
        (
            "a longer file",
            |r| fs::write(r.layer(0).join("fs/etc/motd"), "hello you").unwrap(),
            "9 bytes instead of 5",
        ),
        (
            "a mode",
            |r| {
                fs::set_permissions(r.layer(0).join("fs/etc/motd"), PermissionsExt::from_mode(0o4755))
                    .unwrap();
            },
            "mode 4755 instead of 0644",
        ),
        (
            "an owner",
            |r| std::os::unix::fs::chown(r.layer(0).join("fs/usr/lib"), Some(7), None).unwrap(),
            "owner 7:0 instead of 0:0",
        ),
        ("a time", |r| set_time(&r.layer(0).join("fs/var/gone")), "mtime 0.0"),
        (
            "a value",
            |r| {
                rustix::fs::lsetxattr(
                    r.layer(2).join("fs/marked/file"),
                    c"user.mark",
                    b"gone",
                    XattrFlags::empty(),
                )
                .unwrap();
            },
            "user.mark has another value",
        ),
        (
            "a lost xattr",
            |r| rustix::fs::lremovexattr(r.layer(2).join("fs/marked/file"), c"user.mark").unwrap(),
            "user.mark is missing",
        ),
        (
            "a new xattr",
            |r| {
                rustix::fs::lsetxattr(
                    r.layer(0).join("fs/etc"),
                    c"trusted.overlay.opaque",
                    b"y",
                    XattrFlags::empty(),
                )
                .unwrap();
            },
            "overlay.opaque should not",
        ),
        (
            "a missing file",
            |r| fs::remove_file(r.layer(0).join("fs/etc/motd")).unwrap(),
            "etc/motd: it is missing",
        ),
        ("an extra file", |r| fs::write(r.layer(0).join("fs/etc/more"), "x").unwrap(), "no such file"),
        (
            "a missing directory",
            |r| fs::remove_dir_all(r.layer(0).join("fs/usr")).unwrap(),
            "usr: the directory is missing",
        ),
    ];
    for (what, damage, expected) in cases {
        found_and_repaired(&rig, what, damage, expected);
    }
}

#[test]
fn damaged_kinds_links_and_marks_of_layers() {
    let Some(rig) = Rig::new() else { return };
    let cases: [Damage; 8] = [
        (
            "an extra directory",
            |r| fs::create_dir_all(r.layer(0).join("fs/x/y")).unwrap(),
            "x: the layer has no such file",
        ),
        (
            "another sort",
            |r| {
                fs::remove_dir(r.layer(0).join("fs/nodes/empty")).unwrap();
                fs::write(r.layer(0).join("fs/nodes/empty"), "").unwrap();
            },
            "it is a file instead of a directory",
        ),
        (
            "another target",
            |r| {
                fs::remove_file(r.layer(0).join("fs/lib")).unwrap();
                std::os::unix::fs::symlink("usr", r.layer(0).join("fs/lib")).unwrap();
            },
            "another target",
        ),
        (
            "a hard link",
            |r| {
                fs::remove_file(r.layer(0).join("fs/usr/lib/b")).unwrap();
                fs::copy(r.layer(0).join("fs/usr/lib/a"), r.layer(0).join("fs/usr/lib/b")).unwrap();
            },
            "not the same file as",
        ),
        (
            "a link too many",
            |r| fs::hard_link(r.layer(0).join("fs/etc/motd"), r.dir.path().join("outside")).unwrap(),
            "it has 2 names",
        ),
        (
            "an opaque mark",
            |r| rustix::fs::lremovexattr(r.layer(1).join("fs/opq"), c"trusted.overlay.opaque").unwrap(),
            "overlay.opaque is missing",
        ),
        (
            "a whiteout",
            |r| fs::remove_file(r.layer(1).join("fs/var/gone")).unwrap(),
            "the whiteout is missing",
        ),
        ("a variant", |r| flip(&r.layer(3).join("fs/etc/extra"), 0), "chain-"),
    ];
    for (what, damage, expected) in cases {
        found_and_repaired(&rig, what, damage, expected);
    }
}

#[test]
fn damaged_records_of_layers_and_blobs() {
    let Some(rig) = Rig::new() else { return };
    let cases: [Damage; 15] = [
        ("a lost layer", |r| fs::remove_dir_all(r.layer(1)).unwrap(), "it is missing"),
        ("a lost layer.json", |r| fs::remove_file(r.layer(0).join("layer.json")).unwrap(), "layer.json"),
        ("a truncated layer.json", |r| cut(&r.layer(0).join("layer.json")), "layer.json"),
        ("a changed layer.json", |r| flip(&r.layer(0).join("layer.json"), 30), "layer.json"),
        ("a lost list", |r| fs::remove_file(r.layer(0).join("entries")).unwrap(), "entries"),
        ("a truncated list", |r| cut(&r.layer(3).join("entries")), "entries"),
        ("a changed list", |r| flip(&r.layer(0).join("entries"), 60), "checksum"),
        ("something beside", |r| fs::write(r.layer(0).join("notes"), "").unwrap(), "does not belong there"),
        (
            "a lost blob",
            |r| fs::remove_file(r.blob(&r.image.layers[0].blob.digest)).unwrap(),
            "it is missing",
        ),
        ("a truncated blob", |r| cut(&r.blob(&r.image.layers[1].blob.digest)), "bytes instead of"),
        ("a changed blob", |r| flip(&r.blob(&r.image.layers[1].blob.digest), 20), "do not have its digest"),
        ("a lost config", |r| fs::remove_file(r.blob(&r.image.id)).unwrap(), "config: it is missing"),
        ("a changed config", |r| flip(&r.blob(&r.image.id), 40), "config: its bytes"),
        (
            "a lost manifest",
            |r| fs::remove_file(r.blob(&r.image.manifest.digest)).unwrap(),
            "manifest: it is missing",
        ),
        (
            "a layer with its blob",
            |r| {
                fs::remove_dir_all(r.layer(0)).unwrap();
                fs::remove_file(r.blob(&r.image.layers[0].blob.digest)).unwrap();
            },
            "it is missing",
        ),
    ];
    for (what, damage, expected) in cases {
        found_and_repaired(&rig, what, damage, expected);
    }
}

#[test]
fn damaged_refs_and_mount_points_of_a_store_that_is_open() {
    let Some(rig) = Rig::new() else { return };
    let cases: [Damage; 7] = [
        ("a lost ref", |r| fs::remove_file(r.only_ref()).unwrap(), "its file is missing"),
        ("a truncated ref", |r| cut(&r.only_ref()), "ref registry.test/app:1"),
        ("a changed ref", |r| flip(&r.only_ref(), 100), "ref registry.test/app:1"),
        ("a stray ref", |r| fs::write(r.root().join("refs/odd"), "x").unwrap(), "refs/odd"),
        ("a stray blob", |r| fs::write(r.root().join("blobs/sha256/odd"), "x").unwrap(), "blobs/sha256/odd"),
        (
            "a lost mount point",
            |r| fs::remove_file(r.root().join("mountpoints/etc/hosts")).unwrap(),
            "mountpoints/etc/hosts",
        ),
        (
            "a full mount point",
            |r| fs::write(r.root().join("mountpoints/proc/x"), "x").unwrap(),
            "mountpoints/proc/x",
        ),
    ];
    for (what, damage, expected) in cases {
        found_and_repaired(&rig, what, damage, expected);
    }
    assert_eq!(fs::read_dir(rig.root().join("lost+found")).unwrap().count(), 3, "nothing is thrown away");
}
