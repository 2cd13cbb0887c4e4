//! Pods with a user namespace, and containers in each other's PID namespace, by crictl.

mod processes;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use strata_e2e::images::{Compression, Flavor, ImageBuilder, LayerBuilder};
use strata_e2e::node::{Node, test};

/// Users and groups of the test pods on the host.
const UID: u32 = 300_000;
const GID: u32 = 400_000;

fn mapping(host: u32, length: u32) -> Value {
    json!([{ "host_id": host, "container_id": 0, "length": length }])
}

fn options() -> Value {
    json!({ "pid": 1, "userns_options": { "mode": 0, "uids": mapping(UID, 65_536), "gids": mapping(GID, 65_536) } })
}

fn file(node: &Node, name: &str, value: &Value) -> String {
    let path = node.dir(name);
    std::fs::write(&path, value.to_string()).unwrap();
    path.display().to_string()
}

fn pod(node: &Node, name: &str, options: &Value) -> String {
    let metadata = json!({ "name": name, "uid": format!("{name}-uid"), "namespace": "users", "attempt": 1 });
    let linux = json!({ "security_context": { "namespace_options": options } });
    let pod = json!({ "metadata": metadata, "hostname": name, "log_directory": node.log_directory(name), "linux": linux });
    file(node, &format!("pod-{name}.json"), &pod)
}

fn container(node: &Node, name: &str, image: &str, options: &Value, more: &Value) -> String {
    let mut config = json!({
        "metadata": { "name": name }, "image": { "image": image }, "command": ["/bin/sh", "-c", "while :; do sleep 0.1; done"],
        "log_path": format!("{name}.log"), "linux": { "security_context": { "namespace_options": options } },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    file(node, &format!("container-{name}.json"), &config)
}

fn run(node: &Node, pod_id: &str, pod: &str, container: &str) -> String {
    let id = node.crictl(&["create", pod_id, container, pod]).ok().text().to_owned();
    node.crictl(&["start", &id]).ok();
    id
}

fn exec(node: &Node, id: &str, script: &str) -> String {
    // crictl ends what it shows with empty lines.
    format!("{}\n", node.crictl(&["exec", "-s", id, "sh", "-c", script]).ok().stdout.trim_end())
}

fn pid(node: &Node, id: &str) -> i32 {
    let info = node.crictl(&["inspect", id]).ok().json();
    i32::try_from(info["info"]["pid"].as_i64().unwrap()).unwrap()
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = std::fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (meta.uid(), meta.gid())
}

fn upper(node: &Node, id: &str) -> PathBuf {
    node.dir("root/containers").join(id).join("upper")
}

fn layers(node: &Node) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(node.dir("root/layers")).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

/// Whether the node says that it can; says so if it cannot.
fn able(node: &Node) -> bool {
    let info = node.crictl(&["info"]).ok().json();
    let handlers = info["runtimeHandlers"].as_array().cloned().unwrap_or_default();
    assert!(!handlers.is_empty(), "{info}");
    let able = handlers
        .iter()
        .all(|h| h["features"]["user_namespaces"] == true || h["features"]["userNamespaces"] == true);
    if !able {
        strata_e2e::skip("no user namespaces with ID-mapped mounts here");
    }
    able
}

#[test]
fn a_pod_has_users_of_its_own_over_layers_that_all_share() {
    test(|node| {
        if !able(node) {
            return;
        }
        let image = node.pull("busybox");
        let before = layers(node);
        let (own, plain) = (pod(node, "own", &options()), pod(node, "plain", &json!({ "pid": 1 })));
        let own_id = node.crictl(&["runp", &own]).ok().text().to_owned();
        let plain_id = node.crictl(&["runp", &plain]).ok().text().to_owned();
        let id = run(node, &own_id, &own, &container(node, "mapped", &image, &options(), &json!({})));
        let other =
            run(node, &plain_id, &plain, &container(node, "other", &image, &json!({ "pid": 1 }), &json!({})));

        let said = exec(
            node,
            &id,
            "id -u; cat /proc/self/uid_map /proc/self/gid_map; stat -c %u:%g /bin/busybox /etc/hosts",
        );
        let words: Vec<&str> = said.split_whitespace().collect();
        assert_eq!(words, ["0", "0", "300000", "65536", "0", "400000", "65536", "0:0", "0:0"]);
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid(node, &id))).unwrap();
        assert!(
            status.contains("Uid:\t300000\t300000") && status.contains("Gid:\t400000\t400000"),
            "{status}"
        );
        exec(
            node,
            &id,
            "echo made > /made; chown 33:44 /made; echo x >> /etc/hosts; echo x > /dev/shm/x; rm /bin/true",
        );
        let ports = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range";
        assert_eq!(exec(node, &id, ports).split_whitespace().collect::<Vec<_>>(), ["0", "0", "65535"]);
        assert_eq!(
            exec(node, &other, ports).split_whitespace().collect::<Vec<_>>(),
            ["0", "0", "2147483647"]
        );

        // What was changed has the host's numbers, and what was not is there once, for both.
        assert_eq!(owner(&upper(node, &id).join("made")), (UID + 33, GID + 44));
        assert_eq!(owner(&upper(node, &id)), (UID, GID));
        assert_eq!(
            exec(
                node,
                &other,
                "stat -c %u:%g /bin/busybox; cat /proc/self/uid_map; test -e /made || echo no"
            )
            .lines()
            .next(),
            Some("0:0")
        );
        assert_eq!(layers(node), before);
        let binary = before.iter().map(|l| l.join("fs/bin/busybox")).find(|p| p.exists()).unwrap();
        assert_eq!(owner(&binary), (0, 0));
        let using = |id: &str| std::fs::metadata(format!("/proc/{}/exe", pid(node, id))).unwrap().ino();
        assert_eq!(
            (using(&id), using(&other)),
            (binary.metadata().unwrap().ino(), binary.metadata().unwrap().ino())
        );

        // Layers say nothing of the pod.
        node.strata(&["diff", &id]).ok().has(&["A /made", "D /bin/true"]);
        let saved = node.strata(&["commit", &id, "shifted:v1"]).ok().text().to_owned();
        let copy =
            run(node, &plain_id, &plain, &container(node, "copy", &saved, &json!({ "pid": 1 }), &json!({})));
        assert_eq!(
            exec(node, &copy, "stat -c %u:%g /made /; cat /made; test -e /bin/true || echo gone"),
            "33:44\n0:0\nmade\ngone\n"
        );

        // Another daemon goes on with it.
        node.crash();
        assert_eq!(exec(node, &id, "id -u; stat -c %u:%g /made"), "0\n33:44\n");
        let late = run(node, &own_id, &own, &container(node, "late", &saved, &options(), &json!({})));
        assert_eq!(exec(node, &late, "stat -c %u:%g /made"), "33:44\n");
        node.crictl(&["stop", "-t", "0", &id]).ok();
        node.crictl(&["rm", &id]).ok();
        assert!(!upper(node, &id).exists());
        node.crictl(&["rmp", "-fa"]).ok();
        assert!(!node.dir("state/pods").join(&own_id).exists());
    });
}

#[test]
fn volumes_and_a_shared_pid_namespace_fit_in() {
    test(|node| {
        if !able(node) {
            return;
        }
        let image = node.pull("busybox");
        let mut options = options();
        options["pid"] = json!(0);
        let own = pod(node, "volumes", &options);
        let own_id = node.crictl(&["runp", &own]).ok().text().to_owned();
        let volume = node.dir("volume");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(volume.join("f"), "").unwrap();
        chown(volume.join("f"), Some(1000), Some(1000)).unwrap();
        let mount = |path: &str, mapped: bool| {
            let mut mount = json!({ "container_path": path, "host_path": volume });
            if mapped {
                mount["uidMappings"] = mapping(UID, 65_536);
                mount["gidMappings"] = mapping(GID, 65_536);
            }
            mount
        };
        let more = json!({ "mounts": [mount("/mapped", true), mount("/plain", false)] });
        let id = run(node, &own_id, &own, &container(node, "mapped", &image, &options, &more));
        let said = exec(
            node,
            &id,
            "stat -c %u:%g /mapped/f /plain/f; touch /mapped/new && chown 7:8 /mapped/new; touch /plain/no 2>/dev/null || echo refused; cat /proc/1/comm",
        );
        assert_eq!(said, "1000:1000\n65534:65534\nrefused\nstrata-init\n");
        assert_eq!(owner(&volume.join("new")), (7, 8));

        let user = json!({ "run_as_user": { "value": 70_000 }, "namespace_options": options });
        let config =
            container(node, "unmapped", &image, &options, &json!({ "linux": { "security_context": user } }));
        let refused = node.crictl(&["create", &own_id, &config, &own]).fails();
        assert!(refused.contains("user 70000 is not mapped"), "{refused}");
        let mut different = options.clone();
        different["userns_options"]["uids"] = mapping(UID + 1, 65_536);
        let config = container(node, "different", &image, &different, &json!({}));
        let refused = node.crictl(&["create", &own_id, &config, &own]).fails();
        assert!(refused.contains("differ from its pod's"), "{refused}");
        let bad = json!({ "mounts": [{ "container_path": "/p", "host_path": "/proc", "uidMappings": mapping(UID, 10), "gidMappings": mapping(GID, 10) }] });
        let refused =
            node.crictl(&["create", &own_id, &container(node, "proc", &image, &options, &bad), &own]).fails();
        assert!(refused.contains("its file system"), "{refused}");
        node.crictl(&["rmp", "-fa"]).ok();
    });
}

/// Unmounts when it goes.
struct Mounted(PathBuf);

impl Mounted {
    fn new(fstype: &str, at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some(fstype), &at, Some(fstype), flags, None::<&str>).unwrap();
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn what_is_mounted_below_a_volume_is_mapped_with_it() {
    test(|node| {
        if !able(node) {
            return;
        }
        let image = node.pull("busybox");
        let own = pod(node, "below", &options());
        let own_id = node.crictl(&["runp", &own]).ok().text().to_owned();
        let volume = node.dir("volume");
        let below = Mounted::new("tmpfs", volume.join("below"));
        std::fs::write(below.0.join("f"), "").unwrap();
        chown(below.0.join("f"), Some(1000), Some(1001)).unwrap();
        let mounts = json!({ "mounts": [{
            "container_path": "/v", "host_path": volume,
            "uidMappings": mapping(UID, 65_536), "gidMappings": mapping(GID, 65_536),
        }] });
        let id = run(node, &own_id, &own, &container(node, "mapped", &image, &options(), &mounts));
        let said = exec(node, &id, "stat -c %u:%g /v/below/f; touch /v/below/new && chown 7:8 /v/below/new");
        assert_eq!(said, "1000:1001\n");
        assert_eq!(owner(&below.0.join("new")), (7, 8));

        // Files that would be nobody's, for no reason that anybody could see.
        let unfit = Mounted::new("proc", volume.join("unfit"));
        let config = container(node, "unfit", &image, &options(), &mounts);
        let refused = node.crictl(&["create", &own_id, &config, &own]).fails();
        assert!(refused.contains("FailedPrecondition") && refused.contains("mounted below it"), "{refused}");
        drop(unfit);
        node.crictl(&["create", &own_id, &config, &own]).ok();
        node.crictl(&["rmp", "-fa"]).ok();
    });
}

#[test]
fn image_volumes_belong_to_the_pods_users() {
    test(|node| {
        if !able(node) {
            return;
        }
        let image = node.pull("busybox");
        let low = LayerBuilder::new()
            .dir("etc", 0o755)
            .file_of("etc/low", 0o640, 33, 44, "low\n")
            .file("etc/gone", 0o644, "")
            .build();
        let high = LayerBuilder::new()
            .dir("etc", 0o755)
            .file("etc/high", 0o644, "high\n")
            .whiteout("etc/gone")
            .build();
        let data = ImageBuilder::new(Flavor::Oci)
            .layer(&low, Compression::Gzip, "COPY low /")
            .layer(&high, Compression::Gzip, "COPY high /")
            .build();
        node.push(async |registry| registry.push(&data, "e2e/data", "latest").await);
        let data = node.pull("data");
        let own = pod(node, "images", &options());
        let own_id = node.crictl(&["runp", &own]).ok().text().to_owned();
        let volume = |path: &str, below: &str| {
            json!({
                "container_path": path, "readonly": true, "image": { "image": data }, "image_sub_path": below,
                "uidMappings": mapping(UID, 65_536), "gidMappings": mapping(GID, 65_536),
            })
        };
        let mounts =
            json!({ "mounts": [volume("/all", ""), volume("/part", "etc"), volume("/file", "etc/low")] });
        let id = run(node, &own_id, &own, &container(node, "reader", &image, &options(), &mounts));
        let said = exec(
            node,
            &id,
            "cat /all/etc/low /part/high /file; ls /part; stat -c %u:%g /all/etc/low /part/high /file; touch /part/x 2>/dev/null || echo refused",
        );
        assert_eq!(said, "low\nhigh\nlow\nhigh\nlow\n33:44\n0:0\n33:44\nrefused\n");
        // The layer is not copied, and not chowned.
        let file = layers(node).into_iter().map(|l| l.join("fs/etc/low")).find(|p| p.exists()).unwrap();
        assert_eq!(owner(&file), (33, 44));
        let missing = json!({ "mounts": [volume("/x", "no/such")] });
        let config = container(node, "missing", &image, &options(), &missing);
        let refused = node.crictl(&["create", &own_id, &config, &own]).fails();
        assert!(refused.contains("InvalidArgument") && refused.contains("the image has no"), "{refused}");
        node.crictl(&["rmp", "-fa"]).ok();
    });
}

#[test]
fn pods_that_make_no_sense_are_refused() {
    test(|node| {
        let mut two = options();
        two["userns_options"]["uids"] = json!([
            { "host_id": 1, "container_id": 0, "length": 10 }, { "host_id": 20, "container_id": 10, "length": 10 }
        ]);
        let mut network = options();
        network["network"] = json!(2);
        let mut lengths = options();
        lengths["userns_options"]["gids"] = mapping(GID, 10);
        for (name, options, word) in [
            ("two", two, "exactly one"),
            ("network", network, "network namespace"),
            ("lengths", lengths, "as many"),
        ] {
            let refused = node.crictl(&["runp", &pod(node, name, &options)]).fails();
            assert!(refused.contains(word), "{refused}");
        }
        assert_eq!(node.crictl(&["pods", "-q"]).ok().text(), "");
    });
}

/// As where nodes are containers themselves, with lxcfs over files of /proc.
#[test]
fn a_node_whose_proc_is_covered_says_how_to_go_on() {
    test(|node| {
        if !able(node) {
            return;
        }
        let image = node.pull("busybox");
        let (whole, private) = (node.dir("proc"), MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        std::fs::create_dir(&whole).unwrap();
        for mended in [false, true] {
            node.kill9();
            node.launch_from(&mut || {
                unshare(CloneFlags::CLONE_NEWNS).unwrap();
                mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
                mount(Some("/dev/null"), "/proc/version", None::<&str>, MsFlags::MS_BIND, None::<&str>)
                    .unwrap();
                if mended {
                    mount(Some("proc"), &whole, Some("proc"), MsFlags::empty(), None::<&str>).unwrap();
                }
            });
            let own = pod(node, "own", &options());
            let own_id = node.crictl(&["runp", &own]).ok().text().to_owned();
            let config = container(node, "mapped", &image, &options(), &json!({}));
            let made = node.crictl(&["create", &own_id, &config, &own]);
            if mended {
                made.ok();
            } else {
                let refused = made.fails();
                assert!(refused.contains("mount -t proc proc"), "{refused}");
            }
            node.crictl(&["rmp", "-fa"]).ok();
        }
    });
}
