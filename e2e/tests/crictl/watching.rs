//! stats, statsp, metricsp, metricdescs, events, update-runtime-config.

use super::{follow, pod_file, running};
use serde_json::Value;
use strata_e2e::node::{Node, test};

/// Where Debian has CNI's plugins.
const PLUGINS: &str = "/usr/lib/cni";

const BUSY: &str = "while :; do :; done";

fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn stats_once_and_watched() {
    test(|node| {
        let (pod_id, id) = running(node, "busy", BUSY);
        let table =
            node.crictl(&["stats", "-s", "1"]).ok().has(&["CONTAINER", "NAME", "CPU %", "MEM", "busy"]);
        assert!(table.stdout.contains(&id[..13]), "{table}");
        for filter in [["--id", &id], ["-p", &pod_id], ["--label", "tier=busy"]] {
            let shown = node.crictl(&[&["stats", "-o", "json"], &filter[..]].concat()).ok().json();
            assert_eq!(shown["stats"][0]["attributes"]["id"], id.as_str(), "{filter:?}");
            assert!(number(&shown["stats"][0]["cpu"]["usageCoreNanoSeconds"]["value"]) > 0, "{shown}");
        }
        node.crictl(&["stats", "-a", "-o", "yaml"]).ok().has(&["workingSetBytes:", "writableLayer:"]);
        let twice = |text: &str| text.matches("busy").count() >= 2;
        follow(node, &["stats", "-w"], || (), twice);

        node.crictl(&["statsp", "-s", "1"]).ok().has(&["POD", "CPU %", "busy"]);
        for filter in [["--id", &pod_id], ["--label", "app=busy"]] {
            let shown = node.crictl(&[&["statsp", "-o", "json"], &filter[..]].concat()).ok().json();
            let pod = &shown["stats"][0];
            assert_eq!(pod["attributes"]["id"], pod_id.as_str(), "{filter:?}");
            assert_eq!(pod["linux"]["containers"][0]["attributes"]["id"], id.as_str(), "{shown}");
            assert!(number(&pod["linux"]["memory"]["workingSetBytes"]["value"]) > 0, "{shown}");
        }
        follow(node, &["statsp", "-w"], || (), twice);
    });
}

#[test]
fn metrics_have_names_that_are_described() {
    test(|node| {
        let (pod_id, id) = running(node, "busy", BUSY);
        let described = node.crictl(&["metricdescs"]).ok().json();
        let described: Vec<(&str, usize)> = described["descriptors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|d| (d["name"].as_str().unwrap(), d["labelKeys"].as_array().unwrap().len()))
            .collect();
        let metrics = node.crictl(&["metricsp"]).ok().json();
        let pod =
            metrics["podMetrics"].as_array().unwrap().iter().find(|p| p["podSandboxId"] == pod_id.as_str());
        let pod = pod.unwrap_or_else(|| panic!("{metrics}"));
        let container = &pod["containerMetrics"][0];
        assert_eq!(container["containerId"], id.as_str(), "{metrics}");
        let all = [&pod["metrics"], &container["metrics"]];
        let mut seen = 0;
        for metric in all.into_iter().filter_map(Value::as_array).flatten() {
            let name = metric["name"].as_str().unwrap();
            let labels = metric["labelValues"].as_array().unwrap().len();
            assert!(described.contains(&(name, labels)), "{metric}: {described:?}");
            seen += 1;
        }
        assert!(seen > 10, "{metrics}");
        let names = container["metrics"].to_string();
        for name in ["container_cpu_usage_seconds_total", "container_memory_working_set_bytes"] {
            assert!(names.contains(name), "{name}: {names}");
        }
        node.crictl(&["metricsp", "-o", "yaml"]).ok().has(&["podMetrics:"]);
        follow(node, &["metricsp", "-w"], || (), |text| text.matches("podMetrics").count() >= 2);
    });
}

fn events(node: &Node, args: &[&str]) -> String {
    strata_e2e::eventually(20, "nobody follows yet", || match node.followers() {
        0 => Ok(()),
        n => Err(format!("{n} followers")),
    });
    let life = || {
        // Events are of what happens after somebody listens.
        strata_e2e::eventually(20, "crictl follows", || match node.followers() {
            1 => Ok(()),
            n => Err(format!("{n} followers")),
        });
        running(node, "live", "exec sleep 1000");
        node.crictl(&["rmp", "-fa"]).ok();
    };
    follow(node, &[&["events"], args].concat(), life, |text| {
        ["CREATED", "STARTED", "STOPPED", "DELETED"]
            .iter()
            .all(|e| text.contains(&format!("CONTAINER_{e}_EVENT")))
    })
}

#[test]
fn events_of_a_container_come_in_order() {
    test(|node| {
        let text = events(node, &[]);
        let at = |event: &str| text.find(&format!("CONTAINER_{event}_EVENT")).unwrap();
        assert!(at("CREATED") < at("STARTED") && at("STARTED") < at("STOPPED"), "{text}");
        // The blanks in it are left to chance by protobuf's own writer.
        assert!(text.replace(' ', "").contains("\"name\":\"live\""), "{text}");
        let text = events(node, &["-o", "go-template", "--template", "{{.containerEventType}}"]);
        assert!(text.lines().any(|line| line == "CONTAINER_STARTED_EVENT"), "{text}");
    });
}

/// A pod's address after `crictl update-runtime-config`.
fn address_of(node: &Node, cidr: &str, name: &str) -> String {
    node.crictl(&["update-runtime-config", "--pod-cidr", cidr]).ok();
    let pod_id = node.crictl(&["runp", &pod_file(node, name)]).ok().text().to_owned();
    let inspected = node.crictl(&["inspectp", &pod_id]).ok().json();
    inspected["status"]["network"]["ip"].as_str().unwrap_or_else(|| panic!("{inspected}")).to_owned()
}

#[test]
fn the_built_in_network_takes_the_pod_cidr() {
    test(|node| {
        let bad = node.crictl(&["update-runtime-config", "--pod-cidr", "10.300.0.0/16"]).fails();
        assert!(bad.contains("10.300.0.0/16"), "{bad}");
        assert_eq!(address_of(node, "10.55.0.0/24", "first"), "10.55.0.2");
        // It is kept for the next stratad, and not changed below a pod; nor does a check take it for a stranger's.
        let checked = node.strata(&["fsck", "--quick"]).ok().to_string();
        assert!(!checked.contains("is not the store's"), "{checked}");
        node.crash();
        assert_eq!(address_of(node, "10.55.0.0/24", "second"), "10.55.0.3");
        let refused = node.crictl(&["update-runtime-config", "--pod-cidr", "10.56.0.0/24"]).fails();
        assert!(refused.contains("2 pods") && refused.contains("10.55.0.0/24"), "{refused}");
        node.crictl(&["rmp", "-fa"]).ok();
        assert_eq!(address_of(node, "10.56.0.0/24", "third"), "10.56.0.2");
    });
}

#[test]
fn a_cni_template_takes_the_pod_cidr() {
    if !std::path::Path::new(PLUGINS).join("bridge").exists() {
        strata_e2e::skip("needs containernetworking-plugins");
        return;
    }
    test(|node| {
        let (conf, template) = (node.dir("cni/conf"), node.dir("cni/template"));
        std::fs::create_dir_all(&conf).unwrap();
        let list = serde_json::json!({
            "cniVersion": "1.0.0", "name": "made", "plugins": [{
                "type": "bridge", "bridge": "cni0", "isGateway": true,
                "ipam": { "type": "host-local", "dataDir": node.dir("cni/data"), "ranges": [[{ "subnet": "{{.PodCIDR}}" }]] },
            }],
        });
        std::fs::write(&template, list.to_string()).unwrap();
        let config = std::fs::read_to_string(node.dir("config.toml")).unwrap();
        let cni = format!(
            "cri = \"cni\"\ncni_conf_dir = {conf:?}\ncni_bin_dirs = [\"{PLUGINS}\"]\ncni_conf_template = {template:?}\n"
        );
        node.stop();
        std::fs::write(node.dir("config.toml"), config.replace("cri = \"builtin\"\n", &cni)).unwrap();
        node.launch();
        node.crictl(&["runp", &pod_file(node, "early")]).fails();
        assert_eq!(address_of(node, "10.57.0.0/24", "first"), "10.57.0.2");
        // Said again, as by a kubelet that has been restarted.
        assert_eq!(address_of(node, "10.57.0.0/24", "second"), "10.57.0.3");
        node.crictl(&["rmp", "-fa"]).ok();
    });
}
