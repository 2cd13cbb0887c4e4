//! A pod's namespaces: made on a thread of their own, pinned by bind mounts, left.

use super::sysctl::Sysctls;
use super::userns;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use strata_sys::clone::CloneFlags;
use strata_sys::ns::{self, NsKind};
use strata_wire::plan::{IdMap, PodNamespaces};

/// What a pod gets of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// A network namespace, pinned here.
    pub(crate) net: Option<PathBuf>,
    /// An IPC namespace.
    pub(crate) ipc: Option<PathBuf>,
    /// A UTS namespace, with this host name.
    pub(crate) uts: Option<(PathBuf, String)>,
    /// A user namespace with this map, which owns the others.
    pub(crate) user: Option<(PathBuf, IdMap)>,
    /// Set in the new namespaces.
    pub(crate) sysctls: Sysctls,
}

impl Wanted {
    fn pins(&self) -> Vec<(NsKind, &Path)> {
        let net = self.net.as_deref().map(|p| (NsKind::Net, p));
        let ipc = self.ipc.as_deref().map(|p| (NsKind::Ipc, p));
        let uts = self.uts.as_ref().map(|(p, _)| (NsKind::Uts, p.as_path()));
        let user = self.user.as_ref().map(|(p, _)| (NsKind::User, p.as_path()));
        [net, ipc, uts, user].into_iter().flatten().collect()
    }

    /// The paths, as a shim and the record want them.
    pub(crate) fn paths(&self) -> PodNamespaces {
        let text = |p: &Path| p.to_string_lossy().into_owned();
        PodNamespaces {
            net: self.net.as_deref().map(text),
            ipc: self.ipc.as_deref().map(text),
            uts: self.uts.as_ref().map(|(p, _)| text(p)),
            user: self.user.as_ref().map(|(p, _)| text(p)),
        }
    }
}

/// Makes and pins them. On failure none is left.
pub(crate) fn make(wanted: &Wanted) -> Result<()> {
    let made = std::thread::scope(|scope| {
        // unshare(2) and setns(2) change the calling thread only, which ends here.
        scope.spawn(|| make_here(wanted)).join().unwrap_or_else(|_| Err(Error::internal("a thread panicked")))
    });
    if made.is_err() {
        release(&wanted.paths());
    }
    made
}

fn make_here(wanted: &Wanted) -> Result<()> {
    let fail = |e: strata_sys::Error| Error::internal(format!("the pod's namespaces: {e}"));
    let pins = wanted.pins();
    if pins.is_empty() {
        return Ok(());
    }
    if let Some((_, ids)) = &wanted.user {
        hold(&pins, *ids)?;
    } else {
        let kinds: Vec<NsKind> = pins.iter().map(|(kind, _)| *kind).collect();
        ns::unshare(&kinds).map_err(fail)?;
        pins.iter().try_for_each(|(kind, path)| ns::pin(*kind, path).map_err(fail))?;
    }
    if let Some((_, hostname)) = &wanted.uts {
        rustix::system::sethostname(hostname.as_bytes())
            .map_err(|e| Error::internal(format!("sethostname({hostname:?}): {e}")))?;
    }
    if wanted.net.is_some() {
        loopback_up()?;
    }
    wanted.sysctls.apply_net()?;
    if let Some((_, ids)) = &wanted.user {
        become_root_of(*ids)?;
    }
    wanted.sysctls.apply_ipc()
}

/// Makes a user namespace and the others in it, pins them all, and enters the others. Whoever has threads can enter no user
/// namespace.
fn hold(pins: &[(NsKind, &Path)], ids: IdMap) -> Result<()> {
    let advice = "does the kernel allow user namespaces (sysctl user.max_user_namespaces)?";
    let fail = |e: strata_sys::Error| Error::internal(format!("the pod's user namespace: {e}; {advice}"));
    let flag = |flags: CloneFlags, kind: &NsKind| match kind {
        NsKind::Net => flags | CloneFlags::NEWNET,
        NsKind::Ipc => flags | CloneFlags::NEWIPC,
        NsKind::Uts => flags | CloneFlags::NEWUTS,
        _ => flags,
    };
    let others = pins.iter().map(|(kind, _)| kind).fold(CloneFlags::empty(), flag);
    let (uids, gids) = userns::ranges(ids);
    let holder = strata_sys::userns::hold(&uids, &gids, others).map_err(fail)?;
    for (kind, path) in pins {
        holder.pin(*kind, path).map_err(fail)?;
        if *kind != NsKind::User {
            holder.open(*kind).and_then(|fd| ns::setns(fd, *kind)).map_err(fail)?;
        }
    }
    Ok(())
}

/// Parameters of an IPC namespace belong to the root of the user namespace that owns it; not even the node's may write them.
fn become_root_of(ids: IdMap) -> Result<()> {
    use rustix::fs::{Gid, Uid};
    let (uid, gid) = (Uid::from_raw(ids.uids.outside), Gid::from_raw(ids.gids.outside));
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid))
        .map_err(|e| Error::internal(format!("become the root of the pod's user namespace: {e}")))
}

/// Brings this thread's loopback interface up, by a netlink socket of this namespace.
fn loopback_up() -> Result<()> {
    let fail = |e: &dyn std::fmt::Display| Error::internal(format!("loopback interface of the pod: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(|e| fail(&e))?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|e| fail(&e))?;
        tokio::spawn(connection);
        // It is always the first interface of a namespace.
        let up = rtnetlink::LinkUnspec::new_with_index(1).up().build();
        handle.link().set(up).execute().await.map_err(|e| fail(&e))
    })
}

/// Lets the pins go; absence is fine. What still uses a namespace keeps it.
pub(crate) fn release(pins: &PodNamespaces) {
    for path in [&pins.net, &pins.ipc, &pins.uts, &pins.user].into_iter().flatten() {
        if let Err(e) = ns::unpin(Path::new(path)) {
            tracing::warn!(path, error = %e, "namespace cannot be unpinned");
        }
    }
}
