//! CNI for a node's pods: Debian's plugins in the node's network namespace, with lists and addresses in the node's directory.

use super::{Node, leaks, pod};
use k8s_cri::v1 as cri;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where Debian has the plugins.
pub const PLUGINS: &str = "/usr/lib/cni";

/// Why pods cannot have CNI on this machine; none if they can.
pub fn lacking() -> Option<&'static str> {
    (!Path::new(PLUGINS).join("bridge").exists()).then_some("needs containernetworking-plugins")
}

/// Where the lists are.
pub fn conf_dir(node: &Node) -> PathBuf {
    node.dir("cni/conf")
}

/// Where host-local keeps who has which address.
pub fn data_dir(node: &Node) -> PathBuf {
    node.dir("cni/data")
}

/// Makes the directories, and says the lines of `[network]` that name them; `before` has plugins that win over Debian's.
#[track_caller]
pub fn settings(node: &Node, before: &[&Path]) -> String {
    for dir in [conf_dir(node), data_dir(node)] {
        std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    }
    let dirs: Vec<&Path> = before.iter().copied().chain([Path::new(PLUGINS)]).collect();
    format!("cni_conf_dir = {:?}\ncni_bin_dirs = {dirs:?}\n", conf_dir(node))
}

/// A list: a bridge, addresses of `10.<second>.0.0/24`, and further plugins behind; `prefix` stands before each one's name.
pub fn list(node: &Node, name: &str, second: u8, prefix: &str, chained: &[&str]) -> String {
    let ipam = json!({
        "type": format!("{prefix}host-local"),
        "dataDir": data_dir(node),
        "ranges": [[{ "subnet": format!("10.{second}.0.0/24") }]],
        "routes": [{ "dst": "0.0.0.0/0" }]
    });
    let mut plugins = vec![json!({
        "type": format!("{prefix}bridge"),
        "bridge": format!("cni{second}"),
        "isGateway": true,
        "ipMasq": true,
        "hairpinMode": true,
        "ipam": ipam
    })];
    plugins.extend(chained.iter().map(|plugin| {
        let mut own = match *plugin {
            "portmap" => json!({ "capabilities": { "portMappings": true } }),
            "bandwidth" => json!({ "capabilities": { "bandwidth": true } }),
            // Otherwise it would ask a firewalld, which has the machine's rules.
            "firewall" => json!({ "backend": "iptables" }),
            _ => json!({}),
        };
        own["type"] = format!("{prefix}{plugin}").into();
        own
    }));
    json!({ "cniVersion": "1.0.0", "name": name, "plugins": plugins }).to_string()
}

/// Puts a list into its directory, whole.
#[track_caller]
pub fn put_list(node: &Node, file: &str, text: &str) {
    let dir = conf_dir(node);
    let put =
        std::fs::write(dir.join("new"), text).and_then(|()| std::fs::rename(dir.join("new"), dir.join(file)));
    put.unwrap_or_else(|e| panic!("{file}: {e}"));
}

/// The addresses that host-local holds.
pub fn addresses(node: &Node) -> Vec<String> {
    let data = data_dir(node);
    let networks = leaks::names(&data).into_iter().map(|n| data.join(n));
    networks
        .flat_map(|dir| leaks::names(&dir))
        .filter(|name| name.parse::<std::net::IpAddr>().is_ok())
        .collect()
}

/// One line for each thing that pods' networks leave in the node's network namespace and in host-local's files.
#[track_caller]
pub fn traces(node: &Node) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = addresses(node).into_iter().map(|a| format!("address {a}")).collect();
    let links = node.run("ip", &["-br", "link"]).ok().stdout;
    found.extend(
        links.lines().filter_map(|l| l.split(['@', ' ']).next()).map(|name| format!("interface {name}")),
    );
    for program in ["iptables-save", "ip6tables-save"] {
        // Where it is not installed no plugin can have used it.
        let if_there = format!("! command -v {program} >/dev/null || exec {program}");
        found.extend(rules(program, &node.run("sh", &["-c", &if_there]).ok().stdout));
    }
    found.extend(
        node.run("nft", &["-s", "list", "ruleset"]).ok().stdout.lines().map(|l| format!("nft: {}", l.trim())),
    );
    found
}

/// The chains and rules that a program like iptables-save tells, without what it counts.
fn rules(program: &str, text: &str) -> Vec<String> {
    let mut table = "";
    let mut all = Vec::new();
    for line in text.lines() {
        match line.split_at_checked(1) {
            Some(("*", name)) => table = name,
            Some((":", chain)) => {
                all.push(format!(
                    "{program}: {table}: chain {}",
                    chain.split(' ').next().unwrap_or_default()
                ));
            }
            Some(("-", _)) => all.push(format!("{program}: {table}: {line}")),
            _ => {}
        }
    }
    all
}

/// A pod that comes and goes, with a host port: plugins make then what they leave for the next pod (bridge, common chains).
#[track_caller]
pub fn warm_up(node: &Node) {
    let mut config = pod(node, "warm-up");
    config.port_mappings =
        vec![cri::PortMapping { container_port: 80, host_port: 8089, ..Default::default() }];
    let id = node.run_pod(&config);
    node.stop_pod(&id).unwrap_or_else(|e| panic!("{e}"));
    node.remove_pod(&id).unwrap_or_else(|e| panic!("{e}"));
}
