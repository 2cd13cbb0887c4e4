//! A client that gives up, asks again, goes away, and takes nothing but a lack of time for a reason.

use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{self as cri, ContainerState, PodSandboxConfig};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use strata_e2e::node::{Node, container};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

/// How long one thing may take, all its tries together, in seconds before they are stretched.
const PATIENCE: u64 = 90;

/// A client with a pod at a time.
pub(super) struct Client<'a> {
    node: &'a Node,
    number: u64,
    random: u64,
    given_up: usize,
}

impl<'a> Client<'a> {
    pub(super) fn new(node: &'a Node, number: u64) -> Self {
        Self { node, number, random: (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15), given_up: 0 }
    }

    /// Below `n`; the same numbers in each run (xorshift64).
    fn below(&mut self, n: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % n
    }

    /// From one millisecond to ten seconds, short ones as often as long ones.
    fn deadline(&mut self) -> Duration {
        let powers = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 10_000];
        let most = powers[usize::try_from(self.below(15)).unwrap_or(0)];
        Duration::from_millis(most / 2 + self.below(most / 2 + 1) + 1).min(Duration::from_secs(10))
    }

    /// Makes a call with a deadline: the daemon is told of it, or the client just goes away.
    fn call<Q: Clone, T>(
        &mut self,
        request: &Q,
        f: &impl AsyncFn(RuntimeServiceClient<Channel>, Request<Q>) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        let deadline = self.deadline();
        let mut asked = Request::new(request.clone());
        if self.below(2) == 0 {
            asked.set_timeout(deadline);
            return self.node.cri(async |c| f(c, asked).await);
        }
        self.node.cri(async |c| {
            let called = tokio::time::timeout(deadline, f(c, asked)).await;
            called.unwrap_or_else(|_| Err(Status::deadline_exceeded("the client has gone")))
        })
    }

    /// Asks until there is an answer. Nothing but a lack of time is a reason to ask again.
    fn insist<Q: Clone, T>(
        &mut self,
        what: &str,
        request: Q,
        f: impl AsyncFn(RuntimeServiceClient<Channel>, Request<Q>) -> Result<Response<T>, Status>,
    ) -> T {
        let until = Instant::now() + strata_e2e::patience(PATIENCE);
        loop {
            match self.call(&request, &f) {
                Ok(answer) => return answer,
                Err(e) if matches!(e.code(), Code::DeadlineExceeded | Code::Cancelled) => {
                    self.given_up += 1;
                    assert!(Instant::now() < until, "client {}: {what} never ends: {e:?}", self.number);
                }
                Err(e) => panic!("client {}: {what}: {e:?}", self.number),
            }
        }
    }

    /// Makes and removes a pod of the same name and host port again and again; how many calls were given up.
    pub(super) fn run(mut self, config: &PodSandboxConfig, until: Instant, rounds: &AtomicUsize) -> usize {
        let mut before = String::new();
        while Instant::now() < until {
            // The same name, attempt and port each time: what was removed is gone.
            let pod_id = self.run_pod(config);
            assert_ne!(pod_id, before, "client {}: a removed pod", self.number);
            let mut last = String::new();
            for _ in 0..=self.below(2) {
                let id = self.container(&pod_id, config);
                assert_ne!(id, last, "client {}: a removed container", self.number);
                last = id;
            }
            if self.below(2) == 0 {
                let stop = cri::StopPodSandboxRequest { pod_sandbox_id: pod_id.clone() };
                self.insist("StopPodSandbox", stop, async |mut c, r| c.stop_pod_sandbox(r).await);
            }
            let remove = cri::RemovePodSandboxRequest { pod_sandbox_id: pod_id.clone() };
            self.insist("RemovePodSandbox", remove, async |mut c, r| c.remove_pod_sandbox(r).await);
            before = pod_id;
            rounds.fetch_add(1, Ordering::Relaxed);
        }
        self.given_up
    }

    fn run_pod(&mut self, config: &PodSandboxConfig) -> String {
        let run = cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let id = self.insist("RunPodSandbox", run.clone(), async |mut c, r| c.run_pod_sandbox(r).await);
        let again = self.insist("RunPodSandbox", run, async |mut c, r| c.run_pod_sandbox(r).await);
        assert_eq!(id.pod_sandbox_id, again.pod_sandbox_id, "client {}: one pod, two IDs", self.number);
        id.pod_sandbox_id
    }

    /// A container from its creation to its removal, or to its pod's.
    fn container(&mut self, pod_id: &str, config: &PodSandboxConfig) -> String {
        let create = cri::CreateContainerRequest {
            pod_sandbox_id: pod_id.into(),
            config: Some(container(self.node, "c", "echo begun; exec sleep 1000")),
            sandbox_config: Some(config.clone()),
        };
        let id = self.insist("CreateContainer", create.clone(), async |mut c, r| c.create_container(r).await);
        let id = id.container_id;
        if self.below(4) > 0 {
            self.start(&id);
            let exec = cri::ExecSyncRequest {
                container_id: id.clone(),
                cmd: vec!["sleep".into(), "0.02".into()],
                timeout: 5,
            };
            match self.call(&exec, &async |mut c: RuntimeServiceClient<Channel>, r| c.exec_sync(r).await) {
                Ok(answer) => assert_eq!(answer.exit_code, 0),
                Err(e) if matches!(e.code(), Code::DeadlineExceeded | Code::Cancelled) => self.given_up += 1,
                Err(e) => panic!("client {}: ExecSync: {e:?}", self.number),
            }
        }
        // The same request is the same container, whatever it has done meanwhile.
        let again = self.insist("CreateContainer", create, async |mut c, r| c.create_container(r).await);
        assert_eq!(again.container_id, id, "client {}: one container, two IDs", self.number);
        if self.below(2) == 0 {
            let stop = cri::StopContainerRequest { container_id: id.clone(), timeout: 0 };
            self.insist("StopContainer", stop, async |mut c, r| c.stop_container(r).await);
            let state = self.node.status(&id).state();
            assert_ne!(state, ContainerState::ContainerRunning, "client {}", self.number);
        }
        let remove = cri::RemoveContainerRequest { container_id: id.clone() };
        self.insist("RemoveContainer", remove, async |mut c, r| c.remove_container(r).await);
        let gone = self.node.try_status(&id).expect_err("a removed container");
        assert_eq!(gone.code(), Code::NotFound, "client {}: {gone:?}", self.number);
        id
    }

    /// Starts, which only once succeeds: a start that nobody waited for is told by the state.
    fn start(&mut self, id: &str) {
        let until = Instant::now() + strata_e2e::patience(PATIENCE);
        let start = cri::StartContainerRequest { container_id: id.into() };
        loop {
            match self
                .call(&start, &async |mut c: RuntimeServiceClient<Channel>, r| c.start_container(r).await)
            {
                Ok(_) => return,
                Err(e) if matches!(e.code(), Code::DeadlineExceeded | Code::Cancelled) => self.given_up += 1,
                Err(e) if e.code() == Code::FailedPrecondition => {
                    let state = self.node.status(id).state();
                    assert_eq!(state, ContainerState::ContainerRunning, "client {}: {e:?}", self.number);
                    return;
                }
                Err(e) => panic!("client {}: StartContainer: {e:?}", self.number),
            }
            assert!(Instant::now() < until, "client {}: StartContainer never ends", self.number);
        }
    }
}
