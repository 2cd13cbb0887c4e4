//! The init of a PID namespace that a pod's containers share: it reaps, and nothing else.

use crate::Step;
use strata_cgroup::Group;
use strata_sys::clone::{Child, Clone3, CloneFlags, clone3_bare};
use strata_wire::message::Failure;

/// Makes the process in a PID namespace and cgroup of its own.
pub fn reaping_init(cgroup: &Group) -> Result<Child, Failure> {
    let step = || "create the pod's init".to_owned();
    let join = cgroup.join().step(step)?;
    let args = Clone3 { flags: CloneFlags::NEWPID, into_cgroup: join.unified(), sibling: false };
    clone3_bare(&args, || join.enter().is_ok(), reap_for_ever).step(step)
}

fn reap_for_ever() -> i32 {
    use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
    let mut wake = SigSet::empty();
    wake.add(Signal::SIGCHLD);
    if sigprocmask(SigmaskHow::SIG_SETMASK, Some(&wake), None).is_err() {
        return 1;
    }
    loop {
        while let Ok(Some(_)) = strata_sys::process::reap() {}
        let _ = wake.wait();
    }
}
