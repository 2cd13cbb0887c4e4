//! StartContainer, and setting up anew what the strata command starts again.

use super::plan::modules;
use super::state::{Change, ContainerState};
use super::{Container, Live};
use crate::error::{Error, Result};
use crate::node::Node;
use crate::pod::short;
use crate::pod::state::PodState;
use crate::request::{AttachTarget, Origin};
use crate::tasks::{blocking, detached};
use std::sync::Arc;
use std::time::Duration;
use strata_wire::{Reply, Request};

/// How long execve(2) may take: the program may lie on a slow disk.
const EXEC: Duration = Duration::from_secs(120);

impl Node {
    /// Lets a created container's program run. One of the strata command's is set up once more if it has ended.
    pub(crate) async fn start_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = self.find_container(id)?;
        let node = self.clone();
        detached(async move {
            node.settled(container.pod()).await?;
            let _turn = container.turn.lock().await;
            node.revive(&container).await?;
            let _shared = container.pod().gate.read().await;
            match container.state() {
                ContainerState::Created => node.start_created(&container).await,
                // Docker's answer to starting what runs.
                ContainerState::Running if container.pod().origin() == Origin::Strata => Ok(()),
                other => Err(Error::precondition(format!(
                    "container {} is {}: only a created container can be started",
                    short(container.id()),
                    other.word()
                ))),
            }
        })
        .await
    }

    async fn start_created(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let shim = container.pod().need_shim()?;
        // Durable before anybody is told: after a power cut it is known that the program ran.
        container.edit(|r| r.runs += 1);
        let mut deadline = EXEC;
        if !container.record().injected.hooks.is_empty() {
            deadline += self.time_of_hooks();
        }
        let start = shim.call(Request::Start { id: container.id().to_owned() }, deadline);
        let (started, written) = tokio::join!(start, self.put_container(container));
        // The shim's time, which its exit record says too.
        let started_at = match started {
            Ok(Reply::Started { started_at }) => started_at,
            Ok(other) => return Err(Error::internal(format!("the shim answered a start with {other:?}"))),
            Err(e) => return Err(Error::from(e).context(format!("container {}", short(container.id())))),
        };
        let changed = container.change(Change::Started, |live| live.started_at = started_at);
        match changed {
            // A short program may have ended before its start was answered.
            Err(_) if container.state() == ContainerState::Exited => {}
            other => drop(other?),
        }
        written?;
        if let Err(e) = self.poststart(container).await {
            if let Err(left) = self.stop_found_container(container, Duration::ZERO, None).await {
                tracing::warn!(container = short(container.id()), error = %left, "cannot be ended after its hook failed");
            }
            return Err(e.context(format!("container {}", short(container.id()))));
        }
        Ok(())
    }

    /// Sets up a container of the strata command that has ended, its pod included.
    async fn revive(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let pod = container.pod();
        if container.state() != ContainerState::Exited || pod.origin() != Origin::Strata {
            return Ok(());
        }
        // The last run's.
        self.poststop(container).await;
        let _alone = pod.gate.write().await;
        if pod.state() == PodState::Ready && pod.shim().is_some() {
            let shim = pod.need_shim()?;
            // What is left of the last run. A shim that was started since then does not know it.
            if let Err(e) = shim.done(Request::Remove { id: container.id().to_owned() }, EXEC).await {
                tracing::debug!(error = %e, "nothing to remove");
            }
        } else {
            if pod.state() != PodState::NotReady {
                pod.change(crate::pod::state::Change::Lost)?;
            }
            self.take_down(pod).await?;
            pod.change(crate::pod::state::Change::Revived)?;
            pod.edit(|r| r.network.owed = r.network.provider.is_some());
            if let Err(e) = self.bring_up(pod).await {
                pod.edit(|r| r.state = PodState::NotReady);
                let down = self.take_down(pod).await;
                self.put_pod(pod).await?;
                down?;
                return Err(e);
            }
        }
        let (node, own) = (self.clone(), container.clone());
        let (plan, held) = blocking(move || {
            let record = own.record();
            // After a reboot it is loaded no more.
            if let Some(profile) = record.apparmor.as_deref().filter(|p| *p != modules::UNCONFINED) {
                node.apparmor.need(profile)?;
            }
            node.store.reset_work(&record.id)?;
            node.store.remove_exit(&record.id)?;
            let held = node.make_group(&record)?;
            let snapshot = node.store.snapshot(&record.id)?;
            let plan = node.plan(own.pod(), &record, &snapshot)?;
            // The pod's files are new ones.
            node.label_files(own.pod(), &record)?;
            Ok((plan, held))
        })
        .await?;
        self.set_up(container, plan, held).await
    }

    /// Where an attach session goes. One of the strata command's that has ended is set up once more, so that a client
    /// can attach before it starts it.
    pub(crate) async fn attach_target(self: &Arc<Self>, id: &str) -> Result<AttachTarget> {
        let container = self.find_container(id)?;
        self.settled(container.pod()).await?;
        let (node, own) = (self.clone(), container.clone());
        detached(async move {
            let _turn = own.turn.lock().await;
            node.revive(&own).await
        })
        .await?;
        container.known()?;
        if !matches!(container.state(), ContainerState::Created | ContainerState::Running) {
            return Err(Error::precondition(format!("container {id} is not running")));
        }
        let record = container.record();
        let socket = container.pod().need_shim()?.socket().to_owned();
        Ok(AttachTarget {
            socket,
            container_id: record.id.clone(),
            tty: record.config.tty,
            stdin: record.config.stdin,
        })
    }
}

impl Live {
    /// Whether its program runs, frozen or not.
    pub(crate) fn running(&self) -> bool {
        self.state == ContainerState::Running
    }
}
