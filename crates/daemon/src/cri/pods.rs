//! What CRI says of pods.

use super::{containers, info, selected};
use crate::container::ContainerInfo;
use crate::error::{Error, Result};
use crate::ids::now;
use crate::node::Node;
use crate::pod::run::namespace_options;
use crate::pod::{Pod, PodInfo};
use crate::request::{Origin, known};
use std::sync::Arc;
use strata_api::cri;

/// The pod of Kubernetes' with this ID or prefix.
pub(super) fn own(node: &Node, id: &str) -> Result<Arc<Pod>> {
    if id.is_empty() {
        return Err(Error::invalid("the pod's ID is missing"));
    }
    let missing = || Error::not_found(format!("no such pod: {id}"));
    let found = node.find_pod(id)?;
    if found.origin() != Origin::Kubernetes {
        return Err(missing());
    }
    crate::metrics::rpc::about_pod(found.id());
    Ok(found)
}

/// Its whole ID, also while it is being taken apart; `None` if it is not there.
pub(super) fn own_id(node: &Node, id: &str) -> Result<Option<String>> {
    match own(node, id) {
        Ok(pod) => Ok(Some(pod.id().to_owned())),
        Err(e) if e.kind() == crate::error::Kind::NotFound => {
            let going = node.pods.find_or_going(id).filter(|pod| pod.origin() == Origin::Kubernetes);
            Ok(going.map(|pod| pod.id().to_owned()))
        }
        Err(e) => Err(e),
    }
}

fn state(pod: &PodInfo) -> cri::PodSandboxState {
    if pod.is_ready() { cri::PodSandboxState::SandboxReady } else { cri::PodSandboxState::SandboxNotready }
}

/// ListPodSandbox, newest first.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for a state that CRI v1 has not got.
pub(super) fn list(node: &Node, filter: Option<&cri::PodSandboxFilter>) -> Result<Vec<cri::PodSandbox>> {
    let none = cri::PodSandboxFilter::default();
    let filter = filter.unwrap_or(&none);
    let asked: Option<cri::PodSandboxState> =
        filter.state.as_ref().map(|s| known(s.state, "filter.state")).transpose()?;
    let wanted = |p: &PodInfo| {
        p.origin == Origin::Kubernetes
            && p.id.starts_with(&filter.id)
            && asked.is_none_or(|asked| asked == state(p))
            && selected(&p.config.labels, &filter.label_selector)
    };
    let pods = node.pod_infos().into_iter().filter(wanted);
    let pods = pods.map(|p| cri::PodSandbox {
        id: p.id.clone(),
        metadata: Some(p.metadata()),
        state: state(&p).into(),
        created_at: p.created_at,
        labels: p.config.labels.clone(),
        annotations: p.config.annotations.clone(),
        runtime_handler: p.handler.clone(),
    });
    Ok(pods.collect())
}

/// PodSandboxStatus without what `verbose` adds.
pub(super) fn describe(pod: &PodInfo) -> cri::PodSandboxStatus {
    let options = namespace_options(&pod.config);
    let mut ips = pod.ips().into_iter();
    let network = cri::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
    };
    // A running pod with a network of its own and an empty address is a failed one to the kubelet, which makes it anew, for ever
    // (PodSandboxChanged in kuberuntime/util/util.go). That of a handler without a network says nothing.
    let lonely =
        pod.is_ready() && network.ip.is_empty() && options.network != cri::NamespaceMode::Node as i32;
    cri::PodSandboxStatus {
        id: pod.id.clone(),
        metadata: Some(pod.metadata()),
        state: state(pod).into(),
        created_at: pod.created_at,
        network: (!lonely).then_some(network),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace { options: Some(options) }),
        }),
        labels: pod.config.labels.clone(),
        annotations: pod.config.annotations.clone(),
        runtime_handler: pod.handler.clone(),
    }
}

/// PodSandboxStatus.
pub(super) fn status(node: &Node, id: &str, verbose: bool) -> Result<cri::PodSandboxStatusResponse> {
    let found = own(node, id)?;
    let status = describe(&found.info());
    let record = found.record();
    let info = info(verbose, || {
        serde_json::json!({
            "pid": found.shim().map_or(0, |s| s.pid()),
            "shimSocket": found.shim().map(|s| s.socket().to_owned()),
            "cgroupParent": record.cgroup_parent,
            "namespaces": record.namespaces,
            "network": record.network,
            "config": record.config,
            "resources": record.resources,
            "selinuxLevel": record.selinux_level,
        })
    });
    let all = node.containers.of_pod(found.id());
    let shown = all.iter().map(|c| c.info()).filter(ContainerInfo::is_shown);
    let statuses = shown.map(|c| containers::describe(&c)).collect();
    Ok(cri::PodSandboxStatusResponse {
        status: Some(status),
        info,
        containers_statuses: statuses,
        timestamp: now(),
    })
}
