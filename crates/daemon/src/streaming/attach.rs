//! A container's own streams. Its output never waits for an attached client: one that is too far behind is cut off and
//! told so.

use super::Wanted;
use super::channel::PIECE;
use super::demux::{Incoming, Received};
use super::status::Ended;
use super::streams::{Session, Sizes};
use crate::error::{Error, Result};
use crate::node::Node;
use crate::pod::short;
use crate::shim::Session as ShimSession;
use std::sync::Arc;
use strata_wire::attach::AttachFrame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Moves the streams until the container ends or the client goes.
pub(super) async fn run(node: &Arc<Node>, container: &str, wanted: Wanted, mut session: Session) {
    let attached = match begin(node, container, wanted).await {
        Ok(attached) => attached,
        Err(e) => {
            let why = format!("error attaching to container: {e}");
            return session.finish(&Ended::Failed(why)).await;
        }
    };
    let (reader, writer) = attached.stream.into_split();
    let (input, sizes) = (session.stdin.take(), std::mem::take(&mut session.sizes));
    let ended = tokio::select! {
        ended = show(reader, attached.received, &session) => ended,
        ended = send(writer, input, sizes, attached.tty) => ended,
        () = session.gone() => None,
    };
    // Without an end the client has gone, and nobody is there to be told.
    if let Some(ended) = ended {
        session.finish(&ended).await;
    }
}

async fn begin(node: &Arc<Node>, id: &str, wanted: Wanted) -> Result<ShimSession> {
    let container = node.find_container(id)?;
    node.settled(container.pod()).await?;
    container.known()?;
    if !container.live().running() {
        return Err(Error::precondition(format!("container {} is not running", short(container.id()))));
    }
    let shim = container.pod().need_shim()?;
    let streams = (wanted.stdin, wanted.stdout, wanted.stderr);
    Ok(shim.attach(container.id(), streams).await?)
}

/// Shows what the container says; `None` if the client has gone.
async fn show(mut reader: OwnedReadHalf, mut received: Vec<u8>, session: &Session) -> Option<Ended> {
    let mut buffer = vec![0; PIECE];
    loop {
        let mut at = 0;
        loop {
            let rest = received.get(at..).unwrap_or_default();
            let (frame, taken) = match AttachFrame::decode(rest) {
                Ok(Some(decoded)) => decoded,
                Ok(None) => break,
                Err(e) => return Some(Ended::Failed(format!("the pod's shim: {e}"))),
            };
            at += taken;
            let (to, data) = match frame {
                AttachFrame::Stdout(data) => (&session.stdout, data),
                AttachFrame::Stderr(data) => (&session.stderr, data),
                // The container's exit code is in its status (CRI ContainerStatus).
                AttachFrame::Exit(_) => return Some(Ended::Success),
                AttachFrame::Lagged => {
                    let why = "the output was taken too slowly and this session was cut off; the container goes on, its \
                               log has all of it";
                    return Some(Ended::Failed(why.into()));
                }
                _ => continue,
            };
            if let Some(to) = to {
                to.write(&data).await.ok()?;
            }
        }
        received.drain(..at);
        match reader.read(&mut buffer).await {
            Ok(n @ 1..) => received.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            _ => return Some(Ended::Failed("the pod's shim went away".into())),
        }
    }
}

/// Sends the client's input and its terminal's sizes; ends when the client has gone (`None`) or leaves: a terminal's input has
/// no end, so that one that ends it detaches (crictl's ctrl-p ctrl-q) and waits for the rest to end.
async fn send(
    mut writer: OwnedWriteHalf,
    mut input: Option<Incoming>,
    mut sizes: Sizes,
    tty: bool,
) -> Option<Ended> {
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        tokio::select! {
            received = next(&mut input) => match received {
                Received::Data(data) => AttachFrame::Stdin(data.to_vec()).encode(&mut bytes),
                Received::End if tty => return Some(Ended::Success),
                Received::End => {
                    input = None;
                    AttachFrame::StdinEof.encode(&mut bytes);
                }
                Received::Reset => return None,
            },
            (rows, cols) = sizes.next(), if tty => AttachFrame::Resize { rows, cols }.encode(&mut bytes),
        }
        if writer.write_all(&bytes).await.is_err() {
            // The container's end or the shim's, which the other direction tells.
            return std::future::pending().await;
        }
    }
}

/// The next input; without any, waits for ever.
async fn next(input: &mut Option<Incoming>) -> Received {
    match input {
        Some(input) => input.next().await,
        None => std::future::pending().await,
    }
}
