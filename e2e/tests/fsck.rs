//! A damaged store: found and repaired under a running daemon, and while none runs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use strata_e2e::command::Output;
use strata_e2e::images::{Compression, Flavor, catalog};
use strata_e2e::node::{Node, test, test_with};

/// The layer of an image that has a file, and the file.
#[track_caller]
fn file_of_layer(node: &Node, path: &str) -> PathBuf {
    let layers = fs::read_dir(node.dir("root/layers")).unwrap();
    let mut files = layers.map(|l| l.unwrap().path().join("fs").join(path));
    files.find(|f| f.is_file()).unwrap_or_else(|| panic!("no layer has {path}"))
}

/// Changes a byte in the middle of a file, and nothing that `ls` shows.
fn damage(file: &PathBuf) {
    let time = fs::metadata(file).unwrap().modified().unwrap();
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
    fs::File::open(file).unwrap().set_times(fs::FileTimes::new().set_modified(time)).unwrap();
}

fn lose_blobs(node: &Node) {
    for blob in fs::read_dir(node.dir("root/blobs/sha256")).unwrap() {
        fs::remove_file(blob.unwrap().path()).unwrap();
    }
}

/// `stratad fsck`, with the node's configuration.
fn offline(node: &Node, args: &[&str]) -> Output {
    let (config, root) = (node.dir("config.toml"), node.dir("root"));
    let mut all = vec!["fsck", "--config", config.to_str().unwrap(), "--root", root.to_str().unwrap()];
    all.extend(args);
    node.run(node.stratad(), &all)
}

#[test]
fn damage_is_repaired_under_a_running_daemon() {
    test(|node| {
        node.strata(&["pull", "-q", &node.image("busybox")]).ok();
        node.strata(&["fsck"]).ok().has(&["checked 1 image, 1 layer, 3 blobs", "no problems"]);
        node.strata(&["run", "-d", "--name", "first", &node.image("busybox"), "sleep", "1000"]).ok();
        let passwd = file_of_layer(node, "etc/passwd");
        let good = fs::read(&passwd).unwrap();
        damage(&passwd);
        let found = node.strata(&["fsck"]);
        assert_eq!(found.code, 1, "{found}");
        found.has(&[
            "etc/passwd: its content is not what it was",
            &node.image("busybox"),
            "1 problem, 0 repaired, 1 left",
        ]);
        node.strata(&["fsck", "--quick"]).ok().has(&["no problems"]);
        node.strata(&["fsck", "--repair"])
            .ok()
            .has(&["repaired: unpacked again from blob sha256:", "all repaired"]);
        assert_eq!(fs::read(file_of_layer(node, "etc/passwd")).unwrap(), good);
        node.strata(&["fsck"]).ok().has(&["no problems"]);

        // What runs goes on, with files that it has not looked at before; what is new has the repaired file.
        node.strata(&["exec", "first", "ls", "-l", "/bin/busybox", "/etc/group"]).ok();
        node.strata(&["exec", "first", "sh", "-c", "echo more >> /etc/group && cat /etc/group"])
            .ok()
            .has(&["more"]);
        let seen = node.strata(&["run", "--rm", &node.image("busybox"), "cat", "/etc/passwd"]).ok();
        assert_eq!(seen.stdout.as_bytes(), good);
        assert_eq!(fs::read_dir(node.dir("root/replaced")).unwrap().count(), 1);
        node.crash();
        node.strata(&["exec", "first", "cat", "/etc/profile.d/none", "/etc/group"]).fails();
        node.strata(&["exec", "first", "cat", "/etc/group"]).ok().has(&["more"]);
        node.strata(&["rm", "-f", "first"]).ok();
        assert_eq!(fs::read_dir(node.dir("root/replaced")).unwrap().count(), 0);

        // Everything that a registry has can be lost.
        damage(&file_of_layer(node, "etc/passwd"));
        lose_blobs(node);
        let repaired = node.strata(&["fsck", "--repair"]).ok();
        repaired.has(&["fetched again from its registry", "unpacked again from blob", "all repaired"]);
        node.strata(&["fsck"]).ok().has(&["no problems"]);
        node.strata(&["fsck", "--no-such-flag"]).fails();
        assert_eq!(node.strata(&["fsck", "more"]).code, 125);

        // Without it, the problem stays, and the text says what to do.
        damage(&file_of_layer(node, "etc/passwd"));
        lose_blobs(node);
        node.stop_registry();
        let left = node.strata(&["fsck", "--repair"]);
        assert_eq!(left.code, 1, "{left}");
        left.has(&["cannot be fetched again; tried", "pull, load or build again", &node.image("busybox")]);
        assert!(node.strata(&["images"]).ok().stdout.contains("busybox"), "nothing is deleted");
    });
}

#[test]
fn damage_is_repaired_while_no_daemon_runs() {
    test(|node| {
        node.strata(&["pull", "-q", &node.image("stacked")]).ok();
        let refused = offline(node, &[]).fails();
        assert!(refused.contains("strata fsck"), "{refused}");
        let images = node.strata(&["images", "--no-trunc", "--digests"]).ok().stdout;
        node.stop();
        offline(node, &[]).ok().has(&["no problems"]);
        let reference = fs::read_dir(node.dir("root/refs")).unwrap().next().unwrap().unwrap().path();
        let text = fs::read(&reference).unwrap();
        fs::write(&reference, &text[..text.len() / 2]).unwrap();
        damage(&file_of_layer(node, "etc/passwd"));
        for layer in fs::read_dir(node.dir("root/layers")).unwrap() {
            fs::remove_file(layer.unwrap().path().join("entries")).unwrap();
        }
        let found = offline(node, &[]);
        assert_eq!(found.code, 1, "{found}");
        // A daemon that starts now keeps everything.
        node.launch();
        node.strata(&["gc"]).ok();
        node.stop();
        offline(node, &["--repair"]).ok().has(&["all repaired", &format!("ref {}", node.image("stacked"))]);
        offline(node, &[]).ok().has(&["no problems"]);
        node.launch();
        let again = node.strata(&["images", "--no-trunc", "--digests"]).ok().stdout;
        let words = |text: &str| text.split_whitespace().take(12).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&again)[..8], words(&images)[..8], "{again}");
        node.strata(&["run", "--rm", &node.image("stacked"), "cat", "/etc/passwd"]).ok().has(&["root"]);
    });
}

/// Inodes and times of everything in the layers but one.
#[track_caller]
fn other_layers(node: &Node, but: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let layers = fs::read_dir(node.dir("root/layers")).unwrap().map(|e| e.unwrap().path());
    let (mut found, mut todo) = (BTreeMap::new(), layers.filter(|l| l != but).collect::<Vec<_>>());
    while let Some(path) = todo.pop() {
        let m = fs::symlink_metadata(&path).unwrap();
        if m.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        found.insert(path, (m.ino(), m.mtime(), m.ctime_nsec()));
    }
    found
}

#[test]
fn what_is_lost_is_fetched_while_no_daemon_runs() {
    test(|node| {
        node.strata(&["pull", "-q", &node.image("stacked")]).ok();
        node.stop();
        let passwd = file_of_layer(node, "etc/passwd");
        let layer = passwd.ancestors().nth(3).unwrap().to_owned();
        let good = fs::read(&passwd).unwrap();
        let (inode, others) = (fs::metadata(&layer).unwrap().ino(), other_layers(node, &layer));
        assert!(!others.is_empty());
        damage(&passwd);
        lose_blobs(node);
        // The registry is another process, and asked as the daemon would ask it.
        let repaired = offline(node, &["--repair"]).ok();
        repaired.has(&["fetched again from its registry", "unpacked again from blob", "all repaired"]);
        assert_eq!(fs::read(&passwd).unwrap(), good);
        assert_ne!(fs::metadata(&layer).unwrap().ino(), inode);
        assert_eq!(other_layers(node, &layer), others, "only the damaged layer is unpacked again");
        offline(node, &[]).ok().has(&["no problems"]);

        // Without it the problem stays, and the text says what to do.
        damage(&passwd);
        lose_blobs(node);
        node.stop_registry();
        let left = offline(node, &["--repair"]);
        assert_eq!(left.code, 1, "{left}");
        left.has(&["cannot be fetched again; tried", "pull, load or build again", &node.image("stacked")]);
        assert_eq!(other_layers(node, &layer), others);
        node.launch();
    });
}

#[test]
fn a_pull_does_not_believe_a_damaged_blob() {
    test(|node| {
        let image = node.image("busybox");
        let layer = catalog::busybox(Flavor::Oci, Compression::Gzip).unwrap().layers[0].digest.clone();
        let blob = node.dir("root/blobs/sha256").join(layer.trim_start_matches("sha256:"));
        node.strata(&["pull", "-q", &image]).ok();
        let good = fs::read(&blob).unwrap();
        let damages: [fn(&PathBuf); 2] =
            [damage, |blob| fs::write(blob, &fs::read(blob).unwrap()[..1000]).unwrap()];
        for damaged in damages {
            node.stop();
            fs::remove_dir_all(file_of_layer(node, "etc/passwd").ancestors().nth(3).unwrap()).unwrap();
            damaged(&blob);
            node.launch();
            node.strata(&["pull", "-q", &image]).ok();
            assert_eq!(fs::read(&blob).unwrap(), good);
            node.strata(&["run", "--rm", &image, "cat", "/etc/passwd"]).ok().has(&["root"]);
        }
        node.strata(&["fsck"]).ok().has(&["no problems"]);
    });
}

#[test]
fn blobs_that_are_not_kept_come_from_the_registry() {
    test_with("[store]\ndiscard_blobs = true\n", |node| {
        node.strata(&["pull", "-q", &node.image("busybox")]).ok();
        let blobs = || fs::read_dir(node.dir("root/blobs/sha256")).unwrap().count();
        let kept = blobs();
        node.strata(&["fsck"]).ok().has(&["no problems"]);
        fs::remove_file(file_of_layer(node, "etc/passwd")).unwrap();
        node.strata(&["fsck", "--repair"])
            .ok()
            .has(&["etc/passwd: it is missing", "fetched from its registry"]);
        assert_eq!(blobs(), kept, "what was fetched for repair is not kept either");
        node.strata(&["fsck"]).ok().has(&["no problems"]);
        node.strata(&["run", "--rm", &node.image("busybox"), "cat", "/etc/passwd"]).ok().has(&["root"]);
    });
}
