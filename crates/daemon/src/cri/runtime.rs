//! RuntimeService.

use super::{
    containers, events, gone_is_fine, lists, pod_metrics, pods, resources, stats, status, streaming, unbuilt,
};
use crate::config;
use crate::container::exec;
use crate::error::Error;
use crate::node::Node;
use crate::request::{ContainerRequest, Extras, NetworkMode, Origin, PodRequest};
use futures_util::stream::BoxStream;
use std::sync::Arc;
use std::time::Duration;
use strata_api::cri::runtime_service_server::RuntimeService as Service;
use strata_api::cri::*;
use tonic::{Request, Response, Status};

/// CRI's API version (kubernetes.io, "Container Runtime Interface").
const API: &str = "v1";

/// Serves RuntimeService.
#[derive(Debug)]
pub(crate) struct RuntimeService {
    node: Arc<Node>,
}

impl RuntimeService {
    /// The service of a node.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Service for RuntimeService {
    type StreamPodSandboxesStream = Stream<StreamPodSandboxesResponse>;
    type StreamContainersStream = Stream<StreamContainersResponse>;
    type StreamContainerStatsStream = Stream<StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Stream<StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = Stream<StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream = Stream<ContainerEventResponse>;

    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "strata".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: API.into(),
        }))
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| Error::invalid("the pod's configuration is missing"))?;
        let handler = request.runtime_handler;
        let request = PodRequest { config, handler, origin: Origin::Kubernetes, network: NetworkMode::Cri };
        let pod_sandbox_id = self.node.run_pod(request).await?;
        Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        let id = pods::own_id(&self.node, &request.into_inner().pod_sandbox_id)?;
        if let Some(id) = id {
            self.node.stop_pod(&id).await?;
        }
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        let id = pods::own_id(&self.node, &request.into_inner().pod_sandbox_id)?;
        if let Some(id) = id {
            self.node.remove_pod(&id).await?;
        }
        Ok(Response::new(RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        let request = request.into_inner();
        self.node.recovered().await;
        Ok(Response::new(pods::status(&self.node, &request.pod_sandbox_id, request.verbose)?))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        self.node.recovered().await;
        let items = pods::list(&self.node, request.into_inner().filter.as_ref())?;
        let answer = ListPodSandboxResponse { items };
        Ok(Response::new(lists::whole(answer, "StreamPodSandboxes")?))
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        self.node.recovered().await;
        let all = pods::list(&self.node, request.into_inner().filter.as_ref())?;
        Ok(Response::new(lists::pieces(all, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes })))
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        let request = request.into_inner();
        let config =
            request.config.ok_or_else(|| Error::invalid("the container's configuration is missing"))?;
        let pod = pods::own(&self.node, &request.pod_sandbox_id)?;
        let image_name = config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
        let extras = Extras { image_name, ..Extras::default() };
        let container = ContainerRequest { config, extras };
        let container_id = self.node.create_container(pod.id(), container).await?;
        Ok(Response::new(CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        let container = containers::own(&self.node, &request.into_inner().container_id)?;
        self.node.start_container(container.id()).await?;
        Ok(Response::new(StartContainerResponse {}))
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let request = request.into_inner();
        let seconds = u64::try_from(request.timeout)
            .map_err(|_| Error::invalid(format!("timeout {}: must not be negative", request.timeout)))?;
        // Kubernetes removes and stops what may have gone already (CRI, "StopContainer is idempotent").
        if let Some(id) = containers::own_id(&self.node, &request.container_id)? {
            gone_is_fine(self.node.stop_container(&id, Duration::from_secs(seconds), None).await)?;
        }
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        if let Some(id) = containers::own_id(&self.node, &request.into_inner().container_id)? {
            gone_is_fine(self.node.remove_container(&id, true).await)?;
        }
        Ok(Response::new(RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        self.node.recovered().await;
        let containers = containers::list(&self.node, request.into_inner().filter.as_ref())?;
        Ok(Response::new(lists::whole(ListContainersResponse { containers }, "StreamContainers")?))
    }

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        self.node.recovered().await;
        let all = containers::list(&self.node, request.into_inner().filter.as_ref())?;
        Ok(Response::new(lists::pieces(all, |containers| StreamContainersResponse { containers })))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        let request = request.into_inner();
        self.node.recovered().await;
        let container = containers::own(&self.node, &request.container_id)?;
        Ok(Response::new(containers::status(&container, request.verbose)))
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        resources::update_container(&self.node, request.into_inner()).await?;
        Ok(Response::new(UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        let container = containers::own(&self.node, &request.into_inner().container_id)?;
        self.node.reopen_log(&container).await?;
        Ok(Response::new(ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let request = request.into_inner();
        let container = containers::own(&self.node, &request.container_id)?;
        let output = self.node.exec_sync(container.id(), exec::of_cri(&request)?).await?;
        let (stdout, stderr) = (output.stdout, output.stderr);
        Ok(Response::new(ExecSyncResponse { stdout, stderr, exit_code: output.exit_code }))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        Ok(Response::new(streaming::exec(&self.node, request.into_inner()).await?))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        Ok(Response::new(streaming::attach(&self.node, request.into_inner()).await?))
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        Ok(Response::new(streaming::port_forward(&self.node, request.into_inner()).await?))
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Answer<ContainerStatsResponse> {
        let container = containers::own(&self.node, &request.into_inner().container_id)?;
        let stats = stats::of_container(&self.node, &container).await?;
        Ok(Response::new(ContainerStatsResponse { stats }))
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        self.node.recovered().await;
        let stats = stats::of_containers(&self.node, request.into_inner().filter.as_ref()).await?;
        let answer = ListContainerStatsResponse { stats };
        Ok(Response::new(lists::whole(answer, "StreamContainerStats")?))
    }

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        self.node.recovered().await;
        let all = stats::of_containers(&self.node, request.into_inner().filter.as_ref()).await?;
        let wrap = |container_stats| StreamContainerStatsResponse { container_stats };
        Ok(Response::new(lists::pieces(all, wrap)))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> Answer<PodSandboxStatsResponse> {
        let pod = pods::own(&self.node, &request.into_inner().pod_sandbox_id)?;
        self.node.settled(&pod).await?;
        if !pod.info().is_ready() {
            let why = format!("pod {} is not ready: what it used is not known any more", pod.id());
            return Err(Error::precondition(why).into());
        }
        let stats = stats::of_pod(&self.node, &pod).await?;
        Ok(Response::new(PodSandboxStatsResponse { stats }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        self.node.recovered().await;
        let stats = stats::of_pods(&self.node, request.into_inner().filter.as_ref()).await?;
        let answer = ListPodSandboxStatsResponse { stats };
        Ok(Response::new(lists::whole(answer, "StreamPodSandboxStats")?))
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        self.node.recovered().await;
        let all = stats::of_pods(&self.node, request.into_inner().filter.as_ref()).await?;
        let wrap = |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats };
        Ok(Response::new(lists::pieces(all, wrap)))
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        Ok(Response::new(status::update(&self.node, request.into_inner()).await?))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        Ok(Response::new(status::status(&self.node, request.into_inner().verbose).await))
    }

    async fn checkpoint_container(
        &self,
        _: Request<CheckpointContainerRequest>,
    ) -> Answer<CheckpointContainerResponse> {
        Err(unbuilt("CheckpointContainer", "containers cannot be checkpointed"))
    }

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        Ok(Response::new(events::follow(&self.node)))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        let descriptors = pod_metrics::descriptors();
        Ok(Response::new(ListMetricDescriptorsResponse { descriptors }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        self.node.recovered().await;
        let answer = ListPodSandboxMetricsResponse { pod_metrics: pod_metrics::of_pods(&self.node).await? };
        Ok(Response::new(lists::whole(answer, "StreamPodSandboxMetrics")?))
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        self.node.recovered().await;
        let all = pod_metrics::of_pods(&self.node).await?;
        let wrap = |pod_sandbox_metrics| StreamPodSandboxMetricsResponse { pod_sandbox_metrics };
        Ok(Response::new(lists::pieces(all, wrap)))
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        let cgroup_driver = match self.node.config.cgroup.driver {
            config::CgroupDriver::Cgroupfs => CgroupDriver::Cgroupfs,
            config::CgroupDriver::Systemd => CgroupDriver::Systemd,
        };
        let linux = Some(LinuxRuntimeConfiguration { cgroup_driver: cgroup_driver.into() });
        Ok(Response::new(RuntimeConfigResponse { linux }))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        resources::update_pod(&self.node, request.into_inner()).await?;
        Ok(Response::new(UpdatePodSandboxResourcesResponse {}))
    }
}
