//! A pod's namespaces: made on a thread of their own, pinned by bind mounts, left.

use super::sysctl::Sysctls;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use strata_sys::ns::{self, NsKind};
use strata_wire::plan::PodNamespaces;

/// What a pod gets of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// A network namespace, pinned here.
    pub(crate) net: Option<PathBuf>,
    /// An IPC namespace.
    pub(crate) ipc: Option<PathBuf>,
    /// A UTS namespace, with this host name.
    pub(crate) uts: Option<(PathBuf, String)>,
    /// Set in the new namespaces.
    pub(crate) sysctls: Sysctls,
}

impl Wanted {
    fn pins(&self) -> Vec<(NsKind, &Path)> {
        let net = self.net.as_deref().map(|p| (NsKind::Net, p));
        let ipc = self.ipc.as_deref().map(|p| (NsKind::Ipc, p));
        let uts = self.uts.as_ref().map(|(p, _)| (NsKind::Uts, p.as_path()));
        [net, ipc, uts].into_iter().flatten().collect()
    }

    /// The paths, as a shim and the record want them.
    pub(crate) fn paths(&self) -> PodNamespaces {
        let text = |p: &Path| p.to_string_lossy().into_owned();
        PodNamespaces {
            net: self.net.as_deref().map(text),
            ipc: self.ipc.as_deref().map(text),
            uts: self.uts.as_ref().map(|(p, _)| text(p)),
        }
    }
}

/// Makes and pins them. On failure none is left.
pub(crate) fn make(wanted: &Wanted) -> Result<()> {
    let made = std::thread::scope(|scope| {
        // unshare(2) changes the calling thread only, which ends here.
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
    let kinds: Vec<NsKind> = pins.iter().map(|(kind, _)| *kind).collect();
    ns::unshare(&kinds).map_err(fail)?;
    if let Some((_, hostname)) = &wanted.uts {
        rustix::system::sethostname(hostname.as_bytes())
            .map_err(|e| Error::internal(format!("sethostname({hostname:?}): {e}")))?;
    }
    if wanted.net.is_some() {
        loopback_up()?;
    }
    wanted.sysctls.apply()?;
    pins.iter().try_for_each(|(kind, path)| ns::pin(*kind, path).map_err(fail))
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
    for path in [&pins.net, &pins.ipc, &pins.uts].into_iter().flatten() {
        if let Err(e) = ns::unpin(Path::new(path)) {
            tracing::warn!(path, error = %e, "namespace cannot be unpinned");
        }
    }
}
