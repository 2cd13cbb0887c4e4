//! The init of a PID namespace that a pod's containers share: it reaps, and nothing else.
//!
//! Every process of the pod sees it as PID 1, and one with CAP_SYS_PTRACE may look into it and take it over. So there is
//! nothing in it to take: an empty root, no descriptors, no capabilities, nobody's user.

use crate::child::{ChildEnd, channel};
use crate::create::Namespaces;
use crate::{Step, failure, identity};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::path::Path;
use strata_cgroup::{Group, Join};
use strata_sys::CallExt;
use strata_sys::clone::{Child, Clone3, CloneFlags, clone3_bare};
use strata_sys::mount::{self, Attrs, FsContext, Propagation};
use strata_sys::path::Root;
use strata_wire::frame::FrameError;
use strata_wire::message::{Failure, FailureKind};
use strata_wire::plan::Process;

/// `nobody`, whose numbers no image's user is likely to have.
const NOBODY: u32 = 65_534;

/// How long it may take to set itself up, in seconds: it touches nothing but the kernel.
const PATIENCE: i64 = 10;

/// Makes the process in a PID namespace of its own, in the pod's other namespaces and in a cgroup; it is set up when
/// this returns.
pub fn reaping_init(cgroup: &Group, namespaces: &Namespaces) -> Result<Child, Failure> {
    let step = || "create the pod's init".to_owned();
    let join = cgroup.join().step(step)?;
    let (mut ours, theirs) = channel()?;
    let flags = CloneFlags::NEWPID | CloneFlags::NEWNS;
    let args = Clone3 { flags, into_cgroup: join.unified(), sibling: false };
    let child = clone3_bare(&args, || set_up(&join, namespaces, &theirs), reap_for_ever).step(step)?;
    drop(theirs);
    let mut wait = [PollFd::new(&ours, PollFlags::IN)];
    let patience = Timespec { tv_sec: PATIENCE, tv_nsec: 0 };
    rustix::event::poll(&mut wait, Some(&patience)).call(|| "poll".into()).step(step)?;
    let failed = match ours.receive() {
        // It has closed the channel with everything else.
        Err(FrameError::Closed) => return Ok(child),
        Ok(Some((crate::Report::Failed(failure), _))) => failure,
        Ok(_) => failure(FailureKind::Timeout, step(), "it does not get ready"),
        Err(e) => failure(FailureKind::Internal, step(), e),
    };
    let _ = strata_sys::process::pidfd_send_signal(&child.pidfd, 9);
    Err(failed)
}

fn set_up(join: &Join, namespaces: &Namespaces, channel: &ChildEnd) -> bool {
    let done = isolate(join, namespaces);
    done.map_err(|failure| channel.failed(failure)).is_ok()
}

fn isolate(join: &Join, namespaces: &Namespaces) -> Result<(), Failure> {
    join.enter().step(|| "enter the init's cgroup".into())?;
    namespaces.join()?;
    let step = || "empty root of the pod's init".to_owned();
    mount::set_propagation(Path::new("/"), Propagation::Private).step(step)?;
    let fs = FsContext::new("tmpfs").step(step)?;
    fs.set_string("nr_inodes", "1").step(step)?;
    let empty = fs.mount(Attrs { readonly: true, ..Attrs::INERT }).step(step)?;
    // Any directory will do: it goes with the old root.
    mount::attach(&empty, Root::open(Path::new("/proc")).step(step)?).step(step)?;
    mount::pivot_root(&empty).step(step)?;
    rustix::process::setsid().call(|| "setsid".into()).step(|| "session".into())?;
    rustix::thread::set_name(c"strata-init").call(|| "prctl(PR_SET_NAME)".into()).step(|| "name".into())?;
    let nobody = Process { uid: NOBODY, gid: NOBODY, no_new_privs: true, ..Process::default() };
    identity::limit(&nobody)
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
