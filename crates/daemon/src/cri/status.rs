//! What CRI says of the node.

use super::info;
use crate::error::Result;
use crate::handlers;
use crate::net::PodCidrs;
use crate::node::Node;
use crate::pod::userns;
use crate::tasks::{blocking, detached};
use std::sync::Arc;
use strata_api::cri;

/// Status: what the kubelet makes the node's readiness of.
pub(super) async fn status(node: &Node, verbose: bool) -> cri::StatusResponse {
    let network = node.network.status().await;
    let condition = |name: &str, ready: bool, reason: &str, message: &str| cri::RuntimeCondition {
        r#type: name.into(),
        status: ready,
        reason: reason.into(),
        message: message.into(),
    };
    let in_the_way = obstacle(node);
    let (reason, message) = in_the_way.as_ref().map_or(("", ""), |(reason, message)| (reason, message));
    let conditions = vec![
        condition("RuntimeReady", in_the_way.is_none(), reason, message),
        condition("NetworkReady", network.ready, &network.reason, &network.message),
    ];
    let no_user_namespaces = userns::lacking(&node.config.root);
    let user_namespaces = no_user_namespaces.is_none();
    let handler = |name: &str| cri::RuntimeHandler {
        name: name.into(),
        features: Some(cri::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces }),
    };
    cri::StatusResponse {
        status: Some(cri::RuntimeStatus { conditions }),
        info: info(verbose, || {
            serde_json::json!({
                "version": env!("CARGO_PKG_VERSION"),
                "kernel": rustix::system::uname().release().to_string_lossy(),
                "root": node.config.root,
                "state": node.config.state,
                "cgroupMode": format!("{:?}", node.cgroups.mode()).to_lowercase(),
                "cgroupControllers": node.cgroups.controllers(),
                "cgroupDriver": node.config.cgroup.driver.name(),
                "apparmor": node.apparmor.enabled(),
                "selinux": node.selinux.enabled(),
                "noUserNamespaces": no_user_namespaces,
                "network": node.network.name(),
                "bootID": node.boot_id,
                "log": format!("{:?} {}", node.config.log.format, node.config.log.level).to_lowercase(),
                "metrics": node.config.metrics.address,
                "pods": node.pods.all().len(),
                "containers": node.containers.all().len(),
                "eventFollowers": node.events.followers(),
                "warnings": node.warnings(),
            })
        }),
        runtime_handlers: handlers::names(&node.config.runtime.handlers).into_iter().map(handler).collect(),
        features: Some(cri::RuntimeFeatures { supplemental_groups_policy: true, ..Default::default() }),
    }
}

/// Why no pod can be made here now, in a word and in a sentence; `None` if nothing is known of.
///
/// A runtime that is not ready gets no pods, and the kubelet neither syncs nor evicts those that it has. So what passes by itself
/// (the recovery after a restart, for which calls wait) and what the kubelet can mend (a full disk) is not told here.
fn obstacle(node: &Node) -> Option<(&'static str, String)> {
    for dir in [&node.config.root, &node.config.state] {
        // The state's directory is made for the first pod.
        let Some(fs) = dir.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok()) else { continue };
        if fs.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
            let message = format!(
                "{} is mounted read-only; see the kernel's log for the reason, and mount it writable again",
                dir.display()
            );
            return Some(("ReadOnlyFileSystem", message));
        }
    }
    let gone = node.cgroups.gone()?;
    let message = format!("{} is no cgroup file system any more; mount it again", gone.display());
    Some(("NoCgroups", message))
}

/// UpdateRuntimeConfig: the addresses that the cluster has given to this node's pods. The network's answer is kept for the
/// next stratad: the kubelet does not say it again before it restarts.
pub(super) async fn update(
    node: &Arc<Node>,
    request: cri::UpdateRuntimeConfigRequest,
) -> Result<cri::UpdateRuntimeConfigResponse> {
    let network = request.runtime_config.and_then(|c| c.network_config).unwrap_or_default();
    let Some(cidrs) = PodCidrs::parse(&network.pod_cidr)? else {
        return Ok(cri::UpdateRuntimeConfigResponse {});
    };
    let node = node.clone();
    detached(async move {
        node.network.set_pod_cidr(cidrs.clone()).await?;
        blocking(move || cidrs.keep(&node.config.root)).await?;
        Ok(cri::UpdateRuntimeConfigResponse {})
    })
    .await
}
