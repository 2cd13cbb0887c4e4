//! Another process in a running container.

use crate::child::{ChildEnd, Spawned, StandardFds, channel};
use crate::create::{open_null, with_pid_namespace};
use crate::userns::User;
use crate::{Step, identity, program};
use rustix::io::Errno;
use rustix::thread::ThreadNameSpaceType;
use std::os::fd::{AsFd, BorrowedFd};
use strata_cgroup::{Group, Join};
use strata_sys::CallExt;
use strata_sys::clone::{Clone3, CloneFlags, clone3_keeping};
use strata_sys::path::Root;
use strata_sys::tty;
use strata_wire::message::Failure;
use strata_wire::plan::{ExecPlan, Process};

/// What an exec is made with beside its plan.
#[derive(Clone, Copy, Debug)]
pub struct ExecContext<'a> {
    /// The container's init. A descriptor cannot mean another process that got the same ID.
    pub init: BorrowedFd<'a>,
    /// Its ID; it has not been reaped.
    pub init_pid: i32,
    /// The container's PID namespace.
    pub pid: BorrowedFd<'a>,
    /// The pod's user namespace, if it has one.
    pub user: Option<User<'a>>,
    /// The container's cgroup.
    pub cgroup: &'a Group,
    /// The exec's own child of it, which exists; `None`: it lives in the container's.
    pub child_cgroup: Option<&'a Group>,
    /// The standard streams; ignored with a terminal.
    pub streams: StandardFds<'a>,
}

/// The hierarchies in which an exec or a hook has a group of its own on v1: what a timeout kills by, and what counts processes.
pub const CHILD_CONTROLLERS: [&str; 2] = ["freezer", "pids"];

/// Makes the process, which sets itself up, reports, and runs its program at once.
pub fn exec(plan: &ExecPlan, context: &ExecContext<'_>) -> Result<Spawned, Failure> {
    let step = || "open the container's cgroup".to_owned();
    let base = context.cgroup.join().step(step)?;
    let own = match context.child_cgroup {
        Some(child) => Some(child.join_controllers(&CHILD_CONTROLLERS).step(step)?),
        None => None,
    };
    let null = open_null()?;
    let (ours, theirs) = channel()?;
    let mut keep = vec![null.as_fd(), theirs.as_fd(), context.init];
    keep.extend(base.fds().chain(own.iter().flat_map(Join::fds)));
    keep.extend(context.user.map(|user| user.namespace));
    keep.extend(context.streams.fds());
    let spawn = |unified: Option<BorrowedFd<'_>>| {
        let args = Clone3 { flags: CloneFlags::empty(), into_cgroup: unified, sibling: false };
        with_pid_namespace(Some(context.pid), || {
            clone3_keeping(&args, &keep, || {
                theirs.failed(child(plan, context, &base, own.as_ref(), &theirs, null.as_fd()))
            })
        })
    };
    let mut spawned = spawn(own.as_ref().and_then(Join::unified).or_else(|| base.unified()));
    if own.is_some() && takes_none(&spawned) {
        spawned = spawn(base.unified());
    }
    if takes_none(&spawned)
        && let Ok(Some(group)) = context.cgroup.hierarchy().unified_of(context.init_pid)
    {
        let beside = group.join_controllers(&[]).step(step)?;
        spawned = spawn(beside.unified());
    }
    let spawned = spawned.step(|| "create the process".into())?;
    Ok(Spawned { pid: spawned.pid, pidfd: spawned.pidfd, channel: ours })
}

/// Whether no process can be born in a group of cgroup v2, for what the container has made of its own: below one with threaded
/// groups a new one takes none (`EOPNOTSUPP`), nor does one whose children have controllers (`EBUSY`; cgroup-v2.rst, "Threads",
/// "No Internal Process Constraint"). Its init's own group took a process.
fn takes_none<T>(spawned: &strata_sys::Result<T>) -> bool {
    spawned.as_ref().is_err_and(|e| matches!(e.errno, Errno::OPNOTSUPP | Errno::BUSY))
}

/// Returns only what failed.
fn child(
    plan: &ExecPlan,
    context: &ExecContext<'_>,
    base: &Join,
    own: Option<&Join>,
    channel: &ChildEnd,
    null: BorrowedFd<'_>,
) -> Failure {
    match set_up(plan, context, base, own, channel, null) {
        Ok(proc) => program::run(&plan.process, &proc, channel.as_fd()),
        Err(failure) => failure,
    }
}

fn set_up(
    plan: &ExecPlan,
    context: &ExecContext<'_>,
    base: &Join,
    own: Option<&Join>,
    channel: &ChildEnd,
    null: BorrowedFd<'_>,
) -> Result<Root, Failure> {
    let (proc, warnings) = join(&plan.process, context, (base, own))?;
    let pty = match plan.tty {
        false => {
            context.streams.install(null)?;
            None
        }
        true => {
            let step = || "open a terminal".to_owned();
            let pty = tty::open(&Root::open(std::path::Path::new("/")).step(step)?).step(step)?;
            if let Some((rows, cols)) = plan.tty_size {
                tty::set_size(&pty.master, rows, cols).step(step)?;
            }
            program::take_terminal(&pty, plan.process.uid)?;
            Some(pty)
        }
    };
    channel.ready(warnings, pty.as_ref().map(|pty| pty.master.as_fd()))?;
    Ok(proc)
}

/// Moves the calling process, which is new, into the container: its cgroups, its namespaces, a session of its own. Gives a private
/// proc, and what the node could not give.
pub(crate) fn join(
    process: &Process,
    context: &ExecContext<'_>,
    (base, own): (&Join, Option<&Join>),
) -> Result<(Root, Vec<String>), Failure> {
    let mut warnings = Vec::new();
    base.enter().step(|| "enter the container's cgroup".into())?;
    if let Some(own) = own {
        own.enter().step(|| "enter the exec's cgroup".into())?;
    }
    strata_sys::process::reset_signals().step(|| "signals".into())?;
    let proc = identity::private_proc()?;
    if let Some(user) = &context.user {
        identity::set_oom_score_adj(&proc, process.oom_score_adj.unwrap_or(0), &mut warnings)?;
        identity::raise_rlimits(&process.rlimits);
        user.own_streams(context.streams.fds(), process.uid)?;
    }
    // All at once, by the init's descriptor; the mount namespace brings the container's root with it.
    let all = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::CONTROL_GROUP
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::NETWORK;
    rustix::thread::move_into_thread_name_spaces(context.init, all)
        .call(|| format!("setns(pidfd, {all:?})"))
        .step(|| "join the container's namespaces".into())?;
    if let Some(user) = &context.user {
        // After the others, which are entered with the host's rights; it takes those away.
        let namespace = user.namespace.try_clone_to_owned().call(|| "dup".into());
        let step = || "join the pod's user namespace".to_owned();
        strata_sys::userns::become_root_in(&namespace.step(step)?).step(step)?;
        identity::in_user_namespace(process, &proc, &mut warnings)?;
    } else {
        identity::before_barrier(process, &proc, &mut warnings)?;
    }
    rustix::process::setsid().call(|| "setsid".into()).step(|| "session".into())?;
    Ok((proc, warnings))
}
