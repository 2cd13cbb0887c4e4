//! Every command that crictl has, as people who know it from other runtimes use it. `walk` has the ordinary day.

mod images;
mod pods;
mod streams;
mod watching;

use serde_json::{Value, json};
use std::io::Read as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use strata_e2e::node::{Node, test};

/// The commands that these tests and `walk` use: one that a newer crictl brings is to be tried too.
const COMMANDS: [&str; 32] = [
    "attach",
    "checkpoint",
    "completion",
    "config",
    "create",
    "events",
    "exec",
    "imagefsinfo",
    "images",
    "info",
    "inspect",
    "inspecti",
    "inspectp",
    "logs",
    "metricdescs",
    "metricsp",
    "pods",
    "port-forward",
    "ps",
    "pull",
    "rm",
    "rmi",
    "rmp",
    "run",
    "runp",
    "runtime-config",
    "start",
    "stats",
    "statsp",
    "stop",
    "stopp",
    "update",
];

/// And those.
const MORE: [&str; 3] = ["update-runtime-config", "version", "help"];

/// Writes a file of JSON beside the node's others; its path.
fn file(node: &Node, name: &str, value: &Value) -> String {
    let path = node.dir(name);
    std::fs::write(&path, value.to_string()).unwrap();
    path.display().to_string()
}

/// A pod's file.
fn pod_file(node: &Node, name: &str) -> String {
    let metadata = json!({ "name": name, "uid": format!("{name}-uid"), "namespace": "crictl", "attempt": 1 });
    let value = json!({
        "metadata": metadata, "hostname": name, "log_directory": node.log_directory(name),
        "labels": { "app": name }, "linux": {},
    });
    file(node, &format!("{name}-pod.json"), &value)
}

/// A container's file; the command is a shell's script.
fn container_file(node: &Node, name: &str, script: &str) -> String {
    container_with(node, name, script, &json!({}))
}

/// The same with further keys.
fn container_with(node: &Node, name: &str, script: &str, more: &Value) -> String {
    let mut value = json!({
        "metadata": { "name": name }, "image": { "image": node.image("busybox") },
        "command": ["/bin/sh", "-c", script], "log_path": format!("{name}.log"), "labels": { "tier": name }, "linux": {},
    });
    for (key, more) in more.as_object().unwrap() {
        value[key] = more.clone();
    }
    file(node, &format!("{name}.json"), &value)
}

/// A running container of a pod of its own; the IDs of both.
#[track_caller]
fn running(node: &Node, name: &str, script: &str) -> (String, String) {
    node.pull("busybox");
    let (pod, container) = (pod_file(node, name), container_file(node, name, script));
    let pod_id = node.crictl(&["runp", &pod]).ok().text().to_owned();
    let id = node.crictl(&["create", &pod_id, &container, &pod]).ok().text().to_owned();
    node.crictl(&["start", &id]).ok();
    (pod_id, id)
}

/// Follows a command that goes on for ever: `f` runs beside it; then it is ended, once it has written what is waited for.
#[track_caller]
fn follow(node: &Node, args: &[&str], f: impl FnOnce(), enough: impl Fn(&str) -> bool) -> String {
    let mut command = node.crictl_command();
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = node.within(|| command.spawn()).unwrap();
    let mut from = child.stdout.take().unwrap();
    let written = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&written);
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            to.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..n]);
        }
    });
    let text = || {
        let bytes = written.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    f();
    let seen = strata_e2e::eventually(30, "crictl shows it", || {
        let text = text();
        if enough(&text) { Ok(text) } else { Err(text) }
    });
    // timeout(1) hands the signal on.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    seen
}

#[test]
fn every_command_is_known_here() {
    test(|node| {
        let help = node.crictl(&["--help"]).ok();
        let commands = help.stdout.split("COMMANDS:").nth(1).unwrap().split("GLOBAL OPTIONS").next().unwrap();
        let names = commands.lines().filter_map(|l| l.strip_prefix("   ")).filter(|l| !l.starts_with(' '));
        let mut names: Vec<_> = names.filter_map(|l| l.split([',', ' ']).next()).collect();
        names.sort_unstable();
        let mut known = [&COMMANDS[..], &MORE].concat();
        known.sort_unstable();
        assert_eq!(names, known);
    });
}

#[test]
fn its_own_settings_and_completions() {
    test(|node| {
        for shell in ["bash", "zsh", "fish"] {
            node.crictl(&["completion", shell]).ok().has(&["crictl", "runp"]);
        }
        let settings = node.dir("own.yaml").display().to_string();
        std::fs::write(&settings, "").unwrap();
        let endpoint = format!("unix://{}", node.socket().display());
        let plain = |args: &[&str]| {
            let mut all = vec!["--config", settings.as_str()];
            all.extend(args);
            node.run(strata_e2e::node::place::Programs::find().unwrap().crictl, &all)
        };
        plain(&["config", "--set", &format!("runtime-endpoint={endpoint},timeout=20")]).ok();
        plain(&["config", "--get", "runtime-endpoint"]).ok().has(&[&endpoint]);
        plain(&["config", "--list"]).ok().has(&[&endpoint, "timeout", "20"]);
        plain(&["version"]).ok().has(&["RuntimeName:  strata"]);
        plain(&["info", "-q"]).ok().has(&["RuntimeReady"]);
    });
}

#[test]
fn what_the_runtime_says_of_itself() {
    test(|node| {
        assert_eq!(node.crictl(&["runtime-config"]).ok().text(), "cgroup driver:   CGROUPFS");
        let info = node.crictl(&["info"]).ok().json();
        let handlers = info["runtimeHandlers"].as_array().unwrap();
        let names: Vec<_> = handlers.iter().map(|h| h["name"].as_str().unwrap_or_default()).collect();
        assert_eq!(names, ["", "strata"], "{info}");
        assert_eq!(info["features"]["supplemental_groups_policy"], true, "{info}");
        let template = "{{range .status.conditions}}{{.type}}={{.status}} {{end}}";
        let shown = node.crictl(&["info", "-o", "go-template", "--template", template]).ok();
        assert_eq!(shown.text(), "RuntimeReady=true NetworkReady=true");
        node.crictl(&["info", "-o", "yaml"]).ok().has(&["runtimeHandlers:"]);
    });
}
