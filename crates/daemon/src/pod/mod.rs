//! Pods: namespaces, network, cgroup and shim that containers share.
//!
//! * [`state`]: the states, and what changes them.
//! * [`record`]: what is kept on disk.
//! * [`check`]: what may be asked for.
//! * [`run`], [`stop`], [`remove`], [`resources`]: what CRI asks for; [`teardown`]: how a pod is taken apart, whatever is left
//!   of it.
//! * [`namespaces`], [`userns`], [`files`], [`sysctl`]: what a pod is made of.
//! * [`devices`]: interfaces of the node's that are its for a while.
//! * [`follow`]: what its shim tells.

mod check;
mod devices;
pub(crate) mod files;
mod follow;
pub(crate) mod namespaces;
pub(crate) mod record;
mod remove;
pub(crate) mod resources;
pub(crate) mod run;
pub(crate) mod state;
mod stop;
pub(crate) mod sysctl;
pub(crate) mod teardown;
pub(crate) mod userns;

use crate::error::{Error, Kind, Result};
use crate::events::Hub;
use crate::net::Attachment;
use crate::request::Origin;
use crate::shim::Shim;
use record::{PodKey, PodRecord};
use state::{Change, PodState};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use strata_api::cri;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

/// One pod.
#[derive(Debug)]
pub(crate) struct Pod {
    id: String,
    key: PodKey,
    config: Arc<cri::PodSandboxConfig>,
    origin: Origin,
    handler: String,
    created_at: i64,
    /// `<state>/pods/<id>`
    state_dir: PathBuf,
    record: Mutex<PodRecord>,
    /// Where its changes are told.
    events: Hub,
    /// Whether its removal is still to be told: it has been ready once.
    shown: AtomicBool,
    shim: Mutex<Option<Arc<Shim>>>,
    /// Why there was no connection to it when one was last tried.
    apart: Mutex<String>,
    /// Whether recovery has dealt with it; at once for a new pod.
    settled: watch::Sender<bool>,
    /// Cancelled when the pod goes down, so that nothing waits for what will not come.
    going: Mutex<CancellationToken>,
    /// Execs that somebody waits for, by their ID.
    execs: Mutex<HashMap<String, oneshot::Sender<ExecEnd>>>,
    /// Whether a stop that failed is being tried again in the background.
    pub(crate) stopping_later: AtomicBool,
    /// Held while interfaces are lent to it, or given back.
    devices: tokio::sync::Mutex<()>,
    /// Held shared while a container is made or started, alone while the pod goes up or down.
    pub(crate) gate: tokio::sync::RwLock<()>,
}

/// How an exec ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExecEnd {
    /// Exit code, or 128 and the signal's number.
    pub(crate) exit_code: i32,
    /// Whether it was killed at its deadline.
    pub(crate) timed_out: bool,
}

/// A pod at one moment.
#[derive(Clone, Debug)]
pub(crate) struct PodInfo {
    /// Its ID.
    pub(crate) id: String,
    /// What was asked for.
    pub(crate) config: Arc<cri::PodSandboxConfig>,
    /// Who asked.
    pub(crate) origin: Origin,
    /// The RuntimeClass handler it was asked with.
    pub(crate) handler: String,
    /// When, in nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// Where it stands.
    pub(crate) state: PodState,
    /// How it is connected, if it is.
    pub(crate) attachment: Option<Attachment>,
    /// Whether its network namespace is the host's.
    pub(crate) host_network: bool,
    /// The parent of its containers' cgroups.
    pub(crate) cgroup_parent: String,
}

impl PodInfo {
    /// Its addresses, the primary one first.
    pub(crate) fn ips(&self) -> Vec<String> {
        self.attachment.iter().flat_map(|a| &a.ips).map(ToString::to_string).collect()
    }

    /// CRI's metadata of it.
    pub(crate) fn metadata(&self) -> cri::PodSandboxMetadata {
        self.config.metadata.clone().unwrap_or_default()
    }

    /// Whether containers can run in it.
    pub(crate) fn is_ready(&self) -> bool {
        self.state == PodState::Ready
    }
}

impl Pod {
    /// A pod from its record.
    pub(crate) fn new(record: PodRecord, state_dir: PathBuf, settled: bool, events: Hub) -> Arc<Self> {
        let shown = matches!(record.state, PodState::Ready | PodState::Stopping | PodState::NotReady);
        Arc::new(Self {
            id: record.id.clone(),
            key: PodKey::of(&record.config),
            config: Arc::new(record.config.clone()),
            origin: record.origin,
            handler: record.handler.clone(),
            created_at: record.created_at,
            state_dir,
            record: Mutex::new(record),
            events,
            shown: AtomicBool::new(shown),
            shim: Mutex::default(),
            apart: Mutex::new("there has been no connection yet".into()),
            settled: watch::Sender::new(settled),
            going: Mutex::default(),
            execs: Mutex::default(),
            stopping_later: AtomicBool::new(false),
            devices: tokio::sync::Mutex::default(),
            gate: tokio::sync::RwLock::default(),
        })
    }

    /// Its ID.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Its key.
    pub(crate) fn key(&self) -> &PodKey {
        &self.key
    }

    /// What was asked for.
    pub(crate) fn config(&self) -> &Arc<cri::PodSandboxConfig> {
        &self.config
    }

    /// Who asked.
    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    /// Announces that somebody waits for an exec's end; must come before the exec begins.
    pub(crate) fn expect_exec(&self, exec_id: &str) -> oneshot::Receiver<ExecEnd> {
        let (tell, told) = oneshot::channel();
        self.execs.lock().unwrap_or_else(PoisonError::into_inner).insert(exec_id.to_owned(), tell);
        told
    }

    /// An exec has ended; nobody waits for it any more (`None`) if it never began.
    pub(crate) fn exec_ended(&self, exec_id: &str, end: Option<ExecEnd>) {
        let waiting = self.execs.lock().unwrap_or_else(PoisonError::into_inner).remove(exec_id);
        if let (Some(waiting), Some(end)) = (waiting, end) {
            // The caller may have gone.
            let _ = waiting.send(end);
        }
    }

    /// Whoever waits for an exec waits in vain: the shim is gone.
    pub(crate) fn forget_execs(&self) {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Its directory below the state directory.
    pub(crate) fn state_dir(&self) -> &PathBuf {
        &self.state_dir
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> PodState {
        self.lock().state
    }

    /// Its record, as of now.
    pub(crate) fn record(&self) -> PodRecord {
        self.lock().clone()
    }

    /// A snapshot.
    pub(crate) fn info(&self) -> PodInfo {
        self.info_of(&self.lock())
    }

    fn info_of(&self, record: &PodRecord) -> PodInfo {
        PodInfo {
            id: self.id.clone(),
            config: Arc::clone(&self.config),
            origin: self.origin,
            handler: self.handler.clone(),
            created_at: self.created_at,
            state: record.state,
            attachment: record.network.attachment.clone(),
            host_network: record.namespaces.net.is_none(),
            cgroup_parent: record.cgroup_parent.clone(),
        }
    }

    /// Changes its state, in memory.
    pub(crate) fn change(&self, change: Change) -> Result<PodState> {
        let mut record = self.lock();
        let state = record
            .state
            .after(change)
            .map_err(|e| Error::precondition(format!("pod {}: {e}", short(&self.id))))?;
        let before = std::mem::replace(&mut record.state, state);
        if state == PodState::Ready {
            self.shown.store(true, Ordering::Release);
        }
        // Under the lock: another change must neither be told before this one nor be seen in it.
        self.events.pod_changed(before, || self.info_of(&record), self.origin);
        drop(record);
        if !matches!(state, PodState::Ready) {
            self.going().cancel();
        }
        if change == Change::Revived {
            *self.going.lock().unwrap_or_else(PoisonError::into_inner) = CancellationToken::new();
        }
        Ok(state)
    }

    /// Where its changes are told.
    pub(crate) fn events(&self) -> &Hub {
        &self.events
    }

    /// Tells once that it has gone, if anybody was told that it was there.
    pub(crate) fn tell_deleted(&self) {
        if self.shown.swap(false, Ordering::AcqRel) {
            self.events.pod_deleted(&self.info());
        }
    }

    /// Changes what the record says beside the state, in memory.
    pub(crate) fn edit(&self, edit: impl FnOnce(&mut PodRecord)) {
        edit(&mut self.lock());
    }

    /// Cancelled when the pod goes down.
    pub(crate) fn going(&self) -> CancellationToken {
        self.going.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its shim's connection, if there is one.
    pub(crate) fn shim(&self) -> Option<Arc<Shim>> {
        self.shim.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|s| !s.is_closed())
    }

    /// Its shim's connection.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] while there is none.
    pub(crate) fn need_shim(&self) -> Result<Arc<Shim>> {
        self.shim().ok_or_else(|| {
            let text = format!("pod {}: its shim is not connected: {}", short(&self.id), self.apart());
            Error::new(Kind::Unavailable, text)
        })
    }

    /// Takes a new connection to its shim, or lets the old one go.
    pub(crate) fn set_shim(&self, shim: Option<Arc<Shim>>) {
        *self.shim.lock().unwrap_or_else(PoisonError::into_inner) = shim;
    }

    /// Why its shim was not connected when that was last tried.
    pub(crate) fn apart(&self) -> String {
        self.apart.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes that; `true` if it is another reason than before.
    pub(crate) fn set_apart(&self, why: String) -> bool {
        let mut apart = self.apart.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *apart != why;
        *apart = why;
        changed
    }

    /// Says that recovery has dealt with it.
    pub(crate) fn settle(&self) {
        self.settled.send_replace(true);
    }

    /// Waits until recovery has dealt with it, but not longer than `bound`.
    pub(crate) async fn settled(&self, bound: std::time::Duration) -> Result<()> {
        let mut settled = self.settled.subscribe();
        match tokio::time::timeout(bound, settled.wait_for(|s| *s)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(
                Kind::Unavailable,
                format!("pod {} is still being recovered after a restart; try again", short(&self.id)),
            )),
        }
    }

    fn lock(&self) -> MutexGuard<'_, PodRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first twelve digits of an ID, as people see it.
pub(crate) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// All pods, those being discarded included.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    /// Held from the choice of a pod's IDs until it is known.
    pub(crate) choosing: tokio::sync::Mutex<()>,
    by_id: RwLock<HashMap<String, Arc<Pod>>>,
}

impl Pods {
    /// Adds one, unless another that is not being discarded has its key: that one is the error.
    pub(crate) fn insert_new(&self, pod: Arc<Pod>) -> std::result::Result<(), Arc<Pod>> {
        let mut pods = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        let taken = pods.values().find(|p| p.key == pod.key && p.state() != PodState::Discarding).cloned();
        match taken {
            Some(other) => Err(other),
            None => {
                pods.insert(pod.id.clone(), pod);
                Ok(())
            }
        }
    }

    /// Adds one.
    pub(crate) fn insert(&self, pod: Arc<Pod>) {
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).insert(pod.id.clone(), pod);
    }

    /// Forgets one.
    pub(crate) fn forget(&self, id: &str) {
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Every pod, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Pod>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Whichever pod has this whole ID, a discarded one too.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Pod>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// The pod of [`find`](Self::find), or the one with this whole ID that is being discarded: whoever asks again for it to go
    /// waits until the work on that has ended.
    pub(crate) fn find_or_going(&self, id: &str) -> Option<Arc<Pod>> {
        self.find(id).ok().or_else(|| self.get(id))
    }

    /// The pod that is not being discarded with this ID or unambiguous prefix.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or [`Kind::InvalidArgument`] for a prefix of several.
    pub(crate) fn find(&self, id: &str) -> Result<Arc<Pod>> {
        let pods = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        let visible = |p: &&Arc<Pod>| p.state() != PodState::Discarding;
        if let Some(pod) = pods.get(id).filter(visible) {
            return Ok(Arc::clone(pod));
        }
        let mut matching = pods.values().filter(|p| !id.is_empty() && p.id.starts_with(id)).filter(visible);
        match (matching.next(), matching.next()) {
            (Some(pod), None) => Ok(Arc::clone(pod)),
            (None, _) => Err(Error::not_found(format!("no such pod: {id}"))),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("pod ID {id} is ambiguous; give more digits of it")))
            }
        }
    }
}
