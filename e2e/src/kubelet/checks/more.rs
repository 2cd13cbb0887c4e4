//! Fields that came to pods later, many pods at once, and host ports by CNI.

use crate::critest::networks::{self, Network};
use crate::kubelet::{Kubelet, Status, container, pod};
use serde_json::json;

/// An image as a volume, the pod's own data as files, groups as they are said, one PID namespace, and another signal to end.
pub(super) fn newer_fields(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    kubelet
        .restart(|config| config["featureGates"]["ContainerStopSignals"] = true.into())
        .unwrap_or_else(|e| panic!("{e}"));
    let script = "ls /image/opt/strata; touch /image/x 2>/dev/null || echo read-only; cat /about/labels; echo; id -G; \
                  until ps | grep -q '[s]leep 4242'; do sleep 0.1; done; echo seen; \
                  trap 'echo hung up > /host/signal; exit 0' HUP; while :; do sleep 0.1; done";
    let more = json!({
        "securityContext": { "runAsUser": 1000, "runAsGroup": 1000 },
        "lifecycle": { "stopSignal": "SIGHUP" },
        "volumeMounts": [{ "name": "image", "mountPath": "/image" }, { "name": "about", "mountPath": "/about" },
            { "name": "host", "mountPath": "/host" }],
    });
    let spec = json!({
        "os": { "name": "linux" }, "shareProcessNamespace": true,
        "securityContext": { "supplementalGroups": [5000], "supplementalGroupsPolicy": "Strict" },
        "volumes": [
            { "name": "image", "image": { "reference": node.image("stacked"), "pullPolicy": "IfNotPresent" } },
            { "name": "about", "downwardAPI": { "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] } },
            { "name": "host", "hostPath": { "path": node.dir("shared") } },
        ],
    });
    let shared = node.dir("shared");
    let made = std::fs::create_dir_all(&shared)
        .and_then(|()| std::os::unix::fs::chown(&shared, Some(1000), Some(1000)));
    made.unwrap_or_else(|e| panic!("{}: {e}", shared.display()));
    let other =
        container(node, "other", "exec sleep 4242", &json!({ "securityContext": { "runAsUser": 1000 } }));
    let mut newer = pod("newer", &[container(node, "main", script, &more), other], &spec);
    newer["metadata"]["labels"] = json!({ "app": "layers" });
    kubelet.run(&newer);
    let want = "old\nreadme\nread-only\napp=\"layers\"\n1000 5000\nseen\n";
    crate::eventually(20, "what the container has written", || {
        let text = kubelet.logs("newer", "main", "");
        if text == want { Ok(()) } else { Err(text) }
    });
    kubelet.remove("newer");
    assert_eq!(std::fs::read_to_string(shared.join("signal")).unwrap_or_default(), "hung up\n");
}

/// Twelve pods at once, while stratad is killed again and again: each container runs once, and `logs -f` gives all of it.
pub(super) fn many(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    let names: Vec<String> = (0..12).map(|i| format!("many-{i}")).collect();
    for name in &names {
        let script = "echo run >> /count/$(hostname); for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done";
        let mounts = json!({ "volumeMounts": [{ "name": "count", "mountPath": "/count" }] });
        let one = container(node, "main", script, &mounts);
        let volume = json!([{ "name": "count", "hostPath": { "path": node.dir("count"), "type": "DirectoryOrCreate" } }]);
        kubelet.put(&pod(name, &[one], &json!({ "restartPolicy": "Never", "volumes": volume })));
    }
    for pause in [300, 500, 700, 900, 1100] {
        std::thread::sleep(std::time::Duration::from_millis(pause));
        node.crash();
    }
    for name in &names {
        let status =
            kubelet.wait(name, "it has ended", |status| ["Succeeded", "Failed"].contains(&status.phase()));
        assert_eq!(status.phase(), "Succeeded", "{name}: {:#}", status.0["status"]);
        assert_eq!(kubelet.logs(name, "main", "follow=true"), "1\n2\n3\n4\n5\n6\n", "{name}");
        let runs = std::fs::read_to_string(node.dir(&format!("count/{name}-{}", crate::kubelet::NAME)));
        assert_eq!(runs.unwrap_or_default(), "run\n", "{name}");
    }
    for name in &names {
        kubelet.remove(name);
    }
}

/// A pod on Debian's CNI plugins, with a host port, and its probe over the bridge.
pub(super) fn cni(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    if let Some(why) = crate::node::cni::lacking() {
        crate::skip(format_args!("pods on CNI: {why}"));
        return;
    }
    networks::choose(node, Network::Cni);
    let script = "mkdir /tmp/w; echo a page > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w";
    let more = json!({
        "ports": [{ "containerPort": 8080, "hostPort": 8090 }],
        "readinessProbe": { "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1 },
    });
    let status = kubelet.run(&pod("cni", &[container(node, "main", script, &more)], &json!({})));
    assert!(status.ip().starts_with("10.77.0."), "{}", status.ip());
    assert_eq!(node.fetch(&format!("{}:8080", status.ip())).as_deref(), Ok("a page\n"));
    assert_eq!(node.fetch("192.0.2.10:8090").as_deref(), Ok("a page\n"));
    // The pod's network outlives stratad.
    node.crash();
    let again = kubelet.wait("cni", "it is ready", Status::ready);
    assert_eq!(again.id("main"), status.id("main"));
    kubelet.remove("cni");
    crate::eventually(60, "the pod's address is given back", || {
        let held = crate::node::cni::addresses(node);
        if held.is_empty() { Ok(()) } else { Err(held.join(" ")) }
    });
    networks::choose(node, Network::Builtin);
}
