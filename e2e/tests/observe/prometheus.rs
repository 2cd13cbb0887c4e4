use super::openmetrics::{Told, parse};
use serde_json::Value;
use std::io::{Read, Write};
use strata_e2e::node::{Node, container, pod, test, test_with};

const ADDRESS: &str = "127.0.0.1:9977";

/// An HTTP answer: its head and its body.
fn exchange(mut stream: impl Read + Write, request: &str) -> (String, String) {
    write!(stream, "{request} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
    (head.to_owned(), body.to_owned())
}

fn get(node: &Node, request: &str) -> (String, String) {
    node.within(|| exchange(std::net::TcpStream::connect(ADDRESS).unwrap(), request))
}

fn told(node: &Node) -> Told {
    let (head, body) = get(node, "GET /metrics");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(
        head.to_lowercase().contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    parse(&body)
}

#[test]
fn prometheus_can_ask() {
    test_with(&format!("[metrics]\naddress = \"{ADDRESS}\"\n"), |node| {
        node.pull("busybox");
        node.try_pull(&node.image("absent")).unwrap_err();
        let config = pod(node, "counted");
        let pod_id = node.run_pod(&config);
        let id = node.run_container(&pod_id, &config, &container(node, "c", "exec sleep 1000"));
        node.create(&pod_id, &config, &container(node, "waits", "true"));
        node.try_status("0000").unwrap_err();
        let now = told(node);
        let one = |name: &str, labels: &[(&str, &str)]| {
            let sum = now.sum(name, labels);
            assert!((sum - 1.0).abs() < f64::EPSILON, "{name} {labels:?}: {sum} in {now:?}");
        };
        let runtime = ("service", "runtime.v1.RuntimeService");
        one("strata_rpc_duration_seconds_count", &[runtime, ("method", "RunPodSandbox"), ("code", "ok")]);
        one("strata_rpc_duration_seconds_count", &[("method", "ContainerStatus"), ("code", "not_found")]);
        one("strata_rpc_duration_seconds_count", &[("method", "PullImage"), ("code", "ok")]);
        one("strata_image_pull_duration_seconds_count", &[("result", "ok")]);
        one("strata_image_pull_duration_seconds_count", &[("result", "not_found")]);
        assert!(now.sum("strata_image_pull_bytes_total", &[]) > 500_000.0);
        one("strata_pods", &[("state", "ready")]);
        one("strata_containers", &[("state", "running")]);
        one("strata_containers", &[("state", "created")]);
        one("strata_shims_started_total", &[]);
        one("strata_network_operation_duration_seconds_count", &[("operation", "attach"), ("result", "ok")]);
        one("strata_store_images", &[]);
        assert!(now.sum("strata_store_layers", &[]) >= 1.0 && now.sum("strata_store_blobs", &[]) >= 3.0);
        assert!(now.sum("strata_store_bytes", &[("kind", "images")]) > 500_000.0);
        assert!(now.sum("strata_rpc_in_flight", &[]).abs() < f64::EPSILON);
        for name in ["strata_build_info", "strata_process_resident_memory_bytes", "strata_event_followers"] {
            assert!(now.has(name), "{name}");
        }

        node.stop_container(&id, 0).unwrap();
        node.remove_pod(&pod_id).unwrap();
        let runs = now.sum("strata_store_gc_runs_total", &[]);
        node.strata(&["rmi", &node.image("busybox")]).ok();
        let later = told(node);
        assert!(later.sum("strata_store_gc_runs_total", &[]) > runs);
        assert!(later.sum("strata_store_gc_freed_bytes_total", &[]) > 500_000.0);
        assert!(later.sum("strata_store_gc_removed_layers_total", &[]) >= 1.0);
        assert!(later.sum("strata_pods", &[]).abs() < f64::EPSILON);
        assert!(
            later.sum("strata_network_operation_duration_seconds_count", &[("operation", "detach")]) >= 1.0
        );

        assert!(get(node, "GET /").0.starts_with("HTTP/1.1 404 "));
        assert!(get(node, "POST /metrics").0.starts_with("HTTP/1.1 405 "));
    });
}

#[test]
fn a_unix_socket_does_as_well_and_nothing_is_served_unasked() {
    test(|node| {
        let refused = node.within(|| std::net::TcpStream::connect(ADDRESS).map(drop));
        assert!(refused.is_err());
        let (path, file) = (node.dir("metrics.sock"), node.dir("config.toml"));
        let text = std::fs::read_to_string(&file).unwrap();
        let more = format!("{text}[metrics]\naddress = \"unix:{}\"\n", path.display());
        std::fs::write(&file, more).unwrap();
        // What an earlier daemon left is in nobody's way.
        for _ in 0..2 {
            node.crash();
            let (head, body) =
                exchange(std::os::unix::net::UnixStream::connect(&path).unwrap(), "GET /metrics");
            assert!(head.starts_with("HTTP/1.1 200 ") && parse(&body).has("strata_build_info"), "{head}");
        }
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    });
}

#[test]
fn logs_are_json_and_tell_each_failed_call_once() {
    test(|node| {
        let file = node.dir("config.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("level = \"info\"", "format = \"json\"\nlevel = \"debug\""))
            .unwrap();
        node.kill9();
        std::fs::remove_file(node.dir("stratad.log")).unwrap();
        node.launch();
        node.pull("busybox");
        let config = pod(node, "logged");
        let pod_id = node.run_pod(&config);
        let id = node.run_container(&pod_id, &config, &container(node, "c", "exit 3"));
        node.wait_exit(&id);
        node.try_status("0000").unwrap_err();
        node.try_exec(&id, "true", 5).unwrap_err();
        node.stop();
        let text = std::fs::read_to_string(node.dir("stratad.log")).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("no JSON ({e}): {line:?}")))
            .collect();
        for line in &lines {
            let time = line["timestamp"].as_str().unwrap();
            assert!(time.len() > 20 && line["level"].is_string() && line["message"].is_string(), "{line}");
        }
        let of = |method: &str, code: &str| -> Vec<&Value> {
            lines.iter().filter(|l| l["method"] == method && l["code"] == code).collect()
        };
        let missing = of("ContainerStatus", "not_found");
        assert_eq!((missing.len(), missing[0]["level"].as_str()), (1, Some("INFO")), "{missing:?}");
        assert!(missing[0]["ms"].is_u64() && missing[0]["error"].as_str().unwrap().contains("0000"));
        let refused = of("ExecSync", "failed_precondition");
        assert_eq!((refused.len(), refused[0]["container"].as_str()), (1, Some(&id[..12])), "{refused:?}");
        assert_eq!(refused[0]["pod"], &pod_id[..12]);
        assert_eq!(of("RunPodSandbox", "ok")[0]["level"], "DEBUG");
        let exited: Vec<_> = lines.iter().filter(|l| l["message"] == "exited").collect();
        assert_eq!((exited.len(), exited[0]["container"].as_str()), (1, Some(&id[..12])));
        assert_eq!(exited[0]["code"], 3);
        node.launch();
    });
}
