//! Network lists that come and go, readiness, garbage collection.

use super::rig::with_cni;
use k8s_cri::v1 as cri;
use serde_json::{Value, json};
use strata_e2e::eventually;
use strata_e2e::node::{Node, leaks, pod};
use tonic::Status;

/// What the kubelet says of its node's pods.
fn say(node: &Node, cidr: &str) -> Result<(), Status> {
    let network_config = Some(cri::NetworkConfig { pod_cidr: cidr.into() });
    let runtime_config = Some(cri::RuntimeConfig { network_config });
    let request = cri::UpdateRuntimeConfigRequest { runtime_config };
    node.cri(async |mut c| c.update_runtime_config(request).await).map(drop)
}

#[test]
fn lists_come_and_go_without_a_restart() {
    with_cni(|net| {
        let node = net.node;
        assert!(net.ready().unwrap_err().contains("no network list"));
        let refused = node.try_run_pod(&pod(node, "early")).unwrap_err();
        assert!(refused.message().contains("not ready"), "{refused}");
        // The kubelet says the pod CIDR: the template becomes a list.
        std::fs::write(
            node.dir("cni/template"),
            net.bridge_list("made", 77).replace("10.77.0.0/24", "{{.PodCIDR}}"),
        )
        .unwrap();
        say(node, "").unwrap();
        assert_eq!(say(node, "nonsense").unwrap_err().code(), tonic::Code::InvalidArgument);
        say(node, "10.78.3.0/24").unwrap();
        net.ready().unwrap();
        let made = node.run_pod(&pod(node, "made"));
        assert!(net.ip(&made).starts_with("10.78.3."), "{}", net.ip(&made));
        // An add-on's list counts from now on; one that is half written is no reason to take another.
        net.put_list("05-addon.conflist", "{");
        assert!(net.ready().unwrap_err().contains("05-addon.conflist"));
        net.put_list("05-addon.conflist", &net.bridge_list("addon", 79));
        net.ready().unwrap();
        let addon = node.run_pod(&pod(node, "addon"));
        assert!(net.ip(&addon).starts_with("10.79.0."), "{}", net.ip(&addon));
        say(node, "10.78.4.0/24").unwrap();
        assert!(
            std::fs::read_to_string(net.conf.join("10-strata-net.conflist"))
                .unwrap()
                .contains("10.78.3.0/24")
        );
        // Each goes by the list that it came with.
        for file in leaks::names(&net.conf) {
            std::fs::remove_file(net.conf.join(file)).unwrap();
        }
        node.remove_pod(&made).unwrap();
        node.remove_pod(&addon).unwrap();
        assert!(net.addresses().is_empty(), "{:?}", net.addresses());
    });
}

#[test]
fn plugins_that_ask_for_the_pod_cidr_are_told_it() {
    with_cni(|net| {
        let node = net.node;
        let mut list: Value = serde_json::from_str(&net.bridge_list("asking", 77)).unwrap();
        list["plugins"][0]["capabilities"] = json!({ "ipRanges": true });
        list["plugins"][0]["ipam"].as_object_mut().unwrap().remove("ranges");
        net.put_list("10-asking.conflist", &list.to_string());
        say(node, "10.80.3.0/24").unwrap();
        let one = node.run_pod(&pod(node, "one"));
        // The kubelet says it once.
        node.crash();
        let two = node.run_pod(&pod(node, "two"));
        for id in [&one, &two] {
            assert!(net.ip(id).starts_with("10.80.3."), "{}", net.ip(id));
        }
        let text = std::fs::read_to_string(net.bin.join("last.host-local.ADD")).unwrap();
        let told: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(told["runtimeConfig"], json!({ "ipRanges": [[{ "subnet": "10.80.3.0/24" }]] }), "{text}");
        node.remove_pod(&one).unwrap();
        node.remove_pod(&two).unwrap();
        assert!(net.addresses().is_empty(), "{:?}", net.addresses());
    });
}

#[test]
fn status_and_garbage_collection() {
    with_cni(|net| {
        let node = net.node;
        let list = r#"{"cniVersion":"0.4.0","cniVersions":["1.0.0","1.1.0"],"name":"newest","plugins":[{"type":"newest"}]}"#;
        net.put_list("10-newest.conflist", list);
        net.ready().unwrap();
        let id = node.run_pod(&pod(node, "pod"));
        assert_eq!(net.ip(&id), "192.0.2.7");
        node.crash();
        // The first daemon's, which had no pod yet, comes before it.
        let valid = json!([{ "containerID": id, "ifname": "eth0" }]);
        eventually(20, "GC", || {
            let text = std::fs::read_to_string(net.bin.join("last.newest.GC")).map_err(|e| e.to_string())?;
            let told: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            let right = told["cni.dev/valid-attachments"] == valid && told["cniVersion"] == "1.1.0";
            if right { Ok(()) } else { Err(text) }
        });
        net.switch("unready", true);
        eventually(20, "the network is not ready", || match net.ready() {
            Err(why) if why.contains("the agent is away") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        node.stop_pod(&id).unwrap();
        net.switch("unready", false);
        eventually(20, "the network is ready again", || net.ready());
        // A list whose plugins are not there.
        net.put_list("10-newest.conflist", &list.replace("\"type\":\"newest\"", "\"type\":\"absent\""));
        assert!(net.ready().unwrap_err().contains("absent"));
    });
}
