//! What containers and pods use at this moment, as CRI's stats and metrics tell it.
//!
//! * [`rates`]: how fast CPU time is used, from the readings before.
//! * [`interfaces`]: traffic of a pod's network namespace.
//! * [`processes`]: what only /proc tells.

pub(crate) mod interfaces;
pub(crate) mod processes;
pub(crate) mod rates;

use crate::container::ContainerInfo;
use crate::error::{Error, Result};
use crate::ids::now;
use crate::node::Node;
use crate::pod::Pod;
use interfaces::Interface;
use rates::Reading;
use std::path::PathBuf;
use std::sync::Arc;
use strata_cgroup::Stats;

/// What a cgroup uses.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupUsage {
    /// When it was read, in nanoseconds since 1970.
    pub(crate) at: i64,
    /// The cgroup's numbers.
    pub(crate) stats: Stats,
    /// CPU time per time, in nanoseconds per second of all CPUs together.
    pub(crate) nano_cores: Option<u64>,
}

/// What a pod uses.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodUsage {
    /// Of its cgroup.
    pub(crate) group: GroupUsage,
    /// How many processes there are in it.
    pub(crate) processes: u64,
    /// The interfaces of its network namespace but for the loopback one; `None`: it is on the node's network, or has gone.
    pub(crate) interfaces: Option<Vec<Interface>>,
}

impl Node {
    /// What these containers use, in their order. One that has just gone uses nothing that is known.
    ///
    /// # Errors
    /// If a cgroup's files cannot be read or understood.
    pub(crate) fn containers_usage(&self, containers: &[ContainerInfo]) -> Result<Vec<GroupUsage>> {
        let since = |c: &ContainerInfo| {
            if c.live.started_at > 0 { c.live.started_at } else { c.record.created_at }
        };
        containers.iter().map(|c| self.group_usage(c.id(), &c.record.cgroup, since(c))).collect()
    }

    /// What these pods use, in their order.
    ///
    /// # Errors
    /// If a cgroup's files cannot be read or understood, or a namespace cannot be entered.
    pub(crate) fn pods_usage(&self, pods: &[Arc<Pod>]) -> Result<Vec<PodUsage>> {
        let netns: Vec<Option<PathBuf>> =
            pods.iter().map(|p| p.record().namespaces.net.map(PathBuf::from)).collect();
        let mut interfaces = interfaces::read(netns)?.into_iter();
        let usage = |pod: &Arc<Pod>| {
            let info = pod.info();
            let group = self.group_usage(&info.id, &info.cgroup_parent, info.created_at)?;
            let processes = self.group(&info.cgroup_parent)?.processes().map_err(|e| of_cgroup(&e))?;
            let interfaces = interfaces.next().flatten();
            Ok(PodUsage { group, processes: processes.len() as u64, interfaces })
        };
        pods.iter().map(usage).collect()
    }

    fn group_usage(&self, id: &str, cgroup: &str, since: i64) -> Result<GroupUsage> {
        let stats = self.group(cgroup)?.stats().map_err(|e| of_cgroup(&e))?;
        let at = now();
        let nano_cores =
            stats.cpu_usage_ns.and_then(|used| self.rates.nano_cores(id, since, Reading { at, used }));
        Ok(GroupUsage { at, stats, nano_cores })
    }

    /// Lets go of readings of what is not there any more.
    pub(crate) fn forget_old_readings(&self) {
        self.rates.keep(|id| self.containers.get(id).is_some() || self.pods.get(id).is_some());
    }
}

fn of_cgroup(e: &strata_cgroup::Error) -> Error {
    Error::internal(e.to_string())
}
