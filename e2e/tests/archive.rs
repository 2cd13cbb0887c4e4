//! Images as files and back, and to registries: with skopeo and umoci at the other end.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use strata_e2e::eventually;
use strata_e2e::node::{Node, leaks, test, test_with};

/// A path below the node's directory, as an argument.
fn at(node: &Node, name: &str) -> String {
    node.dir(name).display().to_string()
}

/// The ID of an image.
#[track_caller]
fn id(node: &Node, image: &str) -> String {
    let inspected = node.strata(&["inspect", "--type", "image", image]).ok().json();
    inspected[0]["Id"].as_str().unwrap().to_owned()
}

/// `skopeo …`, without certificates and policies.
#[track_caller]
fn skopeo(node: &Node, args: &[&str]) -> strata_e2e::command::Output {
    let tls: &[&str] = match args[0] {
        "copy" => &["--src-tls-verify=false", "--dest-tls-verify=false"],
        _ => &["--tls-verify=false"],
    };
    node.run("skopeo", &[&["--insecure-policy", args[0]], tls, &args[1..]].concat()).ok()
}

/// What skopeo says the digest of an image's manifest is.
#[track_caller]
fn digest(node: &Node, image: &str) -> String {
    skopeo(node, &["inspect", image]).json()["Digest"].as_str().unwrap().to_owned()
}

fn docker(image: &str) -> String {
    format!("docker://{image}")
}

fn shell(node: &Node, script: &str) -> strata_e2e::command::Output {
    let strata =
        node.strata_command().get_args().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>();
    let strata = strata.last().cloned().unwrap_or_default();
    let socket = at(node, "stratad.sock");
    node.run("sh", &["-c", &format!("strata() {{ STRATA_SOCKET={socket} {strata} \"$@\"; }}; {script}")])
}

#[track_caller]
fn remove_images(node: &Node) {
    for image in node.strata(&["images", "-q", "--no-trunc"]).ok().stdout.lines() {
        // An image of several names stands there several times.
        let _ = node.strata(&["rmi", "-f", image]);
    }
    assert_eq!(node.strata(&["images", "-q"]).ok().text(), "");
}

#[test]
fn what_is_saved_is_loaded() {
    test(|node| {
        let all = ["busybox", "stacked", "zstd"].map(|name| node.pull(name));
        let names: Vec<&str> = all.iter().map(String::as_str).collect();
        let ids = names.iter().map(|name| id(node, name)).collect::<Vec<_>>();
        let (one, two) = (at(node, "docker.tar"), at(node, "oci.tar"));
        node.strata(&[&["save", "-o", &one], names.as_slice()].concat()).ok();
        shell(node, &format!("strata image save --format oci {} > {two}", names.join(" "))).ok();
        for (archive, load) in
            [(&one, format!("strata load -i {one}")), (&two, format!("strata load < {two}"))]
        {
            remove_images(node);
            let loaded = shell(node, &load).ok();
            let mut lines: Vec<&str> = loaded.stdout.lines().collect();
            lines.sort_unstable();
            assert_eq!(lines, names.iter().map(|name| format!("Loaded image: {name}")).collect::<Vec<_>>());
            for (name, before) in names.iter().zip(&ids) {
                assert_eq!(&id(node, name), before, "{archive}");
                node.strata(&["run", "--rm", name, "true"]).ok();
            }
            // Byte for byte: manifests, configs, compressed layers.
            let again = at(node, "again.tar");
            let format = if archive == &one { "docker" } else { "oci" };
            node.strata(&[&["save", "--format", format, "-o", &again], names.as_slice()].concat()).ok();
            assert!(std::fs::read(archive).unwrap() == std::fs::read(&again).unwrap(), "{archive}");
        }
        // What came from no registry is not for the kubelet to collect.
        let listed = node.crictl(&["images", "-o", "json"]).ok().json();
        assert!(listed["images"].as_array().unwrap().iter().all(|i| i["pinned"] == true), "{listed}");
        // Loading what is here changes nothing; so does a name by which it was pulled.
        shell(node, &format!("gzip -c {one} | strata load -q")).ok();
        assert_eq!(names.iter().map(|name| id(node, name)).collect::<Vec<_>>(), ids);
    });
}

#[test]
fn what_cannot_be_saved_leaves_no_file() {
    test(|node| {
        let dir = at(node, "out");
        std::fs::create_dir(&dir).unwrap();
        let file = format!("{dir}/x.tar");
        let refused = node.strata(&["save", "-o", &file, "nothing:here"]).fails();
        assert!(refused.contains("No such image: nothing:here"), "{refused}");
        assert_eq!(leaks::names(Path::new(&dir)), Vec::<String>::new());
        let image = node.pull("busybox");
        node.strata(&["save", "-o", &format!("{dir}/none/x.tar"), &image]).fails();
        let strata = node.strata_plain().get_program().to_string_lossy().into_owned();
        let refused = node.run("script", &["-qec", &format!("{strata} save {image}"), "/dev/null"]).fails();
        assert!(refused.contains("cowardly refusing to save to a terminal"), "{refused}");
        // A client that is killed leaves no daemon busy and no file under the name. The daemon keeps it waiting until then.
        let daemon = Pid::from_raw(node.pid());
        kill(daemon, Signal::SIGSTOP).unwrap();
        let mut save = node.strata_plain();
        save.args(["save", "-o", &file, &image]);
        let mut child = node.within(|| save.spawn()).unwrap();
        eventually(20, "it is about to write", || match leaks::names(Path::new(&dir)).len() {
            0 => Err("nothing is there".to_owned()),
            _ => Ok(()),
        });
        child.kill().unwrap();
        child.wait().unwrap();
        kill(daemon, Signal::SIGCONT).unwrap();
        assert!(!Path::new(&file).exists());
    });
}

#[test]
fn a_load_that_is_cut_off_leaves_nothing() {
    test(|node| {
        let image = node.pull("stacked");
        let archive = at(node, "x.tar");
        node.strata(&["save", "-o", &archive, &image]).ok();
        remove_images(node);
        let bytes = std::fs::read(&archive).unwrap();
        let half = at(node, "half.tar");
        std::fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
        let refused = node.strata(&["load", "-i", &half]).fails();
        assert!(refused.contains("load: "), "{refused}");
        // Killed in the middle, with the rest still to come.
        let mut load = node.strata_plain();
        load.arg("load").stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = node.within(|| load.spawn()).unwrap();
        child.stdin.as_mut().unwrap().write_all(&bytes[..bytes.len() / 2]).unwrap();
        eventually(10, "something of the archive is there", || {
            let there = leaks::names(&node.dir("root/tmp"));
            if there.is_empty() { Err(String::new()) } else { Ok(()) }
        });
        child.kill().unwrap();
        child.wait().unwrap();
        eventually(10, "nothing of the archive is there any more", || {
            let left: Vec<String> = ["root/tmp", "root/layers", "root/blobs/sha256", "root/refs"]
                .iter()
                .flat_map(|dir| leaks::names(&node.dir(dir)))
                .collect();
            if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
        });
        node.strata(&["load", "-q", "-i", &archive]).ok().has(&["Loaded image: "]);
    });
}

#[test]
fn skopeo_and_umoci_read_what_strata_writes() {
    test(|node| {
        let (busybox, stacked) = (node.pull("busybox"), node.pull("stacked"));
        let (one, oci) = (at(node, "docker.tar"), at(node, "oci.tar"));
        node.strata(&["save", "-o", &one, &stacked]).ok();
        node.strata(&["save", "--format", "oci", "-o", &oci, &busybox]).ok();
        let seen = skopeo(node, &["inspect", &format!("docker-archive:{one}")]).json();
        assert_eq!(seen["Layers"].as_array().map(Vec::len), Some(2), "{seen}");
        assert!(seen["Env"].to_string().contains("GREETING"), "{seen}");
        // The manifest in an OCI layout is the registry's own.
        let from = digest(node, &docker(&busybox));
        assert_eq!(digest(node, &format!("oci-archive:{oci}")), from);
        assert_eq!(digest(node, &format!("oci-archive:{oci}:latest")), from);
        // Through skopeo to a registry, an image keeps its ID, and from an OCI layout its manifest.
        let copied = |what: &str, name: &str| {
            let to = format!("127.0.0.1:5000/copied/{name}:1");
            skopeo(node, &["copy", what, &docker(&to)]);
            to
        };
        let to = copied(&format!("docker-archive:{one}"), "stacked");
        node.strata(&["pull", &to]).ok();
        assert_eq!(id(node, &to), id(node, &stacked));
        node.strata(&["run", "--rm", &to, "cat", "/opt/strata/readme"]).ok().has(&["lies below busybox"]);
        let to = copied(&format!("oci-archive:{oci}:latest"), "busybox");
        assert_eq!(digest(node, &docker(&to)), from);
        // As a layout it is umoci's, too.
        let layout = at(node, "layout");
        skopeo(node, &["copy", &format!("oci-archive:{oci}"), &format!("oci:{layout}:here")]);
        let bundle = at(node, "bundle");
        node.run("umoci", &["unpack", "--image", &format!("{layout}:here"), &bundle]).ok();
        let notes = std::fs::read_to_string(node.dir("bundle/rootfs/home/app/notes")).unwrap();
        assert_eq!(notes, "from the busybox layer\n");
        // The archive itself is a layout, once it is extracted.
        let extracted = at(node, "extracted");
        std::fs::create_dir(&extracted).unwrap();
        node.run("tar", &["-xf", &oci, "-C", &extracted]).ok();
        let listed = node.run("umoci", &["ls", "--layout", &extracted]).ok();
        assert_eq!(listed.text(), "latest");
        // One archive of several images: each is found by its name.
        let many = at(node, "many.tar");
        node.strata(&["save", "-o", &many, &busybox, &stacked]).ok();
        for image in [&busybox, &stacked] {
            skopeo(node, &["inspect", &format!("docker-archive:{many}:{image}")]);
        }
        assert_eq!(digest(node, &format!("oci-archive:{many}:{busybox}")), from);
    });
}

#[test]
fn strata_reads_what_skopeo_and_umoci_write() {
    test(|node| {
        let (busybox, stacked, zstd) = (node.image("busybox"), node.image("stacked"), node.image("zstd"));
        let (one, oci, packed) = (at(node, "docker.tar"), at(node, "oci.tar"), at(node, "zstd.tar"));
        skopeo(node, &["copy", &docker(&stacked), &format!("docker-archive:{one}:team/stacked:v1")]);
        skopeo(node, &["copy", &docker(&busybox), &format!("oci-archive:{oci}:team/busybox:v2")]);
        skopeo(node, &["copy", &docker(&zstd), &format!("oci-archive:{packed}")]);
        node.strata(&["load", "-i", &one]).ok().has(&["Loaded image: team/stacked:v1\n"]);
        node.strata(&["load", "-i", &oci]).ok().has(&["Loaded image: team/busybox:v2\n"]);
        let unnamed = node.strata(&["load", "-i", &packed]).ok();
        let unnamed = unnamed.text().strip_prefix("Loaded image ID: ").unwrap_or_else(|| panic!("{unnamed}"));
        for image in ["team/stacked:v1", "team/busybox:v2", unnamed] {
            node.strata(&["run", "--rm", image, "cat", "/home/app/notes"])
                .ok()
                .has(&["from the busybox layer"]);
        }
        // They are the images of the registry.
        for (loaded, name) in
            [("team/stacked:v1", "stacked"), ("team/busybox:v2", "busybox"), (unnamed, "zstd")]
        {
            node.strata(&["tag", loaded, &format!("kept-{name}:1")]).ok();
            let pulled = node.pull(name);
            assert_eq!(id(node, &format!("kept-{name}:1")), id(node, &pulled), "{name}");
        }
        // An image that umoci made from nothing: a layout of one bare tag, as tar writes it.
        let layout = at(node, "layout");
        let image = format!("{layout}:made");
        let umoci = |args: &[&str]| node.run("umoci", args).ok();
        umoci(&["init", "--layout", &layout]);
        umoci(&["new", "--image", &image]);
        umoci(&["insert", "--image", &image, "/bin/busybox", "/bin/busybox"]);
        umoci(&[
            "config",
            "--image",
            &image,
            "--config.cmd",
            "/bin/busybox",
            "--config.cmd",
            "cat",
            "--config.cmd",
            "/note",
        ]);
        let bundle = at(node, "bundle");
        umoci(&["unpack", "--image", &image, &bundle]);
        std::fs::write(node.dir("bundle/rootfs/note"), "packed by umoci\n").unwrap();
        umoci(&["repack", "--image", &image, &bundle]);
        let loaded = shell(node, &format!("tar -C {layout} -cf - . | strata load")).ok();
        let made = loaded.text().strip_prefix("Loaded image ID: ").unwrap_or_else(|| panic!("{loaded}"));
        assert_eq!(node.strata(&["run", "--rm", made]).ok().stdout, "packed by umoci\n");
    });
}

#[test]
fn what_is_pushed_is_pulled_back() {
    test(|node| {
        let stacked = node.pull("stacked");
        node.strata(&["run", "--name", "work", &stacked, "sh", "-c", "echo pushed > /note"]).ok();
        let mine = "127.0.0.1:5000/team/mine:v1";
        node.strata(&["commit", "work", mine]).ok();
        let pushed = node.strata(&["push", mine]).ok();
        pushed.clone().has(&["The push refers to repository [127.0.0.1:5000/team/mine]", "Pushed"]);
        // The layers of the image below came from another repository of this registry.
        assert_eq!(pushed.stdout.matches("Mounted from another repository").count(), 2, "{pushed}");
        let last = pushed.stdout.lines().last().unwrap();
        let remote = digest(node, &docker(mine));
        let raw = skopeo(node, &["inspect", "--raw", &docker(mine)]);
        assert_eq!(last, format!("v1: digest: {remote} size: {}", raw.stdout.len()));
        // From now on the registry's digest is a name of it, too.
        let digests = node.strata(&["image", "inspect", "--format", "{{.RepoDigests}}", mine]).ok();
        assert!(digests.stdout.contains(&format!("127.0.0.1:5000/team/mine@{remote}")), "{digests}");
        let again = node.strata(&["push", mine]).ok();
        assert_eq!(again.stdout.matches("Layer already exists").count(), 3, "{again}");
        assert_eq!(node.strata(&["push", "-q", mine]).ok().text(), mine);

        // On another root it is the same image.
        let before = id(node, mine);
        node.strata(&["rm", "work"]).ok();
        node.stop();
        std::fs::remove_dir_all(node.dir("root")).unwrap();
        node.launch();
        node.strata(&["pull", mine]).ok().has(&[&format!("Digest: {remote}")]);
        assert_eq!(id(node, mine), before);
        assert_eq!(node.strata(&["run", "--rm", mine, "cat", "/note"]).ok().stdout, "pushed\n");

        // What was pulled and goes to another name keeps its digest, whoever made it.
        for name in ["busybox", "stacked", "zstd"] {
            let (image, other) = (node.pull(name), format!("127.0.0.1:5000/other/{name}:1"));
            node.strata(&["tag", &image, &other]).ok();
            node.strata(&["image", "push", &other]).ok();
            assert_eq!(digest(node, &docker(&other)), digest(node, &docker(&image)));
        }
        for (name, words) in [
            (
                "127.0.0.1:5000/no/such:image",
                "An image does not exist locally with the tag: 127.0.0.1:5000/no/such:image",
            ),
            (&format!("127.0.0.1:5000/team/mine@{remote}"), "cannot push a digest reference"),
            ("Not A Name", "cannot push"),
        ] {
            let refused = node.strata(&["push", name]).fails();
            assert!(refused.contains(words), "{refused}");
        }
        node.stop_registry();
        let refused = node.strata(&["push", mine]).fails();
        assert!(
            refused.contains("push of 127.0.0.1:5000/team/mine:v1") && refused.contains("check the network"),
            "{refused}"
        );
    });
}

/// The compressed layers that are on the node: whatever is no JSON.
fn layer_blobs(node: &Node) -> usize {
    let dir = node.dir("root/blobs/sha256");
    let is_layer = |name: &String| !std::fs::read(dir.join(name)).is_ok_and(|bytes| bytes.starts_with(b"{"));
    leaks::names(&dir).into_iter().filter(is_layer).count()
}

#[test]
fn discarded_layers_are_fetched_again_to_be_saved_and_pushed() {
    test_with("[store]\ndiscard_blobs = true\n", |node| {
        let image = node.pull("stacked");
        assert_eq!(layer_blobs(node), 0);
        let archive = at(node, "x.tar");
        node.strata(&["save", "-o", &archive, &image]).ok();
        assert_eq!(layer_blobs(node), 0, "and discarded again");
        let seen = skopeo(node, &["inspect", &format!("docker-archive:{archive}")]).json();
        assert_eq!(seen["Layers"].as_array().map(Vec::len), Some(2), "{seen}");
        // A commit's own layer is only here, and stays.
        node.strata(&["run", "--name", "work", &image, "sh", "-c", "echo 1 > /one"]).ok();
        let mine = "127.0.0.1:5000/team/mine:v1";
        node.strata(&["commit", "work", mine]).ok();
        node.strata(&["rm", "work"]).ok();
        assert_eq!(layer_blobs(node), 1);
        node.strata(&["push", mine]).ok();
        // What is loaded could not be had again: it stays as well.
        let local: Value = node.strata(&["inspect", &image]).ok().json();
        remove_images(node);
        node.strata(&["load", "-i", &archive]).ok();
        assert_eq!(layer_blobs(node), 2);
        assert_eq!(node.strata(&["inspect", &image]).ok().json()[0]["Id"], local[0]["Id"]);
        remove_images(node);

        node.strata(&["pull", mine]).ok();
        node.stop_registry();
        let file = at(node, "y.tar");
        let refused = node.strata(&["save", "-o", &file, mine]).fails();
        for words in [mine, "discard_blobs", "sha256:", "check the network"] {
            assert!(refused.contains(words), "{words}: {refused}");
        }
        assert!(!Path::new(&file).exists());
        // The image itself needs none of this.
        assert_eq!(node.strata(&["run", "--rm", mine, "cat", "/one"]).ok().stdout, "1\n");
    });
}
