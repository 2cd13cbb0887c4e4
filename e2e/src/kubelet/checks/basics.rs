//! A pod from its file to its end, and what it is given.

use crate::kubelet::{Kubelet, container, pod};
use crate::node::Node;
use serde_json::json;
use std::os::unix::fs::MetadataExt as _;

/// What `kubectl get pod`, `logs` and `crictl` show of a pod.
pub(super) fn pod_runs(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    let main = container(node, "main", "echo hello; exec sleep 1000", &json!({}));
    let status = kubelet.run(&pod("first", &[main], &json!({})));
    assert_eq!(status.phase(), "Running");
    assert!(status.ip().starts_with("10.88.0."), "{}", status.ip());
    assert_eq!(status.container("main")["restartCount"], 0);
    assert_eq!(status.container("main")["user"]["linux"]["uid"], 0);
    assert!(status.container("main")["imageID"].as_str().unwrap_or_default().contains("e2e/busybox@sha256:"));
    assert_eq!(kubelet.logs("first", "main", ""), "hello\n");
    node.crictl(&["pods", "--state", "ready"]).ok().has(&["first-e2e", "default"]);
    node.crictl(&["ps", "--no-trunc"]).ok().has(&["main", "Running", status.id("main")]);
    kubelet.remove("first");
}

/// Volumes of the node and of the pod, files of the kubelet's, variables, and a memory-backed volume.
pub(super) fn volumes(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    std::fs::write(node.dir("volumes/given"), "from the node\n").unwrap_or_else(|e| panic!("{e}"));
    let mounts = json!([
        { "name": "host", "mountPath": "/host" }, { "name": "disk", "mountPath": "/disk" },
        { "name": "disk", "mountPath": "/part", "subPath": "below/here" }, { "name": "memory", "mountPath": "/memory" },
        { "name": "readonly", "mountPath": "/ro", "readOnly": true, "recursiveReadOnly": "IfPossible" },
    ]);
    let more = json!({ "volumeMounts": mounts, "env": [
        { "name": "POD_IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
        { "name": "LIMIT", "valueFrom": { "resourceFieldRef": { "resource": "limits.memory" } } },
    ], "resources": { "limits": { "memory": "64Mi" } } });
    let script = "cat /host/given; echo made > /host/made; echo 1 > /disk/one; echo 2 > /part/two; cat /disk/below/here/two; \
                  touch /ro/x 2>/dev/null || echo refused; stat -f -c %T /memory; df -k /memory | tail -n 1 | awk '{print $2}'; \
                  echo $LIMIT; hostname; tail -n 1 /etc/hosts | tr -s '\\t ' ' '; echo \"$POD_IP $(hostname)\"; exec sleep 1000";
    let volumes = json!([
        { "name": "host", "hostPath": { "path": node.dir("volumes"), "type": "Directory" } },
        { "name": "readonly", "hostPath": { "path": node.dir("volumes") } },
        { "name": "disk", "emptyDir": {} }, { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "8Mi" } },
    ]);
    let status = kubelet.run(&pod(
        "volumes",
        &[container(node, "main", script, &more)],
        &json!({ "volumes": volumes }),
    ));
    let ip = status.ip();
    let want = format!(
        "from the node\n2\nrefused\ntmpfs\n8192\n67108864\nvolumes-e2e\n{ip} volumes-e2e\n{ip} volumes-e2e\n"
    );
    assert_eq!(kubelet.logs("volumes", "main", ""), want);
    assert_eq!(std::fs::read_to_string(node.dir("volumes/made")).unwrap_or_default(), "made\n");
    let kept = node.dir(&format!("kubelet/pods/{}", status.uid()));
    assert!(kept.join("volumes/kubernetes.io~empty-dir/disk/one").is_file());
    kubelet.remove("volumes");
    crate::eventually(30, "the kubelet has removed the pod's directory", || {
        if kept.exists() { Err(format!("{}", kept.display())) } else { Ok(()) }
    });
    assert_eq!(std::fs::read_to_string(node.dir("volumes/given")).unwrap_or_default(), "from the node\n");
}

/// Users, groups, capabilities, seccomp, a read-only root and sysctls.
pub(super) fn security(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    let context = json!({
        "runAsUser": 1000, "runAsGroup": 3000, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
    });
    let script = "id; touch /x 2>/dev/null || echo read-only; grep -E '^(Seccomp|NoNewPrivs|CapEff):' /proc/self/status | tr '\\t' ' '; \
                  stat -c %g /disk; sysctl -n net.ipv4.ip_unprivileged_port_start; exec sleep 1000";
    let more =
        json!({ "securityContext": context, "volumeMounts": [{ "name": "disk", "mountPath": "/disk" }] });
    let spec = json!({
        "volumes": [{ "name": "disk", "emptyDir": {} }],
        "securityContext": { "fsGroup": 4000, "supplementalGroups": [5000], "runAsNonRoot": true,
            "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "80" }] },
    });
    let status = kubelet.run(&pod("security", &[container(node, "main", script, &more)], &spec));
    // The image says that user 1000 is in group 2000, too: supplementalGroupsPolicy is Merge.
    let want = "uid=1000(app) gid=3000 groups=2000(extra),3000,4000,5000\nread-only\nCapEff: 0000000000000000\nNoNewPrivs: 1\n\
                Seccomp: 2\n4000\n80\n";
    assert_eq!(kubelet.logs("security", "main", ""), want);
    let user = &status.container("main")["user"]["linux"];
    assert_eq!((&user["uid"], &user["gid"]), (&json!(1000), &json!(3000)), "{user}");
    kubelet.remove("security");
}

/// A pod on the node's network, with its process IDs: what a network's own daemon or kube-proxy is.
pub(super) fn host_network(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    let script = "ip -o link | grep -c e2e0; hostname; test -d /proc/1/root/proc && exec sleep 1000";
    let more = json!({ "securityContext": { "privileged": true } });
    let spec = json!({ "hostNetwork": true, "hostPID": true });
    kubelet.run(&pod("host", &[container(node, "main", script, &more)], &spec));
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    assert_eq!(kubelet.logs("host", "main", ""), format!("1\n{hostname}"));
    kubelet.remove("host");
}

/// `hostUsers: false`: root in the pod is nobody on the node, and its volumes are its own all the same.
pub(super) fn user_namespace(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    let script = "id -u; awk '{print $1, $3}' /proc/self/uid_map; echo mine > /disk/file; stat -c %u /disk/file; exec sleep 1000";
    let main = container(
        node,
        "main",
        script,
        &json!({ "volumeMounts": [{ "name": "disk", "mountPath": "/disk" }] }),
    );
    let spec = json!({ "hostUsers": false, "volumes": [{ "name": "disk", "emptyDir": {} }] });
    let status = kubelet.run(&pod("users", &[main], &spec));
    assert_eq!(kubelet.logs("users", "main", ""), "0\n0 65536\n0\n");
    let pid = pid(node, status.id("main"));
    let owner = std::fs::metadata(format!("/proc/{pid}")).unwrap_or_else(|e| panic!("{pid}: {e}")).uid();
    assert!(owner >= 65_536, "the container runs as {owner}");
    let file = node.dir(&format!("kubelet/pods/{}/volumes/kubernetes.io~empty-dir/disk/file", status.uid()));
    assert_eq!(std::fs::metadata(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).uid(), 0);
    kubelet.remove("users");
}

/// The process of a container, as the node sees it.
pub(super) fn pid(node: &Node, id: &str) -> i32 {
    let info = node.crictl(&["inspect", id]).ok().json();
    info["info"]["pid"].as_i64().and_then(|pid| pid.try_into().ok()).unwrap_or_else(|| panic!("{info:#}"))
}
