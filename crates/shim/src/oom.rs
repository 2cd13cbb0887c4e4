//! Whether a container was killed for want of memory.
//!
//! systemd clears a scope away as soon as its last process has ended, perhaps before the shim has read its counters, which go with
//! it. Those of the group above count what happens below, too, and keep it (cgroup-v2.rst, memory.events): what they have in excess
//! of the groups that are there, and of those whose end has been seen, was of the one that is not there any more.

use crate::shim::Shim;
use strata_cgroup::{Group, Mode};

impl Shim {
    /// Remembers what was counted above a new container's group before it; for the pod's first one.
    pub(crate) fn begin_oom_count(&mut self, group: &Group) {
        if self.oom_settled.is_none() {
            self.oom_settled = self.above(group).map(|above| kills(&above));
        }
    }

    /// Whether the kernel has killed a process of a container that has just ended.
    pub(crate) fn oom_killed(&mut self, id: u32) -> bool {
        let Some(group) = self.containers.get(&id).map(|c| c.group.clone()) else { return false };
        let own = kills(&group);
        // What cannot be read counts nothing; so it must still be there after it was read.
        let count = if own > 0 || group.exists() { own } else { self.excess(&group, id) };
        self.oom_settled = self.oom_settled.map(|settled| settled + count);
        count > 0
    }

    fn excess(&self, group: &Group, id: u32) -> u64 {
        let (Some(above), Some(settled)) = (self.above(group), self.oom_settled) else { return 0 };
        let others = self.containers.iter().filter(|(other, c)| **other != id && !c.ended());
        let living: u64 = others.map(|(_, c)| kills(&c.group)).sum();
        kills(&above).saturating_sub(settled + living)
    }

    /// The group above, where it counts what happens below.
    fn above(&self, group: &Group) -> Option<Group> {
        let name = group.name();
        let (above, _) = name.rsplit_once('/').filter(|(above, _)| !above.is_empty())?;
        (self.hierarchy.mode() == Mode::V2).then(|| self.hierarchy.group(above).ok()).flatten()
    }
}

fn kills(group: &Group) -> u64 {
    group.oom_kills().unwrap_or(0)
}
