//! A container in its pod's user namespace, in two stages.
//!
//! ```text
//!  shim          first stage: the host's root                     second stage: the pod's root
//!   │ ─ clone3 ─▶ │ cgroups, namespaces; detached: overlay over      │
//!   │             │ ID-mapped layers, binds, device nodes, sysfs     │
//!   │             │ join the user namespace ── clone3(NEWPID|NEWNS,  │
//!   │ ◀─ Moved ── │ PARENT) ───────────────────────────────────────▶ │ mounts, pivot_root, … as everywhere
//!   │             exits                                              │
//!   │ ◀──────────────────────────────────────────────────── Ready ── │
//! ```
//!
//! The namespaces of the second stage belong to the user namespace, or proc and tmpfs could not be mounted in them; and its root
//! may open nothing of the host's, so that everything which has a path there is opened in the first.

use crate::create::{CreateContext, Finish};
use crate::mounts::Sources;
use crate::{Step, failure, identity, rootfs};
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid};
use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use strata_sys::CallExt;
use strata_sys::clone::{Clone3, CloneFlags, clone3};
use strata_sys::mount::{self, Attrs, FsContext};
use strata_sys::ns::{self, NsKind};
use strata_sys::path::Root;
use strata_sys::userns::{self, Range};
use strata_wire::message::{Failure, FailureKind};
use strata_wire::plan::{ContainerPlan, Device, IdMap, IdRange, Mount, PidMode};

/// The pod's user namespace.
#[derive(Clone, Copy, Debug)]
pub struct User<'a> {
    /// The namespace.
    pub namespace: BorrowedFd<'a>,
    /// What it maps.
    pub ids: IdMap,
}

impl User<'_> {
    fn owner(&self, uid: u32, gid: u32) -> Result<(Uid, Gid), Failure> {
        match (self.ids.uids.to_host(uid), self.ids.gids.to_host(gid)) {
            (Some(uid), Some(gid)) => Ok((Uid::from_raw(uid), Gid::from_raw(gid))),
            _ => Err(failure(
                FailureKind::Invalid,
                "user namespace",
                format!("user {uid} or group {gid} is not mapped in the pod's user namespace"),
            )),
        }
    }

    /// Gives the container's user its pipes while there are the rights to.
    pub(crate) fn own_streams<'f>(
        &self,
        streams: impl Iterator<Item = BorrowedFd<'f>>,
        uid: u32,
    ) -> Result<(), Failure> {
        let step = || "owner of the standard streams".to_owned();
        let (uid, _) = self.owner(uid, self.ids.gids.inside)?;
        for fd in streams {
            let stat = rustix::fs::fstat(fd).call(|| "fstat".into()).step(step)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo {
                rustix::fs::fchown(fd, Some(uid), None).call(|| format!("fchown({uid})")).step(step)?;
            }
        }
        Ok(())
    }
}

fn range(r: IdRange) -> Range {
    Range { inside: r.inside, outside: r.outside, length: r.length }
}

/// The user namespaces through whose maps mounts are shown, for each mount that asks for one. They need a process of their own
/// for a moment, which must not be born in the container's namespaces.
pub(crate) fn maps(mounts: &[Mount], user: Option<&User<'_>>) -> Result<Vec<Option<OwnedFd>>, Failure> {
    let open = |m: &Mount| {
        let Some(ids) = m.attrs.ids else { return Ok(None) };
        let step = || format!("ID mapping of the mount on {}", m.target);
        if let Some(user) = user.filter(|u| u.ids == ids) {
            return user.namespace.try_clone_to_owned().call(|| "dup".into()).step(step).map(Some);
        }
        userns::hold(&[range(ids.uids)], &[range(ids.gids)], CloneFlags::empty())
            .and_then(|holder| holder.open(NsKind::User))
            .step(step)
            .map(Some)
    };
    mounts.iter().map(open).collect()
}

/// Shows a detached mount's files by a map, and with `recursive` those of all mounts below it: they would be nobody's
/// otherwise.
pub(crate) fn idmap(tree: &OwnedFd, map: impl AsFd, what: &str, recursive: bool) -> Result<(), Failure> {
    let step = || format!("map the IDs of {what}");
    mount::idmap(tree, &map, recursive).step(step).map_err(|failure| {
        use rustix::io::Errno;
        let refused = [Errno::INVAL, Errno::PERM].map(|errno| Some(errno.raw_os_error()));
        // Nothing has changed yet: the top alone tells whose fault it is.
        if recursive && refused.contains(&failure.errno) && mount::idmap(tree, &map, false).is_ok() {
            let message = "a file system that is mounted below it cannot show files with other owners, as a pod with a user namespace \
                           needs; unmount that, mount what is needed of the volume by itself, or run the pod with hostUsers: true";
            return Failure { kind: FailureKind::WrongState, message: message.into(), ..failure };
        }
        if failure.errno != refused[0] {
            return failure;
        }
        let kind = rustix::fs::fstatfs(tree).map_or(0, |s| s.f_type);
        let message = format!(
            "its file system (type {kind:#x}) cannot show files with other owners, as a pod with a user namespace needs; put it on \
             another one (ext4, xfs, btrfs, tmpfs), or run the pod with hostUsers: true"
        );
        Failure { kind: FailureKind::WrongState, message, ..failure }
    })
}

/// What is made for a container in the first stage, in a mount namespace that goes with it: a tmpfs that hides nothing, since
/// it is attached over the root, which nobody looks up again.
///
/// Copies of detached mounts, and overlays over them, are refused before Linux 6.15: what is copied or stacked here is attached.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    top: Root,
    user: User<'a>,
    next: Cell<u32>,
}

impl<'a> Bench<'a> {
    /// The label is that of device nodes.
    fn new(user: User<'a>, label: Option<&str>) -> Result<Self, Failure> {
        let step = || "place for the container's mounts".to_owned();
        let fs = FsContext::new("tmpfs").step(step)?;
        fs.set_string("mode", "700").step(step)?;
        fs.set_label(label).step(step)?;
        let top = fs.mount(Attrs { nosuid: true, noexec: true, ..Attrs::default() }).step(step)?;
        mount::attach(&top, Root::open(Path::new("/")).step(step)?).step(step)?;
        Ok(Self { top: Root::from_fd(top), user, next: Cell::new(0) })
    }

    /// Takes it away with what is attached there; overlays and copies keep what they are made of. The second stage would find it
    /// locked, in the way of getting rid of the old root.
    fn put_away(self) -> Result<(), Failure> {
        mount::unmount("/").step(|| "place for the container's mounts".into())
    }

    fn name(&self) -> String {
        self.next.set(self.next.get() + 1);
        self.next.get().to_string()
    }

    /// Layers as the container's users shall see them.
    pub(crate) fn layers(&self, paths: &[String]) -> Result<Vec<OwnedFd>, Failure> {
        let layer = |path: &String| {
            let step = || format!("layer {path}");
            let tree = mount::clone_tree(CWD, path.as_str(), false).step(step)?;
            idmap(&tree, self.user.namespace, path, false)?;
            let at = self.top.mkdir_all(self.name(), 0o700).step(step)?;
            mount::attach(&tree, &at).step(step)?;
            Ok(tree)
        };
        paths.iter().map(layer).collect()
    }

    /// A device node, as a mount: nobody can make one in the user namespace, nor use one on a file system of it.
    fn node(&self, device: &Device) -> Result<OwnedFd, Failure> {
        let step = || format!("make the device {}", device.path);
        let kind = crate::devices::kind(device)?;
        let (uid, gid) = self.user.owner(device.uid, device.gid)?;
        let number = rustix::fs::makedev(device.major, device.minor);
        let name = self.name();
        rustix::fs::mknodat(&self.top, &name, kind, Mode::from_raw_mode(device.mode & 0o7777), number)
            .call(|| format!("mknodat({:?})", device.path))
            .step(step)?;
        let node = self.top.resolve(&name, OFlags::PATH).step(step)?;
        rustix::fs::chownat(&self.top, &name, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .call(|| format!("fchownat({:?})", device.path))
            .step(step)?;
        mount::clone_tree(&node, c"", false).step(step)
    }
}

/// The first stage, in cgroups, namespaces and a mount namespace of its own already: everything that takes the host's rights,
/// and then the second stage.
pub(crate) fn first_stage(
    finish: &Finish<'_>,
    user: &User<'_>,
    mut sources: Sources<'_>,
) -> Result<i32, Failure> {
    let (plan, context) = (finish.plan, finish.context);
    let mut warnings = Vec::new();
    let proc = identity::private_proc()?;
    identity::set_oom_score_adj(&proc, plan.process.oom_score_adj.unwrap_or(0), &mut warnings)?;
    identity::raise_rlimits(&plan.process.rlimits);
    user.own_streams(context.streams.fds(), plan.process.uid)?;
    let label = plan.mount_label.as_deref();
    let bench = Bench::new(*user, label)?;
    let layers = bench.layers(&plan.rootfs.lowers)?;
    let merged = rootfs::mount_over(&plan.rootfs, label, &layers)?;
    sources.open_all(&plan.mounts, &bench)?;
    let nodes = plan.devices.iter().map(|d| bench.node(d)).collect::<Result<Vec<_>, _>>()?;
    bench.put_away()?;
    enter_and_fork(finish, user, (merged, sources, nodes, warnings))
}

/// What the second stage gets.
type Made<'a> = (OwnedFd, Sources<'a>, Vec<OwnedFd>, Vec<String>);

fn enter_and_fork(finish: &Finish<'_>, user: &User<'_>, made: Made<'_>) -> Result<i32, Failure> {
    let step = || "create the container's process in its user namespace".to_owned();
    let flags = pid_flags(finish.plan, finish.context)?;
    let namespace = user.namespace.try_clone_to_owned().call(|| "dup".into()).step(step)?;
    userns::become_root_in(&namespace).step(|| "join the pod's user namespace".into())?;
    let (told, tell) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).call(|| "pipe2".into()).step(step)?;
    let tell = RefCell::new(Some(tell));
    let args = Clone3 { flags, into_cgroup: None, sibling: true };
    let child = clone3(&args, || {
        // Its own copy: the first stage's end must be the end of the pipe.
        drop(tell.borrow_mut().take());
        // The shim must know the process before it hears of it.
        if !matches!(rustix::io::read(&told, &mut [0]), Ok(1)) {
            return 1;
        }
        let (merged, sources, nodes, warnings) = made;
        match second_stage(finish, merged, sources, nodes, warnings) {
            Ok(code) => code,
            Err(failure) => finish.channel.failed(failure),
        }
    })
    .step(step)?;
    finish.channel.moved(child.pid, child.pidfd.as_fd())?;
    if let Some(tell) = tell.borrow().as_ref() {
        rustix::io::write(tell, &[1]).call(|| "write(pipe)".into()).step(step)?;
    }
    Ok(0)
}

fn pid_flags(plan: &ContainerPlan, context: &CreateContext<'_>) -> Result<CloneFlags, Failure> {
    match (plan.pid, context.pid) {
        (PidMode::Container, _) => Ok(CloneFlags::NEWNS | CloneFlags::NEWPID),
        (PidMode::Pod | PidMode::Target, Some(pid)) => {
            ns::setns(pid, NsKind::Pid).step(|| "join the PID namespace".into())?;
            Ok(CloneFlags::NEWNS)
        }
        _ => Err(failure(
            FailureKind::Invalid,
            "PID namespace",
            "a pod with a user namespace cannot use the node's PID namespace",
        )),
    }
}

fn second_stage(
    finish: &Finish<'_>,
    merged: OwnedFd,
    sources: Sources<'_>,
    nodes: Vec<OwnedFd>,
    warnings: Vec<String>,
) -> Result<i32, Failure> {
    let proc = identity::private_proc().map_err(of_covered)?;
    // Any directory that everybody may look up will do: it goes with the old root. Hooks are told of theirs.
    let at = finish.plan.hooks.as_ref().map_or("/proc", |hooks| &hooks.root);
    let root = rootfs::place(merged, Path::new(at))?;
    finish.run(root, sources, Some(nodes), &proc, warnings)
}

/// A user namespace is given a proc only where a whole one is to be seen already (mount_namespaces(7)).
fn of_covered(failure: Failure) -> Failure {
    if failure.errno != Some(rustix::io::Errno::PERM.raw_os_error()) {
        return failure;
    }
    let message = "other mounts cover parts of the node's /proc, as lxcfs and nested containers have it, and then the kernel lets no user \
                   namespace have one of its own; mount a whole one anywhere on the node (mkdir /run/proc && mount -t proc proc \
                   /run/proc), or run the pod with hostUsers: true";
    Failure { kind: FailureKind::WrongState, message: message.into(), ..failure }
}
