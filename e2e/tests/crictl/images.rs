//! pull, images, inspecti, imagefsinfo, rmi.

use super::{container_file, pod_file};
use strata_e2e::node::test;

#[test]
fn images_are_listed_filtered_and_inspected() {
    test(|node| {
        let image = node.image("busybox");
        let pod = pod_file(node, "pull");
        node.crictl(&["pull", "--pull-timeout", "60s", "-a", "team=strata", "--pod-config", &pod, &image])
            .ok();
        node.crictl(&["pull", "--pull-timeout", "1ms", &node.image("absent")]).fails();
        let short = "127.0.0.1:5000/e2e/busybox";
        node.crictl(&["images"]).ok().has(&["IMAGE", "TAG", "IMAGE ID", "SIZE", short, "latest"]);
        node.crictl(&["img", "-v"]).ok().has(&["ID: sha256:", &format!("RepoTags: {image}"), "Size: "]);
        node.crictl(&["images", "-o", "yaml"]).ok().has(&["repoTags:", &image]);
        node.crictl(&["images", "--no-trunc", short]).ok().has(&["sha256:", "latest"]);
        node.crictl(&["images", "-f", "reference=busybox"]).ok().has(&[short]);
        node.crictl(&["images", "-f", "reference=nothing-of-the-kind"]).ok().lacks(&[short]);
        node.crictl(&["images", "-f", "dangling=true"]).ok().lacks(&[short]);

        let id = node.crictl(&["images", "-q"]).ok().text().to_owned();
        let template = ["-o", "go-template", "--template", "{{.status.id}}"];
        let shown = node.crictl(&[&["inspecti"], &template[..], &[&image]].concat()).ok();
        assert_eq!(shown.text(), id);
        node.crictl(&["inspecti", "-o", "table", &image]).ok().has(&["ID: sha256:", "Tag: ", &image]);
        node.crictl(&["inspecti", "-o", "yaml", "-q", &image])
            .ok()
            .has(&["repoDigests:"])
            .lacks(&["chainID"]);
        let verbose = node.crictl(&["inspecti", &image]).ok().json();
        assert!(verbose["info"]["imageSpec"]["config"]["Env"].is_array(), "{verbose}");

        node.crictl(&["imagefsinfo", "-o", "table"]).ok().has(&[
            "Image Filesystem",
            "TimeStamp[0]",
            "Disk[0]: ",
            "Mountpoint[0]",
        ]);
        node.crictl(&["imagefsinfo", "-o", "yaml"]).ok().has(&["imageFilesystems:", "containerFilesystems:"]);
    });
}

#[test]
fn images_are_removed_unless_a_container_stands_on_them() {
    test(|node| {
        let (used, other) = (node.pull("busybox"), node.pull("stacked"));
        let (pod, container) = (pod_file(node, "keep"), container_file(node, "keep", "exec sleep 1000"));
        let id = node.crictl(&["run", "--no-pull", &container, &pod]).ok().text().to_owned();
        node.crictl(&["rmi", "--prune"]).ok().has(&[&other]).lacks(&[&used]);
        node.crictl(&["inspecti", &other]).fails();
        let refused = node.crictl(&["rmi", &used]).fails();
        assert!(refused.contains("in use by container") && refused.contains(&id[..12]), "{refused}");
        node.crictl(&["rmp", "-fa"]).ok();
        node.crictl(&["rmi", "-a"]).ok();
        assert_eq!(node.crictl(&["images", "-q"]).ok().text(), "");
        // As with containerd, what is not there is an error of crictl's own and not of the runtime's.
        node.crictl(&["rmi", &used]).fails();
    });
}
