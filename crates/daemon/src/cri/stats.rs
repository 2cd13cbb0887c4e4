//! What containers and pods use: cgroups and writable layers.

use super::{containers, selected};
use crate::container::{Container, ContainerInfo};
use crate::error::{Error, Result};
use crate::ids::now;
use crate::node::Node;
use crate::pod::PodInfo;
use crate::request::Origin;
use crate::tasks::blocking;
use std::sync::Arc;
use strata_api::cri;
use strata_cgroup::Stats;

fn value(n: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value: n })
}

fn cpu(stats: &Stats, timestamp: i64) -> cri::CpuUsage {
    let usage_core_nano_seconds = stats.cpu_usage_ns.and_then(value);
    cri::CpuUsage { timestamp, usage_core_nano_seconds, usage_nano_cores: None, psi: None }
}

fn memory(stats: &Stats, timestamp: i64) -> cri::MemoryUsage {
    let available = stats.memory_limit.zip(stats.memory_working_set).map(|(l, w)| l.saturating_sub(w));
    cri::MemoryUsage {
        timestamp,
        working_set_bytes: stats.memory_working_set.and_then(value),
        available_bytes: available.and_then(value),
        usage_bytes: stats.memory_usage.and_then(value),
        rss_bytes: stats.memory_rss.and_then(value),
        page_faults: stats.page_faults.and_then(value),
        major_page_faults: stats.major_page_faults.and_then(value),
        psi: None,
    }
}

/// Reads a cgroup; one that is not there uses nothing.
async fn read(node: &Node, cgroup: &str) -> Result<Stats> {
    let group = node.group(cgroup)?;
    blocking(move || group.stats().map_err(|e| Error::internal(e.to_string()))).await
}

/// ContainerStats.
pub(super) async fn of_container(node: &Arc<Node>, container: &Container) -> Result<cri::ContainerStats> {
    describe(node, &container.info()).await
}

async fn describe(node: &Arc<Node>, container: &ContainerInfo) -> Result<cri::ContainerStats> {
    let record = &container.record;
    let stats = read(node, &record.cgroup).await?;
    let timestamp = now();
    // As ImageFsInfo names it.
    let mountpoint = node.store.root().to_string_lossy().into_owned();
    let writable_layer = node.store.writable(&record.id).map(|w| cri::FilesystemUsage {
        timestamp: w.measured_at,
        fs_id: Some(cri::FilesystemIdentifier { mountpoint }),
        used_bytes: value(w.layer_disk),
        inodes_used: value(w.layer_inodes),
    });
    Ok(cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: record.id.clone(),
            metadata: record.config.metadata.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        cpu: Some(cpu(&stats, timestamp)),
        memory: Some(memory(&stats, timestamp)),
        writable_layer,
        swap: stats.swap_usage.map(|n| cri::SwapUsage {
            timestamp,
            swap_available_bytes: None,
            swap_usage_bytes: value(n),
        }),
        io: None,
    })
}

/// ListContainerStats: of those that run.
pub(super) async fn of_containers(
    node: &Arc<Node>,
    filter: Option<&cri::ContainerStatsFilter>,
) -> Result<Vec<cri::ContainerStats>> {
    let filter = filter.map(|f| cri::ContainerFilter {
        id: f.id.clone(),
        pod_sandbox_id: f.pod_sandbox_id.clone(),
        label_selector: f.label_selector.clone(),
        state: None,
    });
    let mut all = Vec::new();
    for container in containers::matching(node, filter.as_ref()).iter().filter(|c| c.live.running()) {
        all.push(describe(node, container).await?);
    }
    Ok(all)
}

/// PodSandboxStats.
pub(super) async fn of_pod(node: &Arc<Node>, pod: &PodInfo) -> Result<cri::PodSandboxStats> {
    let stats = read(node, &pod.cgroup_parent).await?;
    let timestamp = now();
    let of_this = cri::ContainerStatsFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
    let linux = cri::LinuxPodSandboxStats {
        cpu: Some(cpu(&stats, timestamp)),
        memory: Some(memory(&stats, timestamp)),
        network: None,
        process: stats.pids.map(|n| cri::ProcessUsage { timestamp, process_count: value(n) }),
        containers: of_containers(node, Some(&of_this)).await?,
        io: None,
    };
    Ok(cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: pod.id.clone(),
            metadata: Some(pod.metadata()),
            labels: pod.config.labels.clone(),
            annotations: pod.config.annotations.clone(),
        }),
        linux: Some(linux),
        windows: None,
    })
}

/// ListPodSandboxStats: of those that are ready.
pub(super) async fn of_pods(
    node: &Arc<Node>,
    filter: Option<&cri::PodSandboxStatsFilter>,
) -> Result<Vec<cri::PodSandboxStats>> {
    let none = cri::PodSandboxStatsFilter::default();
    let filter = filter.unwrap_or(&none);
    let mut all = Vec::new();
    for pod in node.pod_infos() {
        let wanted = pod.origin == Origin::Kubernetes
            && pod.is_ready()
            && pod.id.starts_with(&filter.id)
            && selected(&pod.config.labels, &filter.label_selector);
        if wanted {
            all.push(of_pod(node, &pod).await?);
        }
    }
    Ok(all)
}
