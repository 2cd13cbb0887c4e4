//! Groups of hooks of the node's namespaces, by which all of a hook is killed: also what has left its process group, and what a
//! stratad has left that was killed. They limit nothing.

use crate::config::CgroupDriver;
use crate::error::{Error, Result};
use crate::node::Node;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use strata_cgroup::Group;

/// The hierarchies of v1 in which a hook has one: what kills, and what counts processes.
const CONTROLLERS: [&str; 2] = ["freezer", "pids"];

/// One hook's.
#[derive(Debug)]
pub(super) struct HookGroup {
    own: Group,
    /// The one above, where what a hook leaves running on purpose goes on.
    above: Group,
}

impl Node {
    /// Below which they are: Strata's own cgroup, or the part of the service's that systemd has delegated. `None` where there is
    /// neither.
    fn hooks_above(&self) -> Result<Option<Group>> {
        let cgroup = &self.config.cgroup;
        let parent = match cgroup.driver {
            CgroupDriver::Cgroupfs => Some(self.group(&cgroup.root)?),
            CgroupDriver::Systemd => {
                let own = rustix::process::getpid().as_raw_nonzero().get();
                self.cgroups.unified_of(own).map_err(|e| Error::internal(e.to_string()))?
            }
        };
        parent.map(|parent| parent.child("hooks")).transpose().map_err(|e| Error::internal(e.to_string()))
    }

    /// Makes one. Without it a hook runs all the same.
    pub(super) fn hook_group(&self) -> Option<HookGroup> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let make = || {
            let Some(above) = self.hooks_above()? else { return Ok(None) };
            let fail = |e: strata_cgroup::Error| Error::internal(e.to_string());
            if self.config.cgroup.driver == CgroupDriver::Cgroupfs {
                self.group(&self.config.cgroup.root)?.create().map_err(fail)?;
            }
            let own = above.child(&NEXT.fetch_add(1, Ordering::Relaxed).to_string()).map_err(fail)?;
            above.create_in(&CONTROLLERS).and_then(|()| own.create_in(&CONTROLLERS)).map_err(fail)?;
            Ok(Some(HookGroup { own, above }))
        };
        make().unwrap_or_else(|e: Error| {
            self.warn_once(&format!("hooks have no cgroups of their own: {e}"));
            None
        })
    }

    /// Kills hooks that an earlier stratad has left, with all that they have started: they are run again where they are owed.
    pub(crate) fn end_strange_hooks(&self) {
        let Ok(Some(above)) = self.hooks_above() else { return };
        for name in above.children() {
            let ended = above.child(&name).and_then(|group| group.kill().and_then(|()| group.remove()));
            if let Err(e) = ended {
                tracing::warn!(error = %e, "a hook that an earlier stratad has left cannot be ended");
            }
        }
    }
}

impl HookGroup {
    /// What its process enters it by.
    ///
    /// # Errors
    /// If it has gone.
    pub(super) fn entrances(&self) -> std::io::Result<Vec<OwnedFd>> {
        self.own.entrances(&CONTROLLERS).map_err(std::io::Error::other)
    }

    /// Kills all that is in it.
    pub(super) fn kill(&self) {
        let _ = self.own.kill_now();
    }
}

impl Drop for HookGroup {
    /// What it has left running is none of anybody's business any more.
    fn drop(&mut self) {
        self.own.leave_to(&self.above);
    }
}
