//! Many clients that give up, ask again and go away, on one daemon.
//!
//! `STRATA_HAMMER_SECONDS=120 cargo test -p strata-e2e hammer` takes two minutes of it; ten seconds is what every run has.

use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{self as cri, ContainerState, PodSandboxConfig};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use strata_e2e::node::{Node, container, pod, test};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

/// How many clients make and remove.
const CLIENTS: u64 = 16;
/// How long one thing may take, all its tries together.
const PATIENCE: u64 = 90;

/// How long to go on.
fn seconds() -> u64 {
    std::env::var("STRATA_HAMMER_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

#[test]
fn clients_that_give_up_and_ask_again() {
    test(|node| {
        node.pull("busybox");
        // What the first calls make, such as the bridge, is there from now on.
        let first = pod(node, "first");
        let id = node.run_pod(&first);
        node.remove_pod(&id).unwrap();
        let before = descriptors(node.pid());
        let (over, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (mut given_up, mut lists, mut slowest) = (0, 0, Duration::ZERO);
        std::thread::scope(|scope| {
            let until = Instant::now() + Duration::from_secs(seconds());
            let clients: Vec<_> = (0..CLIENTS)
                .map(|n| {
                    scope.spawn({
                        let rounds = &rounds;
                        move || Client::new(node, n).run(until, rounds)
                    })
                })
                .collect();
            let lister = scope.spawn(|| list_all_the_time(node, &over));
            let ended: Vec<_> = clients.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            over.store(true, Ordering::SeqCst);
            (lists, slowest) = lister.join().unwrap();
            given_up = ended.into_iter().map(|client| client.unwrap()).sum::<usize>();
        });
        let rounds = rounds.into_inner();
        println!("{rounds} pods, {given_up} calls given up, {lists} lists, the slowest {slowest:?}");
        assert!(rounds > 0 && given_up > 0 && lists > 0);
        // Every pod was removed; what a removal still owes is paid in the background.
        strata_e2e::eventually(30, "no descriptor of stratad stays", || {
            let now = descriptors(node.pid());
            if now <= before + 4 { Ok(()) } else { Err(format!("{before} before, {now} now")) }
        });
    });
}

/// How many descriptors a process has.
fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Lists answer whatever else goes on; how many, and the slowest.
fn list_all_the_time(node: &Node, over: &AtomicBool) -> (usize, Duration) {
    let (mut count, mut slowest) = (0, Duration::ZERO);
    while !over.load(Ordering::SeqCst) {
        let begun = Instant::now();
        let pods = cri::ListPodSandboxRequest { filter: None };
        node.cri(async |mut c| c.list_pod_sandbox(pods).await).unwrap();
        let containers = cri::ListContainersRequest { filter: None };
        node.cri(async |mut c| c.list_containers(containers).await).unwrap();
        let stats = cri::ListContainerStatsRequest { filter: None };
        node.cri(async |mut c| c.list_container_stats(stats).await).unwrap();
        let stats = cri::ListPodSandboxStatsRequest { filter: None };
        node.cri(async |mut c| c.list_pod_sandbox_stats(stats).await).unwrap();
        count += 4;
        slowest = slowest.max(begun.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    (count, slowest)
}

/// A client with a pod at a time.
struct Client<'a> {
    node: &'a Node,
    number: u64,
    random: u64,
    given_up: usize,
}

impl<'a> Client<'a> {
    fn new(node: &'a Node, number: u64) -> Self {
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

    fn run(mut self, until: Instant, rounds: &AtomicUsize) -> usize {
        let config = pod(self.node, &format!("hammer{}", self.number));
        let mut before = String::new();
        while Instant::now() < until {
            // The same name and attempt each time: what was removed is gone.
            let pod_id = self.run_pod(&config);
            assert_ne!(pod_id, before, "client {}: a removed pod", self.number);
            let mut last = String::new();
            for _ in 0..=self.below(2) {
                let id = self.container(&pod_id, &config);
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
