//! What the node tells of what goes on in it: stats, metrics, events, long lists, logs.

mod events;
mod lists;
mod openmetrics;
mod pod_metrics;
mod prometheus;
mod stats;

use k8s_cri::v1::{self as cri, PodSandboxConfig};
use strata_e2e::node::{Node, container, pod};

/// A pod with one container that runs this script within limits; their IDs.
fn limited(node: &Node, name: &str, script: &str) -> (PodSandboxConfig, String, String) {
    node.pull("busybox");
    let pod_config = pod(node, name);
    let pod_id = node.run_pod(&pod_config);
    let mut config = container(node, "c", script);
    config.linux.get_or_insert_default().resources = Some(cri::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 1024,
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        ..Default::default()
    });
    let id = node.run_container(&pod_id, &pod_config, &config);
    (pod_config, pod_id, id)
}

/// The number in one of CRI's optional fields.
#[track_caller]
fn number(value: Option<&cri::UInt64Value>) -> u64 {
    value.unwrap_or_else(|| panic!("the number is missing")).value
}
