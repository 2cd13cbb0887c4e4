//! What is done to containers that are there, or not.

use super::scene::{Case, Scene, UNKNOWN, fails, fine};
use k8s_cri::v1 as cri;
use tonic::Code;

pub(crate) fn others<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::{FailedPrecondition, InvalidArgument, NotFound, Unimplemented};
    let node = scene.node;
    let stats = |id: &str| {
        let request = cri::ContainerStatsRequest { container_id: id.into() };
        node.cri(async |mut c| c.container_stats(request).await).map(drop)
    };
    let reopen = |id: &str| {
        let request = cri::ReopenContainerLogRequest { container_id: id.into() };
        node.cri(async |mut c| c.reopen_container_log(request).await).map(drop)
    };
    let status = |id: &str| node.try_status(id).map(drop);
    let mut cases = vec![
        fails("StartContainer", "no ID", InvalidArgument, "ID", || node.try_start("")),
        fails("StartContainer", "unknown ID", NotFound, UNKNOWN, || node.try_start(UNKNOWN)),
        fails("StartContainer", "a pod's ID", NotFound, "container", || node.try_start(&scene.pod_id)),
        fails("StartContainer", "running", FailedPrecondition, "running", || node.try_start(&scene.running)),
        fails("StartContainer", "exited", FailedPrecondition, "exited", || node.try_start(&scene.exited)),
        fails("StopContainer", "no ID", InvalidArgument, "ID", || node.stop_container("", 0)),
        fails("StopContainer", "negative timeout", InvalidArgument, "timeout", || {
            node.stop_container(&scene.running, -1)
        }),
        fine("StopContainer", "unknown ID", || node.stop_container(UNKNOWN, 0)),
        fine("StopContainer", "created", || node.stop_container(&scene.created, 0)),
        fine("StopContainer", "exited", || node.stop_container(&scene.exited, 0)),
        fails("RemoveContainer", "no ID", InvalidArgument, "ID", || node.remove_container("")),
        fine("RemoveContainer", "unknown ID", || node.remove_container(UNKNOWN)),
        fine("RemoveContainer", "a pod's ID", || node.remove_container(&scene.pod_id)),
        fine("RemoveContainer", "a path", || node.remove_container("../../etc")),
        fails("ContainerStatus", "no ID", InvalidArgument, "ID", move || status("")),
        fails("ContainerStatus", "unknown ID", NotFound, UNKNOWN, move || status(UNKNOWN)),
        fails("ContainerStatus", "a name", NotFound, "running", move || status("running")),
        fails("ContainerStats", "no ID", InvalidArgument, "ID", move || stats("")),
        fails("ContainerStats", "unknown ID", NotFound, UNKNOWN, move || stats(UNKNOWN)),
        fails("ReopenContainerLog", "no ID", InvalidArgument, "ID", move || reopen("")),
        fails("ReopenContainerLog", "unknown ID", NotFound, UNKNOWN, move || reopen(UNKNOWN)),
        fails("ReopenContainerLog", "created", FailedPrecondition, "not running", move || {
            reopen(&scene.created)
        }),
        fails("ReopenContainerLog", "exited", FailedPrecondition, "not running", move || {
            reopen(&scene.exited)
        }),
        fails("CheckpointContainer", "anything", Unimplemented, "CheckpointContainer", || {
            let request =
                cri::CheckpointContainerRequest { container_id: scene.running.clone(), ..Default::default() };
            node.cri(async |mut c| c.checkpoint_container(request).await).map(drop)
        }),
        fine("ListContainers", "unknown pod", || {
            let filter = Some(cri::ContainerFilter { pod_sandbox_id: UNKNOWN.into(), ..Default::default() });
            let request = cri::ListContainersRequest { filter };
            let answer = node.cri(async |mut c| c.list_containers(request).await)?;
            assert_eq!(answer.containers, []);
            Ok(())
        }),
        fine("ListContainerStats", "unknown ID", || {
            let filter = Some(cri::ContainerStatsFilter { id: UNKNOWN.into(), ..Default::default() });
            let request = cri::ListContainerStatsRequest { filter };
            let answer = node.cri(async |mut c| c.list_container_stats(request).await)?;
            assert_eq!(answer.stats, []);
            Ok(())
        }),
    ];
    cases.extend(updates(scene));
    cases
}

fn updates<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::{FailedPrecondition, InvalidArgument, NotFound};
    let node = scene.node;
    let update = |id: &str, linux: Option<cri::LinuxContainerResources>| {
        let request =
            cri::UpdateContainerResourcesRequest { container_id: id.into(), linux, ..Default::default() };
        node.cri(async |mut c| c.update_container_resources(request).await).map(drop)
    };
    let shares = |cpu_shares| Some(cri::LinuxContainerResources { cpu_shares, ..Default::default() });
    let memory = |memory_limit_in_bytes, memory_swap_limit_in_bytes| {
        Some(cri::LinuxContainerResources {
            memory_limit_in_bytes,
            memory_swap_limit_in_bytes,
            ..Default::default()
        })
    };
    let cpus =
        |text: &str| Some(cri::LinuxContainerResources { cpuset_cpus: text.into(), ..Default::default() });
    let rpc = "UpdateContainerResources";
    vec![
        fails(rpc, "no ID", InvalidArgument, "ID", move || update("", shares(512))),
        fails(rpc, "unknown ID", NotFound, UNKNOWN, move || update(UNKNOWN, shares(512))),
        fails(rpc, "no limits", InvalidArgument, "missing", move || update(&scene.running, None)),
        fails(rpc, "exited", FailedPrecondition, "ended", move || update(&scene.exited, shares(512))),
        fails(rpc, "negative shares", InvalidArgument, "cpu_shares", move || {
            update(&scene.running, shares(-2))
        }),
        fails(rpc, "less memory and swap than memory", InvalidArgument, "memory_swap_limit", move || {
            update(&scene.running, memory(64 << 20, 32 << 20))
        }),
        fails(rpc, "no list of CPUs", InvalidArgument, "nonsense", move || {
            update(&scene.running, cpus("nonsense"))
        }),
    ]
}
