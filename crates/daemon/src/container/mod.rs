//! Containers: what CRI and the strata command do to one.
//!
//! * [`state`]: the states, and what changes them.
//! * [`record`]: what is kept on disk.
//! * [`create`], [`assemble`], [`start`], [`stop`], [`remove`], [`exec`]: the operations.
//! * [`labels`]: SELinux labels of what it shares.
//! * [`hooks`]: programs that are run at points of its life.
//! * [`plan`]: policy, as the numbers and paths that a shim is given.

pub(crate) mod assemble;
mod create;
mod deaf;
pub(crate) mod exec;
mod hooks;
mod labels;
pub(crate) mod plan;
pub(crate) mod record;
mod remove;
mod start;
pub(crate) mod state;
mod stop;
mod update;

use crate::error::{Error, Kind, Result};
use crate::pod::state::PodState;
use crate::pod::{Pod, short};
use crate::request::{Extras, Origin};
use record::{ContainerRecord, Exit};
use state::{Change, ContainerState};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::watch;

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    id: String,
    pod: Arc<Pod>,
    record: Mutex<Arc<ContainerRecord>>,
    live: watch::Sender<Live>,
    /// One start, pause, update or removal at a time.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// Its poststop hooks are run once.
    hooks: tokio::sync::Mutex<()>,
}

/// What changes while a container lives.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    /// Where it stands.
    pub(crate) state: ContainerState,
    /// Its init's process ID; 0 if there is none.
    pub(crate) pid: i32,
    /// When it was last started, in nanoseconds since 1970; 0: never.
    pub(crate) started_at: i64,
    /// How it ended.
    pub(crate) exit: Option<Exit>,
    /// Whether it is frozen.
    pub(crate) paused: bool,
    /// Whether a stop has been asked for since it was started.
    pub(crate) stopping: bool,
    /// Whether its creation has failed, and what is left of it could not be removed yet.
    pub(crate) failed: bool,
}

/// A container at one moment.
#[derive(Clone, Debug)]
pub(crate) struct ContainerInfo {
    /// Its record: ID, pod, configuration, image, process, paths.
    pub(crate) record: Arc<ContainerRecord>,
    /// Its name: as the strata command gave it, or `k8s_<container>_<pod>_<namespace>_<uid>_<attempt>`.
    pub(crate) name: String,
    /// What changes.
    pub(crate) live: Live,
}

impl ContainerInfo {
    /// Its ID.
    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> ContainerState {
        self.live.state
    }

    /// Whether anybody is told of it.
    pub(crate) fn is_shown(&self) -> bool {
        self.live.is_shown()
    }

    /// What CRI cannot say.
    pub(crate) fn extras(&self) -> &Extras {
        &self.record.extras
    }

    /// Who asked for it.
    pub(crate) fn origin(&self) -> Origin {
        self.record.origin
    }
}

impl Container {
    /// A container from its record.
    pub(crate) fn new(pod: Arc<Pod>, record: ContainerRecord, live: Live) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            pod,
            record: Mutex::new(Arc::new(record)),
            live: watch::Sender::new(live),
            turn: tokio::sync::Mutex::default(),
            hooks: tokio::sync::Mutex::default(),
        })
    }

    /// Its ID.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Its pod.
    pub(crate) fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// Its record, as of now.
    pub(crate) fn record(&self) -> Arc<ContainerRecord> {
        Arc::clone(&self.lock())
    }

    /// Changes its record, in memory.
    pub(crate) fn edit(&self, edit: impl FnOnce(&mut ContainerRecord)) -> Arc<ContainerRecord> {
        let mut record = self.lock();
        edit(Arc::make_mut(&mut record));
        Arc::clone(&record)
    }

    /// What changes while it lives, as of now.
    pub(crate) fn live(&self) -> Live {
        self.live.borrow().clone()
    }

    /// That its state is known, without which it can be neither stopped nor left alone.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] as long as its shim, which outlived a restart of stratad, does not answer.
    pub(crate) fn known(&self) -> Result<()> {
        if self.state() != ContainerState::Unknown {
            return Ok(());
        }
        let text = format!(
            "container {}: its pod's shim has not answered since stratad was started ({}); stratad goes on trying, or stop or \
             remove the pod",
            short(self.id()),
            self.pod().apart()
        );
        Err(Error::new(Kind::Unavailable, text))
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> ContainerState {
        self.live.borrow().state
    }

    /// Whether anybody is told of it.
    pub(crate) fn is_shown(&self) -> bool {
        self.live.borrow().is_shown()
    }

    /// To wait for changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Live> {
        self.live.subscribe()
    }

    /// A snapshot.
    pub(crate) fn info(&self) -> ContainerInfo {
        let record = self.record();
        ContainerInfo { name: self.name_of(&record), record, live: self.live() }
    }

    /// Its name.
    pub(crate) fn name(&self) -> String {
        self.name_of(&self.record())
    }

    fn name_of(&self, record: &ContainerRecord) -> String {
        if let Some(name) = &record.extras.name {
            return name.clone();
        }
        let pod = self.pod.config().metadata.clone().unwrap_or_default();
        let own = record.config.metadata.clone().unwrap_or_default();
        format!("k8s_{}_{}_{}_{}_{}", own.name, pod.name, pod.namespace, pod.uid, own.attempt)
    }

    /// Changes its state, and what goes with it.
    pub(crate) fn change(&self, change: Change, with: impl FnOnce(&mut Live)) -> Result<ContainerState> {
        let mut refused = None;
        self.live.send_if_modified(|live| match live.state.after(change) {
            Ok(state) => {
                let before = std::mem::replace(&mut live.state, state);
                with(live);
                let pod = || self.pod.info();
                self.pod.events().container_changed(self.pod.origin(), &self.id, pod, (before, change), live);
                true
            }
            Err(e) => {
                refused = Some(e);
                false
            }
        });
        match refused {
            None => Ok(self.state()),
            Some(e) => Err(Error::precondition(format!("container {}: {e}", short(&self.id)))),
        }
    }

    /// Changes what is known beside the state.
    pub(crate) fn adjust(&self, with: impl FnOnce(&mut Live)) {
        self.live.send_modify(with);
    }

    fn lock(&self) -> MutexGuard<'_, Arc<ContainerRecord>> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    /// Of a container that is being made.
    pub(crate) fn creating() -> Self {
        Self::at(ContainerState::Creating)
    }

    /// One is told of when its creation has been answered, and until it has gone: nobody has the ID of another.
    fn is_shown(&self) -> bool {
        self.state != ContainerState::Creating && !self.failed
    }

    /// In this state, with nothing else known.
    pub(crate) fn at(state: ContainerState) -> Self {
        Self { state, pid: 0, started_at: 0, exit: None, paused: false, stopping: false, failed: false }
    }
}

/// All containers.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    by_id: RwLock<HashMap<String, Arc<Container>>>,
    /// Names of the strata command's, reserved before the container exists.
    names: Mutex<HashMap<String, String>>,
}

impl Containers {
    /// Adds one.
    pub(crate) fn insert(&self, container: Arc<Container>) {
        let mut all = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(container.id.clone(), container);
    }

    /// Forgets one, and frees its name.
    pub(crate) fn forget(&self, id: &str) {
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.free_name(id);
    }

    /// Every container, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// A pod's containers, in no order.
    pub(crate) fn of_pod(&self, pod_id: &str) -> Vec<Arc<Container>> {
        let all = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        all.values().filter(|c| c.pod.id() == pod_id).cloned().collect()
    }

    /// The container with this whole ID.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Container>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Reserves a name for a container to be made.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`], in Docker's words.
    pub(crate) fn reserve(&self, name: &str, id: &str) -> Result<()> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get(name) {
            Some(owner) if owner != id => Err(Error::new(
                Kind::AlreadyExists,
                format!(
                    "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have \
                     to remove (or rename) that container to be able to reuse that name."
                ),
            )),
            _ => {
                names.insert(name.into(), id.into());
                Ok(())
            }
        }
    }

    /// Frees the name of one that is nobody's to see any more.
    pub(crate) fn free_name(&self, id: &str) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, owner| owner != id);
    }

    /// The container that a person means: a whole ID, a name, or an unambiguous prefix of an ID.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or [`Kind::InvalidArgument`] for a prefix of several.
    pub(crate) fn find(&self, what: &str) -> Result<Arc<Container>> {
        let all = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        let made = |c: &&Arc<Container>| c.is_shown() && c.pod.state() != PodState::Discarding;
        // One of the strata command's is there until it has gone, so that whoever removes it once more waits for that.
        let going = |c: &&Arc<Container>| c.is_shown() && c.pod.origin() == Origin::Strata;
        if let Some(container) = all.get(what).filter(|c| made(c) || going(c)) {
            return Ok(Arc::clone(container));
        }
        let name = what.strip_prefix('/').unwrap_or(what);
        if let Some(container) = all.values().filter(made).find(|c| c.name() == name) {
            return Ok(Arc::clone(container));
        }
        let mut matching = all.values().filter(|c| !what.is_empty() && c.id.starts_with(what)).filter(made);
        match (matching.next(), matching.next()) {
            (Some(container), None) => Ok(Arc::clone(container)),
            (None, _) => Err(Error::not_found(format!("No such container: {what}"))),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("container ID {what} is ambiguous; give more digits of it")))
            }
        }
    }
}
