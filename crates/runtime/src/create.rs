//! A container's init, up to the barrier before its program.

use crate::child::{ChildEnd, Spawned, StandardFds, channel};
use crate::{Step, devices, identity, mounts, program, protect, rootfs};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use strata_cgroup::{Group, Join};
use strata_sys::CallExt;
use strata_sys::clone::{Clone3, CloneFlags, clone3_keeping};
use strata_sys::ns::{self, NsKind};
use strata_sys::path::Root;
use strata_wire::message::Failure;
use strata_wire::plan::{ContainerPlan, PidMode};

/// The pod's namespaces, open; `None`: the caller's own.
#[derive(Debug, Default)]
pub struct Namespaces {
    /// Network.
    pub net: Option<OwnedFd>,
    /// IPC.
    pub ipc: Option<OwnedFd>,
    /// UTS.
    pub uts: Option<OwnedFd>,
}

impl Namespaces {
    fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.net, &self.ipc, &self.uts].into_iter().flatten().map(AsFd::as_fd)
    }

    /// Moves the calling process into them.
    pub(crate) fn join(&self) -> Result<(), Failure> {
        let all = [(&self.net, NsKind::Net), (&self.ipc, NsKind::Ipc), (&self.uts, NsKind::Uts)];
        for (fd, kind) in all {
            if let Some(fd) = fd {
                ns::setns(fd, kind).step(|| format!("join the pod's {} namespace", kind.name()))?;
            }
        }
        Ok(())
    }
}

/// What a container is created with beside its plan.
#[derive(Clone, Copy, Debug)]
pub struct CreateContext<'a> {
    /// The pod's namespaces.
    pub namespaces: &'a Namespaces,
    /// The pod's shared PID namespace, for [`PidMode::Pod`].
    pub pid: Option<BorrowedFd<'a>>,
    /// The container's cgroup, which exists.
    pub cgroup: &'a Group,
    /// The standard streams; ignored with a terminal.
    pub streams: StandardFds<'a>,
}

/// Makes the process, which sets itself up, reports, and waits to be released.
pub fn create(plan: &ContainerPlan, context: &CreateContext<'_>) -> Result<Spawned, Failure> {
    let join = context.cgroup.join().step(|| "open the container's cgroup".into())?;
    let null = open_null()?;
    let (ours, theirs) = channel()?;
    let flags = match plan.pid {
        PidMode::Container => CloneFlags::NEWNS | CloneFlags::NEWPID,
        PidMode::Pod | PidMode::Node => CloneFlags::NEWNS,
    };
    let args = Clone3 { flags, into_cgroup: join.unified(), sibling: false };
    let mut keep = vec![null.as_fd(), theirs.as_fd()];
    keep.extend(join.fds());
    keep.extend(context.namespaces.fds());
    keep.extend(context.streams.fds());
    let spawned = with_pid_namespace(context.pid.filter(|_| plan.pid == PidMode::Pod), || {
        clone3_keeping(&args, &keep, || match child(plan, context, &join, &theirs, null.as_fd()) {
            Ok(code) => code,
            Err(failure) => theirs.failed(failure),
        })
    })
    .step(|| "create the container's process".into())?;
    Ok(Spawned { pid: spawned.pid, pidfd: spawned.pidfd, channel: ours })
}

/// Runs `f` with the children of this process going into another PID namespace, and restores that afterwards.
pub(crate) fn with_pid_namespace<T>(
    pid: Option<BorrowedFd<'_>>,
    f: impl FnOnce() -> strata_sys::Result<T>,
) -> strata_sys::Result<T> {
    let Some(pid) = pid else { return f() };
    let own = ns::open_self(NsKind::Pid)?;
    ns::setns(pid, NsKind::Pid)?;
    let made = f();
    // Only if this fails too could the next child be born in the wrong place: its creation fails loudly instead,
    // since a namespace that cannot be entered again has no init left.
    ns::setns(&own, NsKind::Pid)?;
    made
}

/// /dev/null of the host, for streams that are not asked for.
pub(crate) fn open_null() -> Result<OwnedFd, Failure> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .call(|| "open(\"/dev/null\")".into())
        .step(|| "standard streams".into())
}

fn child(
    plan: &ContainerPlan,
    context: &CreateContext<'_>,
    join: &Join,
    channel: &ChildEnd,
    null: BorrowedFd<'_>,
) -> Result<i32, Failure> {
    let mut warnings = Vec::new();
    join.enter().step(|| "enter the container's cgroup".into())?;
    context.namespaces.join()?;
    if plan.cgroup_namespace {
        ns::unshare(&[NsKind::Cgroup]).step(|| "cgroup namespace".into())?;
    }
    strata_sys::process::reset_signals().step(|| "signals".into())?;
    let shared = mounts::open_shared(&plan.mounts)?;
    strata_sys::mount::set_propagation(std::path::Path::new("/"), strata_sys::mount::Propagation::Slave)
        .step(|| "mount namespace".into())?;

    // Nobody's umask may change the modes of what is made from here on.
    rustix::process::umask(Mode::empty());
    let root = rootfs::attach(&plan.rootfs)?;
    mounts::attach_all(&root, &plan.mounts, shared, context.cgroup)?;
    devices::make_all(&root, &plan.devices)?;
    let pty = match plan.stdio.tty {
        true => Some(devices::console(&root, plan.stdio.tty_size)?),
        false => None,
    };
    rootfs::make_working_directory(&root, &plan.process.cwd)?;
    rootfs::enter(&root, &plan.rootfs)?;

    let proc = identity::private_proc()?;
    protect::write_sysctls(&proc, &plan.sysctls)?;
    let inside = Root::open(std::path::Path::new("/")).step(|| "open the container's root".into())?;
    protect::make_readonly(&inside, &plan.readonly_paths)?;
    protect::mask(&inside, &plan.masked_paths)?;
    if plan.rootfs.readonly {
        rootfs::make_readonly(&root)?;
    }
    drop((inside, root));

    identity::before_barrier(&plan.process, &proc, &mut warnings)?;
    rustix::process::setsid().call(|| "setsid".into()).step(|| "session".into())?;
    match &pty {
        Some(pty) => program::take_terminal(pty, plan.process.uid)?,
        None => context.streams.install(null)?,
    }
    let master = pty.as_ref().map(|pty| pty.master.as_fd());
    channel.ready(warnings, master)?;
    drop(pty);
    if !channel.wait_for_release() {
        return Ok(1);
    }
    Err(program::run(&plan.process, &proc, channel.as_fd()))
}
