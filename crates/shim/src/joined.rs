//! Namespaces that a container joins beside its pod's: the pod's user namespace, another container's PID namespace.

use crate::requests::failure;
use crate::shim::Shim;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use strata_runtime::User;
use strata_wire::ContainerPlan;
use strata_wire::message::{Failure, FailureKind};

impl Shim {
    /// The pod's user namespace, if it has one.
    pub(crate) fn user(&self) -> Option<User<'_>> {
        let namespace = self.namespaces.user.as_ref()?.as_fd();
        Some(User { namespace, ids: self.plan.ids.unwrap_or_default() })
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
