//! runp, pods, inspectp, stopp, rmp; create, start, run, ps, inspect, update, stop, rm, checkpoint; logs.

use super::{container_file, container_with, file, pod_file, running};
use serde_json::json;
use strata_e2e::node::{cgroups, test};

#[test]
fn pods_are_filtered_and_inspected() {
    test(|node| {
        let (one, two) = (pod_file(node, "one"), pod_file(node, "two"));
        let first = node.crictl(&["runp", "--runtime", "strata", &one]).ok().text().to_owned();
        let second = node.crictl(&["runp", "-T", "30s", &two]).ok().text().to_owned();
        let refused = node.crictl(&["runp", "--runtime", "kata", &pod_file(node, "three")]).fails();
        assert!(refused.contains("no runtime handler") && refused.contains("only strata"), "{refused}");
        for (filter, found) in [
            (&["--name", "one"][..], &first),
            (&["--id", &first[..12]], &first),
            (&["--label", "app=two"], &second),
            (&["--latest"], &second),
            (&["-n", "1"], &second),
            (&["--namespace", "crictl", "--name", "two", "--state", "ready"], &second),
        ] {
            let listed = node.crictl(&[&["pods", "-q"], filter].concat()).ok();
            assert_eq!(listed.text(), found, "{filter:?}");
        }
        node.crictl(&["pods"]).ok().has(&["POD ID", "STATE", "RUNTIME", "strata", "(default)"]);
        node.crictl(&["pods", "-v"]).ok().has(&["Name: one", "Namespace: crictl", "Runtime: strata"]);
        node.crictl(&["pods", "-o", "yaml"]).ok().has(&["runtimeHandler: strata"]);
        let listed = node.crictl(&["pods", "-o", "json", "--no-trunc"]).ok().json();
        assert_eq!(listed["items"].as_array().unwrap().len(), 2, "{listed}");

        let template = ["-o", "go-template", "--template", "{{.status.metadata.name}} {{.status.state}}"];
        let shown = node.crictl(&[&["inspectp"], &template[..], &[&first]].concat()).ok();
        assert_eq!(shown.text(), "one SANDBOX_READY");
        node.crictl(&["inspectp", "-o", "table", &first]).ok().has(&["Name: one", "IP Addresses: 10.88.0."]);
        let by_name = node.crictl(&["inspectp", "--name", "two"]).ok().json();
        let inspected = by_name.as_array().map_or(&by_name, |all| &all[0]);
        assert_eq!(inspected["status"]["id"], second.as_str(), "{by_name}");
        assert!(inspected["info"]["pid"].as_u64().is_some(), "{by_name}");

        node.crictl(&["stopp", &first, &second]).ok().has(&[&first, &second]);
        assert_eq!(node.crictl(&["pods", "-q", "--state", "notready"]).ok().text().lines().count(), 2);
        node.crictl(&["rmp", &first]).ok();
        node.crictl(&["rmp", "-a", "-f"]).ok();
        node.crictl(&["inspectp", &first]).fails();
        // What has gone has gone: stopping it once more is no error of the runtime's.
        node.crictl(&["stopp", &first]).ok();
    });
}

#[test]
fn containers_are_filtered_inspected_updated_and_removed() {
    test(|node| {
        let image = node.pull("busybox");
        let pod = pod_file(node, "many");
        let pod_id = node.crictl(&["runp", &pod]).ok().text().to_owned();
        let create = |name: &str| {
            let container = container_file(node, name, "trap 'exit 0' TERM; while :; do sleep 0.1; done");
            node.crictl(&["create", "--with-pull", &pod_id, &container, &pod]).ok().text().to_owned()
        };
        let (one, two) = (create("one"), create("two"));
        node.crictl(&["start", &one, &two]).ok().has(&[&one, &two]);
        for (filter, found) in [
            (&["--name", "one"][..], &one),
            (&["--id", &two[..12]], &two),
            (&["--label", "tier=two"], &two),
            (&["-l"], &two),
            (&["-n", "1"], &two),
            (&["--image", &image, "--name", "^one$", "-s", "running"], &one),
        ] {
            let listed = node.crictl(&[&["ps", "-q"], filter].concat()).ok();
            assert_eq!(listed.text(), found, "{filter:?}");
        }
        node.crictl(&["ps"]).ok().has(&["CONTAINER", "POD ID", "POD", "NAMESPACE", &pod_id[..13]]);
        node.crictl(&["ps", "-v"]).ok().has(&["Name: one", "State: Running"]);
        node.crictl(&["ps", "-o", "yaml"]).ok().has(&["containers:", "podSandboxId: "]);

        let template = ["-o", "go-template", "--template", "{{.status.state}} {{.info.pid}}"];
        let shown = node.crictl(&[&["inspect"], &template[..], &[&one]].concat()).ok();
        let pid = shown.text().strip_prefix("CONTAINER_RUNNING ").unwrap();
        assert!(std::fs::exists(format!("/proc/{pid}")).unwrap(), "{pid}");
        node.crictl(&["inspect", "-o", "table", &one]).ok().has(&["Name: one", "State: CONTAINER_RUNNING"]);

        let update =
            ["--cpu-quota", "50000", "--cpu-period", "100000", "--memory", "67108864", "--cpu-share", "256"];
        node.crictl(&[&["update"], &update[..], &[&one]].concat()).ok();
        let read = |files| cgroups::read(node.cgroup(), &one, files);
        assert_eq!(read(["memory.limit_in_bytes", "memory.max"]), "67108864");
        assert!(read(["cpu.cfs_quota_us", "cpu.max"]).starts_with("50000"));
        let linux = node.crictl(&["inspect", &one]).ok().json()["status"]["resources"]["linux"].clone();
        assert_eq!(linux["memoryLimitInBytes"], "67108864", "{linux}");

        // A checkpoint is refused by name, and changes nothing.
        let refused = node.crictl(&["checkpoint", "--export", "/nonexistent/one.tar", &one]).fails();
        assert!(refused.contains("Unimplemented") && refused.contains("heckpoint"), "{refused}");
        assert_eq!(node.crictl(&["ps", "-q"]).ok().text().lines().count(), 2);

        node.crictl(&["stop", "--timeout", "10", &one]).ok();
        node.crictl(&["stop", &one]).ok();
        let failed = node.crictl(&["start", &one]).fails();
        assert!(failed.contains("FailedPrecondition"), "{failed}");
        node.crictl(&["rm", &two]).fails();
        node.crictl(&["rm", "-f", &two]).ok();
        node.crictl(&["rm", "-a"]).ok();
        assert_eq!(node.crictl(&["ps", "-aq"]).ok().text(), "");
        node.crictl(&["stop", &one]).ok();
        node.crictl(&["inspect", &one]).fails();
    });
}

#[test]
fn run_makes_everything_at_once() {
    test(|node| {
        let (pod, container) =
            (pod_file(node, "once"), container_file(node, "once", "echo done; exec sleep 1000"));
        let id =
            node.crictl(&["run", "--with-pull", "-r", "strata", &container, &pod]).ok().text().to_owned();
        assert_eq!(node.crictl(&["ps", "-q"]).ok().text(), id);
        node.crictl(&["rmp", "-fa"]).ok();
        // What cannot be started leaves nothing but the pod that it was for.
        let missing = json!({ "command": ["/nonexistent"] });
        let missing = container_with(node, "missing", "", &missing);
        let failed = node.crictl(&["run", &missing, &pod]).fails();
        assert!(failed.contains("/nonexistent"), "{failed}");
        let bad = file(node, "bad.json", &json!({ "image": { "image": "x" } }));
        node.crictl(&["run", "--no-pull", &bad, &pod]).fails();
    });
}

#[test]
fn logs_by_lines_bytes_time_and_stream() {
    test(|node| {
        let script = "for i in 1 2 3 4; do echo out $i; done; echo err >&2; read_on() { while :; do sleep 0.1; \
                      [ -e /go ] && echo again && rm /go; done; }; read_on";
        let (_, id) = running(node, "talk", script);
        strata_e2e::eventually(20, "it has written", || {
            let logs = node.crictl(&["logs", &id]);
            if logs.stderr == "err\n" { Ok(()) } else { Err(logs.to_string()) }
        });
        assert_eq!(node.crictl(&["logs", "--tail", "2", &id]).ok().stdout, "out 4\n");
        assert_eq!(node.crictl(&["logs", "--tail", "0", &id]).ok().stdout, "");
        assert_eq!(node.crictl(&["logs", "-s", "stdout", &id]).ok().stdout.lines().count(), 4);
        let stderr = node.crictl(&["logs", "-s", "stderr", &id]).ok();
        assert_eq!((stderr.stdout.as_str(), stderr.stderr.as_str()), ("", "err\n"));
        assert_eq!(
            node.crictl(&["logs", "--since", "1h", "-s", "stdout", &id]).ok().stdout.lines().count(),
            4
        );
        assert_eq!(node.crictl(&["logs", "--since", "2100-01-01T00:00:00", &id]).ok().stdout, "");
        let limited = node.crictl(&["logs", "--limit-bytes", "9", "-s", "stdout", &id]).ok();
        assert_eq!(limited.stdout, "out 1\nout");
        let stamped = node.crictl(&["logs", "-t", "--tail", "2", &id]).ok();
        let (time, text) = stamped.text().split_once(' ').unwrap();
        assert!(
            text == "out 4" && time.contains('T') && (time.ends_with('Z') || time.contains('+')),
            "{stamped}"
        );

        // As the kubelet rotates: the file goes away under the name, and a new one is opened.
        let log = node.status(&id).log_path;
        std::fs::rename(&log, format!("{log}.1")).unwrap();
        node.crictl(&["logs", "--reopen", &id]).ok();
        node.exec(&id, "touch /go");
        strata_e2e::eventually(20, "the new file has what is new", || {
            let logs = node.crictl(&["logs", &id]);
            if logs.stdout == "again\n" { Ok(()) } else { Err(logs.to_string()) }
        });
        assert!(std::fs::read_to_string(format!("{log}.1")).unwrap().contains("out 4"));
    });
}
