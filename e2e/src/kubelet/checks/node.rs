//! What concerns the node: cgroups, numbers, logs, images, events, and restarts of either side.

use super::basics::pid;
use crate::kubelet::{Kubelet, container, pod};
use crate::node::{cgroups, leaks};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};

/// Limits and the groups of each class of service.
pub(super) fn groups(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    let sized =
        |requests: Value, limits: Value| json!({ "resources": { "requests": requests, "limits": limits } });
    let limits = json!({ "cpu": "250m", "memory": "64Mi" });
    let guaranteed = container(node, "main", "exec sleep 1000", &sized(limits.clone(), limits));
    let burstable = container(
        node,
        "main",
        "exec sleep 1000",
        &sized(json!({ "cpu": "100m" }), json!({ "memory": "32Mi" })),
    );
    let best = container(node, "main", "exec sleep 1000", &json!({}));
    for (name, class, one) in [
        ("guaranteed", "", guaranteed),
        ("burstable", "/burstable", burstable),
        ("best", "/besteffort", best),
    ] {
        let status = kubelet.run(&pod(name, &[one], &json!({})));
        let id = status.id("main").to_owned();
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", pid(node, &id))).unwrap_or_default();
        let parent = format!("{}/kube/kubepods{class}/pod{}/", node.cgroup(), status.uid());
        assert!(groups.contains(&parent), "no {parent} in {groups}");
        let read = |files| cgroups::read(node.cgroup(), &id, files);
        match name {
            "guaranteed" => {
                assert_eq!(read(["memory.limit_in_bytes", "memory.max"]), "67108864");
                assert_eq!(read(["cpu.cfs_quota_us", "cpu.max"]).split(' ').next(), Some("25000"));
            }
            "burstable" => assert_eq!(read(["memory.limit_in_bytes", "memory.max"]), "33554432"),
            _ => assert_eq!(read(["cpu.shares", "cpu.weight"]).len(), 1),
        }
    }
    for name in ["guaranteed", "burstable", "best"] {
        kubelet.remove(name);
    }
}

/// `/stats/summary` and `/metrics/cadvisor`, by cAdvisor and by Strata.
pub(super) fn numbers(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    let busy = container(
        node,
        "main",
        "echo x > /written; while :; do :; done",
        &json!({ "resources": { "limits": { "cpu": "100m" } } }),
    );
    kubelet.run(&pod("numbers", &[busy], &json!({})));
    for gate in [false, true] {
        change(kubelet, |config| config["featureGates"]["PodAndContainerStatsFromCRI"] = gate.into());
        crate::eventually(60, "the kubelet knows what the pod uses", || {
            // It fails until cAdvisor has looked for the first time.
            let answer = kubelet.get("/stats/summary");
            if answer.code != 0 {
                return Err(answer.to_string());
            }
            let all = answer.json();
            let one = all["pods"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|one| one["podRef"]["name"] == "numbers-e2e");
            let Some(one) = one else { return Err(format!("{all:#}")) };
            let main = &one["containers"][0];
            let mut there = vec![
                &main["cpu"]["usageCoreNanoSeconds"],
                &main["cpu"]["usageNanoCores"],
                &main["memory"]["workingSetBytes"],
                &main["rootfs"]["usedBytes"],
                &main["logs"]["usedBytes"],
                &one["cpu"]["usageCoreNanoSeconds"],
                &one["memory"]["workingSetBytes"],
            ];
            // Otherwise the kubelet asks cAdvisor, which knows of no pods of Strata's.
            if gate {
                there.extend([&one["network"]["rxBytes"], &one["process_stats"]["process_count"]]);
            }
            if there.iter().all(|value| value.is_u64()) && there[0].as_u64() > Some(0) {
                return Ok(());
            }
            Err(format!("with the gate {gate}: {one:#}"))
        });
        crate::eventually(60, "metrics for Prometheus", || {
            let text = kubelet.get("/metrics/cadvisor").ok().stdout;
            let found = text.lines().any(|line| {
                line.starts_with("container_cpu_usage_seconds_total{")
                    && line.contains("pod=\"numbers-e2e\"")
                    && line.contains("container=\"main\"")
            });
            if found == gate { Ok(()) } else { Err(format!("with the gate {gate}: found {found}")) }
        });
        let resource = kubelet.get("/metrics/resource").ok();
        assert!(
            resource.stdout.contains("container_memory_working_set_bytes{container=\"main\""),
            "{resource}"
        );
    }
    change(kubelet, |config| config["featureGates"]["PodAndContainerStatsFromCRI"] = false.into());
    kubelet.remove("numbers");
}

/// The kubelet rotates a log that grows; nothing is lost.
pub(super) fn rotation(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    let script = "i=0; while [ $i -lt 6000 ]; do echo \"line $i of many that fill the log\"; i=$((i+1)); [ $((i % 1000)) -ne 0 ] || sleep 1; done; \
                  echo done; exec sleep 1000";
    let status = kubelet.run(&pod("rotation", &[container(node, "main", script, &json!({}))], &json!({})));
    let dir = node.dir(&format!("pods/default_rotation-e2e_{}/main", status.uid()));
    crate::eventually(60, "the log is rotated", || {
        let names = leaks::names(&dir);
        if names.len() > 1 { Ok(()) } else { Err(names.join(" ")) }
    });
    crate::eventually(60, "the program has written all", || {
        let tail = kubelet.logs("rotation", "main", "tailLines=1");
        if tail == "done\n" { Ok(()) } else { Err(tail) }
    });
    crate::eventually(30, "every line is in one of the files", || {
        // What is being compressed is called .tmp.
        let names: Vec<_> = leaks::names(&dir).into_iter().filter(|name| !name.ends_with(".tmp")).collect();
        let counted = names.iter().map(|name| lines(&dir.join(name))).sum::<std::io::Result<usize>>();
        let all = counted.map_err(|e| e.to_string())?;
        if all == 6001 { Ok(()) } else { Err(format!("{all} lines in {names:?}")) }
    });
    kubelet.remove("rotation");
}

/// How many lines a log has, compressed or not.
fn lines(log: &std::path::Path) -> std::io::Result<usize> {
    let bytes = std::fs::read(log)?;
    let mut text = String::new();
    match log.extension() {
        Some(gz) if gz == "gz" => flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text)?,
        _ => (&bytes[..]).read_to_string(&mut text)?,
    };
    Ok(text.lines().count())
}

/// The kubelet removes images that nobody uses when their file system is full, and leaves those in use and those of no registry.
pub(super) fn image_collection(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    let main = container(node, "main", "exec sleep 1000", &json!({}));
    let status = kubelet.run(&pod("collection", &[main], &json!({})));
    node.crictl(&["pull", &node.image("stacked")]).ok();
    node.strata(&["commit", status.id("main"), "localhost/kept:1"]).ok();
    // Static pods are never evicted.
    let full = |free: &'static str| {
        move |config: &mut Value| config["evictionHard"]["imagefs.available"] = free.into()
    };
    change(kubelet, full("99.99%"));
    crate::eventually(60, "the unused image is removed", || {
        let listed = node.crictl(&["images"]).ok().stdout;
        if listed.contains("e2e/stacked") { Err(listed) } else { Ok(()) }
    });
    node.crictl(&["images"]).ok().has(&["e2e/busybox", "localhost/kept"]);
    change(kubelet, full("1Mi"));
    kubelet.remove("collection");
}

/// The kubelet takes Strata's events instead of listing.
pub(super) fn events(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    change(kubelet, |config| config["featureGates"]["EventedPLEG"] = true.into());
    let once = container(node, "once", "echo ran; sleep 1; exit 3", &json!({}));
    kubelet.put(&pod("events", &[once], &json!({ "restartPolicy": "Never" })));
    let status = kubelet.wait("events", "it has failed", |status| status.phase() == "Failed");
    assert_eq!(status.container("once")["state"]["terminated"]["exitCode"], 3);
    kubelet.get("/metrics").ok().has(&[
        "kubelet_evented_pleg_connection_success_count",
        "kubelet_evented_pleg_connection_error_count 0",
    ]);
    // The stream ends with stratad, and is there again with the next one.
    node.crash();
    kubelet.remove("events");
    kubelet.run(&pod("events", &[container(node, "main", "exec sleep 1000", &json!({}))], &json!({})));
    kubelet.remove("events");
    change(kubelet, |config| config["featureGates"]["EventedPLEG"] = false.into());
}

/// Pods do not notice when the kubelet, stratad or both are killed.
pub(super) fn restarts(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    let ticking = "i=0; while :; do i=$((i+1)); echo $i > /disk/count; sleep 0.1; done";
    let more = json!({
        "volumeMounts": [{ "name": "disk", "mountPath": "/disk" }],
        "livenessProbe": { "exec": { "command": ["test", "-e", "/disk/count"] }, "periodSeconds": 1, "failureThreshold": 30 },
        "readinessProbe": { "exec": { "command": ["test", "-e", "/disk/ready"] }, "periodSeconds": 1 },
    });
    let spec = json!({ "volumes": [{ "name": "disk", "emptyDir": {} }] });
    kubelet.put(&pod("restarts", &[container(node, "main", ticking, &more)], &spec));
    let status = kubelet.wait("restarts", "it runs", |status| status.phase() == "Running");
    let (id, uid) = (status.id("main").to_owned(), status.uid().to_owned());
    let ready = node.dir(&format!("kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/disk/ready"));
    let same = |kubelet: &Kubelet<'_>, when: &str| {
        // Readiness is new each time: what has been asked after the restart.
        let _ = std::fs::remove_file(&ready);
        kubelet.wait("restarts", &format!("it is not ready {when}"), |status| !status.ready());
        std::fs::File::create(&ready)
            .and_then(|mut file| file.write_all(b"x"))
            .unwrap_or_else(|e| panic!("{e}"));
        let status = kubelet.wait("restarts", &format!("it is ready {when}"), crate::kubelet::Status::ready);
        assert_eq!(
            (status.id("main"), &status.container("main")["restartCount"]),
            (id.as_str(), &json!(0)),
            "{when}"
        );
    };
    same(kubelet, "at first");
    change(kubelet, |_| ());
    same(kubelet, "after the kubelet's restart");
    node.crash();
    same(kubelet, "after stratad's");
    kubelet.kill();
    node.crash();
    change(kubelet, |_| ());
    same(kubelet, "after both");
    kubelet.remove("restarts");
}

/// The kubelet removes what all the pods before have left, in Strata and in its own directory.
pub(super) fn nothing_left(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    kubelet.collected();
    let own = node.dir("kubelet");
    crate::eventually(60, "nothing of a pod's stays", || {
        let mut left: Vec<_> = ["kubelet/pods", "pods", "netns", "root/containers"]
            .into_iter()
            .flat_map(|below| {
                leaks::names(&node.dir(below)).into_iter().map(move |name| node.dir(below).join(name))
            })
            .collect();
        left.extend(leaks::mounts(&own).into_iter().filter(|path| *path != own));
        // Each pod's group is called after its UID; those of the classes stay.
        let pods = |dir: &std::path::PathBuf| {
            dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pod") && name != "pods")
        };
        left.extend(cgroups::below(node.cgroup()).into_iter().filter(pods));
        if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
    });
}

#[track_caller]
fn change(kubelet: &mut Kubelet<'_>, how: impl FnOnce(&mut Value)) {
    kubelet.restart(how).unwrap_or_else(|e| panic!("{e}"));
}
