//! What pods and containers are made of, as the kubelet asks for it and as their programs see it.

mod devices;
mod hooks;
mod images;
mod mounts;
pub(crate) mod netdevices;
mod resources;
mod sandbox;
mod strays;
mod unwritable;

use k8s_cri::v1 as cri;
use strata_e2e::node::Node;
use tonic::{Code, Status};

/// A pod, and a container in it that sleeps; their IDs.
#[track_caller]
fn sleeper(
    node: &Node,
    name: &str,
    change: impl FnOnce(&mut cri::PodSandboxConfig, &mut cri::ContainerConfig),
) -> (String, String) {
    node.pull("busybox");
    let mut pod = strata_e2e::node::pod(node, name);
    let mut config = strata_e2e::node::container(node, name, "trap exit TERM; while :; do sleep 0.1; done");
    change(&mut pod, &mut config);
    let pod_id = node.run_pod(&pod);
    let id = node.run_container(&pod_id, &pod, &config);
    (pod_id, id)
}

/// A creation that must fail: its code and message.
#[track_caller]
fn refused(
    node: &Node,
    pod_id: &str,
    name: &str,
    change: impl FnOnce(&mut cri::ContainerConfig),
) -> (Code, String) {
    let mut config = strata_e2e::node::container(node, name, "true");
    change(&mut config);
    let pod = strata_e2e::node::pod(node, name);
    let status: Status = node.try_create(pod_id, &pod, &config).expect_err("a creation that must fail");
    (status.code(), status.message().to_owned())
}
