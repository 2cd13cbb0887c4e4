//! A node through the eyes of the kubelet: the `k8s-cri` client, which is not Strata's own.

use super::Node;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{self as cri, ContainerConfig, ContainerState, ContainerStatus, PodSandboxConfig};
use strata_api::cri::image_service_client::ImageServiceClient as NewestImages;
use strata_api::cri::runtime_service_client::RuntimeServiceClient as NewestClient;
use strata_api::debug::debug_client::DebugClient;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Response, Status};

/// A pod's configuration with the least that the kubelet sends.
pub fn pod(node: &Node, name: &str) -> PodSandboxConfig {
    let logs = node.log_directory(name);
    PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.into(),
            uid: format!("{name}-uid"),
            namespace: "e2e".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        log_directory: logs,
        linux: Some(cri::LinuxPodSandboxConfig::default()),
        ..Default::default()
    }
}

/// A container's configuration; the command is a busybox shell's script.
pub fn container(node: &Node, name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: node.image("busybox"), ..Default::default() }),
        command: vec!["/bin/sh".into(), "-c".into()],
        args: vec![script.into()],
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig::default()),
        ..Default::default()
    }
}

/// The security context of a container's configuration, to be changed.
pub fn security(config: &mut ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// A line of a container's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// `stdout` or `stderr`.
    pub stream: String,
    /// What was written, without the line's end.
    pub text: String,
}

impl Node {
    /// A pod's directory for logs; the kubelet makes it too.
    #[track_caller]
    pub fn log_directory(&self, pod: &str) -> String {
        let dir = self.dir("logs").join(pod);
        std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        dir.display().to_string()
    }

    async fn channel(&self) -> Result<Channel, Status> {
        let socket = self.socket();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(socket).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        });
        Endpoint::from_static("http://stratad")
            .timeout(crate::patience(100))
            .connect_with_connector(connector)
            .await
            .map_err(|e| Status::unavailable(format!("{e:?}")))
    }

    /// A call of the runtime service, on a connection of its own.
    pub fn cri<T>(
        &self,
        f: impl AsyncFnOnce(RuntimeServiceClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        self.runtime.block_on(async {
            let client = RuntimeServiceClient::new(self.channel().await?).max_decoding_message_size(64 << 20);
            Ok(f(client).await?.into_inner())
        })
    }

    /// A call of the runtime service that sends these bytes for a message.
    #[track_caller]
    pub fn send_raw(&self, method: &str, bytes: &'static [u8]) -> Status {
        use tower::Service;
        self.runtime.block_on(async {
            let mut channel = self.channel().await.unwrap();
            let body = http_body_util::Full::new(bytes::Bytes::from_static(bytes));
            let request = tonic::codegen::http::Request::post(format!(
                "http://stratad/runtime.v1.RuntimeService/{method}"
            ))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(tonic::body::Body::new(body))
            .unwrap();
            std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
            let answer = channel.call(request).await.unwrap();
            Status::from_header_map(answer.headers()).unwrap_or_else(|| Status::ok(""))
        })
    }

    /// A call of the runtime service through Strata's own messages, which have fields that the other client does not know.
    pub fn newest<T>(
        &self,
        f: impl AsyncFnOnce(NewestClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        self.runtime.block_on(async {
            let client = NewestClient::new(self.channel().await?);
            Ok(f(client).await?.into_inner())
        })
    }

    /// A call of the image service.
    pub fn images<T>(
        &self,
        f: impl AsyncFnOnce(ImageServiceClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        self.runtime.block_on(async {
            let client = ImageServiceClient::new(self.channel().await?);
            Ok(f(client).await?.into_inner())
        })
    }

    /// A call of the image service through Strata's own messages.
    pub fn newest_images<T>(
        &self,
        f: impl AsyncFnOnce(NewestImages<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        self.runtime.block_on(async {
            let client = NewestImages::new(self.channel().await?);
            Ok(f(client).await?.into_inner())
        })
    }

    /// A call of Strata's own service.
    pub fn debug<T>(
        &self,
        f: impl AsyncFnOnce(DebugClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        self.runtime.block_on(async {
            let client = DebugClient::new(self.channel().await?);
            Ok(f(client).await?.into_inner())
        })
    }

    /// The daemon's version, if it answers.
    pub fn version(&self) -> Result<cri::VersionResponse, Status> {
        self.cri(async |mut c| c.version(cri::VersionRequest { version: "v1".into() }).await)
    }

    /// Pulls `e2e/<name>`; returns its reference.
    #[track_caller]
    pub fn pull(&self, name: &str) -> String {
        let image = self.image(name);
        self.try_pull(&image).unwrap_or_else(|e| panic!("pulling {image}: {e}"));
        image
    }

    /// Pulls a reference; returns what the daemon calls it.
    pub fn try_pull(&self, image: &str) -> Result<String, Status> {
        let image = cri::ImageSpec { image: image.into(), ..Default::default() };
        let request = cri::PullImageRequest { image: Some(image), ..Default::default() };
        self.images(async |mut c| c.pull_image(request).await).map(|answer| answer.image_ref)
    }

    /// Pulls a reference with credentials; returns what the daemon calls it.
    pub fn try_pull_with(&self, image: &str, auth: cri::AuthConfig) -> Result<String, Status> {
        let image = cri::ImageSpec { image: image.into(), ..Default::default() };
        let request = cri::PullImageRequest { image: Some(image), auth: Some(auth), ..Default::default() };
        self.images(async |mut c| c.pull_image(request).await).map(|answer| answer.image_ref)
    }

    /// Runs a pod; returns its ID.
    pub fn try_run_pod(&self, config: &PodSandboxConfig) -> Result<String, Status> {
        let request = cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        self.cri(async |mut c| c.run_pod_sandbox(request).await).map(|answer| answer.pod_sandbox_id)
    }

    /// Runs a pod; returns its ID.
    #[track_caller]
    pub fn run_pod(&self, config: &PodSandboxConfig) -> String {
        self.try_run_pod(config).unwrap_or_else(|e| panic!("RunPodSandbox: {e}"))
    }

    /// Stops a pod.
    pub fn stop_pod(&self, id: &str) -> Result<(), Status> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.into() };
        self.cri(async |mut c| c.stop_pod_sandbox(request).await).map(drop)
    }

    /// Removes a pod.
    pub fn remove_pod(&self, id: &str) -> Result<(), Status> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        self.cri(async |mut c| c.remove_pod_sandbox(request).await).map(drop)
    }

    /// A pod's status.
    #[track_caller]
    pub fn pod_status(&self, id: &str) -> cri::PodSandboxStatus {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        self.cri(async |mut c| c.pod_sandbox_status(request).await)
            .unwrap_or_else(|e| panic!("PodSandboxStatus: {e}"))
            .status
            .unwrap_or_else(|| panic!("PodSandboxStatus without a status"))
    }

    /// Makes a container; returns its ID.
    pub fn try_create(
        &self,
        pod_id: &str,
        pod: &PodSandboxConfig,
        config: &ContainerConfig,
    ) -> Result<String, Status> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod_id.into(),
            config: Some(config.clone()),
            sandbox_config: Some(pod.clone()),
        };
        self.cri(async |mut c| c.create_container(request).await).map(|answer| answer.container_id)
    }

    /// Makes a container; returns its ID.
    #[track_caller]
    pub fn create(&self, pod_id: &str, pod: &PodSandboxConfig, config: &ContainerConfig) -> String {
        self.try_create(pod_id, pod, config).unwrap_or_else(|e| panic!("CreateContainer: {e}"))
    }

    /// Starts a container.
    pub fn try_start(&self, id: &str) -> Result<(), Status> {
        let request = cri::StartContainerRequest { container_id: id.into() };
        self.cri(async |mut c| c.start_container(request).await).map(drop)
    }

    /// Makes and starts a container; returns its ID.
    #[track_caller]
    pub fn run_container(&self, pod_id: &str, pod: &PodSandboxConfig, config: &ContainerConfig) -> String {
        let id = self.create(pod_id, pod, config);
        self.try_start(&id).unwrap_or_else(|e| panic!("StartContainer: {e}"));
        id
    }

    /// Stops a container.
    pub fn stop_container(&self, id: &str, timeout: i64) -> Result<(), Status> {
        let request = cri::StopContainerRequest { container_id: id.into(), timeout };
        self.cri(async |mut c| c.stop_container(request).await).map(drop)
    }

    /// Removes a container.
    pub fn remove_container(&self, id: &str) -> Result<(), Status> {
        let request = cri::RemoveContainerRequest { container_id: id.into() };
        self.cri(async |mut c| c.remove_container(request).await).map(drop)
    }

    /// A container's status.
    pub fn try_status(&self, id: &str) -> Result<ContainerStatus, Status> {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        self.cri(async |mut c| c.container_status(request).await)
            .map(|answer| answer.status.unwrap_or_default())
    }

    /// A container's status.
    #[track_caller]
    pub fn status(&self, id: &str) -> ContainerStatus {
        self.try_status(id).unwrap_or_else(|e| panic!("ContainerStatus: {e}"))
    }

    /// Waits until a container has ended.
    #[track_caller]
    pub fn wait_exit(&self, id: &str) -> ContainerStatus {
        crate::eventually(60, "the container ends", || {
            let status = self.try_status(id).map_err(|e| e.to_string())?;
            if status.state() == ContainerState::ContainerExited {
                Ok(status)
            } else {
                Err(format!("{status:?}"))
            }
        })
    }

    /// How many follow the events.
    #[track_caller]
    pub fn followers(&self) -> u64 {
        let request = cri::StatusRequest { verbose: true };
        let told = self.cri(async |mut c| c.status(request).await).unwrap_or_else(|e| panic!("Status: {e}"));
        let info: Option<serde_json::Value> =
            told.info.get("info").and_then(|i| serde_json::from_str(i).ok());
        let followers = info.as_ref().and_then(|info| info["eventFollowers"].as_u64());
        followers.unwrap_or_else(|| panic!("no eventFollowers: {info:?}"))
    }

    /// Runs a script in a container through ExecSync; its output and exit code.
    pub fn try_exec(&self, id: &str, script: &str, timeout: i64) -> Result<(String, String, i32), Status> {
        let request = cri::ExecSyncRequest {
            container_id: id.into(),
            cmd: vec!["/bin/sh".into(), "-c".into(), script.into()],
            timeout,
        };
        let answer = self.cri(async |mut c| c.exec_sync(request).await)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((text(&answer.stdout), text(&answer.stderr), answer.exit_code))
    }

    /// Runs a script in a container; it must succeed; its standard output.
    #[track_caller]
    pub fn exec(&self, id: &str, script: &str) -> String {
        let (out, err, code) =
            self.try_exec(id, script, 30).unwrap_or_else(|e| panic!("ExecSync {script:?}: {e}"));
        assert!(code == 0, "{script:?} ended with {code}: {out}{err}");
        out
    }

    /// A container's log, its partial lines joined.
    #[track_caller]
    pub fn log(&self, id: &str) -> Vec<LogLine> {
        let path = self.status(id).log_path;
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        parse_log(&text)
    }

    /// Runs a script as a container of a pod of its own and waits for its end; its standard output and exit code.
    #[track_caller]
    pub fn script(
        &self,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> (String, i32) {
        self.pull("busybox");
        let pod = pod(self, name);
        let pod_id = self.run_pod(&pod);
        let mut config = container(self, name, script);
        change(&mut config);
        let id = self.run_container(&pod_id, &pod, &config);
        let status = self.wait_exit(&id);
        let lines: Vec<_> = self.log(&id).into_iter().map(|line| line.text + "\n").collect();
        self.remove_pod(&pod_id).unwrap_or_else(|e| panic!("RemovePodSandbox: {e}"));
        (lines.concat(), status.exit_code)
    }

    /// Removes every pod of Kubernetes' and every container of `strata run`.
    #[track_caller]
    pub fn remove_everything(&self) {
        let pods = self
            .cri(async |mut c| c.list_pod_sandbox(cri::ListPodSandboxRequest { filter: None }).await)
            .unwrap_or_else(|e| panic!("ListPodSandbox: {e}"));
        for pod in pods.items {
            self.stop_pod(&pod.id).unwrap_or_else(|e| panic!("StopPodSandbox: {e}"));
            self.remove_pod(&pod.id).unwrap_or_else(|e| panic!("RemovePodSandbox: {e}"));
        }
        use strata_api::debug::{ListContainersRequest, RemoveContainerRequest};
        let all = ListContainersRequest { all: true, size: false };
        let own = match self.debug(async |mut c| c.list_containers(all).await) {
            Err(e) if e.code() == tonic::Code::Unimplemented => return,
            listed => listed.unwrap_or_else(|e| panic!("ListContainers: {e}")),
        };
        for container in own.containers {
            let request = RemoveContainerRequest { r#ref: container.id, force: true };
            self.debug(async |mut c| c.remove_container(request).await)
                .unwrap_or_else(|e| panic!("RemoveContainer: {e}"));
        }
    }
}

/// CRI's log format: `TIME STREAM TAG TEXT`, where the tag says whether the line goes on.
fn parse_log(text: &str) -> Vec<LogLine> {
    let mut lines: Vec<LogLine> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        let (time, stream, tag) = (words.next(), words.next(), words.next());
        let time = time.unwrap_or_default();
        assert!(time.contains('T') && time.len() >= 20, "no time: {line:?}");
        let (stream, tag) = (stream.unwrap_or_default(), tag.unwrap_or_default());
        assert!(matches!(stream, "stdout" | "stderr") && matches!(tag, "F" | "P"), "no log line: {line:?}");
        let text = words.next().unwrap_or_default();
        match lines.last_mut() {
            Some(last) if open && last.stream == stream => last.text.push_str(text),
            _ => lines.push(LogLine { stream: stream.into(), text: text.into() }),
        }
        open = tag == "P";
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_lines_are_joined() {
        let text = "2026-01-01T00:00:00.000000000Z stdout P one \n2026-01-01T00:00:00.0Z stdout F two\n\
                    2026-01-01T00:00:00.0Z stderr F three\n";
        let lines = parse_log(text);
        let seen: Vec<_> = lines.iter().map(|l| (l.stream.as_str(), l.text.as_str())).collect();
        assert_eq!(seen, [("stdout", "one two"), ("stderr", "three")]);
    }
}
