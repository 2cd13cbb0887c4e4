//! Calls that only the newest clients know, and those that take nothing that could be wrong.

use super::images::drain;
use super::scene::{Case, Scene, UNKNOWN, fails, fine};
use k8s_cri::v1 as cri;
use strata_api::cri as newest;
use tonic::Code;

pub(crate) fn limits<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::{InvalidArgument, NotFound};
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
    ]
}
