//! A container's init, up to the barrier before its program.

use crate::child::{ChildEnd, Spawned, StandardFds, channel};
use crate::mounts::Sources;
use crate::userns::{self, User};
use crate::{Step, devices, identity, mounts, program, protect, rootfs};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
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
    /// User, which owns the others; not joined with them.
    pub user: Option<OwnedFd>,
}

impl Namespaces {
    fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.net, &self.ipc, &self.uts, &self.user].into_iter().flatten().map(AsFd::as_fd)
    }

    /// Moves the calling process into them, but for the user namespace.
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
    /// The PID namespace to join, for [`PidMode::Pod`] and [`PidMode::Target`].
    pub pid: Option<BorrowedFd<'a>>,
    /// The pod's user namespace, if it has one.
    pub user: Option<User<'a>>,
    /// The container's cgroup, which exists.
    pub cgroup: &'a Group,
    /// The standard streams; ignored with a terminal.
    pub streams: StandardFds<'a>,
}

/// Makes the process, which sets itself up, reports, and waits to be released.
///
/// In a user namespace it is only the first stage, which reports the process that goes on ([`Report::Moved`]).
///
/// [`Report::Moved`]: crate::Report::Moved
pub fn create(plan: &ContainerPlan, context: &CreateContext<'_>) -> Result<Spawned, Failure> {
    let join = context.cgroup.join().step(|| "open the container's cgroup".into())?;
    let maps = userns::maps(&plan.mounts, context.user.as_ref())?;
    let null = open_null()?;
    let (ours, theirs) = channel()?;
    let flags = match plan.pid {
        PidMode::Container if context.user.is_none() => CloneFlags::NEWNS | CloneFlags::NEWPID,
        _ => CloneFlags::NEWNS,
    };
    let args = Clone3 { flags, into_cgroup: join.unified(), sibling: false };
    let mut keep = vec![null.as_fd(), theirs.as_fd()];
    keep.extend(join.fds());
    keep.extend(context.namespaces.fds());
    keep.extend(context.pid);
    keep.extend(maps.iter().flatten().map(AsFd::as_fd));
    keep.extend(context.streams.fds());
    let joins = matches!(plan.pid, PidMode::Pod | PidMode::Target) && context.user.is_none();
    let finish = Finish { plan, context, channel: &theirs, null: null.as_fd() };
    let spawned = with_pid_namespace(context.pid.filter(|_| joins), || {
        clone3_keeping(&args, &keep, || match child(&finish, &join, &maps) {
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

fn child(finish: &Finish<'_>, join: &Join, maps: &[Option<OwnedFd>]) -> Result<i32, Failure> {
    let Finish { plan, context, .. } = *finish;
    join.enter().step(|| "enter the container's cgroup".into())?;
    context.namespaces.join()?;
    strata_sys::process::reset_signals().step(|| "signals".into())?;
    let sources = Sources::shared(plan, maps)?;
    strata_sys::mount::set_propagation(Path::new("/"), strata_sys::mount::Propagation::Slave)
        .step(|| "mount namespace".into())?;

    // Nobody's umask may change the modes of what is made from here on.
    rustix::process::umask(Mode::empty());
    if let Some(user) = &context.user {
        return userns::first_stage(finish, user, sources);
    }
    let proc = identity::private_proc()?;
    finish.run(
        rootfs::attach(&plan.rootfs, plan.mount_label.as_deref(), finish.place())?,
        sources,
        None,
        &proc,
        Vec::new(),
    )
}

/// From a root file system that is attached in a mount namespace of the container's own to its program.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    pub(crate) plan: &'a ContainerPlan,
    pub(crate) context: &'a CreateContext<'a>,
    pub(crate) channel: &'a ChildEnd,
    pub(crate) null: BorrowedFd<'a>,
}

impl Finish<'_> {
    /// Where the root file system is attached until it is entered.
    ///
    /// Over its own upper directory, which no bind mount may name, where nobody has to find it.
    fn place(&self) -> &Path {
        let hooks = self.plan.hooks.as_ref().map(|hooks| &hooks.root);
        Path::new(hooks.unwrap_or(&self.plan.rootfs.upper))
    }

    /// Returns only if it fails, or if nobody lets the program run. `nodes` are the devices, in a user namespace.
    pub(crate) fn run(
        &self,
        root: Root,
        sources: Sources<'_>,
        nodes: Option<Vec<OwnedFd>>,
        proc: &Root,
        mut warnings: Vec<String>,
    ) -> Result<i32, Failure> {
        let Self { plan, context, channel, null } = *self;
        if plan.cgroup_namespace {
            ns::unshare(&[NsKind::Cgroup]).step(|| "cgroup namespace".into())?;
        }
        let cgroup = (context.cgroup, plan.cgroup_namespace);
        mounts::attach_all(&root, &plan.mounts, sources, cgroup)?;
        devices::make_all(&root, &plan.devices, nodes.as_deref())?;
        let pty = match plan.stdio.tty {
            true => Some(devices::console(&root, plan.stdio.tty_size)?),
            false => None,
        };
        rootfs::make_working_directory(&root, &plan.process.cwd)?;
        if plan.hooks.is_some() {
            channel.mounted()?;
            if !channel.wait_for_release() {
                return Ok(1);
            }
        }
        rootfs::enter(&root, &plan.rootfs)?;

        protect::write_sysctls(proc, &plan.sysctls)?;
        let inside = Root::open(Path::new("/")).step(|| "open the container's root".into())?;
        protect::make_readonly(&inside, &plan.readonly_paths)?;
        protect::mask(&inside, &plan.masked_paths, plan.mount_label.as_deref())?;
        if plan.rootfs.readonly {
            rootfs::make_readonly(&root)?;
        }
        drop((inside, root, nodes));

        match context.user {
            Some(_) => identity::in_user_namespace(&plan.process, proc, &mut warnings)?,
            None => identity::before_barrier(&plan.process, proc, &mut warnings)?,
        }
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
        Err(program::run(&plan.process, proc, channel.as_fd()))
    }
}
