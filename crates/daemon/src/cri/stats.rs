//! What containers and pods use, as the kubelet's summary needs it.

use super::{containers, selected};
use crate::container::{Container, ContainerInfo};
use crate::error::Result;
use crate::node::Node;
use crate::pod::{Pod, PodInfo};
use crate::request::Origin;
use crate::tasks::blocking;
use crate::usage::interfaces::Interface;
use crate::usage::{GroupUsage, PodUsage};
use std::collections::HashMap;
use std::sync::Arc;
use strata_api::cri;
use strata_cgroup::stats::{Pressure, Stalled};

fn value(n: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value: n })
}

fn cpu(usage: &GroupUsage) -> cri::CpuUsage {
    cri::CpuUsage {
        timestamp: usage.at,
        usage_core_nano_seconds: usage.stats.cpu_usage_ns.and_then(value),
        usage_nano_cores: usage.nano_cores.and_then(value),
        psi: usage.stats.cpu_pressure.map(pressure),
    }
}

fn memory(usage: &GroupUsage) -> cri::MemoryUsage {
    let stats = &usage.stats;
    let available = stats.memory_limit.zip(stats.memory_working_set).map(|(l, w)| l.saturating_sub(w));
    cri::MemoryUsage {
        timestamp: usage.at,
        working_set_bytes: stats.memory_working_set.and_then(value),
        available_bytes: available.and_then(value),
        usage_bytes: stats.memory_usage.and_then(value),
        rss_bytes: stats.memory_rss.and_then(value),
        page_faults: stats.page_faults.and_then(value),
        major_page_faults: stats.major_page_faults.and_then(value),
        psi: stats.memory_pressure.map(pressure),
    }
}

fn swap(usage: &GroupUsage) -> Option<cri::SwapUsage> {
    let used = usage.stats.swap_usage?;
    Some(cri::SwapUsage {
        timestamp: usage.at,
        swap_available_bytes: usage.stats.swap_limit.and_then(|limit| value(limit.saturating_sub(used))),
        swap_usage_bytes: value(used),
    })
}

/// CRI's IO says how much was waited for, and nothing else.
fn io(usage: &GroupUsage) -> Option<cri::IoUsage> {
    usage.stats.io_pressure.map(|p| cri::IoUsage { timestamp: usage.at, psi: Some(pressure(p)) })
}

fn pressure(p: Pressure) -> cri::PsiStats {
    let percent = |hundredths: u32| f64::from(hundredths) / 100.0;
    // In nanoseconds, as the kubelet's summary has it.
    let data = |s: Stalled| cri::PsiData {
        total: s.total_us.saturating_mul(1000),
        avg10: percent(s.avg10),
        avg60: percent(s.avg60),
        avg300: percent(s.avg300),
    };
    cri::PsiStats { full: Some(data(p.full)), some: Some(data(p.some)) }
}

/// The pod's own interface, and the others without it. Without any there is nothing to tell.
fn network(pod: &PodInfo, usage: &PodUsage) -> Option<cri::NetworkUsage> {
    let mut all = usage.interfaces.clone().filter(|all| !all.is_empty())?;
    let named = pod.attachment.as_ref().map_or("eth0", |a| a.interface.as_str());
    let default = all.remove(all.iter().position(|i| i.name == named).unwrap_or(0));
    let interface = |i: Interface| cri::NetworkInterfaceUsage {
        name: i.name,
        rx_bytes: value(i.received.bytes),
        rx_errors: value(i.received.errors),
        tx_bytes: value(i.sent.bytes),
        tx_errors: value(i.sent.errors),
    };
    Some(cri::NetworkUsage {
        timestamp: usage.group.at,
        default_interface: Some(interface(default)),
        interfaces: all.into_iter().map(interface).collect(),
    })
}

fn of_one(node: &Node, container: &ContainerInfo, usage: &GroupUsage) -> cri::ContainerStats {
    let record = &container.record;
    // As ImageFsInfo names it.
    let mountpoint = node.store.root().to_string_lossy().into_owned();
    let writable_layer = node.store.writable(&record.id).map(|w| cri::FilesystemUsage {
        timestamp: w.measured_at,
        fs_id: Some(cri::FilesystemIdentifier { mountpoint }),
        used_bytes: value(w.layer_disk),
        inodes_used: value(w.layer_inodes),
    });
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: record.id.clone(),
            metadata: record.config.metadata.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        cpu: Some(cpu(usage)),
        memory: Some(memory(usage)),
        writable_layer,
        swap: swap(usage),
        io: io(usage),
    }
}

async fn of_all(node: &Arc<Node>, all: Vec<ContainerInfo>) -> Result<Vec<cri::ContainerStats>> {
    let node = node.clone();
    blocking(move || {
        let usage = node.containers_usage(&all)?;
        node.forget_old_readings();
        Ok(all.iter().zip(&usage).map(|(container, usage)| of_one(&node, container, usage)).collect())
    })
    .await
}

/// ContainerStats.
pub(super) async fn of_container(
    node: &Arc<Node>,
    container: &Container,
) -> Result<Option<cri::ContainerStats>> {
    Ok(of_all(node, vec![container.info()]).await?.pop())
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
    let mut all = containers::matching(node, filter.as_ref())?;
    all.retain(|c| c.live.running());
    of_all(node, all).await
}

async fn of_these(node: &Arc<Node>, pods: Vec<Arc<Pod>>) -> Result<Vec<cri::PodSandboxStats>> {
    let mut containers: HashMap<String, Vec<cri::ContainerStats>> = HashMap::new();
    let wanted = |id: &str| pods.iter().any(|p| p.id() == id);
    let mut running = containers::matching(node, None)?;
    running.retain(|c| c.live.running() && wanted(&c.record.pod_id));
    let owners: Vec<String> = running.iter().map(|c| c.record.pod_id.clone()).collect();
    for (pod, stats) in owners.into_iter().zip(of_all(node, running).await?) {
        containers.entry(pod).or_default().push(stats);
    }
    let node = node.clone();
    blocking(move || {
        let usage = node.pods_usage(&pods)?;
        let one = |(pod, usage): (&Arc<Pod>, &PodUsage)| {
            let info = pod.info();
            let containers = containers.remove(&info.id).unwrap_or_default();
            of_pod_with(&info, usage, containers)
        };
        Ok(pods.iter().zip(&usage).map(one).collect())
    })
    .await
}

fn of_pod_with(
    pod: &PodInfo,
    usage: &PodUsage,
    containers: Vec<cri::ContainerStats>,
) -> cri::PodSandboxStats {
    let process = cri::ProcessUsage { timestamp: usage.group.at, process_count: value(usage.processes) };
    let linux = cri::LinuxPodSandboxStats {
        cpu: Some(cpu(&usage.group)),
        memory: Some(memory(&usage.group)),
        network: network(pod, usage),
        process: Some(process),
        containers,
        io: io(&usage.group),
    };
    cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: pod.id.clone(),
            metadata: Some(pod.metadata()),
            labels: pod.config.labels.clone(),
            annotations: pod.config.annotations.clone(),
        }),
        linux: Some(linux),
        windows: None,
    }
}

/// PodSandboxStats.
pub(super) async fn of_pod(node: &Arc<Node>, pod: &Arc<Pod>) -> Result<Option<cri::PodSandboxStats>> {
    Ok(of_these(node, vec![pod.clone()]).await?.pop())
}

/// Kubernetes' pods that are ready, newest first.
pub(super) fn ready(node: &Node) -> Vec<Arc<Pod>> {
    let infos = node.pod_infos().into_iter().filter(|p| p.origin == Origin::Kubernetes && p.is_ready());
    infos.filter_map(|p| node.pods.get(&p.id)).collect()
}

/// ListPodSandboxStats: of those that are ready.
pub(super) async fn of_pods(
    node: &Arc<Node>,
    filter: Option<&cri::PodSandboxStatsFilter>,
) -> Result<Vec<cri::PodSandboxStats>> {
    let none = cri::PodSandboxStatsFilter::default();
    let filter = filter.unwrap_or(&none);
    let mut pods = ready(node);
    pods.retain(|p| p.id().starts_with(&filter.id) && selected(&p.config().labels, &filter.label_selector));
    of_these(node, pods).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::interfaces::Traffic;

    #[test]
    fn the_interfaces_are_told_once_each() {
        let interface = |name: &str, bytes| {
            let received = Traffic { bytes, ..Traffic::default() };
            Interface { name: name.into(), received, ..Interface::default() }
        };
        let pod = crate::events::sample(crate::pod::state::PodState::Ready);
        let all = Some(vec![interface("net1", 1), interface("eth0", 2)]);
        let usage = PodUsage { interfaces: all, ..PodUsage::default() };
        let found = network(&pod, &usage).unwrap();
        let default = found.default_interface.unwrap();
        assert_eq!((default.name.as_str(), default.rx_bytes), ("eth0", value(2)));
        assert_eq!(found.interfaces.len(), 1);
        assert_eq!(found.interfaces[0].name, "net1");
        let none = PodUsage { interfaces: Some(vec![]), ..PodUsage::default() };
        assert!(network(&pod, &none).is_none() && network(&pod, &PodUsage::default()).is_none());
    }

    #[test]
    fn what_is_left_is_the_limit_without_the_working_set() {
        let stats = strata_cgroup::Stats {
            memory_limit: Some(100),
            memory_working_set: Some(30),
            swap_usage: Some(5),
            swap_limit: Some(7),
            ..Default::default()
        };
        let usage = GroupUsage { stats, ..GroupUsage::default() };
        assert_eq!(memory(&usage).available_bytes, value(70));
        assert_eq!(swap(&usage).unwrap().swap_available_bytes, value(2));
        assert_eq!(memory(&GroupUsage::default()).available_bytes, None);
        assert!(swap(&GroupUsage::default()).is_none() && io(&GroupUsage::default()).is_none());
    }

    #[test]
    fn pressure_has_percents_and_nanoseconds() {
        let some = Stalled { avg10: 405, avg60: 0, avg300: 10_000, total_us: 7 };
        let told = pressure(Pressure { some, full: Stalled::default() }).some.unwrap();
        assert_eq!((told.avg10, told.avg300, told.total), (4.05, 100.0, 7000));
    }
}
