//! Calls that only the newest clients know, and those that take nothing that could be wrong.

use super::images::{ABSENT, drain};
use super::scene::{Case, Scene, UNKNOWN, fails, fine};
use k8s_cri::v1 as cri;
use prost::Message as _;
use strata_api::cri as newest;
use tonic::Code;

pub(crate) fn limits<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::{FailedPrecondition, InvalidArgument, NotFound};
    let rpc = "UpdatePodSandboxResources";
    let update = |id: &str, cpu_shares: Option<i64>| {
        let resources =
            cpu_shares.map(|cpu_shares| newest::LinuxContainerResources { cpu_shares, ..Default::default() });
        let request = newest::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: id.into(),
            resources,
            ..Default::default()
        };
        scene.node.newest(async |mut c| c.update_pod_sandbox_resources(request).await).map(drop)
    };
    vec![
        fails(rpc, "no ID", InvalidArgument, "ID", move || update("", Some(512))),
        fails(rpc, "unknown ID", NotFound, UNKNOWN, move || update(UNKNOWN, Some(512))),
        fails(rpc, "no limits", InvalidArgument, "missing", move || update(&scene.pod_id, None)),
        fails(rpc, "negative shares", InvalidArgument, "cpu_shares", move || update(&scene.pod_id, Some(-2))),
        fails(rpc, "stopped", FailedPrecondition, "ready", move || update(&scene.stopped_pod, Some(512))),
    ]
}

pub(crate) fn streams<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    let node = scene.node;
    vec![
        fine("StreamPodSandboxes", "unknown ID", || {
            let filter = Some(newest::PodSandboxFilter { id: UNKNOWN.into(), ..Default::default() });
            let request = newest::StreamPodSandboxesRequest { filter };
            node.newest(async |mut c| drain(c.stream_pod_sandboxes(request).await?).await)
        }),
        fine("StreamContainers", "unknown ID", || {
            let filter = Some(newest::ContainerFilter { id: UNKNOWN.into(), ..Default::default() });
            let request = newest::StreamContainersRequest { filter };
            node.newest(async |mut c| drain(c.stream_containers(request).await?).await)
        }),
        fine("StreamContainerStats", "unknown ID", || {
            let filter = Some(newest::ContainerStatsFilter { id: UNKNOWN.into(), ..Default::default() });
            let request = newest::StreamContainerStatsRequest { filter };
            node.newest(async |mut c| drain(c.stream_container_stats(request).await?).await)
        }),
        fine("StreamPodSandboxStats", "unknown ID", || {
            let filter = Some(newest::PodSandboxStatsFilter { id: UNKNOWN.into(), ..Default::default() });
            let request = newest::StreamPodSandboxStatsRequest { filter };
            node.newest(async |mut c| drain(c.stream_pod_sandbox_stats(request).await?).await)
        }),
        fine("StreamPodSandboxMetrics", "nothing", || {
            let request = newest::StreamPodSandboxMetricsRequest::default();
            node.newest(async |mut c| drain(c.stream_pod_sandbox_metrics(request).await?).await)
        }),
        fine("StreamImages", "unknown", || {
            let image = newest::ImageSpec { image: ABSENT.into(), ..Default::default() };
            let filter = Some(newest::ImageFilter { image: Some(image) });
            let request = newest::StreamImagesRequest { filter };
            node.newest_images(async |mut c| drain(c.stream_images(request).await?).await)
        }),
    ]
}

/// A number that an enumeration has not got is never taken for its first one.
pub(crate) fn enumerations<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::InvalidArgument;
    let node = scene.node;
    let containers = || {
        let state = Some(newest::ContainerStateValue { state: 99 });
        Some(newest::ContainerFilter { state, ..Default::default() })
    };
    let pods = || {
        let state = Some(newest::PodSandboxStateValue { state: 99 });
        Some(newest::PodSandboxFilter { state, ..Default::default() })
    };
    let config = scene.container(|_| {}).encode_to_vec();
    let mut config = newest::ContainerConfig::decode(config.as_slice()).unwrap();
    config.stop_signal = 99;
    let create = newest::CreateContainerRequest {
        pod_sandbox_id: scene.pod_id.clone(),
        config: Some(config),
        sandbox_config: None,
    };
    vec![
        fails("ListContainers", "no such state", InvalidArgument, "state 99", move || {
            let request = newest::ListContainersRequest { filter: containers() };
            node.newest(async |mut c| c.list_containers(request).await).map(drop)
        }),
        fails("StreamContainers", "no such state", InvalidArgument, "state 99", move || {
            let request = newest::StreamContainersRequest { filter: containers() };
            node.newest(async |mut c| drain(c.stream_containers(request).await?).await)
        }),
        fails("ListPodSandbox", "no such state", InvalidArgument, "state 99", move || {
            let request = newest::ListPodSandboxRequest { filter: pods() };
            node.newest(async |mut c| c.list_pod_sandbox(request).await).map(drop)
        }),
        fails("StreamPodSandboxes", "no such state", InvalidArgument, "state 99", move || {
            let request = newest::StreamPodSandboxesRequest { filter: pods() };
            node.newest(async |mut c| drain(c.stream_pod_sandboxes(request).await?).await)
        }),
        fails("CreateContainer", "no such stop signal", InvalidArgument, "stop_signal 99", move || {
            node.newest(async |mut c| c.create_container(create).await).map(drop)
        }),
    ]
}

pub(crate) fn without_input<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    let node = scene.node;
    vec![
        fine("Version", "another version", || {
            let request = cri::VersionRequest { version: "v9".into() };
            node.cri(async |mut c| c.version(request).await).map(drop)
        }),
        fine("Status", "nothing", || {
            node.cri(async |mut c| c.status(cri::StatusRequest { verbose: true }).await).map(drop)
        }),
        fine("RuntimeConfig", "nothing", || {
            node.cri(async |mut c| c.runtime_config(cri::RuntimeConfigRequest {}).await).map(drop)
        }),
        fine("ListMetricDescriptors", "nothing", || {
            let request = cri::ListMetricDescriptorsRequest {};
            node.cri(async |mut c| c.list_metric_descriptors(request).await).map(drop)
        }),
        fine("ListPodSandboxMetrics", "nothing", || {
            let request = cri::ListPodSandboxMetricsRequest {};
            node.cri(async |mut c| c.list_pod_sandbox_metrics(request).await).map(drop)
        }),
        fine("ImageFsInfo", "nothing", || {
            node.images(async |mut c| c.image_fs_info(cri::ImageFsInfoRequest {}).await).map(drop)
        }),
        // It takes nothing and ends only with its client.
        fine("GetContainerEvents", "a client that leaves", || {
            let request = cri::GetEventsRequest {};
            drop(node.cri(async |mut c| c.get_container_events(request).await)?);
            strata_e2e::eventually(10, "nobody follows any more", || match node.followers() {
                0 => Ok(()),
                n => Err(format!("{n} followers")),
            });
            Ok(())
        }),
    ]
}

/// On the built-in network, with a pod that has one of its addresses.
pub(crate) fn pod_cidr<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::{FailedPrecondition, InvalidArgument};
    let rpc = "UpdateRuntimeConfig";
    let update = |network_config: Option<cri::NetworkConfig>| {
        let runtime_config = Some(cri::RuntimeConfig { network_config });
        let request = cri::UpdateRuntimeConfigRequest { runtime_config };
        scene.node.cri(async |mut c| c.update_runtime_config(request).await).map(drop)
    };
    let cidr = move |text: &str| update(Some(cri::NetworkConfig { pod_cidr: text.into() }));
    let nothing = cri::UpdateRuntimeConfigRequest { runtime_config: None };
    vec![
        fine(rpc, "nothing", || {
            scene.node.cri(async |mut c| c.update_runtime_config(nothing).await).map(drop)
        }),
        fine(rpc, "no network", move || update(None)),
        fine(rpc, "no CIDR", move || cidr("")),
        fine(rpc, "the CIDR that it has", move || cidr("10.88.0.0/24")),
        fails(rpc, "no address", InvalidArgument, "\"pods\"", move || cidr("pods")),
        fails(rpc, "no length", InvalidArgument, "10.55.0.0", move || cidr("10.55.0.0")),
        fails(rpc, "too long", InvalidArgument, "10.55.0.0/33", move || cidr("10.55.0.0/33")),
        fails(rpc, "one of two", InvalidArgument, "fd00::/200", move || cidr("10.55.0.0/24,fd00::/200")),
        fails(rpc, "an empty one", InvalidArgument, "", move || cidr("10.55.0.0/24,")),
        fails(rpc, "IPv6 alone", InvalidArgument, "IPv4", move || cidr("fd00::/64")),
        fails(rpc, "no room", InvalidArgument, "10.55.0.0/31", move || cidr("10.55.0.0/31")),
        fails(rpc, "pods have others", FailedPrecondition, "remove", move || cidr("10.55.0.0/24")),
    ]
}
