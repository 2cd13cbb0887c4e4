//! crictl, as the person who debugs a node uses it.

use serde_json::{Value, json};
use strata_e2e::command::finished;
use strata_e2e::node::{Node, test};

/// Writes a file of JSON beside the node's others; its path.
fn file(node: &Node, name: &str, value: &Value) -> String {
    let path = node.dir(name);
    std::fs::write(&path, value.to_string()).unwrap();
    path.display().to_string()
}

fn pod_file(node: &Node, name: &str) -> String {
    let logs = node.log_directory(name);
    let metadata = json!({ "name": name, "uid": format!("{name}-uid"), "namespace": "walk", "attempt": 1 });
    let labels = json!({ "app": name });
    file(
        node,
        &format!("{name}.json"),
        &json!({ "metadata": metadata, "hostname": name, "log_directory": logs, "labels": labels, "linux": {} }),
    )
}

#[test]
fn pods_and_containers() {
    test(|node| {
        let image = node.pull("busybox");
        let pod = pod_file(node, "web");
        let script = "echo hello; echo oops >&2; trap 'exit 7' TERM; while :; do sleep 0.1; done";
        let container = json!({
            "metadata": { "name": "shell" }, "image": { "image": image }, "command": ["/bin/sh", "-c", script],
            "log_path": "shell.log", "labels": { "tier": "front" }, "linux": {},
        });
        let container = file(node, "shell.json", &container);

        let pod_id = node.crictl(&["runp", &pod]).ok().text().to_owned();
        assert!(pod_id.len() >= 32 && pod_id.chars().all(|c| c.is_ascii_hexdigit()), "{pod_id}");
        node.crictl(&["pods"]).ok().has(&[&pod_id[..13], "Ready", "web", "walk"]);
        assert_eq!(node.crictl(&["pods", "-q", "--label", "app=web"]).ok().text(), pod_id);
        assert_eq!(node.crictl(&["pods", "-q", "--label", "app=other"]).ok().text(), "");
        let inspected = node.crictl(&["inspectp", &pod_id]).ok().json();
        assert_eq!(inspected["status"]["state"], "SANDBOX_READY");
        assert_eq!(inspected["status"]["metadata"]["name"], "web");
        assert_eq!(inspected["status"]["metadata"]["attempt"], 1);
        let ip = inspected["status"]["network"]["ip"].as_str().unwrap();
        assert!(ip.starts_with("10.88.0."), "{ip}");

        let id = node.crictl(&["create", &pod_id, &container, &pod]).ok().text().to_owned();
        node.crictl(&["ps"]).ok().lacks(&[&id[..13]]);
        node.crictl(&["ps", "-a"]).ok().has(&[&id[..13], "Created", "shell", &pod_id[..13]]);
        assert_eq!(node.crictl(&["start", &id]).ok().text(), id);
        node.crictl(&["ps"]).ok().has(&[&id[..13], "Running", "shell"]);
        assert_eq!(node.crictl(&["ps", "-q", "--state", "running", "--pod", &pod_id]).ok().text(), id);
        let inspected = node.crictl(&["inspect", &id]).ok().json();
        let status = &inspected["status"];
        assert_eq!(status["state"], "CONTAINER_RUNNING");
        assert_eq!(status["image"]["image"], image);
        assert!(status["imageRef"].as_str().unwrap().contains("sha256:"), "{status}");
        assert_eq!(status["labels"]["tier"], "front");
        assert!(status["logPath"].as_str().unwrap().ends_with("/web/shell.log"), "{status}");

        node.crictl(&["exec", "-s", &id, "sh", "-c", "hostname; echo err >&2"]).ok().has(&["web\n", "err\n"]);
        let failed = node.crictl(&["exec", "-s", &id, "sh", "-c", "exit 3"]).fails();
        assert!(failed.contains("exited with 3"), "{failed}");
        let stats = node.crictl(&["stats", "-o", "json", &id]).ok().json();
        assert_eq!(stats["stats"][0]["attributes"]["id"], id.as_str());
        let memory: u64 = number(&stats["stats"][0]["memory"]["workingSetBytes"]["value"]);
        assert!((1..1 << 30).contains(&memory), "{stats}");

        node.crictl(&["rm", &id]).fails();
        node.crictl(&["stop", "-t", "10", &id]).ok();
        let inspected = node.crictl(&["inspect", &id]).ok().json();
        assert_eq!(inspected["status"]["state"], "CONTAINER_EXITED");
        assert_eq!(inspected["status"]["exitCode"], 7);
        let logs = node.crictl(&["logs", &id]).ok();
        assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("hello\n", "oops\n"), "{logs}");
        node.crictl(&["rm", &id]).ok();
        assert_eq!(node.crictl(&["ps", "-aq"]).ok().text(), "");
        node.crictl(&["inspect", &id]).fails();

        node.crictl(&["stopp", &pod_id]).ok();
        node.crictl(&["pods"]).ok().has(&["NotReady"]);
        node.crictl(&["rmp", &pod_id]).ok();
        assert_eq!(node.crictl(&["pods", "-q"]).ok().text(), "");
    });
}

/// JSON of protobuf holds 64-bit numbers as strings.
fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn logs_are_followed_to_the_end() {
    test(|node| {
        let image = node.pull("busybox");
        let pod = pod_file(node, "talk");
        let script = "i=0; while [ $i -lt 20 ]; do echo line $i; i=$((i+1)); sleep 0.05; done";
        let container = json!({
            "metadata": { "name": "talk" }, "image": { "image": image }, "command": ["/bin/sh", "-c", script],
            "log_path": "talk.log", "linux": {},
        });
        let container = file(node, "container.json", &container);
        let id = node.crictl(&["run", &container, &pod]).ok().text().to_owned();
        let mut follow = node.crictl_command();
        let follow = follow.args(["logs", "-f", &id]).output().unwrap();
        let follow = finished("crictl logs -f".into(), &follow).ok();
        let lines: Vec<_> = follow.stdout.lines().map(ToOwned::to_owned).collect();
        assert_eq!(lines, (0..20).map(|i| format!("line {i}")).collect::<Vec<_>>());
        node.crictl(&["rmp", "-fa"]).ok();
    });
}

#[test]
fn images() {
    test(|node| {
        let image = node.image("busybox");
        let repository = image.trim_end_matches(":latest");
        assert_eq!(node.crictl(&["images", "-q"]).ok().text(), "");
        node.crictl(&["pull", &image]).ok().has(&["sha256:"]);
        node.crictl(&["pull", &image]).ok();
        let listed = node.crictl(&["images", "-o", "json"]).ok().json();
        let images = listed["images"].as_array().unwrap();
        assert_eq!(images.len(), 1, "{listed}");
        assert_eq!(images[0]["repoTags"], json!([image]));
        let digest = images[0]["repoDigests"][0].as_str().unwrap().to_owned();
        assert!(digest.starts_with(&format!("{repository}@sha256:")), "{listed}");
        assert!(number(&images[0]["size"]) > 500_000, "{listed}");
        let id = images[0]["id"].as_str().unwrap().to_owned();
        assert!(id.starts_with("sha256:"), "{listed}");
        node.crictl(&["images"]).ok().has(&[repository, "latest", &id[7..20]]);
        node.crictl(&["images", "--digests"]).ok().has(&[&digest[repository.len() + 8..][..12]]);

        for name in [image.as_str(), &id, &id[7..], &digest, &id[7..19]] {
            let inspected = node.crictl(&["inspecti", name]).ok().json();
            assert_eq!(inspected["status"]["id"], id.as_str(), "{name}");
        }
        node.crictl(&["inspecti", "127.0.0.1:5000/e2e/absent"]).fails();
        let usage = node.crictl(&["imagefsinfo"]).ok().json();
        let used = &usage["status"]["imageFilesystems"][0];
        assert!(number(&used["usedBytes"]["value"]) > 500_000, "{usage}");
        let mount = used["fsId"]["mountpoint"].as_str().unwrap();
        assert!(node.dir("root").starts_with(mount) || mount.starts_with(node.dir("root").to_str().unwrap()));

        node.crictl(&["rmi", &image]).ok().has(&[&image]);
        assert_eq!(node.crictl(&["images", "-q"]).ok().text(), "");
        node.crictl(&["pull", &digest]).ok();
        let listed = node.crictl(&["images", "-o", "json"]).ok().json();
        assert_eq!(listed["images"][0]["repoTags"], json!([]), "{listed}");
        assert_eq!(listed["images"][0]["repoDigests"], json!([digest]));
        node.crictl(&["rmi", &id]).ok();
        assert_eq!(node.crictl(&["images", "-q"]).ok().text(), "");
        node.crictl(&["pull", "127.0.0.1:5000/e2e/absent"]).fails();
    });
}

#[test]
fn what_the_node_says_of_itself() {
    test(|node| {
        node.crictl(&["version"]).ok().has(&["RuntimeName:  strata", "RuntimeApiVersion:  v1"]);
        let info = node.crictl(&["info"]).ok().json();
        let conditions = info["status"]["conditions"].as_array().unwrap();
        for kind in ["RuntimeReady", "NetworkReady"] {
            let found = conditions.iter().find(|c| c["type"] == kind).unwrap_or_else(|| panic!("{info}"));
            assert_eq!(found["status"], true, "{found}");
        }
    });
}
