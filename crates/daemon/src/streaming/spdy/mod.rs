//! SPDY/3.1, the server's end, as far as Kubernetes speaks it: streams that the client opens, with data both ways.
//!
//! * `frame`: frames; `headers`: their compressed headers.

mod frame;
mod headers;

#[cfg(test)]
pub(super) use frame::client;
pub(super) use headers::{Headers, value};

use super::channel::{Outgoing, PIECE, Packet, QUEUE};
use super::demux::{Demux, Incoming};
use super::{Activity, LINGER};
use frame::{Fault, Frame};
use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::{self, WeakSender};

/// A stream that the client has opened.
#[derive(Debug)]
pub(super) struct Opened {
    /// Its number.
    pub(super) stream: u32,
    /// What it is for.
    pub(super) headers: Headers,
    /// What the client sends.
    pub(super) incoming: Incoming,
    /// What it is sent.
    pub(super) outgoing: Outgoing,
}

/// A connection: when this and everything that came from it has been dropped, it ends.
#[derive(Debug)]
pub(super) struct Connection {
    opened: mpsc::Receiver<Opened>,
    packets: mpsc::Sender<Packet>,
}

impl Connection {
    /// The next stream; `None` once the client has gone.
    pub(super) async fn next(&mut self) -> Option<Opened> {
        tokio::select! {
            biased;
            opened = self.opened.recv() => opened,
            () = self.packets.closed() => None,
        }
    }
}

/// A connection over a byte stream, and the work of moving its frames, which ends after the connection. `patience`: see
/// [`Demux::new`].
pub(super) fn connection<S>(
    io: S,
    patience: Option<Duration>,
    activity: Activity,
) -> (Connection, impl Future<Output = ()> + Send)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (packets, to_send) = mpsc::channel(QUEUE);
    let (tell, opened) = mpsc::channel(QUEUE);
    let reading = Reading { demux: Demux::new(patience), replies: packets.downgrade(), tell };
    let work = work(io, to_send, reading, activity);
    (Connection { opened, packets }, work)
}

/// What a reader hands on what comes to.
struct Reading {
    demux: Demux,
    replies: WeakSender<Packet>,
    tell: mpsc::Sender<Opened>,
}

async fn work<S: AsyncRead + AsyncWrite + Send>(
    io: S,
    mut to_send: mpsc::Receiver<Packet>,
    reading: Reading,
    activity: Activity,
) {
    let (reader, mut writer) = tokio::io::split(io);
    let reading = read(frame::Reader::new(reader), reading, &activity);
    tokio::pin!(reading);
    let writing = async {
        let written = write(&mut writer, &mut to_send, &activity).await;
        written.map(|last| (writer, last))
    };
    let (mut writer, last) = tokio::select! {
        ended = &mut reading => return note(ended),
        written = writing => match written {
            Ok(rest) => rest,
            Err(fault) => return note(Err(fault)),
        },
        () = activity.idle() => return,
    };
    // The client closes once it has read everything. If this end did, what is on its way could be lost: spdystream drops
    // frames that it has queued when the connection ends.
    if tokio::time::timeout(LINGER, reading).await.is_err()
        && let Ok(frame) = frame::go_away(last)
    {
        let _ = tokio::time::timeout(LINGER, writer.write_all(&frame)).await;
    }
    let _ = tokio::time::timeout(LINGER, writer.shutdown()).await;
}

fn note(ended: Result<(), Fault>) {
    if let Err(fault) = ended {
        tracing::debug!(%fault, "a streaming connection ended");
    }
}

/// Hands on what the client sends, until it ends the connection.
async fn read<R: AsyncRead + Unpin>(
    mut reader: frame::Reader<R>,
    Reading { mut demux, replies, tell }: Reading,
    activity: &Activity,
) -> Result<(), Fault> {
    // Without a sender the session is over, and what the client says is read only to see its end.
    let reply = async |packet| {
        if let Some(packets) = replies.upgrade() {
            let _ = packets.send(packet).await;
        }
    };
    while let Some(frame) = reader.next().await? {
        activity.touch();
        match frame {
            Frame::Open { stream, last, headers } => {
                let packets = replies.upgrade();
                let incoming = demux.open(stream);
                let (Some(packets), Some(incoming)) = (packets, incoming) else {
                    reply(Packet::Reset { stream, refused: true }).await;
                    continue;
                };
                if last {
                    demux.end(stream);
                }
                // Before anything else is said on it: spdystream drops data that comes before the reply.
                reply(Packet::Accept { stream }).await;
                let outgoing = Outgoing::of(stream, packets, &incoming);
                let _ = tell.send(Opened { stream, headers, incoming, outgoing }).await;
            }
            Frame::Data { stream, bytes, last } => {
                demux.deliver(stream, bytes).await;
                if last {
                    demux.end(stream);
                }
            }
            Frame::Reset(stream) => demux.reset(stream),
            Frame::Ping(id) => reply(Packet::Pong(id)).await,
            Frame::GoAway | Frame::Other => {}
        }
    }
    Ok(())
}

/// Sends packets until nobody has any more to send; returns the last stream that was accepted.
async fn write<W: AsyncWrite + Unpin>(
    io: &mut W,
    packets: &mut mpsc::Receiver<Packet>,
    activity: &Activity,
) -> Result<u32, Fault> {
    let mut encoder = frame::Writer::new()?;
    let mut last = 0;
    let mut bytes = Vec::with_capacity(PIECE + 8);
    while let Some(packet) = packets.recv().await {
        if let Packet::Accept { stream } = packet {
            last = stream;
        }
        bytes.clear();
        bytes.extend(encoder.encode(&packet)?);
        io.write_all(&bytes).await?;
        io.flush().await?;
        activity.touch();
    }
    Ok(last)
}

#[cfg(test)]
mod tests;
