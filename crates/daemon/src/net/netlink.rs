//! Sockets of rtnetlink(7), in this and other network namespaces.

use crate::error::{Error, Kind, Result};
use futures_util::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::link::LinkMessage;
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use strata_sys::ns::{self, NsKind};
use tokio::task::JoinHandle;

/// A netlink socket in one network namespace.
#[derive(Debug)]
pub(super) struct Netlink {
    pub(super) handle: Handle,
    task: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Netlink {
    /// A socket in the calling thread's namespace, which is the daemon's.
    pub(super) fn open() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|e| Error::new(Kind::Unavailable, format!("netlink socket: {e}")))?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    /// A socket in a pinned namespace. A thread of its own goes there, and ends: no worker must ever be left in one.
    pub(super) async fn open_in(netns: &Path) -> Result<Self> {
        let path: PathBuf = netns.into();
        let runtime = tokio::runtime::Handle::current();
        let (send, receive) = tokio::sync::oneshot::channel();
        let enter = move || {
            let entered = ns::open(&path).and_then(|fd| ns::setns(fd, NsKind::Net));
            let _runtime = runtime.enter();
            let opened = match entered {
                Ok(()) => Self::open(),
                Err(e) => {
                    Err(Error::new(Kind::FailedPrecondition, format!("the pod's network namespace: {e}")))
                }
            };
            // The receiver is gone if the caller is: the socket closes.
            let _ = send.send(opened);
        };
        std::thread::Builder::new().name("netns".into()).spawn(enter).map_err(|e| {
            Error::new(Kind::ResourceExhausted, format!("a thread to enter a namespace: {e}"))
        })?;
        receive.await.map_err(|_| Error::internal("the thread that enters a namespace died"))?
    }

    /// An interface by its name.
    pub(super) async fn get(&self, name: &str) -> Result<Option<LinkMessage>> {
        let request = self.handle.link().get().match_name(name).execute();
        match std::pin::pin!(request).try_next().await {
            Ok(link) => Ok(link),
            Err(e) if errno(&e) == Some(Errno::NODEV) => Ok(None),
            Err(e) => Err(failed(&format!("interface {name}: RTM_GETLINK"), &e)),
        }
    }

    /// All interfaces.
    pub(super) async fn all(&self) -> Result<Vec<LinkMessage>> {
        let all = self.handle.link().get().execute().try_collect();
        all.await.map_err(|e| failed("interfaces: RTM_GETLINK", &e))
    }
}

pub(super) fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Errno::from_io_error(&message.to_io()),
        _ => None,
    }
}

pub(super) fn failed(what: &str, error: &rtnetlink::Error) -> Error {
    let (kind, advice) = match errno(error) {
        Some(Errno::PERM | Errno::ACCESS) => (Kind::FailedPrecondition, "; stratad needs CAP_NET_ADMIN"),
        Some(Errno::OPNOTSUPP) => {
            (Kind::FailedPrecondition, "; does the kernel have the modules bridge and veth?")
        }
        Some(Errno::NODEV) => (Kind::Unavailable, "; somebody else removed it: try again"),
        _ => (Kind::Unavailable, ""),
    };
    let why = match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io().to_string(),
        other => other.to_string(),
    };
    Error::new(kind, format!("{what}: {why}{advice}"))
}
