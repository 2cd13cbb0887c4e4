//! systemd's manager on the system bus (org.freedesktop.systemd1(5)).
//!
//! What is asked for there is a *job*, which the answer names and whose end a signal tells. One connection serves all; it is made
//! when it is needed, and again after dbus has gone.

use super::properties::{Properties, Property};
use crate::error::{Error, Kind, Result};
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, broadcast, watch};
use zbus::proxy::CacheProperties;
use zbus::{ObjectPath, OwnedObjectPath, Variant};

/// How long a call may take.
const CALL: Duration = Duration::from_secs(25);

/// How long a job may take: systemd has others to do on a node that boots.
const JOB: Duration = Duration::from_secs(60);

/// How soon a job is looked for whose end no signal has told.
const LOOK: Duration = Duration::from_secs(2);

/// How many ends of jobs may wait to be looked at.
const ENDS: usize = 1024;

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        aux: &[(&str, &[(&str, Variant<'_>)])],
    ) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn set_unit_properties(
        &self,
        name: &str,
        runtime: bool,
        properties: &[(&str, Variant<'_>)],
    ) -> zbus::Result<()>;
    fn get_job(&self, id: u32) -> zbus::Result<OwnedObjectPath>;
    fn get_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: ObjectPath<'_>, unit: &str, result: &str) -> zbus::Result<()>;
    #[zbus(signal)]
    fn reloading(&self, active: bool) -> zbus::Result<()>;
    #[zbus(property)]
    fn version(&self) -> zbus::Result<String>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait Unit {
    #[zbus(property)]
    fn active_state(&self) -> zbus::Result<String>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Scope", default_service = "org.freedesktop.systemd1")]
trait Scope {
    #[zbus(property)]
    fn result(&self) -> zbus::Result<String>;
}

/// What a job is to make of its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// To be active.
    Active,
    /// To be no more.
    Gone,
}

/// How a unit is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UnitState {
    /// `active`, `failed`, and others.
    active: String,
    /// A scope's: `success`, or what has ended it; empty if it is not told.
    result: String,
}

/// What a job has come to, by the unit that it was for (`None`: there is no such unit); what is wrong with that.
fn judge(goal: Goal, state: Option<&UnitState>) -> std::result::Result<(), String> {
    match (goal, state) {
        (Goal::Active, Some(unit)) if unit.active == "active" => Ok(()),
        (Goal::Active, None) => Err("it has gone again: its process has ended, or it was stopped".into()),
        (Goal::Gone, None) => Ok(()),
        (Goal::Gone, Some(unit)) if matches!(unit.active.as_str(), "inactive" | "failed") => Ok(()),
        (_, Some(UnitState { active, result })) if matches!(result.as_str(), "" | "success") => {
            Err(format!("it is {active}"))
        }
        (_, Some(UnitState { active, result })) => Err(format!("it is {active}, with the result {result}")),
    }
}

/// A connection, with what has ended.
#[derive(Debug)]
struct Connected {
    manager: ManagerProxy<'static>,
    /// Jobs by their paths, with their results.
    ended: broadcast::Sender<(String, String)>,
    /// Changes when systemd has read all units again; its other end goes with the connection.
    reloaded: watch::Receiver<()>,
    listening: tokio::task::JoinHandle<()>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// The bus.
#[derive(Debug, Default)]
pub(super) struct Bus(Mutex<Option<Arc<Connected>>>);

impl Bus {
    /// systemd's version, which proves that it answers.
    pub(super) async fn version(&self) -> Result<String> {
        self.connected().await?.manager.version().await.map_err(|e| unreachable(&e))
    }

    /// Starts a unit that exists for as long as it is active. `false`: one of that name is there already.
    pub(super) async fn start(&self, unit: &str, properties: &Properties) -> Result<bool> {
        let bus = self.connected().await?;
        let mut ended = bus.ended.subscribe();
        let variants = variants(properties);
        match bus.manager.start_transient_unit(unit, "replace", &variants, &[]).await {
            Ok(job) => {
                let failed = match bus.wait(&mut ended, &job).await?.as_deref() {
                    Some("done") => None,
                    Some(result) => Some(format!("its job is {result}")),
                    None => bus.check(unit, Goal::Active).await?,
                };
                match failed {
                    None => Ok(true),
                    Some(why) => Err(Error::internal(format!(
                        "systemd could not start {unit}: {why}; `systemctl status {unit}` and the journal may say why"
                    ))),
                }
            }
            Err(e) if is(&e, "UnitExists") => Ok(false),
            Err(e) => Err(failed(&format!("start {unit}"), &e)),
        }
    }

    /// Stops a unit and forgets its failure; one that is not there is fine.
    pub(super) async fn stop(&self, unit: &str) -> Result<()> {
        let bus = self.connected().await?;
        let mut ended = bus.ended.subscribe();
        match bus.manager.stop_unit(unit, "replace").await {
            Ok(job) => {
                // Another job may have come first, with the same end.
                if bus.wait(&mut ended, &job).await?.as_deref() != Some("done")
                    && let Some(why) = bus.check(unit, Goal::Gone).await?
                {
                    return Err(Error::internal(format!(
                        "systemd could not stop {unit}: {why}; see `systemctl status {unit}`"
                    )));
                }
            }
            Err(e) if is(&e, "NoSuchUnit") => return Ok(()),
            Err(e) => return Err(failed(&format!("stop {unit}"), &e)),
        }
        match bus.manager.reset_failed_unit(unit).await {
            Err(e) if !is(&e, "NoSuchUnit") => Err(failed(&format!("forget {unit}"), &e)),
            _ => Ok(()),
        }
    }

    /// Changes properties until the unit ends. `false`: there is no such unit.
    pub(super) async fn set(&self, unit: &str, properties: &Properties) -> Result<bool> {
        let bus = self.connected().await?;
        match bus.manager.set_unit_properties(unit, true, &variants(properties)).await {
            Ok(()) => Ok(true),
            Err(e) if is(&e, "NoSuchUnit") => Ok(false),
            Err(e) => Err(failed(&format!("change the limits of {unit}"), &e)),
        }
    }

    /// What changes whenever systemd has read all units again (`systemctl daemon-reload`), and written their files by then. It ends
    /// with the connection.
    pub(super) async fn reloads(&self) -> Result<watch::Receiver<()>> {
        Ok(self.connected().await?.reloaded.clone())
    }

    async fn connected(&self) -> Result<Arc<Connected>> {
        let mut held = self.0.lock().await;
        if let Some(connected) = held.as_ref().filter(|c| !c.listening.is_finished()) {
            return Ok(connected.clone());
        }
        let connected = Arc::new(connect().await.map_err(|e| unreachable(&e))?);
        *held = Some(connected.clone());
        Ok(connected)
    }
}

async fn connect() -> zbus::Result<Connected> {
    let connection = zbus::conn::Builder::system().method_timeout(CALL).build().await?;
    let manager = ManagerProxy::new(&connection).await?;
    let mut jobs = manager.receive_job_removed().await?;
    let mut reloads = manager.receive_reloading().await?;
    // Without it systemd sends no signals.
    manager.subscribe().await?;
    let (ended, _) = broadcast::channel(ENDS);
    let (reload, reloaded) = watch::channel(());
    let tell = ended.clone();
    let listening = tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(signal) = jobs.next() => if let Ok(args) = signal.args() {
                    // Nobody may be waiting.
                    let _ = tell.send((args.job.to_string(), (*args.result()).to_owned()));
                },
                Some(signal) = reloads.next() => if signal.args().is_ok_and(|args| !args.active) {
                    reload.send_replace(());
                },
                else => return,
            }
        }
    });
    Ok(Connected { manager, ended, reloaded, listening })
}

impl Connected {
    /// The result of a job; `None` if it has ended, and how was not heard.
    async fn wait(
        &self,
        ended: &mut broadcast::Receiver<(String, String)>,
        job: &OwnedObjectPath,
    ) -> Result<Option<String>> {
        let waiting = async {
            loop {
                match tokio::time::timeout(LOOK, ended.recv()).await {
                    Ok(Ok((path, result))) if path == job.as_str() => return Ok(Some(result)),
                    Ok(Ok(_)) => {}
                    // No signal: it may have been lost with others, or with the connection.
                    Ok(Err(_)) | Err(_) => {
                        if !self.has_job(job).await? {
                            return Ok(None);
                        }
                    }
                }
            }
        };
        tokio::time::timeout(JOB, waiting).await.unwrap_or_else(|_| {
            Err(Error::new(
                Kind::Unavailable,
                format!(
                    "systemd has not done {} in {} s; see `systemctl list-jobs`",
                    job.as_str(),
                    JOB.as_secs()
                ),
            ))
        })
    }

    /// What is wrong with a unit after its job has ended; `None` if nothing is.
    async fn check(&self, unit: &str, goal: Goal) -> Result<Option<String>> {
        let state = match self.manager.get_unit(unit).await {
            Ok(path) => self.state(path).await.map_err(|e| unreachable(&e))?,
            Err(e) if is(&e, "NoSuchUnit") => None,
            Err(e) => return Err(failed(&format!("tell the state of {unit}"), &e)),
        };
        Ok(judge(goal, state.as_ref()).err())
    }

    /// How the unit at a path is; `None` if it is there no more.
    async fn state(&self, path: OwnedObjectPath) -> zbus::Result<Option<UnitState>> {
        let connection = self.manager.inner().connection();
        let no = CacheProperties::No;
        let unit = UnitProxy::builder(connection).path(path.clone()).cache_properties(no).build().await?;
        let scope = ScopeProxy::builder(connection).path(path).cache_properties(no).build().await?;
        let active = match unit.active_state().await {
            Ok(active) => active,
            Err(zbus::Error::FDO(e)) if matches!(*e, zbus::fdo::Error::UnknownObject(_)) => return Ok(None),
            Err(e) => return Err(e),
        };
        // Slices have none.
        let result = scope.result().await.unwrap_or_default();
        Ok(Some(UnitState { active, result }))
    }

    async fn has_job(&self, job: &OwnedObjectPath) -> Result<bool> {
        let id = job.as_str().rsplit('/').next().and_then(|id| id.parse().ok()).unwrap_or(0);
        match self.manager.get_job(id).await {
            Ok(_) => Ok(true),
            Err(e) if is(&e, "NoSuchJob") => Ok(false),
            Err(e) => Err(unreachable(&e)),
        }
    }
}

fn variants(properties: &Properties) -> Vec<(&'static str, Variant<'_>)> {
    let of = |value: &'_ Property| match value {
        Property::Bool(value) => Variant::from(*value),
        Property::Number(value) => Variant::from(*value),
        Property::Text(value) => Variant::from(value.clone()),
        Property::Mask(value) => Variant::from(value.clone()),
        Property::Processes(value) => Variant::from(value.clone()),
    };
    properties.iter().map(|(name, value)| (*name, of(value))).collect()
}

/// Whether systemd says this error.
fn is(error: &zbus::Error, name: &str) -> bool {
    let zbus::Error::MethodError(given, ..) = error else { return false };
    given.as_str().strip_prefix("org.freedesktop.systemd1.") == Some(name)
}

/// An error of systemd's, or of the way to it.
fn failed(what: &str, error: &zbus::Error) -> Error {
    match error {
        zbus::Error::MethodError(name, ..) if name.as_str().starts_with("org.freedesktop.systemd1.") => {
            Error::internal(format!("systemd does not {what}: {error}"))
        }
        zbus::Error::FDO(e) if matches!(**e, zbus::fdo::Error::InvalidArgs(_)) => {
            Error::invalid(format!("systemd does not {what}: {error}"))
        }
        _ => unreachable(error).context(what),
    }
}

fn unreachable(error: &zbus::Error) -> Error {
    Error::new(
        Kind::Unavailable,
        format!(
            "systemd does not answer on the system bus: {error}; [cgroup] driver = \"systemd\" needs systemd as init and \
             dbus.service (`systemctl status dbus`)"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_judged_by_its_unit_if_nobody_told_its_end() {
        let state = |active: &str, result: &str| UnitState { active: active.into(), result: result.into() };
        let (active, inactive) = (state("active", "success"), state("inactive", ""));
        let failed = state("failed", "oom-kill");
        assert_eq!(judge(Goal::Active, Some(&active)), Ok(()));
        assert_eq!(judge(Goal::Gone, None), Ok(()));
        assert_eq!(judge(Goal::Gone, Some(&inactive)), Ok(()));
        // Its processes are gone, and what it says of them is forgotten next.
        assert_eq!(judge(Goal::Gone, Some(&failed)), Ok(()));
        let why = |goal, state| judge(goal, state).unwrap_err();
        assert!(why(Goal::Active, None).contains("gone again"));
        assert_eq!(why(Goal::Active, Some(&inactive)), "it is inactive");
        assert_eq!(why(Goal::Active, Some(&failed)), "it is failed, with the result oom-kill");
        assert_eq!(why(Goal::Gone, Some(&active)), "it is active");
    }
}
