//! What the `strata` command line needs and CRI lacks: Docker's words over the node and its store.
//!
//! * [`images`], [`remove_image`]: pull, list, history, tag, rmi.
//! * [`create`], [`options`], [`names`]: from a request to a pod and its one container.
//! * [`containers`], [`sessions`]: what is done to containers, and where attach, exec and logs go.
//! * [`inspect_container`], [`host_config`], [`inspect_image`]: JSON as Docker shapes it.
//! * [`diff_commit`]: what a container has changed, and an image of it.
//! * [`system`], [`usage`], [`explain`], [`prune`]: the node, its disk, its garbage.

mod archive;
mod containers;
mod create;
mod diff_commit;
mod explain;
mod fsck;
mod host_config;
mod images;
mod inspect_container;
mod inspect_image;
mod names;
mod options;
mod prune;
mod push;
mod remove_image;
#[cfg(test)]
mod samples;
mod sessions;
mod system;
mod usage;

use crate::deadline::Deadline;
use crate::node::Node;
use std::sync::Arc;
use strata_api::debug::*;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Serves Debug.
#[derive(Debug)]
pub(crate) struct DebugService {
    node: Arc<Node>,
}

impl DebugService {
    /// The service of a node.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(result: crate::error::Result<T>) -> Answer<T> {
    Ok(Response::new(result?))
}

#[tonic::async_trait]
impl debug_server::Debug for DebugService {
    type FsckStream = ReceiverStream<Result<FsckEvent, Status>>;
    type LoadImagesStream = ReceiverStream<Result<LoadProgress, Status>>;
    type PullImageStream = ReceiverStream<Result<PullProgress, Status>>;
    type PushImageStream = ReceiverStream<Result<PushProgress, Status>>;
    type SaveImagesStream = ReceiverStream<Result<ArchiveChunk, Status>>;

    async fn info(&self, _: Request<InfoRequest>) -> Answer<InfoResponse> {
        answer(system::info(&self.node).await)
    }

    async fn login(&self, request: Request<LoginRequest>) -> Answer<LoginResponse> {
        answer(images::login(&self.node, request.into_inner()).await)
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<Self::PullImageStream> {
        let deadline = Deadline::of(request.metadata());
        answer(images::pull(&self.node, deadline, request.get_ref()))
    }

    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        answer(images::list(&self.node, request.get_ref()))
    }

    async fn inspect_image(&self, request: Request<InspectRequest>) -> Answer<InspectResponse> {
        answer(inspect_image::inspect(&self.node, request.get_ref()))
    }

    async fn image_history(&self, request: Request<ImageHistoryRequest>) -> Answer<ImageHistoryResponse> {
        answer(images::history(&self.node, request.get_ref()))
    }

    async fn tag_image(&self, request: Request<TagImageRequest>) -> Answer<TagImageResponse> {
        answer(images::tag(&self.node, request.into_inner()).await)
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        answer(remove_image::remove(&self.node, request.into_inner()).await)
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        answer(create::create(&self.node, request.into_inner()).await)
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        answer(containers::start(&self.node, request.get_ref()).await)
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        answer(containers::stop(&self.node, request.get_ref()).await)
    }

    async fn kill_container(&self, request: Request<KillContainerRequest>) -> Answer<KillContainerResponse> {
        answer(containers::kill(&self.node, request.get_ref()).await)
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        answer(containers::remove(&self.node, request.get_ref()).await)
    }

    async fn wait_container(&self, request: Request<WaitContainerRequest>) -> Answer<WaitContainerResponse> {
        answer(containers::wait(&self.node, request.get_ref()).await)
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        self.node.recovered().await;
        answer(containers::list(&self.node, request.get_ref()).await)
    }

    async fn inspect_container(&self, request: Request<InspectRequest>) -> Answer<InspectResponse> {
        self.node.recovered().await;
        answer(inspect_container::inspect(&self.node, request.into_inner()).await)
    }

    async fn diff(&self, request: Request<DiffRequest>) -> Answer<DiffResponse> {
        answer(diff_commit::diff(&self.node, request.get_ref()).await)
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Answer<CommitResponse> {
        self.node.recovered().await;
        answer(diff_commit::commit(&self.node, request.into_inner()).await)
    }

    async fn prepare_attach(&self, request: Request<PrepareAttachRequest>) -> Answer<PrepareAttachResponse> {
        answer(sessions::attach(&self.node, request.get_ref()).await)
    }

    async fn prepare_exec(&self, request: Request<PrepareExecRequest>) -> Answer<PrepareExecResponse> {
        answer(sessions::exec(&self.node, request.into_inner()).await)
    }

    async fn container_log(&self, request: Request<ContainerLogRequest>) -> Answer<ContainerLogResponse> {
        answer(sessions::log(&self.node, request.get_ref()))
    }

    async fn list_pods(&self, _: Request<ListPodsRequest>) -> Answer<ListPodsResponse> {
        self.node.recovered().await;
        answer(Ok(system::pods(&self.node)))
    }

    async fn system_df(&self, request: Request<SystemDfRequest>) -> Answer<SystemDfResponse> {
        self.node.recovered().await;
        answer(usage::df(&self.node, request.get_ref().verbose).await)
    }

    async fn gc(&self, request: Request<GcRequest>) -> Answer<GcResponse> {
        answer(usage::gc(&self.node, request.into_inner()).await)
    }

    async fn prune_images(&self, request: Request<PruneImagesRequest>) -> Answer<PruneImagesResponse> {
        self.node.recovered().await;
        answer(prune::prune(&self.node, request.into_inner()).await)
    }

    async fn push_image(&self, request: Request<PushImageRequest>) -> Answer<Self::PushImageStream> {
        answer(push::push(&self.node, request.into_inner()))
    }

    async fn save_images(&self, request: Request<SaveImagesRequest>) -> Answer<Self::SaveImagesStream> {
        answer(archive::save(&self.node, request.into_inner()))
    }

    async fn load_images(
        &self,
        request: Request<tonic::Streaming<ArchiveChunk>>,
    ) -> Answer<Self::LoadImagesStream> {
        answer(archive::load(&self.node, request.into_inner()))
    }

    async fn fsck(&self, request: Request<FsckRequest>) -> Answer<Self::FsckStream> {
        self.node.recovered().await;
        answer(fsck::fsck(&self.node, request.into_inner()))
    }
}
