//! Address translation by nftables, in one table of its own.
//!
//! ```text
//!   prerouting ┐                                    one-address, one-port: (node's address, protocol, port) → pod
//!   output     ┴ to an address of the node ─▶ ports any-address, any-port: (protocol, port) → pod
//!   postrouting: pods to elsewhere, and pods or 127.0.0.1 to a pod by a port of the node, appear as the node
//!   guard: nothing comes from pods to or as 127.0.0.0/8, which route_localnet on the bridge would let in
//! ```
//! A pod is some elements of the maps: adding or removing it is one small transaction, and rules never change.

use super::claims::{Subnet, ipv4};
use crate::error::{Error, Kind, Result};
use crate::net::PortMapping;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How long nft may take; it waits for other users of nftables.
const PATIENCE: Duration = Duration::from_secs(20);
/// How soon a table that could not be made is tried again for pods that do not depend on it.
const AGAIN: Duration = Duration::from_secs(30);
/// Where nft is, beside PATH, which need not hold the system's directories.
const DIRECTORIES: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The table.
#[derive(Debug)]
pub(super) struct Firewall {
    bridge: String,
    subnet: Mutex<Subnet>,
    nft: Option<PathBuf>,
    // Held across a run of nft on purpose: transactions must not overtake one another.
    state: tokio::sync::Mutex<State>,
    problem: Mutex<Option<String>>,
}

#[derive(Debug, Default)]
struct State {
    installed: bool,
    tried: Option<Instant>,
    pods: BTreeMap<String, Published>,
}

/// The ports that lead to one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) ip: Ipv4Addr,
    pub(super) ports: Vec<PortMapping>,
}

impl Firewall {
    pub(super) fn new(bridge: &str, subnet: Subnet) -> Self {
        Self::with(bridge, subnet, find_nft())
    }

    /// With this nft, or none.
    pub(super) fn with(bridge: &str, subnet: Subnet, nft: Option<PathBuf>) -> Self {
        let firewall = Self {
            bridge: bridge.into(),
            subnet: Mutex::new(subnet),
            nft,
            state: tokio::sync::Mutex::default(),
            problem: Mutex::default(),
        };
        if firewall.nft.is_none() {
            firewall.set_problem(Some(missing().to_string()));
        }
        firewall
    }

    /// What does not work; `None` if everything does.
    pub(super) fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_problem(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Lets ports lead to a pod. A pod without ports is fine without the table: it only cannot reach beyond the node.
    pub(super) async fn publish(&self, pod_id: &str, published: Published) -> Result<()> {
        let mut state = self.state.lock().await;
        if published.ports.is_empty() {
            if !state.installed && state.tried.is_none_or(|t| t.elapsed() >= AGAIN) {
                self.install_if_possible(&mut state).await;
            }
            return Ok(());
        }
        let elements = elements(&published)?;
        state.pods.insert(pod_id.into(), published);
        let mut done = Err(missing());
        if state.installed {
            done = self.run(commands("add", &self.table(), &elements)).await;
        }
        if done.is_err() {
            // Not there yet, or somebody flushed the ruleset: everything, once more.
            done = self.install(&mut state).await;
        }
        if done.is_err() {
            state.pods.remove(pod_id);
        }
        done
    }

    /// Takes back the ports of a pod, if it has any.
    pub(super) async fn withdraw(&self, pod_id: &str) -> Result<()> {
        let mut state = self.state.lock().await;
        let Some(published) = state.pods.remove(pod_id) else { return Ok(()) };
        let removed = self.run(commands("delete", &self.table(), &elements(&published)?)).await;
        if removed.is_ok() {
            return Ok(());
        }
        // Somebody else changed the table: it is made again, without this pod.
        let done = self.install(&mut state).await;
        if done.is_err() {
            state.pods.insert(pod_id.into(), published);
        }
        done
    }

    /// Replaces everything by what lives. Without any living pod, a table that was left behind goes.
    pub(super) async fn reset(&self, pods: BTreeMap<String, Published>, any_pod: bool) -> Result<()> {
        let mut state = self.state.lock().await;
        let ports = pods.values().any(|p| !p.ports.is_empty());
        state.pods = pods.into_iter().filter(|(_, p)| !p.ports.is_empty()).collect();
        if self.nft.is_none() && !ports {
            return Ok(());
        }
        if any_pod {
            self.install_if_possible(&mut state).await;
            return Ok(());
        }
        let table = json!({ "family": "ip", "name": self.table() });
        self.run(vec![json!({ "add": { "table": table } }), json!({ "delete": { "table": table } })]).await
    }

    /// Takes other addresses of pods; the next pod's table has them.
    pub(super) async fn renumber(&self, subnet: Subnet) {
        let mut state = self.state.lock().await;
        *self.subnet.lock().unwrap_or_else(PoisonError::into_inner) = subnet;
        (state.installed, state.tried) = (false, None);
    }

    /// Makes the table with all pods, in place of the one that may be there: in one transaction.
    async fn install(&self, state: &mut State) -> Result<()> {
        state.tried = Some(Instant::now());
        let subnet = *self.subnet.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = table(&self.table(), &self.bridge, subnet);
        for published in state.pods.values() {
            all.extend(commands("add", &self.table(), &elements(published)?));
        }
        let done = self.run(all).await;
        state.installed = done.is_ok();
        self.set_problem(done.as_ref().err().map(|e| format!("pods cannot reach beyond this node: {e}")));
        if done.is_ok() {
            self.route_localnet();
        }
        done
    }

    /// For those who can do without: the problem stays in the network's status.
    async fn install_if_possible(&self, state: &mut State) {
        if let Err(error) = self.install(state).await {
            tracing::warn!(bridge = self.bridge, %error, "pods cannot reach beyond this node, nor be reached by its ports");
        }
    }

    /// Ports of 127.0.0.1 need it. Only on the bridge, and only once the guard stands.
    fn route_localnet(&self) {
        let path = Path::new("/proc/sys/net/ipv4/conf").join(&self.bridge).join("route_localnet");
        if let Err(error) = std::fs::write(&path, "1") {
            tracing::warn!(%error, path = %path.display(), "ports of the node do not answer at 127.0.0.1");
        }
    }

    fn table(&self) -> String {
        format!("strata-{}", self.bridge)
    }

    /// Runs a transaction: all of it happens, or nothing.
    async fn run(&self, commands: Vec<Value>) -> Result<()> {
        let Some(nft) = &self.nft else { return Err(missing()) };
        let payload = json!({ "nftables": commands }).to_string();
        let failed = |why: &dyn std::fmt::Display| {
            let nft = nft.display();
            Error::new(
                Kind::Unavailable,
                format!("{nft}: {why}; does the kernel have nf_tables and nft_nat?"),
            )
        };
        match tokio::time::timeout(PATIENCE, feed(nft, payload.as_bytes())).await {
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => {
                let said = first_line(&output.stderr);
                Err(failed(&format_args!("{}: {said}", output.status)))
            }
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(failed(&format_args!("no answer for {} s", PATIENCE.as_secs()))),
        }
    }
}

/// Runs `nft` with JSON (libnftables-json(5)) on its standard input, and kills it if nobody waits any more.
async fn feed(nft: &Path, payload: &[u8]) -> io::Result<Output> {
    let mut child = Command::new(nft)
        .args(["--json", "--file", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    // One that ends without reading says why, or its exit status does.
    let stdin = child.stdin.take();
    let write = async move {
        if let Some(mut stdin) = stdin {
            let _ = stdin.write_all(payload).await;
        }
    };
    tokio::join!(write, child.wait_with_output()).1
}

fn missing() -> Error {
    Error::precondition(
        "nft is not there, so pods have no ports of the node and cannot reach beyond it; install nftables",
    )
}

fn find_nft() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(DIRECTORIES.map(PathBuf::from));
    directories.map(|d| d.join("nft")).find(|p| p.is_file())
}

fn first_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().find(|l| !l.trim().is_empty()).unwrap_or("it did not say why");
    line.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Everything but the elements.
fn table(table: &str, bridge: &str, subnet: Subnet) -> Vec<Value> {
    let itself = json!({ "family": "ip", "name": table });
    let mut all = vec![
        json!({ "add": { "table": itself } }),
        json!({ "delete": { "table": itself } }),
        json!({ "add": { "table": itself } }),
    ];
    let protocol_port = ["inet_proto", "inet_service"];
    let address_too = ["ipv4_addr", "inet_proto", "inet_service"];
    for (name, key, value) in [
        ("any-address", protocol_port.as_slice(), "ipv4_addr"),
        ("any-port", &protocol_port, "inet_service"),
        ("one-address", &address_too, "ipv4_addr"),
        ("one-port", &address_too, "inet_service"),
    ] {
        let map = json!({ "family": "ip", "table": table, "name": name, "type": key, "map": value });
        all.push(json!({ "add": { "map": map } }));
    }
    all.push(json!({ "add": { "chain": { "family": "ip", "table": table, "name": "ports" } } }));
    for (name, kind, hook, priority) in [
        ("guard", "filter", "prerouting", -300),
        ("prerouting", "nat", "prerouting", -100),
        ("output", "nat", "output", -100),
        ("postrouting", "nat", "postrouting", 100),
    ] {
        let chain = json!({ "family": "ip", "table": table, "name": name, "type": kind, "hook": hook,
            "prio": priority, "policy": "accept" });
        all.push(json!({ "add": { "chain": chain } }));
    }
    for (chain, expression) in rules(bridge, subnet) {
        let rule = json!({ "family": "ip", "table": table, "chain": chain, "expr": expression });
        all.push(json!({ "add": { "rule": rule } }));
    }
    all
}

fn rules(bridge: &str, subnet: Subnet) -> Vec<(&'static str, Value)> {
    let test =
        |left: Value, op: &str, right: Value| json!({ "match": { "op": op, "left": left, "right": right } });
    let meta = |key: &str| json!({ "meta": { "key": key } });
    let field = |protocol: &str, field: &str| json!({ "payload": { "protocol": protocol, "field": field } });
    let prefix =
        |address: Ipv4Addr, len: u8| json!({ "prefix": { "addr": address.to_string(), "len": len } });
    let (from, to) = (|p: &Value| test(field("ip", "saddr"), "==", p.clone()), field("ip", "daddr"));
    let pods = prefix(subnet.network(), subnet.prefix());
    let node = prefix(Ipv4Addr::new(127, 0, 0, 0), 8);
    let into_bridge = test(meta("oifname"), "==", json!(bridge));
    let off_bridge = test(meta("iifname"), "==", json!(bridge));
    let to_node = test(json!({ "fib": { "result": "type", "flags": ["daddr"] } }), "==", json!("local"));
    let translated = test(json!({ "ct": { "key": "status" } }), "in", json!("dnat"));
    let jump = json!({ "jump": { "target": "ports" } });
    let masquerade = json!({ "masquerade": null });
    let dnat = |key: &[Value], maps: [&str; 2]| {
        let [address, port] =
            maps.map(|m| json!({ "map": { "key": { "concat": key }, "data": format!("@{m}") } }));
        json!({ "dnat": { "addr": address, "port": port } })
    };
    let (l4, port) = (meta("l4proto"), field("th", "dport"));
    vec![
        ("guard", json!([off_bridge, test(to.clone(), "==", node.clone()), { "drop": null }])),
        ("guard", json!([off_bridge, from(&node), { "drop": null }])),
        ("prerouting", json!([to_node, jump])),
        ("output", json!([to_node, jump])),
        ("ports", json!([dnat(&[to, l4.clone(), port.clone()], ["one-address", "one-port"])])),
        ("ports", json!([dnat(&[l4, port], ["any-address", "any-port"])])),
        ("postrouting", json!([from(&pods), test(meta("oifname"), "!=", json!(bridge)), masquerade])),
        ("postrouting", json!([into_bridge, from(&node), masquerade])),
        ("postrouting", json!([into_bridge, from(&pods), translated, masquerade])),
    ]
}

/// An element of a map: the map, the key, the value.
type Element = (&'static str, Value, Value);

fn elements(published: &Published) -> Result<Vec<Element>> {
    let mut all = Vec::new();
    for port in &published.ports {
        let (protocol, host_port) = (port.protocol.as_str(), port.host_port);
        let (key, maps) = match ipv4(port.host_ip)? {
            None => (json!([protocol, host_port]), ["any-address", "any-port"]),
            Some(ip) => (json!([ip.to_string(), protocol, host_port]), ["one-address", "one-port"]),
        };
        let key = json!({ "concat": key });
        let [address, to] = maps;
        all.push((address, key.clone(), json!(published.ip.to_string())));
        all.push((to, key, json!(port.container_port)));
    }
    Ok(all)
}

fn commands(verb: &str, table: &str, elements: &[Element]) -> Vec<Value> {
    let command = |(map, key, value): &Element| {
        let element = if verb == "add" { json!([[key, value]]) } else { json!([key]) };
        json!({ verb: { "element": { "family": "ip", "table": table, "name": map, "elem": element } } })
    };
    elements.iter().map(command).collect()
}
