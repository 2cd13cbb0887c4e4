//! Who makes cgroups: stratad by the files, or systemd as slices and scopes.
//!
//! ```text
//!   pod        a slice, the kubelet's or one of ours
//!   container  a scope in it, `strata-<id>.scope`, delegated: what is below is ours
//!   shim       a scope of its own in Strata's slice, which no restart of the service touches
//! ```
//!
//! A scope is made for processes that are there already, and ends with the last of them. So a process that does nothing is put
//! into it first ([`Held`]), the container's is then born there as with files, with its limits and its accounting from the first
//! instruction on, and the first one goes. A daemon that is killed in between leaves nothing: its stand-in ends with it.
//!
//! Names say who has made a group (`.slice`, `.scope`), so that after a change of the driver pods go on as they were made.

mod bus;
pub(crate) mod names;
mod properties;
mod reloads;

use crate::config::{CgroupDriver, Config};
use crate::container::plan::resources::refused;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::shim::process;
use bus::Bus;
use properties::{Properties, Property};
use std::future::Future;
use std::path::Path;
use strata_cgroup::{Group, Hierarchy, Mode, Resources};
use strata_sys::idle::Idle;

/// systemd, if it is needed.
#[derive(Debug, Default)]
pub(crate) struct Systemd(Bus);

/// Keeps a new scope until a process has been born in it; nothing for a group of files.
#[derive(Debug)]
#[must_use]
pub(crate) struct Held(#[allow(dead_code, reason = "dropping it is its use")] Option<Idle>);

impl Held {
    /// For what needs none.
    pub(crate) fn nothing() -> Self {
        Self(None)
    }
}

/// How long systemd waits for processes of a unit that it stops, in microseconds. They have been killed by then.
const STOP: u64 = 2_000_000;

impl Node {
    /// Whether the configured driver can do its work here.
    ///
    /// # Errors
    /// With the systemd driver, on a node without cgroup v2 or whose systemd does not answer.
    pub(crate) async fn check_driver(&self) -> Result<()> {
        if self.config.cgroup.driver == CgroupDriver::Cgroupfs {
            return Ok(());
        }
        if self.cgroups.mode() != Mode::V2 {
            return Err(Error::precondition(format!(
                "[cgroup] driver = \"systemd\" needs cgroup v2, and this node has {}: boot with systemd.unified_cgroup_hierarchy=1, \
                 or use driver = \"cgroupfs\"",
                self.cgroups.mode()
            )));
        }
        let version = self.systemd.0.version().await?;
        tracing::info!(version, "systemd makes cgroups");
        Ok(())
    }

    /// The parent of the cgroups of pods that name none: the handler's, or `pods` below `[cgroup] root`.
    pub(crate) fn pods_cgroup(&self, configured: &str) -> String {
        let Config { cgroup, .. } = &self.config;
        match configured {
            "" => names::inner(&names::root(cgroup.driver, &cgroup.root), "pods"),
            parent => names::configured(cgroup.driver, parent),
        }
    }

    /// Makes a group that has only others in it, with its parents. Call it where blocking is fine.
    pub(crate) fn make_parent(&self, name: &str) -> Result<()> {
        let group = self.group(name)?;
        let unit = names::unit(name);
        if unit.ends_with(".slice") && !group.exists() {
            let properties = vec![
                ("Description", Property::Text("Strata pod".into())),
                ("DefaultDependencies", Property::Bool(false)),
            ];
            wait(self.systemd.0.start(unit, &properties))?;
        }
        group.create().map_err(|e| refused(&e))
    }

    /// Makes a group for processes, anew: into one that has been killed no process can be born (`strata_cgroup`, `kill_now`).
    /// Call it where blocking is fine.
    pub(crate) fn make_leaf(&self, name: &str, limits: &Resources, what: &str) -> Result<Held> {
        let group = self.group(name)?;
        let unit = names::unit(name);
        let held = if names::is_unit(unit) {
            let idle = Idle::spawn().map_err(|e| Error::internal(format!("cgroup {name}: {e}")))?;
            wait(self.systemd.start_scope(name, what, idle.pid(), limits))?;
            Held(Some(idle))
        } else {
            group.remove().map_err(|e| refused(&e))?;
            Held::nothing()
        };
        let made = group.create().and_then(|()| group.apply(limits));
        made.map(|()| held).map_err(|e| {
            if let Err(left) = self.drop_group(&group) {
                tracing::debug!(error = %left, "a cgroup that could not be made goes with its pod");
            }
            refused(&e)
        })
    }

    /// The cgroup that shims enter when they start, outside every pod's; `None` with systemd, which moves them ([`Self::free_shim`]).
    pub(crate) fn shim_cgroup(&self) -> Result<Option<String>> {
        if self.config.cgroup.driver == CgroupDriver::Systemd {
            return Ok(None);
        }
        let name = format!("{}/shims", self.config.cgroup.root);
        self.group(&name)?.create().map_err(|e| Error::internal(format!("cgroup {name}: {e}")))?;
        Ok(Some(name))
    }

    /// Has systemd move a new shim out of the service, which would take it for something left over whenever it starts. The pod
    /// works without that, too.
    pub(crate) async fn free_shim(&self, pod: &str, dir: &Path) {
        if self.config.cgroup.driver == CgroupDriver::Cgroupfs {
            return;
        }
        let Some(pid) = process::pid(dir) else { return };
        if let Err(e) = self.start_shim_scope(pod, pid).await {
            tracing::warn!(pod, error = %e, "the pod's shim stays in the cgroup of stratad");
        }
    }

    async fn start_shim_scope(&self, pod: &str, pid: i32) -> Result<()> {
        let root = names::root(self.config.cgroup.driver, &self.config.cgroup.root);
        let slice = names::unit(&root).to_owned();
        // An earlier one of this pod may still be sending its last output.
        for attempt in 1..=9 {
            let again = if attempt == 1 { String::new() } else { format!("-{attempt}") };
            let unit = format!("strata-shim-{pod}{again}.scope");
            let properties = scope(&slice, &format!("Strata shim of pod {pod}"), pid)?;
            if self.systemd.0.start(&unit, &properties).await? {
                return Ok(());
            }
        }
        Err(Error::internal(format!(
            "units strata-shim-{pod}*.scope are taken; see `systemctl status` of them"
        )))
    }

    /// Removes a group and what is below it; absence is success. Its processes must have ended. Call it where blocking is fine.
    pub(crate) fn drop_group(&self, group: &Group) -> Result<()> {
        let name = group.name();
        let unit = names::unit(&name);
        // Without its directory it may still be a unit, which would be in the way of the next one of its name.
        if names::is_unit(unit) && (group.exists() || self.config.cgroup.driver == CgroupDriver::Systemd) {
            wait(self.systemd.0.stop(unit))?;
        }
        group.remove().map_err(|e| Error::internal(e.to_string()))
    }

    /// Changes limits of a group, all of them or none, and gives what they were. Call it where blocking is fine.
    ///
    /// # Errors
    /// If systemd or the kernel does not take them. They are then as they were, to both.
    pub(crate) fn change_limits(&self, group: &Group, limits: &Resources) -> Result<Resources> {
        let before = group.before(limits).map_err(|e| refused(&e))?;
        // With its properties systemd writes files, some of them for the worse: what is in them in the end is ours.
        self.tell_limits(group, limits)?;
        match group.apply(limits) {
            Ok(()) => Ok(before),
            Err(e) => {
                self.take_limits_back(group, limits, &before);
                Err(refused(&e))
            }
        }
    }

    /// Takes a change of limits back that was made, or made in part; what cannot be taken back is warned of. Call it where blocking
    /// is fine.
    pub(crate) fn take_limits_back(&self, group: &Group, limits: &Resources, before: &Resources) {
        let told = self.tell_limits(group, before).err();
        let left = group.take_back(limits, before);
        for error in left.iter().map(refused).chain(told) {
            tracing::warn!(cgroup = group.name(), %error, "limits that were changed cannot be taken back");
        }
    }

    /// Tells systemd of limits, which it would otherwise undo some day.
    fn tell_limits(&self, group: &Group, limits: &Resources) -> Result<()> {
        let name = group.name();
        let (unit, properties) = (names::unit(&name), properties::of_limits(limits));
        if !names::is_unit(unit) || properties.is_empty() {
            return Ok(());
        }
        match wait(self.systemd.0.set(unit, &properties))? {
            true => Ok(()),
            false => Err(Error::precondition(format!("systemd knows no unit {unit}"))),
        }
    }
}

impl Systemd {
    async fn start_scope(&self, name: &str, what: &str, pid: i32, limits: &Resources) -> Result<()> {
        let unit = names::unit(name);
        let slice = names::unit(name.strip_suffix(unit).unwrap_or_default().trim_end_matches('/'));
        let mut all = scope(slice, what, pid)?;
        // Otherwise the scope gets what [Manager] DefaultTasksMax says, a share of all that there may be.
        let unlimited = limits.pids_limit.is_none().then_some(("TasksMax", Property::Number(u64::MAX)));
        all.extend(unlimited);
        all.extend(properties::of_limits(limits));
        if self.0.start(unit, &all).await? {
            return Ok(());
        }
        // What is left of an earlier run, or of a daemon that was killed in the middle of this.
        self.0.stop(unit).await?;
        match self.0.start(unit, &all).await? {
            true => Ok(()),
            false => Err(Error::internal(format!(
                "{unit} is there and does not go; see `systemctl status {unit}`"
            ))),
        }
    }
}

/// What all scopes have.
fn scope(slice: &str, what: &str, pid: i32) -> Result<Properties> {
    let pid = u32::try_from(pid).map_err(|e| Error::internal(format!("process ID {pid}: {e}")))?;
    Ok(vec![
        ("Description", Property::Text(what.to_owned())),
        ("Slice", Property::Text(slice.to_owned())),
        ("PIDs", Property::Processes(vec![pid])),
        ("Delegate", Property::Bool(true)),
        // Who ends containers at a shutdown is the kubelet, and it needs their runtime for that.
        ("DefaultDependencies", Property::Bool(false)),
        ("CollectMode", Property::Text("inactive-or-failed".into())),
        ("TimeoutStopUSec", Property::Number(STOP)),
    ])
}

/// On a thread where blocking is fine.
fn wait<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Handle::current().block_on(work)
}

/// The hierarchies of this node.
///
/// # Errors
/// If it has none.
pub(crate) fn detect() -> Result<Hierarchy> {
    Hierarchy::detect().map_err(|e| Error::internal(e.to_string()))
}
