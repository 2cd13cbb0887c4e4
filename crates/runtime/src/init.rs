//! The init of a PID namespace that a pod's containers share: it reaps, and nothing else.
//!
//! Every process of the pod sees it as PID 1, and one with CAP_SYS_PTRACE may look into it and take it over. So there is
//! nothing in it to take: an empty root, no descriptors, no capabilities, nobody's user.

use crate::child::{ChildEnd, Report, channel};
use crate::create::Namespaces;
use crate::userns::User;
use crate::{Step, failure, identity};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::os::fd::AsFd;
use std::path::Path;
use strata_cgroup::{Group, Join};
use strata_sys::CallExt;
use strata_sys::clone::{Child, Clone3, CloneFlags, clone3, clone3_bare};
use strata_sys::mount::{self, Attrs, FsContext, Propagation};
use strata_sys::path::Root;
use strata_wire::frame::FrameError;
use strata_wire::message::{Failure, FailureKind};
use strata_wire::plan::{IdRange, Process};

/// `nobody`, whose numbers no image's user is likely to have.
const NOBODY: u32 = 65_534;

/// How long it may take to set itself up, in seconds: it touches nothing but the kernel.
const PATIENCE: i64 = 10;

/// Makes the process in a PID namespace of its own, in the pod's other namespaces and in a cgroup; it is set up when
/// this returns. In a user namespace it is the child's sibling: see `userns`.
pub fn reaping_init(
    cgroup: &Group,
    namespaces: &Namespaces,
    user: Option<User<'_>>,
) -> Result<Child, Failure> {
    let join = cgroup.join().step(step)?;
    let (mut ours, theirs) = channel()?;
    let args = Clone3 { flags: FLAGS, into_cgroup: join.unified(), sibling: false };
    let child = match user {
        None => {
            let set_up = || told(&theirs, enter(&join, namespaces).and_then(|()| isolate(NOBODY)));
            clone3_bare(&args, set_up, reap_for_ever)
        }
        Some(user) => {
            let args = Clone3 { flags: CloneFlags::empty(), ..args };
            clone3(&args, || i32::from(!told(&theirs, first_stage(&join, namespaces, &user, &theirs))))
        }
    };
    let mut child = child.step(step)?;
    drop(theirs);
    let mut moved = user.is_none();
    let failed = loop {
        let mut wait = [PollFd::new(&ours, PollFlags::IN)];
        let patience = Timespec { tv_sec: PATIENCE, tv_nsec: 0 };
        let ready = rustix::event::poll(&mut wait, Some(&patience)).call(|| "poll".into()).step(step)?;
        match ours.receive() {
            // It has closed the channel with everything else.
            Err(FrameError::Closed) if moved => return Ok(child),
            Ok(Some((Report::Moved { pid }, mut fds))) => {
                let Some(pidfd) = fds.pop() else { continue };
                (child, moved) = (Child { pid, pidfd }, true);
            }
            Ok(Some((Report::Failed(failure), _))) => break failure,
            Ok(None) if ready > 0 => {}
            Ok(_) => break failure(FailureKind::Timeout, step(), "it does not get ready"),
            Err(e) => break failure(FailureKind::Internal, step(), e),
        }
    };
    let _ = strata_sys::process::pidfd_send_signal(&child.pidfd, 9);
    Err(failed)
}

const FLAGS: CloneFlags = CloneFlags::NEWPID.and(CloneFlags::NEWNS);

fn step() -> String {
    "create the pod's init".to_owned()
}

fn told(channel: &ChildEnd, done: Result<(), Failure>) -> bool {
    done.map_err(|failure| channel.failed(failure)).is_ok()
}

fn enter(join: &Join, namespaces: &Namespaces) -> Result<(), Failure> {
    join.enter().step(|| "enter the init's cgroup".into())?;
    namespaces.join()
}

fn first_stage(
    join: &Join,
    namespaces: &Namespaces,
    user: &User<'_>,
    channel: &ChildEnd,
) -> Result<(), Failure> {
    enter(join, namespaces)?;
    let namespace = user.namespace.try_clone_to_owned().call(|| "dup".into()).step(step)?;
    strata_sys::userns::become_root_in(&namespace).step(|| "join the pod's user namespace".into())?;
    // Nobody's number, if it is mapped.
    let last = |ids: IdRange| ids.inside.saturating_add(ids.length.saturating_sub(1));
    let nobody = NOBODY.min(last(user.ids.uids)).min(last(user.ids.gids));
    let args = Clone3 { flags: FLAGS, into_cgroup: None, sibling: true };
    let child = clone3_bare(&args, || told(channel, isolate(nobody)), reap_for_ever).step(step)?;
    channel.moved(child.pid, child.pidfd.as_fd())
}

fn isolate(nobody: u32) -> Result<(), Failure> {
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
    identity::limit(&Process { uid: nobody, gid: nobody, no_new_privs: true, ..Process::default() })
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
