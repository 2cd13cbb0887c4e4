//! Remove: a container is forgotten once nothing of it runs.

use super::Stage;
use crate::requests::{failure, unknown};
use crate::shim::{Owed, Shim};
use std::time::{Duration, Instant};
use strata_wire::Reply;
use strata_wire::message::{Failure, FailureKind};

/// How long killed processes may take to go before Remove fails.
const REMOVE_FOR: Duration = Duration::from_secs(10);

impl Shim {
    /// Kills what is left of a container; the answer follows when nothing is.
    pub(crate) fn remove(&mut self, reply: Owed, id: &str) -> Result<(), Failure> {
        let number = self.find(id)?;
        let container = self.containers.get_mut(&number).ok_or_else(|| unknown(id))?;
        container.group.kill_now().map_err(|e| failure(FailureKind::Internal, "remove", e))?;
        let mut waiting = container.removing.take().map(|(waiting, _)| waiting).unwrap_or_default();
        waiting.push(reply);
        container.removing = Some((waiting, Instant::now() + REMOVE_FOR));
        self.continue_removal(number, Instant::now());
        Ok(())
    }

    /// Answers whoever waits for a removal if it is over, or takes too long.
    pub(super) fn continue_removal(&mut self, id: u32, now: Instant) {
        let Some(container) = self.containers.get(&id) else { return };
        let Some((_, until)) = &container.removing else { return };
        // What cannot be read, for want of descriptors, need not be empty.
        let left = container.group.procs();
        let empty = left.as_ref().is_ok_and(Vec::is_empty);
        if empty && container.pid == 0 && matches!(container.stage, Stage::Exited) {
            let gone = self.containers.remove(&id);
            self.execs.retain(|_, exec| exec.container != id);
            self.leftovers.retain(|left| left.container != id);
            for reply in gone.and_then(|c| c.removing).into_iter().flat_map(|(owed, _)| owed) {
                self.reply(reply, Reply::Ok);
            }
        } else if *until <= now {
            let message = match left {
                Ok(left) => {
                    let stuck: Vec<String> =
                        left.iter().map(|pid| strata_cgroup::control::describe(*pid)).collect();
                    format!("processes do not die: {}", stuck.join(", "))
                }
                Err(e) => e.to_string(),
            };
            let removing = self.containers.get_mut(&id).and_then(|c| c.removing.take());
            for reply in removing.into_iter().flat_map(|(owed, _)| owed) {
                let late = failure(FailureKind::Timeout, "remove the container", &message);
                self.reply(reply, Reply::Error(late));
            }
        } else {
            let _ = container.group.kill_now();
        }
    }
}
