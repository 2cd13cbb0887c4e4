//! The gRPC server: CRI and the debug service on one unix socket.

use crate::cri::image::ImageService;
use crate::cri::runtime::RuntimeService;
use crate::deadline::Timely;
use crate::debug::DebugService;
use crate::error::{Error, Result};
use crate::metrics::rpc::Measure;
use crate::node::Node;
use crate::notify;
use futures_util::Stream;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strata_api::cri::image_service_server::ImageServiceServer;
use strata_api::cri::runtime_service_server::RuntimeServiceServer;
use strata_api::debug::debug_server::DebugServer;
use strata_sys::durable;
use strata_sys::path::short_path;
use tokio::net::{UnixListener, UnixStream};

/// What the kubelet sends and takes at most.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;

/// How long calls, and what they began, may go on once a stop has been asked for.
const GRACE: Duration = Duration::from_secs(3);

/// How soon a connection is taken again after one could not be: with too many open files, the next one cannot either.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves until `stop` ends.
pub(crate) async fn serve(node: Arc<Node>, stop: impl Future<Output = ()>) -> Result<()> {
    let path = node.config.socket.clone();
    let listener = listen(&path)?;
    crate::streaming::serve(&node)?;
    let runtime = RuntimeServiceServer::new(RuntimeService::new(node.clone()))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let image =
        ImageServiceServer::new(ImageService::new(node.clone())).max_decoding_message_size(MAX_MESSAGE);
    let (calls, events) = (Measure(node.metrics.rpc.clone()), node.events.clone());
    let debug = DebugServer::new(DebugService::new(node)).max_decoding_message_size(MAX_MESSAGE);
    let server = tonic::transport::Server::builder()
        .layer(calls)
        .add_service(Timely(runtime))
        .add_service(Timely(image))
        .add_service(Timely(debug));
    tracing::info!(socket = %path.display(), version = env!("CARGO_PKG_VERSION"), "serving");
    if let Err(e) = notify::notify("READY=1") {
        tracing::warn!(error = %e, "the service manager cannot be told that stratad is ready");
    }
    crate::watchdog::start(&path);
    let (tell, told) = tokio::sync::watch::channel(false);
    let stopped = async move {
        stop.await;
        events.close();
        tell.send_replace(true);
    };
    let serving = server.serve_with_incoming_shutdown(incoming(listener), stopped);
    let finished = async {
        let served = serving.await.map_err(|e| Error::internal(format!("server: {e}")));
        // What clients began that did not wait for its end: the next stratad would have to go on with it.
        crate::tasks::all_done().await;
        served
    };
    let served = tokio::select! {
        served = finished => served,
        () = overdue(told) => Ok(()),
    };
    let _ = std::fs::remove_file(&path);
    served
}

/// Ends a while after a stop has been asked for: some calls, such as a wait for a container, end no sooner than that does.
async fn overdue(mut told: tokio::sync::watch::Receiver<bool>) {
    if told.wait_for(|stopping| *stopping).await.is_err() {
        return std::future::pending().await;
    }
    tokio::time::sleep(GRACE).await;
}

/// Connections. One that cannot be taken waits in the kernel's queue.
fn incoming(listener: UnixListener) -> impl Stream<Item = std::io::Result<UnixStream>> {
    futures_util::stream::unfold(listener, |listener| async {
        let mut told = false;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((Ok(stream), listener)),
                Err(e) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::error!(error = %e, "no connection can be taken now; trying again");
                    }
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    })
}

/// Binds the socket for root only. What an earlier daemon left under its name is replaced: the lock on the root says that
/// nobody else is there.
fn listen(path: &Path) -> Result<UnixListener> {
    let fail = |e: &dyn std::fmt::Display| Error::internal(format!("socket {}: {e}", path.display()));
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(fail(&"must be an absolute path of a file"));
    };
    durable::mkdir_all(parent, 0o711).map_err(|e| fail(&e))?;
    let dir = durable::open_dir(parent).map_err(|e| fail(&e))?;
    strata_sys::path::remove_at(&dir, name, false).map_err(|e| fail(&e))?;
    // Bound beside and renamed: clients never meet a socket that does not listen yet.
    let beside = std::ffi::OsString::from(format!(".{}.new", name.to_string_lossy()));
    strata_sys::path::remove_at(&dir, &beside, false).map_err(|e| fail(&e))?;
    let listener = UnixListener::bind(short_path(&dir, &beside)).map_err(|e| fail(&e))?;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(short_path(&dir, &beside), std::fs::Permissions::from_mode(0o600))
        .map_err(|e| fail(&e))?;
    durable::rename(&dir, &beside, &dir, name).map_err(|e| fail(&e))?;
    Ok(listener)
}
