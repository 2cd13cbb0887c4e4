//! The connection to stratad.

use crate::error::{Error, Result};
use hyper_util::rt::TokioIo;
use std::io;
use std::path::{Path, PathBuf};
use strata_api::debug::debug_client::DebugClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// A client of stratad's debug service.
pub(crate) type Client = DebugClient<Channel>;

/// Connects. Calls made after stratad was restarted connect anew.
pub(crate) async fn connect(socket: &Path) -> Result<Client> {
    // The first connection is made by hand, since it can say what is wrong.
    let first = unix_connect(socket).await.map_err(|e| Error::unreachable(socket, &e))?;
    let mut first = Some(first);
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let (first, path) = (first.take(), path.clone());
        async move {
            let stream = match first {
                Some(stream) => stream,
                None => unix_connect(&path).await?,
            };
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    // The URI is only what HTTP/2 wants as an authority.
    let endpoint = Endpoint::from_static("http://localhost");
    let channel =
        endpoint.connect_with_connector(connector).await.map_err(|e| Error::unreachable(socket, &e))?;
    // Lists and diffs are as long as they are: the peer is this node's own daemon.
    Ok(DebugClient::new(channel).max_decoding_message_size(usize::MAX))
}

/// Connects to a unix socket, however long its path is: the kernel takes 107 bytes (unix(7)).
pub(crate) async fn unix_connect(path: &Path) -> io::Result<UnixStream> {
    use rustix::fs::{Mode, OFlags};
    use std::os::fd::AsRawFd;
    const LONGEST: usize = 107;
    if path.as_os_str().len() <= LONGEST {
        return UnixStream::connect(path).await;
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    UnixStream::connect(short).await
}
