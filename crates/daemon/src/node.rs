//! The node: what everything in this daemon hangs on. It composes; the work is done in the modules it names.

use crate::config::Config;
use crate::container::record::Exit;
use crate::container::{Container, ContainerInfo, Containers};
use crate::error::{Error, Result};
use crate::net::Provider;
use crate::pod::{Pod, PodInfo, Pods};
use crate::request::{AttachTarget, ContainerRequest, ExecRequest, PodRequest};
use crate::shim::Spawner;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use strata_cgroup::Hierarchy;
use strata_wire::ExecPlan;

/// Everything that one daemon has.
#[derive(Debug)]
pub(crate) struct Node {
    /// The configuration.
    pub(crate) config: Config,
    /// The cgroup hierarchies.
    pub(crate) cgroups: Hierarchy,
    /// What connects Kubernetes' pods.
    pub(crate) network: Arc<dyn Provider>,
    /// What connects pods of the strata command.
    pub(crate) bridge: Arc<dyn Provider>,
    /// All pods.
    pub(crate) pods: Pods,
    /// All containers.
    pub(crate) containers: Containers,
    /// What shims are started from.
    pub(crate) spawner: Spawner,
}

impl Node {
    /// Makes a pod, or finds the one that the same request has made.
    pub(crate) async fn run_pod(self: &Arc<Self>, _request: PodRequest) -> Result<String> {
        Err(Error::internal("not there yet"))
    }

    /// Kills what runs in a pod and gives its network back. A pod that is not there is success.
    pub(crate) async fn stop_pod(self: &Arc<Self>, _pod: &str) -> Result<()> {
        Err(Error::internal("not there yet"))
    }

    /// Removes a pod with its containers. A pod that is not there is success.
    pub(crate) async fn remove_pod(self: &Arc<Self>, _pod: &str) -> Result<()> {
        Err(Error::internal("not there yet"))
    }

    /// Makes a container in a pod, or finds the one that the same request has made.
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        _pod: &str,
        _request: ContainerRequest,
    ) -> Result<String> {
        Err(Error::internal("not there yet"))
    }

    /// Makes a container in a hidden pod of its own, under the name that its extras reserve. On failure nothing stays.
    pub(crate) async fn create_standalone(
        self: &Arc<Self>,
        _pod: PodRequest,
        _container: ContainerRequest,
    ) -> Result<String> {
        Err(Error::internal("not there yet"))
    }

    /// Lets a created container's program run. One of the strata command's is set up once more if it has ended.
    pub(crate) async fn start_container(self: &Arc<Self>, _id: &str) -> Result<()> {
        Err(Error::internal("not there yet"))
    }

    /// Sends the stop signal (or `signal`), and kills after `timeout`. Success if it does not run.
    pub(crate) async fn stop_container(
        self: &Arc<Self>,
        _id: &str,
        _timeout: Duration,
        _signal: Option<i32>,
    ) -> Result<()> {
        Err(Error::internal("not there yet"))
    }

    /// Sends a signal to a running container's init.
    pub(crate) async fn kill_container(self: &Arc<Self>, _id: &str, _signal: i32) -> Result<()> {
        Err(Error::internal("not there yet"))
    }

    /// Removes a container, and the hidden pod of one of the strata command's; a running one is refused unless forced.
    pub(crate) async fn remove_container(self: &Arc<Self>, _id: &str, _force: bool) -> Result<()> {
        Err(Error::internal("not there yet"))
    }

    /// Waits until a container does not run.
    pub(crate) async fn wait_container(self: &Arc<Self>, _id: &str) -> Result<Exit> {
        Err(Error::internal("not there yet"))
    }

    /// Prepares an exec: the socket of the shim, and the plan to send it.
    pub(crate) async fn exec_plan(
        self: &Arc<Self>,
        _id: &str,
        _request: ExecRequest,
    ) -> Result<(PathBuf, ExecPlan)> {
        Err(Error::internal("not there yet"))
    }

    /// Where an attach session goes. One of the strata command's that has ended is set up once more, so that a client
    /// can attach before it starts it.
    pub(crate) async fn attach_target(self: &Arc<Self>, _id: &str) -> Result<AttachTarget> {
        Err(Error::internal("not there yet"))
    }

    /// Freezes a running container.
    pub(crate) async fn pause_container(self: &Arc<Self>, _id: &str) -> Result<()> {
        Err(Error::internal("not there yet"))
    }

    /// Thaws a frozen container.
    pub(crate) async fn unpause_container(self: &Arc<Self>, _id: &str) -> Result<()> {
        Err(Error::internal("not there yet"))
    }

    /// The container that a person means: an ID, a name, or an unambiguous prefix of an ID; of every origin.
    pub(crate) fn find_container(&self, what: &str) -> Result<Arc<Container>> {
        self.containers.find(what)
    }

    /// The pod with this ID or unambiguous prefix; of every origin.
    pub(crate) fn find_pod(&self, what: &str) -> Result<Arc<Pod>> {
        self.pods.find(what)
    }

    /// Every container of every origin, newest first.
    pub(crate) fn container_infos(&self) -> Vec<ContainerInfo> {
        let mut infos: Vec<_> = self.containers.all().iter().map(|c| c.info()).collect();
        infos.retain(|i| i.state() != crate::container::state::ContainerState::Creating);
        infos.sort_by_key(|i| std::cmp::Reverse(i.record.created_at));
        infos
    }

    /// Every pod of every origin, newest first.
    pub(crate) fn pod_infos(&self) -> Vec<PodInfo> {
        use crate::pod::state::PodState;
        let mut infos: Vec<_> = self.pods.all().iter().map(|p| p.info()).collect();
        infos.retain(|i| !matches!(i.state, PodState::Creating | PodState::Discarding));
        infos.sort_by_key(|i| std::cmp::Reverse(i.created_at));
        infos
    }
}
