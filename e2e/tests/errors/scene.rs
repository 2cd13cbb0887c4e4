//! A node with something in every state, and the table's machinery.

use k8s_cri::v1::{self as cri, PodSandboxConfig};
use std::collections::BTreeSet;
use std::path::Path;
use strata_e2e::node::{Node, container, leaks, pod};
use tonic::{Code, Status};

/// An ID that nothing has.
pub(crate) const UNKNOWN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The host port of the scene's pod.
pub(crate) const HOST_PORT: i32 = 18080;

/// What a call must answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected {
    /// Success.
    Fine,
    /// This code, and a message that holds this text.
    Fails(Code, &'static str),
}

/// One line of the table: the call, its input, the call itself, its answer.
pub(crate) struct Case<'a> {
    pub(crate) rpc: &'static str,
    pub(crate) input: &'static str,
    pub(crate) call: Box<dyn FnOnce() -> Result<(), Status> + 'a>,
    pub(crate) expected: Expected,
}

/// A call that must fail.
pub(crate) fn fails<'a>(
    rpc: &'static str,
    input: &'static str,
    code: Code,
    says: &'static str,
    call: impl FnOnce() -> Result<(), Status> + 'a,
) -> Case<'a> {
    Case { rpc, input, call: Box::new(call), expected: Expected::Fails(code, says) }
}

/// A call that must succeed, and change nothing.
pub(crate) fn fine<'a>(
    rpc: &'static str,
    input: &'static str,
    call: impl FnOnce() -> Result<(), Status> + 'a,
) -> Case<'a> {
    Case { rpc, input, call: Box::new(call), expected: Expected::Fine }
}

/// A node with a pod, a stopped pod, and containers in every state.
pub(crate) struct Scene<'a> {
    pub(crate) node: &'a Node,
    pub(crate) pod: PodSandboxConfig,
    pub(crate) pod_id: String,
    pub(crate) stopped_pod: String,
    pub(crate) created: String,
    pub(crate) running: String,
    pub(crate) exited: String,
}

impl<'a> Scene<'a> {
    pub(crate) fn new(node: &'a Node) -> Self {
        node.pull("busybox");
        let mut config = pod(node, "scene");
        let mapping = cri::PortMapping { container_port: 80, host_port: HOST_PORT, ..Default::default() };
        config.port_mappings.push(mapping);
        let pod_id = node.run_pod(&config);
        let gone = pod(node, "gone");
        let stopped_pod = node.run_pod(&gone);
        node.stop_pod(&stopped_pod).unwrap();
        let created = node.create(&pod_id, &config, &container(node, "created", "true"));
        let running = node.run_container(&pod_id, &config, &container(node, "running", "exec sleep 1000"));
        let exited = node.run_container(&pod_id, &config, &container(node, "exited", "true"));
        node.wait_exit(&exited);
        Self { node, pod: config, pod_id, stopped_pod, created, running, exited }
    }

    /// A container's configuration that works, changed.
    pub(crate) fn container(&self, change: impl FnOnce(&mut cri::ContainerConfig)) -> cri::ContainerConfig {
        let mut config = container(self.node, "new", "true");
        change(&mut config);
        config
    }

    /// A pod's configuration that works, changed.
    pub(crate) fn pod(&self, change: impl FnOnce(&mut PodSandboxConfig)) -> PodSandboxConfig {
        let mut config = pod(self.node, "new");
        change(&mut config);
        config
    }

    /// Makes every call of a table; tells of all that is wrong at once.
    #[track_caller]
    pub(crate) fn check(&self, cases: Vec<Case<'_>>) {
        // The scene's shims, and those that a table has made for itself.
        self.node.settled_traces();
        let before = self.traces();
        let mut wrong = Vec::new();
        for Case { rpc, input, call, expected } in cases {
            let answer = call();
            let good = match (&answer, expected) {
                (Ok(()), Expected::Fine) => true,
                (Err(status), Expected::Fails(code, says)) => {
                    status.code() == code && status.message().contains(says)
                }
                _ => false,
            };
            if !good {
                let told = answer.map_err(|s| format!("{:?}: {}", s.code(), s.message()));
                wrong.push(format!("{rpc}, {input}: {told:?} instead of {expected:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        strata_e2e::eventually(20, "refused calls leave nothing", || {
            let now = self.traces();
            if now == before { Ok(()) } else { Err(difference(&before, &now)) }
        });
    }

    /// Everything that a call could leave: processes, mounts, cgroups, records, namespaces, files, and what lists say.
    fn traces(&self) -> BTreeSet<String> {
        let mut all = self.node.traces();
        let list = cri::ListContainersRequest { filter: None };
        let list = self.node.cri(async |mut c| c.list_containers(list).await).unwrap();
        all.extend(list.containers.iter().map(|c| format!("container {} is {}", c.id, c.state)));
        let list = cri::ListPodSandboxRequest { filter: None };
        let list = self.node.cri(async |mut c| c.list_pod_sandbox(list).await).unwrap();
        all.extend(list.items.iter().map(|p| format!("pod {} is {}", p.id, p.state)));
        let list = cri::ListImagesRequest { filter: None };
        let list = self.node.images(async |mut c| c.list_images(list).await).unwrap();
        all.extend(list.images.iter().map(|i| format!("image {} {:?}", i.id, i.repo_tags)));
        // The kubelet tells from the names of these how often a container has been started.
        all.extend(leaks::names(Path::new(&self.pod.log_directory)).iter().map(|name| format!("log {name}")));
        all
    }
}

fn difference(before: &BTreeSet<String>, now: &BTreeSet<String>) -> String {
    let new = now.difference(before).map(|line| format!("new: {line}"));
    let gone = before.difference(now).map(|line| format!("gone: {line}"));
    new.chain(gone).collect::<Vec<_>>().join("\n")
}
