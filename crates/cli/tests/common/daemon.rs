//! stratad.

use super::{ID, Phase, State};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata_api::debug::debug_server::{Debug, DebugServer};
use strata_api::debug::pull_progress::Event;
use strata_api::debug::{self as pb, layer_progress};
use strata_wire::ExecPlan;
use strata_wire::plan::Process;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

pub struct Daemon {
    dir: PathBuf,
    state: Arc<State>,
}

pub fn serve(runtime: &tokio::runtime::Runtime, dir: &Path, state: Arc<State>) {
    let daemon = Daemon { dir: dir.to_owned(), state };
    let listener = {
        let _entered = runtime.enter();
        tokio::net::UnixListener::bind(dir.join("strata.sock")).unwrap()
    };
    let server = tonic::transport::Server::builder().add_service(DebugServer::new(daemon));
    runtime.spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
}

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

impl Daemon {
    fn socket(&self) -> String {
        self.dir.join("shim.sock").to_str().unwrap().to_owned()
    }
}

/// Methods that no test of this file asks for.
macro_rules! unimplemented {
    ($($name:ident($request:ty) -> $response:ty;)*) => {$(
        fn $name<'a, 'b>(
            &'a self,
            _: Request<$request>,
        ) -> std::pin::Pin<Box<dyn Future<Output = Answer<$response>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($name))) })
        }
    )*};
}

/// What a method answers with that no test asks for.
type Nothing<T> = tokio_stream::Pending<Result<T, Status>>;

#[tonic::async_trait]
impl Debug for Daemon {
    type FsckStream = Nothing<pb::FsckEvent>;
    type LoadImagesStream = Nothing<pb::LoadProgress>;
    type PushImageStream = Nothing<pb::PushProgress>;
    type SaveImagesStream = Nothing<pb::ArchiveChunk>;
    type PullImageStream = tokio_stream::Iter<std::vec::IntoIter<Result<pb::PullProgress, Status>>>;

    async fn pull_image(&self, request: Request<pb::PullImageRequest>) -> Answer<Self::PullImageStream> {
        use layer_progress::State as L;
        let name = format!("docker.io/library/{}:latest", request.into_inner().r#ref);
        self.state.called("PullImage");
        *self.state.image_missing.lock().unwrap() = false;
        let digest = format!("sha256:{}", "ab".repeat(32));
        let layer = |state: L, current| pb::LayerProgress {
            digest: format!("sha256:{}", "cd".repeat(32)),
            state: state.into(),
            current,
            total: 100,
        };
        let resolved = pb::PullResolved {
            name: name.clone(),
            digest: digest.clone(),
            layers: vec![layer(L::Waiting, 0)],
        };
        let result = pb::PullResult { name, digest, image_id: "sha256:1".into(), up_to_date: false };
        let events = [
            Event::Resolved(resolved),
            Event::Layer(layer(L::Downloading, 50)),
            Event::Layer(layer(L::Downloading, 100)),
            Event::Layer(layer(L::Extracting, 10)),
            Event::Layer(layer(L::Complete, 100)),
            Event::Result(result),
        ];
        let events: Vec<_> = events.into_iter().map(|e| Ok(pb::PullProgress { event: Some(e) })).collect();
        answer(tokio_stream::iter(events))
    }

    async fn create_container(
        &self,
        request: Request<pb::CreateContainerRequest>,
    ) -> Answer<pb::CreateContainerResponse> {
        if *self.state.image_missing.lock().unwrap() {
            return Err(Status::not_found("No such image: busybox:latest"));
        }
        let r = request.into_inner();
        self.state.called(format!("CreateContainer {:?} tty={} stdin={}", r.command, r.tty, r.stdin));
        answer(pb::CreateContainerResponse { id: ID.into(), warnings: vec!["something was clamped".into()] })
    }

    async fn start_container(
        &self,
        _: Request<pb::StartContainerRequest>,
    ) -> Answer<pb::StartContainerResponse> {
        self.state.called("StartContainer");
        if let Some(text) = self.state.start_fails {
            return Err(Status::internal(text));
        }
        self.state.set(Phase::Started);
        answer(pb::StartContainerResponse { id: ID.into() })
    }

    async fn kill_container(
        &self,
        request: Request<pb::KillContainerRequest>,
    ) -> Answer<pb::KillContainerResponse> {
        let signal: Signal = request.into_inner().signal.parse().unwrap();
        self.state.called(format!("KillContainer {signal}"));
        if let Phase::Running(pid) = *self.state.phase.lock().unwrap() {
            kill(Pid::from_raw(pid), signal).unwrap();
        }
        answer(pb::KillContainerResponse { id: ID.into() })
    }

    async fn remove_container(
        &self,
        request: Request<pb::RemoveContainerRequest>,
    ) -> Answer<pb::RemoveContainerResponse> {
        let name = request.into_inner().r#ref;
        self.state.called(format!("RemoveContainer {}", &name[..4.min(name.len())]));
        match name.as_str() {
            "gone" => Err(Status::not_found("No such container: gone")),
            _ => answer(pb::RemoveContainerResponse { id: ID.into() }),
        }
    }

    async fn wait_container(
        &self,
        _: Request<pb::WaitContainerRequest>,
    ) -> Answer<pb::WaitContainerResponse> {
        self.state.called("WaitContainer");
        let state = Arc::clone(&self.state);
        let ended = tokio::task::spawn_blocking(move || {
            state.wait(|p| if let Phase::Exited(code) = p { Some(code) } else { None })
        });
        answer(pb::WaitContainerResponse { exit_code: ended.await.unwrap(), oom_killed: false })
    }

    async fn prepare_attach(
        &self,
        _: Request<pb::PrepareAttachRequest>,
    ) -> Answer<pb::PrepareAttachResponse> {
        self.state.called("PrepareAttach");
        let (socket, tty) = (self.socket(), self.state.tty);
        answer(pb::PrepareAttachResponse { socket, container_id: ID.into(), tty, stdin: true })
    }

    async fn prepare_exec(
        &self,
        request: Request<pb::PrepareExecRequest>,
    ) -> Answer<pb::PrepareExecResponse> {
        let r = request.into_inner();
        let plan = ExecPlan {
            container_id: ID.into(),
            exec_id: "e1".into(),
            process: Process {
                args: r.command,
                cwd: "/".into(),
                env: vec!["PATH=/bin".into()],
                ..Process::default()
            },
            tty: r.tty,
            tty_size: (r.tty_rows > 0)
                .then(|| (r.tty_rows.try_into().unwrap(), r.tty_cols.try_into().unwrap())),
            timeout_ms: 0,
        };
        answer(pb::PrepareExecResponse { socket: self.socket(), plan: serde_json::to_string(&plan).unwrap() })
    }

    async fn container_log(&self, _: Request<pb::ContainerLogRequest>) -> Answer<pb::ContainerLogResponse> {
        let path = self.dir.join("0.log").to_str().unwrap().to_owned();
        let running = !matches!(*self.state.phase.lock().unwrap(), Phase::Exited(_));
        answer(pb::ContainerLogResponse { path, running, container_id: ID.into() })
    }

    async fn inspect_container(&self, _: Request<pb::InspectRequest>) -> Answer<pb::InspectResponse> {
        Err(Status::not_found("No such container"))
    }

    async fn inspect_image(&self, request: Request<pb::InspectRequest>) -> Answer<pb::InspectResponse> {
        match request.into_inner().r#ref.as_str() {
            "busybox" => {
                answer(pb::InspectResponse { json: r#"{"Id":"sha256:1","Config":{"Env":["A=1"]}}"#.into() })
            }
            _ => Err(Status::not_found("No such image")),
        }
    }

    unimplemented! {
        info(pb::InfoRequest) -> pb::InfoResponse;
        login(pb::LoginRequest) -> pb::LoginResponse;
        list_images(pb::ListImagesRequest) -> pb::ListImagesResponse;
        image_history(pb::ImageHistoryRequest) -> pb::ImageHistoryResponse;
        tag_image(pb::TagImageRequest) -> pb::TagImageResponse;
        remove_image(pb::RemoveImageRequest) -> pb::RemoveImageResponse;
        stop_container(pb::StopContainerRequest) -> pb::StopContainerResponse;
        list_containers(pb::ListContainersRequest) -> pb::ListContainersResponse;
        diff(pb::DiffRequest) -> pb::DiffResponse;
        commit(pb::CommitRequest) -> pb::CommitResponse;
        list_pods(pb::ListPodsRequest) -> pb::ListPodsResponse;
        system_df(pb::SystemDfRequest) -> pb::SystemDfResponse;
        gc(pb::GcRequest) -> pb::GcResponse;
        prune_images(pb::PruneImagesRequest) -> pb::PruneImagesResponse;
        push_image(pb::PushImageRequest) -> Self::PushImageStream;
        save_images(pb::SaveImagesRequest) -> Self::SaveImagesStream;
        load_images(tonic::Streaming<pb::ArchiveChunk>) -> Self::LoadImagesStream;
        fsck(pb::FsckRequest) -> Self::FsckStream;
    }
}
