//! The node and its pods.

use crate::container::state::ContainerState;
use crate::error::Result;
use crate::node::Node;
use rustix::system::{sysinfo, uname};
use strata_api::debug;
use strata_cgroup::Mode;

pub(super) async fn info(node: &Node) -> Result<debug::InfoResponse> {
    let status = node.network.status().await;
    let containers = node.container_infos();
    let running = containers.iter().filter(|i| i.state() == ContainerState::Running);
    let (paused, running): (Vec<_>, Vec<_>) = running.partition(|i| i.live.paused);
    let (system, kernel) = (sysinfo(), uname());
    let path = |p: &std::path::Path| p.to_string_lossy().into_owned();
    Ok(debug::InfoResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        root: path(&node.config.root),
        state: path(&node.config.state),
        kernel: kernel.release().to_string_lossy().into_owned(),
        cgroup_mode: mode(node.cgroups.mode()).to_owned(),
        cgroup_driver: node.config.cgroup.driver.name().to_owned(),
        images: count(node.store.images().len()),
        layers: count(node.store.layer_count()),
        containers: count(containers.len()),
        containers_running: count(running.len()),
        containers_paused: count(paused.len()),
        pods: count(node.pod_infos().len()),
        network: node.network.name().to_owned(),
        network_ready: status.ready,
        network_message: status.message,
        warnings: node.warnings(),
        cpus: count(std::thread::available_parallelism().map_or(1, usize::from)),
        memory: system.totalram.saturating_mul(system.mem_unit.into()),
        operating_system: os_release(&std::fs::read_to_string("/etc/os-release").unwrap_or_default()),
        architecture: kernel.machine().to_string_lossy().into_owned(),
        pid: i32::try_from(std::process::id()).unwrap_or(0),
        handlers: crate::handlers::names(&node.config.runtime.handlers)
            .into_iter()
            .filter(|n| !n.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::V1 => "v1",
        Mode::Hybrid => "hybrid",
        Mode::V2 => "v2",
    }
}

/// `PRETTY_NAME` of os-release(5).
fn os_release(text: &str) -> String {
    let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map_or("Linux", |n| n.trim().trim_matches(['"', '\''])).to_owned()
}

pub(super) fn pods(node: &Node) -> debug::ListPodsResponse {
    let containers = node.container_infos();
    let pods = node.pod_infos().into_iter().map(|pod| {
        let metadata = pod.metadata();
        let own = || containers.iter().filter(|c| c.record.pod_id == pod.id);
        debug::Pod {
            ready: pod.is_ready(),
            ips: pod.ips(),
            containers: count(own().count()),
            containers_running: count(own().filter(|c| c.state() == ContainerState::Running).count()),
            created_at: pod.created_at,
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            attempt: metadata.attempt,
            id: pod.id,
            handler: pod.handler,
        }
    });
    debug::ListPodsResponse { pods: pods.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_has_a_name() {
        assert_eq!(
            os_release("ID=x\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n"),
            "Debian GNU/Linux 13 (trixie)"
        );
        assert_eq!(os_release(""), "Linux");
    }
}
