//! A real kubelet on a node of its own, without an API server: pods are files in a directory.
//!
//! [`Kubelet::start`] says what of the machine the kubelet would write to, and gives it copies instead.

pub mod checks;
mod cover;
mod pods;
mod streams;

pub use pods::{Status, container, pod};

use crate::Result;
use crate::command::{Output, limited, run};
use crate::node::{Node, cgroups, leaks};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The kubelet's name for the node, which the names of its pods end in.
pub const NAME: &str = "e2e";
/// Its server for what an API server asks, in the node's network namespace.
const SERVER: &str = "https://127.0.0.1:10250";

/// A kubelet; dropping ends it and removes what it made.
#[derive(Debug)]
pub struct Kubelet<'a> {
    node: &'a Node,
    tools: PathBuf,
    config: Value,
    child: Option<Child>,
    _cover: cover::Cover,
}

impl<'a> Kubelet<'a> {
    /// Starts one, with the programs of `tools` (hack/kubelet builds them). This process must have a mount namespace of its own,
    /// in which files are covered that the kubelet writes whatever it is told.
    pub fn start(node: &'a Node, tools: &Path) -> Result<Self> {
        for below in ["manifests", "kubelet", "pods", "volumes"] {
            std::fs::create_dir_all(node.dir(below))?;
        }
        // The node has an address that pods and probes can reach: the kubelet refuses loopback's.
        let add = "ip link add node0 type veth peer name node1 && ip address add 192.0.2.10/24 dev node0 && \
                   ip link set node0 up && ip link set node1 up && ip route add default via 192.0.2.1";
        node.run("sh", &["-c", add]).ok();
        let cover = cover::Cover::new(&node.dir("cover"))?;
        cgroups::create(&format!("{}/kube", node.cgroup()))?;
        let mut kubelet =
            Self { node, tools: tools.into(), config: config(node), child: None, _cover: cover };
        kubelet.launch()?;
        Ok(kubelet)
    }

    /// The node that it is on.
    pub fn node(&self) -> &'a Node {
        self.node
    }

    fn launch(&mut self) -> Result<()> {
        let file = self.node.dir("kubelet.yaml");
        std::fs::write(&file, self.config.to_string())?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.node.dir("kubelet.log"))?;
        let mut command = Command::new(self.tools.join("kubelet"));
        command
            .arg("--config")
            .arg(&file)
            .arg("--root-dir")
            .arg(self.node.dir("kubelet"))
            .arg("--cert-dir")
            .arg(self.node.dir("kubelet/pki"))
            .args(["--hostname-override", NAME, "--node-ip", "192.0.2.10", "--v", "2"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.child = Some(self.node.within(|| command.spawn())?);
        crate::eventually(60, "the kubelet answers", || {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                panic!("the kubelet has ended with {status}:\n{}", self.log());
            }
            let answer = self.client(&["get", &format!("{SERVER}/healthz")]);
            if answer.code == 0 { Ok(()) } else { Err(answer.to_string()) }
        });
        Ok(())
    }

    /// SIGKILL: pods must not depend on it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it, and starts it again with another configuration.
    pub fn restart(&mut self, change: impl FnOnce(&mut Value)) -> Result<()> {
        self.kill();
        change(&mut self.config);
        self.launch()
    }

    /// Takes every pod's file away, and waits until the pods are gone.
    pub fn clear(&self) {
        for file in leaks::names(&self.node.dir("manifests")) {
            let _ = std::fs::remove_file(self.node.dir("manifests").join(file));
        }
        let until = std::time::Instant::now() + crate::patience(20);
        let ready = ["pods", "--state", "ready", "-q"];
        while std::time::Instant::now() < until && !self.node.crictl(&ready).text().is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read(self.node.dir("kubelet.log"))
            .map_or_else(|e| format!("kubelet.log: {e}"), |text| String::from_utf8_lossy(&text).into_owned())
    }

    /// The program that asks the kubelet as the API server would.
    #[must_use = "say .ok() or .fails()"]
    #[track_caller]
    fn client(&self, args: &[&str]) -> Output {
        let mut command = self.client_command();
        command.args(args);
        self.node.within(|| run(&mut command))
    }

    fn client_command(&self) -> Command {
        limited(self.tools.join("kubelet-client"), 60)
    }

    /// What it answers to a GET.
    #[must_use = "say .ok() or .fails()"]
    #[track_caller]
    pub fn get(&self, path: &str) -> Output {
        self.client(&["get", &format!("{SERVER}{path}")])
    }
}

impl Drop for Kubelet<'_> {
    fn drop(&mut self) {
        self.kill();
        // It mounts its own directory on itself, to share what it mounts in there.
        let _ = nix::mount::umount2(&self.node.dir("kubelet"), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// The settings: nothing but the node's own directory and cgroup, and no long waits.
fn config(node: &Node) -> Value {
    json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "containerRuntimeEndpoint": format!("unix://{}", node.socket().display()),
        "staticPodPath": node.dir("manifests"),
        "podLogsDir": node.dir("pods"),
        "volumePluginDir": node.dir("kubelet/plugins"),
        "address": "127.0.0.1",
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("{}/kube", node.cgroup()),
        "failCgroupV1": false,
        "makeIPTablesUtilChains": false,
        "clusterDNS": ["10.96.0.10"],
        "clusterDomain": "cluster.test",
        "resolvConf": "",
        "syncFrequency": "2s",
        "fileCheckFrequency": "1s",
        "volumeStatsAggPeriod": "5s",
        "crashLoopBackOff": { "maxContainerRestartPeriod": "3s" },
        // A full disk of the machine is not this test's.
        "evictionHard": { "memory.available": "1Mi", "nodefs.available": "1Mi", "imagefs.available": "1Mi" },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "imageMinimumGCAge": "1s",
        "containerLogMaxSize": "64Ki",
        "containerLogMaxFiles": 10,
        "containerLogMonitorInterval": "3s",
        "featureGates": {},
    })
}
