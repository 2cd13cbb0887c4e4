//! Channels in WebSocket messages (k8s.io/streaming/pkg/httpstream/wsstream): each message begins with its channel's
//! number. A client ends one of its channels, from v5 on, by a message of 255 and the channel's number.

use super::channel::{Packet, QUEUE};
use super::demux::{Demux, Incoming};
use super::handshake::Encoding;
use super::{Activity, LINGER};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

/// The longest message that is taken, in bytes: as long as the kubelet takes.
const MAX_MESSAGE: usize = 32 << 20;

/// Ends a channel.
const CLOSE: u8 = 255;

/// What is agreed upon about messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// How they are written.
    pub(super) encoding: Encoding,
    /// Whether clients end channels.
    pub(super) closes: bool,
}

/// A WebSocket, as the server, over a connection whose handshake is done.
pub(super) async fn over<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> WebSocketStream<S> {
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// The channels of a connection, into the node as listed, and the work of moving its messages, which ends after the
/// last sender is gone. `patience`: see [`Demux::new`].
pub(super) fn channels<S>(
    socket: WebSocketStream<S>,
    form: Form,
    into: &[u32],
    patience: Option<Duration>,
    activity: Activity,
) -> (Vec<Incoming>, mpsc::Sender<Packet>, impl Future<Output = ()> + Send + use<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (packets, to_send) = mpsc::channel(QUEUE);
    let mut demux = Demux::new(patience);
    let incoming = into.iter().filter_map(|channel| demux.open(*channel)).collect();
    (incoming, packets, work(socket, form, demux, to_send, activity))
}

async fn work<S: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocketStream<S>,
    form: Form,
    demux: Demux,
    mut to_send: mpsc::Receiver<Packet>,
    activity: Activity,
) {
    let (mut sink, stream) = socket.split();
    let reading = read(stream, form, demux, &activity);
    tokio::pin!(reading);
    let written = tokio::select! {
        ended = &mut reading => return note(ended),
        written = write(&mut sink, form, &mut to_send, &activity) => written,
        () = activity.idle() => return,
    };
    if written.is_err() {
        return note(written);
    }
    // The client answers by closing the connection.
    let bye = async {
        let _ = sink.send(Message::Close(Some(normal()))).await;
        let _ = reading.await;
    };
    let _ = tokio::time::timeout(LINGER, bye).await;
}

/// What says that all is well: clients take any other end for a failure.
pub(super) fn normal() -> CloseFrame {
    CloseFrame { code: CloseCode::Normal, reason: "".into() }
}

/// Logs why a connection has ended.
pub(super) fn note(ended: Result<(), tungstenite::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a streaming connection ended");
    }
}

async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: SplitStream<WebSocketStream<S>>,
    form: Form,
    mut demux: Demux,
    activity: &Activity,
) -> Result<(), tungstenite::Error> {
    let mut over = false;
    while let Some(message) = stream.next().await {
        activity.touch();
        let mut data = match message? {
            Message::Binary(data) => data,
            Message::Text(text) => text.into(),
            Message::Close(_) => {
                // The streams end here; what follows is the answer to it and the connection's end.
                over = true;
                continue;
            }
            _ => continue,
        };
        if data.is_empty() || over {
            continue;
        }
        let number = data.split_to(1).first().copied().unwrap_or_default();
        match (form.encoding, number) {
            (_, CLOSE) if form.closes => match data[..] {
                [channel] => demux.end(channel.into()),
                _ => return Err(protocol_error("a close message names one channel")),
            },
            (Encoding::Binary, channel) => demux.deliver(channel.into(), data).await,
            (Encoding::Base64, digit) => {
                let decoded =
                    STANDARD.decode(&data).map_err(|_| protocol_error("a message is not base64"))?;
                demux.deliver(u32::from(digit).wrapping_sub(u32::from(b'0')), decoded.into()).await;
            }
        }
    }
    Ok(())
}

fn protocol_error(text: &'static str) -> tungstenite::Error {
    tungstenite::Error::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, text))
}

async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    sink: &mut SplitSink<WebSocketStream<S>, Message>,
    form: Form,
    packets: &mut mpsc::Receiver<Packet>,
    activity: &Activity,
) -> Result<(), tungstenite::Error> {
    while let Some(packet) = packets.recv().await {
        // Ends of single channels are nothing that clients could be told.
        if let Packet::Data { stream, bytes, last: false } = packet {
            sink.send(message(form.encoding, stream, &bytes)).await?;
            activity.touch();
        }
    }
    Ok(())
}

fn message(encoding: Encoding, channel: u32, bytes: &[u8]) -> Message {
    // Sessions have five channels, port forwards two for each port: see `forward::MAX_PORTS`.
    let channel = u8::try_from(channel).unwrap_or(CLOSE);
    match encoding {
        Encoding::Binary => Message::Binary(Bytes::from([&[channel][..], bytes].concat())),
        Encoding::Base64 => {
            let mut text = String::from(char::from(b'0'.wrapping_add(channel)));
            STANDARD.encode_string(bytes, &mut text);
            Message::Text(text.into())
        }
    }
}

#[cfg(test)]
mod tests;
