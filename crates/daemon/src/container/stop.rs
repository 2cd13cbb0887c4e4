//! Stopping, signalling, freezing, waiting; and what happens when a container has ended.

use super::Container;
use super::deaf;
use super::record::Exit;
use super::state::{Change, ContainerState};
use crate::error::{Error, Kind, Result};
use crate::ids::now;
use crate::node::Node;
use crate::pod::short;
use crate::request::Origin;
use crate::tasks::{blocking, detached};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use strata_store::RecordKind;
use strata_wire::Request;
use strata_wire::state::ExitRecord;

const SIGKILL: i32 = 9;
/// What a program that was killed exits with.
const KILLED: i32 = 128 + SIGKILL;
/// How long a killed container may take to end: its processes may wait for a device.
const KILL: Duration = Duration::from_secs(30);

impl Node {
    /// Sends the stop signal (or `signal`), and kills after `timeout`. Success if it does not run.
    pub(crate) async fn stop_container(
        self: &Arc<Self>,
        id: &str,
        timeout: Duration,
        signal: Option<i32>,
    ) -> Result<()> {
        let container = self.find_container(id)?;
        let node = self.clone();
        detached(async move {
            node.settled(container.pod()).await?;
            node.stop_found_container(&container, timeout, signal).await
        })
        .await
    }

    pub(crate) async fn stop_found_container(
        self: &Arc<Self>,
        container: &Arc<Container>,
        timeout: Duration,
        signal: Option<i32>,
    ) -> Result<()> {
        if container.state() == ContainerState::Created {
            // It may be about to run: a start that is under way has the turn.
            drop(container.turn.lock().await);
        }
        container.known()?;
        if container.state() != ContainerState::Running {
            return Ok(());
        }
        container.adjust(|live| live.stopping = true);
        if !timeout.is_zero() {
            let signal = signal.unwrap_or(container.record().stop_signal);
            let deaf = deaf::is_deaf(container.live().pid, signal);
            self.send(container, signal, false).await?;
            self.thaw_if_paused(container)?;
            let done = match deaf {
                true => self.ended_by(container, signal, timeout).await?,
                false => ended(container, timeout).await,
            };
            if done {
                return Ok(());
            }
        }
        self.send(container, SIGKILL, true).await?;
        self.thaw_if_paused(container)?;
        if ended(container, KILL).await {
            return Ok(());
        }
        let procs = self.group(&container.record().cgroup)?.procs().unwrap_or_default();
        let stuck: Vec<_> = procs.iter().map(|pid| strata_cgroup::control::describe(*pid)).collect();
        Err(Error::new(
            Kind::DeadlineExceeded,
            format!(
                "container {} was killed but does not end: {}; a process in uninterruptible sleep waits for a device or \
                 a network file system",
                short(container.id()),
                stuck.join(", ")
            ),
        ))
    }

    /// Whether a container ends within a time after its stop signal, which came too early: it is sent again.
    async fn ended_by(&self, container: &Container, signal: i32, timeout: Duration) -> Result<bool> {
        let begun = tokio::time::Instant::now();
        tokio::select! {
            done = ended(container, timeout) => return Ok(done),
            () = deaf::hears_at_last(container.live().pid, signal) => {}
        }
        self.send(container, signal, false).await?;
        Ok(ended(container, timeout.saturating_sub(begun.elapsed())).await)
    }

    async fn send(&self, container: &Container, signal: i32, all: bool) -> Result<()> {
        let request = Request::Signal { id: container.id().to_owned(), signal, all };
        match container.pod().need_shim()?.done(request, crate::shim::PROMPT).await {
            Ok(()) => Ok(()),
            // It ended meanwhile.
            Err(_) if container.state() != ContainerState::Running => Ok(()),
            Err(e) => {
                let e = Error::from(e);
                if e.kind() == Kind::FailedPrecondition { Ok(()) } else { Err(e) }
            }
        }
    }

    /// Sends a signal to a running container's init.
    pub(crate) async fn kill_container(self: &Arc<Self>, id: &str, signal: i32) -> Result<()> {
        let container = self.find_container(id)?;
        self.settled(container.pod()).await?;
        container.known()?;
        if container.state() != ContainerState::Running {
            return Err(Error::precondition(format!("container {id} is not running")));
        }
        self.send(&container, signal, false).await?;
        if signal == SIGKILL { self.thaw_if_paused(&container) } else { Ok(()) }
    }

    /// Waits until a container does not run.
    pub(crate) async fn wait_container(self: &Arc<Self>, id: &str) -> Result<Exit> {
        let container = self.find_container(id)?;
        self.settled(container.pod()).await?;
        let mut changes = container.subscribe();
        let live = changes
            .wait_for(|l| matches!(l.state, ContainerState::Exited | ContainerState::Removing))
            .await
            .map_err(|_| Error::not_found(format!("No such container: {id}")))?;
        Ok(live.exit.clone().unwrap_or_default())
    }

    /// Freezes a running container.
    pub(crate) async fn pause_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = self.find_container(id)?;
        let _turn = container.turn.lock().await;
        if container.state() != ContainerState::Running {
            return Err(Error::precondition(format!("container {id} is not running")));
        }
        let group = self.group(&container.record().cgroup)?;
        // Known before it is so: whoever stops the container thaws it, even if this call goes no further.
        container.adjust(|live| live.paused = true);
        let frozen = blocking(move || group.freeze().map_err(|e| Error::internal(e.to_string()))).await;
        if frozen.is_err() {
            self.thaw_if_paused(&container)?;
        }
        frozen
    }

    /// Thaws a frozen container.
    pub(crate) async fn unpause_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = self.find_container(id)?;
        let _turn = container.turn.lock().await;
        self.thaw_if_paused(&container)
    }

    /// A frozen process takes no signal.
    pub(crate) fn thaw_if_paused(&self, container: &Container) -> Result<()> {
        if container.live().paused {
            self.group(&container.record().cgroup)?.thaw().map_err(|e| Error::internal(e.to_string()))?;
            container.adjust(|live| live.paused = false);
        }
        Ok(())
    }

    /// A shim says that a container has ended. Its exit is durable before anybody is told.
    pub(crate) async fn container_exited(self: &Arc<Self>, exit: &ExitRecord) {
        let Some(container) = self.containers.get(&exit.id) else { return };
        let run = container.record().runs;
        let mut exit_record = Exit::of_shim(run, exit);
        if exit.started_at == 0 && run > 0 {
            exit_record.reason = "StartError".into();
        }
        if !self.ended(&container, exit_record).await {
            return;
        }
        // From here on the store knows it.
        let _ = std::fs::remove_file(container.pod().state_dir().join(format!("{}.exit", exit.id)));
    }

    /// Declares a container dead whose end nobody has seen.
    pub(crate) async fn declare_dead(self: &Arc<Self>, container: &Arc<Container>, why: &str) {
        if matches!(
            container.state(),
            ContainerState::Exited | ContainerState::Removing | ContainerState::Creating
        ) {
            return;
        }
        let path = container.pod().state_dir().join(format!("{}.exit", container.id()));
        let seen = std::fs::read(path).ok().and_then(|b| serde_json::from_slice::<ExitRecord>(&b).ok());
        let run = container.record().runs;
        let exit = match seen {
            Some(exit) => Exit::of_shim(run, &exit),
            None => Exit {
                run,
                code: KILLED,
                reason: "Error".into(),
                message: why.to_owned(),
                started_at: container.live().started_at,
                finished_at: now(),
                oom_killed: false,
            },
        };
        self.ended(container, exit).await;
    }

    /// Records an end, and then tells of it; whether the record is on disk. The first end that is told counts.
    pub(crate) async fn ended(self: &Arc<Self>, container: &Arc<Container>, exit: Exit) -> bool {
        use ContainerState::{Creating, Exited, Removing};
        if matches!(container.state(), Creating | Exited | Removing) {
            return container.state() != Creating;
        }
        let (store, id, record) = (self.store.clone(), container.id().to_owned(), exit.clone());
        let written = blocking(move || {
            let json = serde_json::to_vec(&record).map_err(|e| Error::internal(e.to_string()))?;
            Ok(store.put_record(RecordKind::Exit, &id, &json)?)
        });
        let written = written.await;
        if let Err(e) = &written {
            tracing::error!(container = short(container.id()), error = %e, "the exit cannot be written");
        }
        let changed = container.change(Change::Exited, |live| {
            live.pid = 0;
            live.paused = false;
            if exit.started_at > 0 {
                live.started_at = exit.started_at;
            }
            live.exit = Some(exit.clone());
        });
        match changed {
            Ok(_) => tracing::info!(
                container = short(container.id()),
                code = exit.code,
                reason = exit.reason,
                "exited"
            ),
            Err(e) => tracing::debug!(error = %e, "exit"),
        }
        self.poststop_later(container);
        self.clean_up_after(container);
        written.is_ok()
    }

    /// What follows the end of a container of the strata command: its removal, or at least its pod's end.
    pub(crate) fn clean_up_after(self: &Arc<Self>, container: &Arc<Container>) {
        let (record, live) = (container.record(), container.live());
        let Some(run) = live.exit.filter(|_| record.origin == Origin::Strata).map(|e| e.run) else { return };
        if run == 0 {
            return;
        }
        if !record.extras.auto_remove {
            tokio::spawn(self.clone().retirement(container.clone(), run));
            return;
        }
        let (removal, id) = (self.clone().removal(container.id()), container.id().to_owned());
        tokio::spawn(async move {
            if let Err(e) = removal.await {
                tracing::warn!(container = short(&id), error = %e, "cannot be removed after its end");
            }
        });
    }
}

impl Node {
    /// Gives back what the pod of an ended container of the strata command holds: its shim, its address. The shim goes on
    /// without the pod until attached clients have read the last output. Stopping a pod ends containers, so the type of this
    /// future must not be part of theirs.
    fn retirement(self: Arc<Self>, container: Arc<Container>, run: u32) -> BoxFuture<'static, ()> {
        async move {
            let _turn = container.turn.lock().await;
            if container.state() != ContainerState::Exited || container.record().runs != run {
                return;
            }
            if let Err(e) = self.stop_found(container.pod()).await {
                tracing::warn!(container = short(container.id()), error = %e, "its pod cannot be stopped after its end");
            }
        }
        .boxed()
    }
}

/// Whether a container ends within a time.
async fn ended(container: &Container, within: Duration) -> bool {
    let mut changes = container.subscribe();
    let ended = changes.wait_for(|l| l.state != ContainerState::Running);
    tokio::time::timeout(within, ended).await.is_ok()
}
