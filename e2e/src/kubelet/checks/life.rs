//! What the kubelet does to containers in the course of a pod's life.

use crate::kubelet::{Kubelet, container, pod};
use serde_json::json;

/// Probes of all kinds; a liveness probe that fails restarts its container, and only that.
pub(super) fn probes(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    let often = |probe: serde_json::Value| {
        let mut probe = probe;
        probe["periodSeconds"] = json!(1);
        probe["failureThreshold"] = json!(30);
        probe
    };
    let web = container(
        node,
        "web",
        "mkdir /tmp/w; echo fine > /tmp/w/health; exec httpd -f -p 8080 -h /tmp/w",
        &json!({
            "startupProbe": often(json!({ "tcpSocket": { "port": 8080 } })),
            "readinessProbe": { "httpGet": { "path": "/health", "port": 8080 }, "periodSeconds": 1, "failureThreshold": 1 },
            "livenessProbe": often(json!({ "exec": { "command": ["test", "-e", "/tmp/w/health"] } })),
        }),
    );
    let failing = container(
        node,
        "failing",
        "touch /tmp/alive; sleep 3; rm /tmp/alive; exec sleep 1000",
        &json!({ "livenessProbe": {
            "exec": { "command": ["cat", "/tmp/alive"] }, "periodSeconds": 1, "failureThreshold": 2, "terminationGracePeriodSeconds": 1,
        } }),
    );
    let status = kubelet.run(&pod("probes", &[web, failing], &json!({})));
    assert_eq!(status.container("web")["started"], true);
    let status = kubelet.wait("probes", "the failing container is restarted", |status| {
        status.container("failing")["restartCount"].as_i64() >= Some(1)
    });
    assert_eq!(status.container("web")["restartCount"], 0);
    let last = &status.container("failing")["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 137, "{last}");
    kubelet.exec("probes", "web", "rm /tmp/w/health; touch /tmp/w/health.gone", "output=1", "").ok();
    kubelet.wait("probes", "it is not ready without its file", |status| !status.ready());
    kubelet.remove("probes");
}

/// Hooks, the time that a pod has to end, and the message that it leaves.
pub(super) fn hooks(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    let mounts = json!([{ "name": "host", "mountPath": "/host" }]);
    let main = container(
        node,
        "main",
        "trap 'echo ended >> /host/story; exit 0' TERM; echo begun >> /host/story; while :; do sleep 0.1; done",
        &json!({
            "volumeMounts": mounts,
            "lifecycle": {
                "postStart": { "exec": { "command": ["sh", "-c", "until [ -s /host/story ]; do sleep 0.1; done; echo hook >> /host/story"] } },
                "preStop": { "exec": { "command": ["sh", "-c", "echo stopping >> /host/story"] } },
            },
        }),
    );
    let stubborn = container(node, "stubborn", "trap '' TERM; while :; do sleep 0.1; done", &json!({}));
    let spec = json!({
        "terminationGracePeriodSeconds": 3, "volumes": [{ "name": "host", "hostPath": { "path": node.dir("volumes") } }],
    });
    kubelet.run(&pod("hooks", &[main, stubborn], &spec));
    let story = || std::fs::read_to_string(node.dir("volumes/story")).unwrap_or_default();
    assert_eq!(story(), "begun\nhook\n");
    kubelet.remove("hooks");
    assert_eq!(story(), "begun\nhook\nstopping\nended\n");
    let failing =
        container(node, "failing", "echo the disk is on fire > /dev/termination-log; exit 3", &json!({}));
    let logging = container(
        node,
        "logging",
        "echo last words; exit 4",
        &json!({ "terminationMessagePolicy": "FallbackToLogsOnError" }),
    );
    kubelet.put(&pod("message", &[failing, logging], &json!({ "restartPolicy": "Never" })));
    let status = kubelet.wait("message", "it has failed", |status| status.phase() == "Failed");
    for (name, code, message) in [("failing", 3, "the disk is on fire\n"), ("logging", 4, "last words\n")] {
        let end = &status.container(name)["state"]["terminated"];
        assert_eq!((&end["exitCode"], &end["message"]), (&json!(code), &json!(message)), "{end}");
        assert_eq!(end["reason"], "Error");
    }
    kubelet.remove("message");
}

/// Init containers one after the other, a sidecar beside the rest, and a container that is restarted with ever longer pauses.
pub(super) fn order(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    let mounts = json!({ "volumeMounts": [{ "name": "disk", "mountPath": "/disk" }] });
    let mut sidecar = container(node, "sidecar", "echo sidecar >> /disk/order; exec sleep 1000", &mounts);
    sidecar["restartPolicy"] = "Always".into();
    sidecar["startupProbe"] =
        json!({ "exec": { "command": ["grep", "sidecar", "/disk/order"] }, "periodSeconds": 1 });
    let spec = json!({
        "volumes": [{ "name": "disk", "emptyDir": {} }],
        "initContainers": [container(node, "one", "sleep 0.3; echo one >> /disk/order", &mounts), sidecar,
            container(node, "two", "echo two >> /disk/order", &mounts)],
    });
    let main = container(node, "main", "cat /disk/order; exec sleep 1000", &mounts);
    let crashing = container(node, "crashing", "echo again; exit 7", &json!({}));
    kubelet.put(&pod("order", &[main, crashing], &spec));
    let status = kubelet.wait("order", "the crashing container was started three times", |status| {
        status.container("crashing")["restartCount"].as_i64() >= Some(2)
    });
    assert_eq!(kubelet.logs("order", "main", ""), "one\nsidecar\ntwo\n");
    for (name, code) in [("one", 0), ("two", 0)] {
        assert_eq!(status.container(name)["state"]["terminated"]["exitCode"], code, "{name}");
    }
    assert!(status.container("sidecar")["state"]["running"].is_object());
    assert_eq!(status.container("main")["restartCount"], 0);
    let last = &status.container("crashing")["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(7), &json!("Error")), "{last}");
    // The kubelet removes all but the last of the ended ones, and may just have done so.
    crate::eventually(20, "what the crashed container wrote", || {
        let text = kubelet.logs("order", "crashing", "previous=true");
        if text == "again\n" { Ok(()) } else { Err(text) }
    });
    kubelet.wait("order", "it waits before it tries again", |status| {
        status.container("crashing")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    kubelet.remove("order");
}

/// A program that takes more memory than its container may have.
pub(super) fn out_of_memory(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    let more = json!({ "resources": { "limits": { "memory": "16Mi" } } });
    let eater = container(node, "eater", "exec tail /dev/zero", &more);
    kubelet.put(&pod("memory", &[eater], &json!({ "restartPolicy": "Never" })));
    let status = kubelet.wait("memory", "it has failed", |status| status.phase() == "Failed");
    let end = &status.container("eater")["state"]["terminated"];
    assert_eq!((&end["reason"], &end["exitCode"]), (&json!("OOMKilled"), &json!(137)), "{end}");
    kubelet.remove("memory");
}

/// An image that is not there: the kubelet says why, and goes on when it is.
pub(super) fn pulls(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    let mut missing = container(node, "main", "exec sleep 1000", &json!({}));
    missing["image"] = node.image("none").into();
    kubelet.put(&pod("pulls", &[missing], &json!({})));
    let waiting = |status: &crate::kubelet::Status| status.container("main")["state"]["waiting"].clone();
    let status =
        kubelet.wait("pulls", "it waits for its image", |status| waiting(status)["reason"] == "ErrImagePull");
    let message = waiting(&status)["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("e2e/none"), "{message}");
    kubelet.remove("pulls");
}
