//! RuntimeClass handlers whose pods have another network than the node's others.

use super::rig::{busy_pod, with_network};
use k8s_cri::v1::{self as cri, PodSandboxConfig};
use strata_e2e::eventually;
use strata_e2e::node::{Node, container, pod};
use tonic::{Code, Status};

const HANDLERS: &str =
    "[runtime.handlers.cluster]\nnetwork = \"cni\"\n[runtime.handlers.own]\nnetwork = \"builtin\"\n";

fn run(node: &Node, config: &PodSandboxConfig, handler: &str) -> Result<String, Status> {
    let request = cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.into() };
    node.cri(async |mut c| c.run_pod_sandbox(request).await).map(|answer| answer.pod_sandbox_id)
}

#[test]
fn pods_of_one_class_get_cni_beside_others_of_the_built_in_network() {
    with_network("builtin", HANDLERS, |net| {
        let node = net.node;
        let image = node.pull("busybox");
        // The node is ready without the list that only some pods need.
        net.ready().unwrap();
        let refused = run(node, &pod(node, "early"), "cluster").unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert!(refused.message().contains("no network list"), "{refused}");
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        let (web, plain) = (busy_pod(node, "web", 8083), pod(node, "plain"));
        let web_id = run(node, &web, "cluster").unwrap();
        let plain_id = run(node, &plain, "").unwrap();
        assert_eq!(node.pod_status(&web_id).runtime_handler, "cluster");
        let ip = net.ip(&web_id);
        assert!(ip.starts_with("10.77.0.") && net.ip(&plain_id).starts_with("10.88.0."), "{ip}");
        assert_eq!(net.addresses(), [ip.as_str()]);
        let serve = "echo by cni > /index.html; exec httpd -f -p 80 -h /";
        node.run_container(&web_id, &web, &container(node, "web", serve));
        let by = |address: &str| eventually(20, "the pod answers", || node.fetch(address));
        assert_eq!(by(&format!("{ip}:80")), "by cni\n");
        assert_eq!(by("10.77.0.1:8083"), "by cni\n", "by the node's port");
        node.strata(&["run", "--rm", &image, "ip", "-o", "addr", "show", "eth0"]).ok().has(&["10.88.0."]);

        // The handler goes from the configuration, and the list from its directory: the pod has both still.
        std::fs::remove_file(net.conf.join("10-pods.conflist")).unwrap();
        node.reconfigure(|text| text.replace(HANDLERS, ""));
        assert_eq!(by(&format!("{ip}:80")), "by cni\n");
        assert_eq!(run(node, &pod(node, "late"), "cluster").unwrap_err().code(), Code::InvalidArgument);
        net.switch("fail.bridge.DEL", true);
        node.stop_pod(&web_id).unwrap_err();
        net.switch("fail.bridge.DEL", false);
        net.given_back("handler");
        node.stop_pod(&web_id).unwrap();
        node.fetch("10.77.0.1:8083").unwrap_err();
        assert!(net.ip(&plain_id).starts_with("10.88.0."));
    });
}

#[test]
fn pods_of_one_class_get_the_built_in_network_beside_others_of_cni() {
    with_network("cni", HANDLERS, |net| {
        let node = net.node;
        // Without a list the node's network is not ready, but that of the class is.
        net.ready().unwrap_err();
        let own = run(node, &pod(node, "own"), "own").unwrap();
        assert!(net.ip(&own).starts_with("10.88.0."));
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        let default = run(node, &pod(node, "default"), "").unwrap();
        assert!(net.ip(&default).starts_with("10.77.0."));
        node.crash();
        assert_eq!(net.addresses(), [net.ip(&default)]);
        node.remove_pod(&default).unwrap();
        assert!(net.addresses().is_empty());
        assert!(net.ip(&own).starts_with("10.88.0."));
    });
}
