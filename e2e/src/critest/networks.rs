//! The networks that the suite runs on, and that it leaves nothing on them.

use crate::node::{Node, cni};
use std::fmt;

/// Specs for which it matters which network a pod has; a regular expression of Go's.
pub const FOCUS: &str = "Networking|PodSandbox|Streaming|HostNetwork|should support network";
/// Behind the bridge: host ports, a firewall's and bandwidth's rules, and a loopback interface, as nodes have them.
const CHAINED: [&str; 4] = ["portmap", "firewall", "bandwidth", "loopback"];

/// What connects the suite's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Network {
    /// Debian's CNI plugins, as on a node of Kubernetes'.
    Cni,
    /// Strata's own.
    Builtin,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cni => "CNI",
            Self::Builtin => "the built-in network",
        })
    }
}

/// Runs something on a network, and tells what of it has stayed: a line for each interface, rule and address.
#[track_caller]
pub fn on<T>(node: &Node, network: Network, f: impl FnOnce() -> T) -> (T, Vec<String>) {
    choose(node, network);
    // What plugins make once and keep is there from here on.
    cni::warm_up(node);
    let before = cni::traces(node);
    let done = f();
    node.remove_everything();
    let mut left: Vec<String> = cni::traces(node).difference(&before).cloned().collect();
    left.extend(
        cni::addresses(node).into_iter().map(|a| format!("host-local has given {a} to nobody that is there")),
    );
    (done, left)
}

/// Has a node connect its pods by a network from now on.
#[track_caller]
pub fn choose(node: &Node, network: Network) {
    let list = cni::list(node, "pods", 77, "", &CHAINED);
    let lines = format!("[network]\n{}", cni::settings(node, &[]));
    cni::put_list(node, "10-pods.conflist", &list);
    node.reconfigure(|text| {
        let text = if text.contains("cni_conf_dir") { text } else { text.replacen("[network]\n", &lines, 1) };
        let (from, to) = match network {
            Network::Cni => ("builtin", "cni"),
            Network::Builtin => ("cni", "builtin"),
        };
        text.replacen(&format!("cri = \"{from}\"\n"), &format!("cri = \"{to}\"\n"), 1)
    });
}
