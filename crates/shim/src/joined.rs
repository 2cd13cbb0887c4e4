//! What joins something: containers the pod's user namespace and others' PID namespaces, execs and hooks a container.

use crate::containers::Container;
use crate::requests::failure;
use crate::shim::Shim;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use strata_cgroup::Group;
use strata_runtime::{CHILD_CONTROLLERS, ExecContext, StandardFds, User};
use strata_wire::ContainerPlan;
use strata_wire::message::{Failure, FailureKind};
use strata_wire::plan::PidMode;

impl Shim {
    /// The pod's user namespace, if it has one.
    pub(crate) fn user(&self) -> Option<User<'_>> {
        let namespace = self.namespaces.user.as_ref()?.as_fd();
        Some(User { namespace, ids: self.plan.ids.unwrap_or_default() })
    }

    /// Has `make` make a process that joins a container, in a group of this name below the container's. A container that has made
    /// groups of its own on v2 may leave no room for it: then there is none, and the process lives beside them.
    pub(crate) fn make_in<T>(
        &self,
        container: &Container,
        group: &str,
        streams: StandardFds<'_>,
        make: impl FnOnce(&ExecContext<'_>) -> Result<T, Failure>,
    ) -> Result<(T, Option<Group>), Failure> {
        let group = container.group.child(group).ok();
        let group = group.filter(|group| group.create_in(&CHILD_CONTROLLERS).is_ok());
        let made = make(&ExecContext {
            init: container.pidfd.as_fd(),
            init_pid: container.pid,
            pid: container.pid_namespace.as_fd(),
            user: self.user(),
            cgroup: &container.group,
            child_cgroup: group.as_ref(),
            streams,
        });
        match made {
            Ok(made) => Ok((made, group)),
            Err(failed) => {
                group.iter().for_each(|group| _ = group.remove_if_empty());
                Err(failed)
            }
        }
    }

    /// The PID namespace of the container that a plan targets.
    pub(crate) fn target_of(&self, plan: &ContainerPlan) -> Result<BorrowedFd<'_>, Failure> {
        let step = "join the target's PID namespace";
        let id = plan.pid_target.as_deref().unwrap_or_default();
        let target = self.containers.get(&self.find(id)?).filter(|c| c.running());
        target.map(|c| c.pid_namespace.as_fd()).ok_or_else(|| {
            failure(FailureKind::WrongState, step, format!("target container {id} is not running"))
        })
    }

    /// The creation of a container that joins another's PID namespace has failed: because that one has ended, perhaps.
    pub(crate) fn blame_target(&self, plan: &ContainerPlan, failed: Failure) -> Failure {
        if plan.pid != PidMode::Target || failed.kind != FailureKind::Internal {
            return failed;
        }
        match self.target_of(plan).and_then(|_| self.find(plan.pid_target.as_deref().unwrap_or_default())) {
            Err(ended) => ended,
            Ok(target) => self.blame_end_of(target, failed),
        }
    }

    /// Something has failed in the PID namespace of a container: because its init is ending, perhaps. The kernel makes no
    /// process there any more then, says ENOMEM for it, and kills those that there are (pid_namespaces(7), clone(2)), which the
    /// init's own end is told after.
    pub(crate) fn blame_end_of(&self, container: u32, failed: Failure) -> Failure {
        let Some(container) = self.containers.get(&container) else { return failed };
        if failed.kind != FailureKind::Internal || (container.pid != 0 && !ending(container.pid)) {
            return failed;
        }
        let message = format!("container {} is not running: it has just ended", container.plan.id);
        failure(FailureKind::WrongState, failed.step, message)
    }

    /// The first stage has handed over to the process that becomes the container's init.
    pub(crate) fn container_moved(&mut self, id: u32, pid: i32, mut fds: Vec<OwnedFd>) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        let namespace = strata_sys::ns::open_of(pid, strata_sys::ns::NsKind::Pid);
        let (Some(pidfd), Ok(namespace)) = (fds.pop(), namespace) else {
            let message = "its process died at once, or came without a descriptor";
            return self
                .container_failed(id, failure(FailureKind::Internal, "create the container", message));
        };
        (container.pid, container.pidfd, container.pid_namespace) = (pid, pidfd, namespace);
    }
}

/// Whether a process that has not been reaped is ending, or has ended: `PF_EXITING` among its flags (proc_pid_stat(5)).
fn ending(pid: i32) -> bool {
    const PF_EXITING: u32 = 0x4;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Anything may be in its name, parentheses too.
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6));
    flags.and_then(|flags| flags.parse::<u32>().ok()).is_none_or(|flags| flags & PF_EXITING != 0)
}
