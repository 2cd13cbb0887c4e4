//! What CRI says of the node.

use super::info;
use crate::handlers;
use crate::node::Node;
use crate::pod::userns;
use strata_api::cri;

/// Status: what the kubelet makes the node's readiness of.
pub(super) fn status(node: &Node, verbose: bool) -> cri::StatusResponse {
    let network = node.network.status();
    let condition = |name: &str, ready: bool, reason: &str, message: &str| cri::RuntimeCondition {
        r#type: name.into(),
        status: ready,
        reason: reason.into(),
        message: message.into(),
    };
    let conditions = vec![
        condition("RuntimeReady", true, "", ""),
        condition("NetworkReady", network.ready, &network.reason, &network.message),
    ];
    let user_namespaces = userns::supported(&node.config.root);
    let handler = |name: &str| cri::RuntimeHandler {
        name: name.into(),
        features: Some(cri::RuntimeHandlerFeatures {
            recursive_read_only_mounts: true,
            user_namespaces,
        }),
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
                "cgroupDriver": "cgroupfs",
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
