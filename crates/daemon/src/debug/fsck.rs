//! `fsck`.

use crate::error::{Error, Result};
use crate::fsck::{Registries, event, summary};
use crate::node::Node;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use strata_api::debug::fsck_event::Event;
use strata_api::debug::*;
use strata_store::FsckOptions;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// How much lies between a check and a slow client.
const DEPTH: usize = 64;

type Out = mpsc::Sender<Result<FsckEvent, Status>>;

/// Checks the store on a thread of its own, until the client goes away.
pub(super) fn fsck(
    node: &Arc<Node>,
    request: FsckRequest,
) -> Result<ReceiverStream<Result<FsckEvent, Status>>> {
    let (out, stream) = mpsc::channel(DEPTH);
    let (node, runtime) = (Arc::clone(node), Handle::current());
    std::thread::Builder::new()
        .name("strata-fsck".into())
        .spawn(move || run(&node, runtime, &request, &out))
        .map_err(|e| Error::internal(format!("start the checking thread: {e}")))?;
    Ok(ReceiverStream::new(stream))
}

fn run(node: &Node, runtime: Handle, request: &FsckRequest, out: &Out) {
    let cancel = AtomicBool::new(false);
    let source = Registries { images: Arc::clone(&node.images), runtime };
    let tell = |told| {
        let event = event(told);
        // Progress may be lost, a problem may not. Once nobody listens, there is nobody to check for.
        let gone = match &event {
            Event::Progress(_) => {
                matches!(out.try_send(Ok(sent(event))), Err(mpsc::error::TrySendError::Closed(_)))
            }
            _ => out.blocking_send(Ok(sent(event))).is_err(),
        };
        if gone {
            cancel.store(true, Ordering::Relaxed);
        }
    };
    let FsckRequest { repair, quick } = *request;
    let options = FsckOptions { repair, quick, source: Some(&source), tell: &tell, cancel: &cancel };
    let ended = match node.store.fsck(&options) {
        Ok(done) => {
            tracing::info!(problems = done.problems, repaired = done.repaired, "the store was checked");
            Ok(sent(Event::Summary(summary(done))))
        }
        Err(e) => Err(Status::from(Error::from(e))),
    };
    // Whoever has gone away does not want to know.
    let _ = out.blocking_send(ended);
}

fn sent(event: Event) -> FsckEvent {
    FsckEvent { event: Some(event) }
}
