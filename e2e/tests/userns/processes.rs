//! Containers in each other's PID namespace.

use super::*;

#[test]
fn a_container_joins_anothers_processes() {
    test(|node| {
        let image = node.pull("busybox");
        let own = json!({ "pid": 1 });
        let pod_file = pod(node, "debugged", &own);
        let pod_id = node.crictl(&["runp", &pod_file]).ok().text().to_owned();
        let id = run(node, &pod_id, &pod_file, &container(node, "app", &image, &own, &json!({})));
        let target = json!({ "pid": 3, "target_id": id });
        let debugger =
            run(node, &pod_id, &pod_file, &container(node, "debugger", &image, &target, &json!({})));
        let link = |id: &str| std::fs::read_link(format!("/proc/{}/ns/pid", pid(node, id))).unwrap();
        assert_eq!(link(&debugger), link(&id));
        assert_eq!(exec(node, &debugger, "readlink /proc/1/ns/mnt").lines().count(), 1);
        // The one goes without the other; and what is aimed at must be there, and of this pod.
        node.crictl(&["stop", "-t", "0", &debugger]).ok();
        assert_eq!(exec(node, &id, "echo here"), "here\n");
        let elsewhere = pod(node, "elsewhere", &own);
        let elsewhere_id = node.crictl(&["runp", &elsewhere]).ok().text().to_owned();
        let config = container(node, "stranger", &image, &target, &json!({}));
        let refused = node.crictl(&["create", &elsewhere_id, &config, &elsewhere]).fails();
        assert!(refused.contains("another pod"), "{refused}");
        node.crictl(&["stop", "-t", "0", &id]).ok();
        let config = container(node, "late", &image, &target, &json!({}));
        let refused = node.crictl(&["create", &pod_id, &config, &pod_file]).fails();
        assert!(refused.contains("is not running"), "{refused}");
        let config = container(node, "nobody", &image, &json!({ "pid": 3 }), &json!({}));
        let refused = node.crictl(&["create", &pod_id, &config, &pod_file]).fails();
        assert!(refused.contains("target_id is missing"), "{refused}");
        node.crictl(&["rmp", "-fa"]).ok();
    });
}
