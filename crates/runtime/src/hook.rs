//! Hooks of the container's namespaces (`strata_wire::hooks`): programs of the node's before `pivot_root`, with the node's file system
//! in sight, and programs of the container's own before its program.
//!
//! A hook before `pivot_root` has all of the host's rights, or those of the root of the pod's user namespace: it is a child of the caller
//! in the caller's PID namespace, where no container sees it and none can trace it, since others may share the container's. One
//! in the container has the rights of the container's program, no more. Both count as the container's: they are born in its cgroup.

use crate::create::with_pid_namespace;
use crate::exec::{self, CHILD_CONTROLLERS, ExecContext};
use crate::{Step, failure, program};
use rustix::fs::Mode;
use std::os::fd::{AsFd, BorrowedFd};
use strata_cgroup::Join;
use strata_sys::CallExt;
use strata_sys::clone::{Child, Clone3, CloneFlags, clone3_keeping};
use strata_wire::hooks::Hook;
use strata_wire::message::{Failure, FailureKind};
use strata_wire::plan::Process;

/// Where a hook runs.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// In the container's namespaces but the PID namespace, before `pivot_root`.
    Outside {
        /// Its working directory.
        bundle: &'a str,
        /// oom_score_adj (proc_pid_oom_score_adj(5)).
        oom_score_adj: Option<i32>,
    },
    /// In the container, as its program would be.
    Inside(&'a Process),
}

/// Makes the hook's process. What keeps it from running is written where its output goes, and it exits.
///
/// # Errors
/// If there can be no process.
pub fn hook(hook: &Hook, place: Place<'_>, context: &ExecContext<'_>) -> Result<Child, Failure> {
    let step = || format!("the {hook}");
    let process = match place {
        Place::Outside { oom_score_adj, .. } => Process { oom_score_adj, ..Process::default() },
        Place::Inside(process) => process.clone(),
    };
    let process = Process { args: hook.argv().to_vec(), env: hook.env.clone(), ..process };
    let base = context.cgroup.join().step(step)?;
    let own = context.child_cgroup.map(|child| child.join_controllers(&CHILD_CONTROLLERS).step(step));
    let own = own.transpose()?;
    let mut keep = vec![context.init];
    keep.extend(base.fds().chain(own.iter().flat_map(Join::fds)));
    keep.extend(context.user.map(|user| user.namespace));
    keep.extend(context.streams.fds());
    let args = Clone3 {
        flags: CloneFlags::empty(),
        into_cgroup: own.as_ref().and_then(Join::unified).or_else(|| base.unified()),
        sibling: false,
    };
    let pid = matches!(place, Place::Inside(_)).then_some(context.pid);
    with_pid_namespace(pid, || {
        clone3_keeping(&args, &keep, || {
            let Some(said) = context.streams.stderr else { return 1 };
            let failed = match run(hook, place, &process, context, (&base, own.as_ref())) {
                Ok(never) => match never {},
                Err(failure) => failure,
            };
            tell(said, &failed);
            crate::exit_code(failed.kind)
        })
    })
    .step(step)
}

enum Never {}

/// Returns only what failed.
fn run(
    hook: &Hook,
    place: Place<'_>,
    process: &Process,
    context: &ExecContext<'_>,
    groups: (&Join, Option<&Join>),
) -> Result<Never, Failure> {
    let (proc, _) = exec::join(process, context, groups)?;
    let spare =
        context.streams.stdin.ok_or_else(|| failure(FailureKind::Internal, "state", "there is none"))?;
    context.streams.install(spare)?;
    match place {
        Place::Inside(_) => Err(program::run_file(&hook.path, process, &proc, spare)),
        Place::Outside { bundle, .. } => {
            rustix::process::chdir(bundle)
                .call(|| format!("chdir({bundle:?})"))
                .step(|| "enter the bundle".into())?;
            rustix::process::umask(Mode::from_raw_mode(0o022));
            strata_sys::process::close_fds_except(&[]).step(|| "close descriptors".into())?;
            Err(program::become_file(&hook.path, process))
        }
    }
}

/// If nobody listens, nobody needs it.
fn tell(said: BorrowedFd<'_>, failed: &Failure) {
    let _ = rustix::io::write(said.as_fd(), failed.to_string().as_bytes());
}
