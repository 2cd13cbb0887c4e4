//! Image volumes, asked for through crictl, and VOLUMEs of images.

use super::sleeper;
use k8s_cri::v1 as cri;
use serde_json::{Value, json};
use strata_e2e::images::{Compression, Flavor, ImageBuilder, LayerBuilder, catalog};
use strata_e2e::node::{Node, security, test};
use tonic::Code;

/// An image of two layers, with symlinks that stay inside and others that leave.
fn push_data(node: &Node) -> String {
    let low = LayerBuilder::new()
        .dir("etc", 0o755)
        .dir("etc/conf", 0o750)
        .file("etc/conf/low", 0o644, "low\n")
        .file("etc/conf/gone", 0o644, "gone\n")
        .symlink("inside", "etc/conf")
        .symlink("outside", "/etc")
        .symlink("above", "../../../../etc")
        .build();
    let high = LayerBuilder::new()
        .dir("etc", 0o755)
        .dir("etc/conf", 0o750)
        .file("etc/conf/high", 0o644, "high\n")
        .file("etc/conf/run", 0o755, "#!/bin/sh\necho runs\n")
        .whiteout("etc/conf/gone")
        .build();
    let image = ImageBuilder::new(Flavor::Oci)
        .layer(&low, Compression::Gzip, "COPY low /")
        .layer(&high, Compression::Gzip, "COPY high /")
        .build();
    node.push(async |registry| registry.push(&image, "e2e/data", "latest").await);
    node.image("data")
}

fn volume(path: &str, image: &str, below: &str) -> Value {
    json!({ "container_path": path, "readonly": true, "image": { "image": image }, "image_sub_path": below })
}

struct Files {
    pod: String,
    pod_id: String,
}

impl Files {
    fn new(node: &Node, name: &str) -> Self {
        let metadata =
            json!({ "name": name, "uid": format!("{name}-uid"), "namespace": "pods", "attempt": 1 });
        let config = json!({ "metadata": metadata, "log_directory": node.log_directory(name), "linux": {} });
        let pod = node.dir(&format!("{name}-pod.json"));
        std::fs::write(&pod, config.to_string()).unwrap();
        let pod = pod.display().to_string();
        Self { pod_id: node.crictl(&["runp", &pod]).ok().text().to_owned(), pod }
    }

    fn create(&self, node: &Node, name: &str, mounts: &Value) -> strata_e2e::command::Output {
        let config = json!({
            "metadata": { "name": name }, "image": { "image": node.image("busybox") }, "log_path": "c.log", "linux": {},
            "command": ["/bin/sh", "-c", "trap exit TERM; while :; do sleep 0.1; done"], "mounts": mounts,
        });
        let file = node.dir(&format!("{name}.json"));
        std::fs::write(&file, config.to_string()).unwrap();
        node.crictl(&["create", &self.pod_id, &file.display().to_string(), &self.pod])
    }
}

fn remove_image(node: &Node, image: &str) -> Result<(), Code> {
    let image = cri::ImageSpec { image: image.into(), ..Default::default() };
    let request = cri::RemoveImageRequest { image: Some(image) };
    node.images(async |mut c| c.remove_image(request).await).map(drop).map_err(|e| e.code())
}

#[test]
fn an_image_is_mounted_whole_and_in_parts() {
    test(|node| {
        node.pull("busybox");
        let data = push_data(node);
        let id = node.try_pull(&data).unwrap();
        let files = Files::new(node, "volumes");
        let mounts = json!([
            volume("/all", &data, ""),
            volume("/part", &id, "etc/conf"),
            volume("/linked", &id, "inside"),
            volume("/file", &data, "etc/conf/high"),
        ]);
        let container = files.create(node, "reader", &mounts).ok().text().to_owned();
        node.crictl(&["start", &container]).ok();
        let script =
            "cat /all/etc/conf/low /part/high /linked/low /file; ls /part; /part/run; stat -c %a /part";
        assert_eq!(node.exec(&container, script), "low\nhigh\nlow\nhigh\nhigh\nlow\nrun\nruns\n750\n");
        for path in ["/all", "/part", "/linked"] {
            let (out, err, code) = node.try_exec(&container, &format!("touch {path}/new"), 10).unwrap();
            assert!(code != 0 && err.contains("Read-only file system"), "{path}: {out}{err}");
        }
        // Each is told by the ID of its image.
        let status = node.crictl(&["inspect", &container]).ok().json();
        let told: Vec<_> = status["status"]["mounts"].as_array().unwrap().iter().collect();
        assert_eq!(told.len(), 4, "{status}");
        for mount in told {
            assert_eq!(mount["image"]["imageRef"], id.as_str(), "{mount}");
        }
        // It is in use, also for a daemon that knows only what is on disk.
        assert_eq!(remove_image(node, &data), Err(Code::FailedPrecondition));
        node.crash();
        assert_eq!(remove_image(node, &id), Err(Code::FailedPrecondition));
        node.strata(&["gc"]).ok();
        assert_eq!(node.exec(&container, "cat /all/etc/conf/low /part/high"), "low\nhigh\n");
        node.crictl(&["rmp", "-f", &files.pod_id]).ok();
        remove_image(node, &data).unwrap();
        assert_eq!(node.try_pull(&data).unwrap(), id);
    });
}

#[test]
fn image_volumes_that_make_no_sense_are_refused() {
    test(|node| {
        node.pull("busybox");
        let data = push_data(node);
        node.try_pull(&data).unwrap();
        let files = Files::new(node, "refused");
        let mut writable = volume("/x", &data, "");
        writable["readonly"] = json!(false);
        let mut both = volume("/x", &data, "");
        both["host_path"] = json!("/tmp");
        for (n, (mount, why)) in [
            (volume("/x", &data, "no/such"), "the image has no"),
            (volume("/x", &data, "etc/conf/low/x"), "the image has no"),
            (volume("/x", &data, "outside"), "leads out"),
            (volume("/x", &data, "above"), "leads out"),
            (volume("/x", &data, "../etc"), ".."),
            (volume("/x", &data, "/etc"), "relative"),
            (volume("/x", &node.image("stacked"), ""), "must be pulled"),
            (writable, "readonly"),
            (both, "host path"),
            (json!({ "container_path": "/x", "host_path": "/tmp", "image_sub_path": "etc" }), "no image"),
        ]
        .into_iter()
        .enumerate()
        {
            let error = files.create(node, &format!("c{n}"), &json!([mount])).fails();
            assert!(error.contains(why), "{mount}: {error}");
            assert!(error.contains("ImageVolumeMountFailed: "), "{mount}: {error}");
            let code = if why == "must be pulled" { "NotFound" } else { "InvalidArgument" };
            assert!(error.contains(&format!("code = {code}")), "{mount}: {error}");
        }
        assert_eq!(node.crictl(&["ps", "-aq"]).ok().text(), "");
        // Nothing of them holds the image.
        remove_image(node, &data).unwrap();
    });
}

#[test]
fn volumes_of_an_image_can_be_written_below_a_read_only_root() {
    test(|node| {
        let busybox = catalog::busybox_layer().unwrap();
        let layer = LayerBuilder::new().dir("data", 0o1777).file("data/from-image", 0o644, "image\n").build();
        let image = ImageBuilder::new(Flavor::Oci)
            .layer(&busybox, Compression::Gzip, "COPY busybox /")
            .layer(&layer, Compression::Gzip, "COPY data /")
            .set("Volumes", json!({ "/data": {}, "/made/for/it": {}, "/sys/fs/cgroup": {} }))
            .build();
        node.push(async |registry| registry.push(&image, "e2e/volumes", "latest").await);
        let image = node.pull("volumes");
        let (_, id) = sleeper(node, "volumes", |_, config| {
            config.image = Some(cri::ImageSpec { image, ..Default::default() });
            security(config).readonly_rootfs = true;
        });
        let script = "cat /data/from-image; echo new > /data/own && cat /data/own; touch /made/for/it/x && echo made; \
                      touch /other 2>/dev/null || echo refused; ls /sys/fs/cgroup | wc -l; stat -c %a /data";
        let out = node.exec(&id, script);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(
            (&lines[..4], lines[5]),
            (["image", "new", "made", "refused"].as_slice(), "1777"),
            "{out}"
        );
        assert_ne!(lines[4], "0", "its own cgroups are where they always are: {out}");
    });
}
