//! Who the program runs as and what it may do.

use crate::{Step, failure};
use nix::unistd::{Gid, Uid};
use rustix::fs::OFlags;
use rustix::io::Errno;
use strata_sys::CallExt;
use strata_sys::mount::{Attrs, FsContext};
use strata_sys::path::Root;
use strata_sys::{caps, keyring, process, seccomp};
use strata_wire::message::{Failure, FailureKind};
use strata_wire::plan::Process;

/// A proc of this PID namespace that is mounted nowhere: what is written below it goes to the kernel and nowhere else.
pub(crate) fn private_proc() -> Result<Root, Failure> {
    let step = || "open a private proc".to_owned();
    FsContext::new("proc").step(step)?.mount(Attrs::INERT).step(step).map(Root::from_fd)
}

/// What needs the host's rights and does not depend on the barrier: oom_score_adj, limits, keyring.
pub(crate) fn before_barrier(plan: &Process, proc: &Root, warnings: &mut Vec<String>) -> Result<(), Failure> {
    // The shim's own must not be inherited: it is among the last that the kernel would kill.
    set_oom_score_adj(proc, plan.oom_score_adj.unwrap_or(0), warnings)?;
    in_user_namespace(plan, proc, warnings)
}

/// [`before_barrier`] where oom_score_adj and higher limits have been set before a user namespace was joined.
pub(crate) fn in_user_namespace(
    plan: &Process,
    proc: &Root,
    warnings: &mut Vec<String>,
) -> Result<(), Failure> {
    set_rlimits(&plan.rlimits, warnings)?;
    if let Some(label) = &plan.selinux {
        // The program could not use one that has the shim's.
        write_attr(proc, "self/attr/keycreate", label, "SELinux label of keys")?;
    }
    match keyring::new_session() {
        // A kernel without keyrings has none to keep apart.
        Err(e) if e.errno == Errno::NOSYS => Ok(()),
        other => other.step(|| "session keyring".into()),
    }
}

/// Without CAP_SYS_RESOURCE the value cannot go below the one that was inherited: Kubernetes goes on, and so does this.
pub(crate) fn set_oom_score_adj(proc: &Root, adj: i32, warnings: &mut Vec<String>) -> Result<(), Failure> {
    let step = || format!("set oom_score_adj to {adj}");
    let file = proc.resolve("self/oom_score_adj", OFlags::WRONLY).step(step)?;
    match rustix::io::write(&file, adj.to_string().as_bytes()) {
        Ok(_) => Ok(()),
        Err(Errno::ACCESS | Errno::PERM) => {
            warnings.push(format!(
                "oom_score_adj {adj} is lower than this node allows without CAP_SYS_RESOURCE; the inherited one stays"
            ));
            Ok(())
        }
        Err(e) => Err(e).call(|| format!("write(oom_score_adj, {adj})")).step(step),
    }
}

/// Raises hard limits as far as the node allows: in a user namespace nobody may, but everybody may lower them.
pub(crate) fn raise_rlimits(limits: &[(String, u64, u64)]) {
    use nix::sys::resource::{getrlimit, setrlimit};
    for (name, _, hard) in limits {
        let Some(resource) = resource(name) else { continue };
        if let Ok((soft, highest)) = getrlimit(resource)
            && *hard > highest
        {
            // What is not allowed is found out, and told, when the limits are set.
            let _ = setrlimit(resource, soft, *hard);
        }
    }
}

fn set_rlimits(limits: &[(String, u64, u64)], warnings: &mut Vec<String>) -> Result<(), Failure> {
    use nix::sys::resource::{getrlimit, setrlimit};
    for (name, soft, hard) in limits {
        let step = || format!("set {name} to {soft}:{hard}");
        let Some(resource) = resource(name) else {
            return Err(failure(FailureKind::Invalid, step(), "there is no such limit"));
        };
        match setrlimit(resource, *soft, *hard) {
            Ok(()) => {}
            Err(nix::errno::Errno::EPERM) => {
                let (_, highest) = getrlimit(resource).call(|| format!("getrlimit({name})")).step(step)?;
                let hard = (*hard).min(highest);
                let soft = (*soft).min(hard);
                setrlimit(resource, soft, hard)
                    .call(|| format!("setrlimit({name}, {soft}:{hard})"))
                    .step(step)?;
                warnings.push(format!("{name} is limited to {hard}: this node may not raise it"));
            }
            Err(e) => return Err(e).call(|| format!("setrlimit({name})")).step(step),
        }
    }
    Ok(())
}

fn resource(name: &str) -> Option<nix::sys::resource::Resource> {
    use nix::sys::resource::Resource as R;
    Some(match name.strip_prefix("RLIMIT_")? {
        "AS" => R::RLIMIT_AS,
        "CORE" => R::RLIMIT_CORE,
        "CPU" => R::RLIMIT_CPU,
        "DATA" => R::RLIMIT_DATA,
        "FSIZE" => R::RLIMIT_FSIZE,
        "LOCKS" => R::RLIMIT_LOCKS,
        "MEMLOCK" => R::RLIMIT_MEMLOCK,
        "MSGQUEUE" => R::RLIMIT_MSGQUEUE,
        "NICE" => R::RLIMIT_NICE,
        "NOFILE" => R::RLIMIT_NOFILE,
        "NPROC" => R::RLIMIT_NPROC,
        "RSS" => R::RLIMIT_RSS,
        "RTPRIO" => R::RLIMIT_RTPRIO,
        "RTTIME" => R::RLIMIT_RTTIME,
        "SIGPENDING" => R::RLIMIT_SIGPENDING,
        "STACK" => R::RLIMIT_STACK,
        _ => return None,
    })
}

/// The last steps before execve(2), in the order in which each still has the rights it needs: labels, no_new_privs,
/// a seccomp filter that needs CAP_SYS_ADMIN, user and groups, capabilities, a filter that does not.
pub(crate) fn assume(plan: &Process, proc: &Root) -> Result<(), Failure> {
    set_labels(plan, proc)?;
    limit(plan)
}

/// [`assume`] without labels.
pub(crate) fn limit(plan: &Process) -> Result<(), Failure> {
    if plan.no_new_privs {
        process::set_no_new_privs().step(|| "no_new_privs".into())?;
    } else {
        load_filter(plan)?;
    }
    let wanted = plan.caps;
    // The bounding set can be limited only while CAP_SETPCAP is held.
    caps::limit_bounding(wanted.bounding).step(|| "capability bounding set".into())?;
    caps::keep_over_setuid(true).step(|| "keep capabilities".into())?;
    let groups: Vec<Gid> = plan.groups.iter().copied().map(Gid::from_raw).collect();
    nix::unistd::setgroups(&groups)
        .call(|| format!("setgroups({:?})", plan.groups))
        .step(|| "groups".into())?;
    let gid = Gid::from_raw(plan.gid);
    nix::unistd::setresgid(gid, gid, gid).call(|| format!("setresgid({gid})")).step(|| "group".into())?;
    let uid = Uid::from_raw(plan.uid);
    nix::unistd::setresuid(uid, uid, uid).call(|| format!("setresuid({uid})")).step(|| "user".into())?;
    caps::keep_over_setuid(false).step(|| "keep capabilities".into())?;
    caps::set(wanted.effective, wanted.permitted, wanted.inheritable).step(|| "capabilities".into())?;
    caps::set_ambient(wanted.ambient).step(|| "ambient capabilities".into())?;
    if plan.no_new_privs {
        load_filter(plan)?;
    }
    Ok(())
}

fn load_filter(plan: &Process) -> Result<(), Failure> {
    let Some(filter) = &plan.seccomp else { return Ok(()) };
    let step = "seccomp";
    let bytes = filter.instructions().map_err(|e| failure(FailureKind::Invalid, step, e))?;
    seccomp::load(&bytes, filter.flags).step(|| step.into())
}

/// Labels that take effect with execve(2).
fn set_labels(plan: &Process, proc: &Root) -> Result<(), Failure> {
    if let Some(profile) = &plan.apparmor {
        let text = format!("exec {profile}");
        let modern = "self/attr/apparmor/exec";
        let path = if proc.exists(modern).unwrap_or(false) { modern } else { "self/attr/exec" };
        write_attr(proc, path, &text, "AppArmor profile")?;
    }
    match &plan.selinux {
        Some(label) => write_attr(proc, "self/attr/exec", label, "SELinux label"),
        None => Ok(()),
    }
}

/// Writes a security attribute of the calling process (proc_pid_attr(5)).
fn write_attr(proc: &Root, path: &str, text: &str, what: &str) -> Result<(), Failure> {
    let step = || format!("{what} {text:?}; does this kernel have it enabled?");
    let file = proc.resolve(path, OFlags::WRONLY).step(step)?;
    rustix::io::write(&file, text.as_bytes()).call(|| format!("write({path:?})")).step(step).map(drop)
}
