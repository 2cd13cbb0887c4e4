//! Layers: shared by digest, shown, changed and made into images.

use serde_json::Value;
use strata_e2e::images::{Compression, Flavor, Image, ImageBuilder, Layer, LayerBuilder, catalog};
use strata_e2e::node::{Node, leaks, test};

/// The layers' directories.
fn layers(node: &Node) -> Vec<String> {
    let mut names = leaks::names(&node.dir("root/layers"));
    names.sort();
    names
}

/// Pushes an image of these layers as `e2e/<name>`; its reference.
fn push(node: &Node, name: &str, layers: &[&Layer]) -> String {
    let all = layers.iter().fold(ImageBuilder::new(Flavor::Oci), |image, layer| {
        image.layer(layer, Compression::Gzip, &format!("COPY {name} / # buildkit"))
    });
    push_image(node, name, &all.build())
}

fn push_image(node: &Node, name: &str, image: &Image) -> String {
    let repository = format!("e2e/{name}");
    node.push(async |registry| registry.push(image, &repository, "latest").await);
    node.image(name)
}

#[test]
fn a_shared_layer_is_stored_once_at_any_depth() {
    test(|node| {
        node.pull("busybox");
        assert_eq!(layers(node).len(), 1);
        node.pull("stacked");
        let shared = catalog::busybox_layer().unwrap().diff_id;
        let base = catalog::base_layer().diff_id;
        let mut expected = vec![shared[7..].to_owned(), base[7..].to_owned()];
        expected.sort();
        assert_eq!(layers(node), expected);
        // Another compression of the same files, too.
        node.pull("zstd");
        assert_eq!(layers(node), expected);
        // Each image has its own blob of it: it can be saved and pushed as it was.
        node.strata(&["fsck"]).ok();
        node.strata(&["rmi", &node.image("busybox")]).ok();
        node.strata(&["fsck"]).ok();
        node.pull("busybox");
        let stacked = node.image("stacked");
        node.strata(&["run", "--rm", &stacked, "cat", "/opt/strata/readme", "/home/app/notes"])
            .ok()
            .has(&["This layer lies below busybox.", "from the busybox layer"]);
        node.strata(&["rmi", &node.image("busybox")]).ok();
        node.strata(&["rmi", &node.image("zstd")]).ok();
        node.strata(&["run", "--rm", &stacked, "cat", "/etc/passwd"]).ok().has(&["app:x:1000"]);
        node.strata(&["rmi", &stacked]).ok();
        strata_e2e::eventually(10, "the layers are gone", || {
            if layers(node).is_empty() { Ok(()) } else { Err(layers(node).join(", ")) }
        });
    });
}

#[test]
fn diff_commit_and_history() {
    test(|node| {
        let stacked = node.pull("stacked");
        let script = "echo new > /opt/new; echo more >> /etc/motd; rm /opt/strata/old; mkdir /opt/dir; ln -s x /opt/link";
        node.strata(&["run", "--name", "work", &stacked, "sh", "-c", script]).ok();
        let diff = node.strata(&["diff", "work"]).ok();
        let mut changes: Vec<&str> = diff.stdout.lines().collect();
        changes.sort_unstable();
        let expected = [
            "A /opt/dir",
            "A /opt/link",
            "A /opt/new",
            "C /etc",
            "C /etc/motd",
            "C /opt",
            "C /opt/strata",
            "D /opt/strata/old",
        ];
        assert_eq!(changes, expected, "{diff}");

        let committed = node.strata(&["commit", "-m", "made by hand", "-a", "me", "work", "mine:v1"]).ok();
        assert!(committed.text().starts_with("sha256:"), "{committed}");
        assert_eq!(layers(node).len(), 3);
        node.strata(&["image", "ls"]).ok().has(&["mine", "v1"]);
        let seen = "cat /opt/new /etc/motd; ls /opt/strata; readlink /opt/link";
        let run = node.strata(&["run", "--rm", "mine:v1", "sh", "-c", seen]).ok();
        assert_eq!(run.stdout, "new\nLayers of stone.\nmore\nreadme\nx\n", "{run}");

        let history =
            node.strata(&["history", "mine:v1"]).ok().has(&["made by hand", "COPY busybox", "COPY motd"]);
        let lines: Vec<&str> = history.stdout.lines().collect();
        assert!(lines[0].starts_with("IMAGE"), "{history}");
        assert!(lines[1].starts_with(&committed.text()[7..19]), "{history}");
        assert!(lines[2..].iter().any(|line| line.starts_with("<missing>")), "{history}");
        assert!(
            lines.iter().position(|l| l.contains("COPY busybox"))
                < lines.iter().position(|l| l.contains("COPY motd"))
        );

        // What the committed image was made of outlives the container and the names.
        node.strata(&["rm", "work"]).ok();
        node.strata(&["rmi", &stacked]).ok();
        node.strata(&["run", "--rm", "mine:v1", "cat", "/opt/new"]).ok().has(&["new"]);
        node.strata(&["rmi", "mine:v1"]).ok();
    });
}

#[test]
fn a_commit_of_a_commit_and_changes_of_its_config() {
    test(|node| {
        let image = node.pull("busybox");
        node.strata(&["run", "--name", "one", &image, "sh", "-c", "echo 1 > /one"]).ok();
        node.strata(&["commit", "one", "chain:1"]).ok();
        node.strata(&["run", "--name", "two", "chain:1", "sh", "-c", "echo 2 > /two; rm /one"]).ok();
        let change = "CMD [\"cat\", \"/two\"]";
        node.strata(&["commit", "-c", change, "-c", "ENV WHO=me", "two", "chain:2"]).ok();
        assert_eq!(node.strata(&["run", "--rm", "chain:2"]).ok().stdout, "2\n");
        let checked = node.strata(&["run", "--rm", "chain:2", "sh", "-c", "echo $WHO; ls /one"]);
        assert!(checked.stdout.contains("me") && checked.code != 0, "{checked}");
        let inspected = node.strata(&["inspect", "chain:2"]).ok().json();
        let first = inspected.get(0).unwrap_or(&inspected);
        assert_eq!(first["RootFS"]["Layers"].as_array().map(Vec::len), Some(3), "{inspected}");
        node.strata(&["rm", "one", "two"]).ok();
    });
}

#[test]
fn deleting_a_container_deletes_its_own_layer_only() {
    test(|node| {
        let image = node.pull("busybox");
        let big = "head -c 5000000 /dev/urandom > /big";
        node.strata(&["run", "--name", "first", &image, "sh", "-c", big]).ok();
        node.strata(&["run", "--name", "second", &image, "sh", "-c", "echo mine > /mine"]).ok();
        let before = layers(node);
        assert_eq!(leaks::names(&node.dir("root/containers")).len(), 2);
        node.strata(&["rm", "first"]).ok();
        assert_eq!(leaks::names(&node.dir("root/containers")).len(), 1);
        assert_eq!(layers(node), before);
        node.strata(&["diff", "second"]).ok().has(&["A /mine"]);
        let usage = du(&node.dir("root/containers"));
        assert!(usage < 1_000_000, "{usage} bytes are left of a container that is gone");
        node.strata(&["rmi", &image]).fails();
        node.strata(&["rm", "second"]).ok();
        node.strata(&["rmi", &image]).ok();
    });
}

fn du(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => du(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn whiteouts_and_opaque_directories_hide_what_is_below() {
    test(|node| {
        let busybox = catalog::busybox_layer().unwrap();
        let below = LayerBuilder::new()
            .dir("a", 0o755)
            .file("a/gone", 0o644, "x")
            .file("a/kept", 0o644, "x")
            .dir("b", 0o755)
            .file("b/one", 0o644, "x")
            .dir("b/deep", 0o755)
            .file("b/deep/two", 0o644, "x")
            .build();
        let above = LayerBuilder::new()
            .dir("a", 0o700)
            .whiteout("a/gone")
            .dir("b", 0o755)
            .opaque("b")
            .file("b/three", 0o644, "x")
            .build();
        let image = push(node, "hidden", &[&busybox, &below, &above]);
        node.strata(&["pull", &image]).ok();
        let run = node.strata(&["run", "--rm", &image, "sh", "-c", "ls -A /a /b; stat -c %a /a"]).ok();
        assert_eq!(run.stdout, "/a:\nkept\n\n/b:\nthree\n700\n", "{run}");
        // A whiteout of what no layer has must not show as a ghost.
        let ghost = LayerBuilder::new().dir("a", 0o755).whiteout("a/never").file("a/x", 0o644, "x").build();
        let image = push(node, "ghost", &[&busybox, &ghost]);
        node.strata(&["pull", &image]).ok();
        let run = node.strata(&["run", "--rm", &image, "ls", "-lA", "/a"]).ok();
        assert!(!run.stdout.contains("never") && run.stdout.contains('x'), "{run}");
    });
}

#[test]
fn nothing_from_an_image_leaves_its_root() {
    test(|node| {
        let busybox = catalog::busybox_layer().unwrap();
        let victim = node.dir("victim");
        std::fs::create_dir(&victim).unwrap();
        let outside = victim.display().to_string();
        let through_link =
            LayerBuilder::new().symlink("out", &outside).file("out/planted", 0o644, "x").build();
        let image = push(node, "escape", &[&busybox, &through_link]);
        // Refusing it and planting the file inside are both sound.
        let _ = node.strata(&["pull", &image]);
        assert_eq!(leaks::names(&victim), Vec::<String>::new());
        let relative = LayerBuilder::new()
            .symlink("up", "../../../../../../../../../../")
            .file(&format!("up{outside}/planted"), 0o644, "x")
            .build();
        let image = push(node, "relative", &[&busybox, &relative]);
        let _ = node.strata(&["pull", &image]);
        assert_eq!(leaks::names(&victim), Vec::<String>::new());
    });
}

#[test]
fn a_layer_that_is_not_what_its_config_says_is_refused() {
    test(|node| {
        let busybox = catalog::busybox_layer().unwrap();
        let other = LayerBuilder::new().file("other", 0o644, "x").build();
        let lying = Layer { tar: other.tar, diff_id: busybox.diff_id };
        let image = push(node, "lying", &[&lying]);
        let refused = node.try_pull(&image).unwrap_err();
        assert!(refused.message().contains("sha256:"), "{refused:?}");
        assert_eq!(layers(node), Vec::<String>::new());
        assert_eq!(node.crictl(&["images", "-q"]).ok().text(), "");
        // And the layer's right name is not spoilt for images that do have it.
        node.pull("busybox");
        node.strata(&["run", "--rm", &node.image("busybox"), "true"]).ok();
    });
}

#[test]
fn system_df_counts_a_shared_layer_once() {
    test(|node| {
        node.pull("busybox");
        let alone = sizes(node);
        node.pull("stacked");
        let both = sizes(node);
        assert!(both > alone && both < alone + alone / 2, "{alone} {both}");
        node.strata(&["system", "df"]).ok().has(&["Images", "Containers"]);
        node.strata(&["gc"]).ok();
        node.strata(&["run", "--rm", &node.image("stacked"), "true"]).ok();
    });
}

/// The size of all images, as the daemon says it.
fn sizes(node: &Node) -> u64 {
    use strata_api::debug::SystemDfRequest;
    let usage = node.debug(async |mut c| c.system_df(SystemDfRequest { verbose: true }).await).unwrap();
    usage.rows.iter().find(|row| row.r#type == "Images").unwrap().size
}

#[test]
fn platforms_and_media_types() {
    test(|node| {
        use strata_e2e::images::Index;
        let layer = catalog::busybox_layer().unwrap();
        let of = |architecture: &str| {
            ImageBuilder::new(Flavor::Docker)
                .layer(&layer, Compression::Gzip, "COPY busybox /")
                .set("Cmd", serde_json::json!(["echo", architecture]))
                .architecture(architecture)
                .build()
        };
        let index = Index::new(Flavor::Docker, vec![("arm64", of("arm64")), ("amd64", of("amd64"))]);
        node.push(async |registry| registry.push_index(&index, "e2e/multi", "latest").await);
        let image = node.pull("multi");
        let expected = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        assert_eq!(node.strata(&["run", "--rm", &image]).ok().text(), expected);
        let inspected: Value = node.strata(&["inspect", &image]).ok().json();
        let digests = inspected.get(0).unwrap_or(&inspected)["RepoDigests"].to_string();
        assert!(digests.contains(&index.manifest.digest), "{digests}");
        let foreign = Index::new(Flavor::Oci, vec![("s390x", of("s390x"))]);
        node.push(async |registry| registry.push_index(&foreign, "e2e/foreign", "latest").await);
        let refused = node.try_pull(&node.image("foreign")).unwrap_err();
        assert!(refused.message().contains("s390x"), "{refused:?}");
        let plain = ImageBuilder::new(Flavor::Oci).layer(&layer, Compression::None, "COPY busybox /").build();
        let plain = push_image(node, "plain", &plain);
        node.strata(&["pull", &plain]).ok();
        node.strata(&["run", "--rm", &plain, "true"]).ok();
    });
}
