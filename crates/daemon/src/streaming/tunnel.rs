//! A byte stream in WebSocket messages: how kubectl and crictl bring SPDY through what only knows WebSocket
//! (k8s.io/client-go/tools/portforward).

use super::LINGER;
use super::websocket::{normal, note};
use futures_util::{SinkExt, StreamExt};
use std::future::Future;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};

/// What lies between the two, in bytes.
const BUFFER: usize = 64 << 10;

/// The byte stream, and the work of moving it, which ends after it.
pub(super) fn tunnel<S>(socket: WebSocketStream<S>) -> (DuplexStream, impl Future<Output = ()> + Send)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (near, far) = tokio::io::duplex(BUFFER);
    (near, work(socket, far))
}

async fn work<S: AsyncRead + AsyncWrite + Unpin>(socket: WebSocketStream<S>, far: DuplexStream) {
    let (mut sink, mut stream) = socket.split();
    let (mut from_near, mut to_near) = tokio::io::split(far);
    let inwards = async {
        while let Some(message) = stream.next().await {
            match message? {
                Message::Binary(data) => to_near.write_all(&data).await?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        // The end of the stream.
        to_near.shutdown().await?;
        Ok::<_, tungstenite::Error>(())
    };
    let outwards = async {
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = from_near.read(&mut buffer).await?;
            if n == 0 {
                return Ok::<_, tungstenite::Error>(());
            }
            let data = bytes::Bytes::copy_from_slice(buffer.get(..n).unwrap_or_default());
            sink.send(Message::Binary(data)).await?;
        }
    };
    tokio::pin!(inwards);
    let written = tokio::select! {
        ended = &mut inwards => return note(ended),
        written = outwards => written,
    };
    if written.is_err() {
        return note(written);
    }
    let bye = async {
        let _ = sink.send(Message::Close(Some(normal()))).await;
        let _ = inwards.await;
    };
    let _ = tokio::time::timeout(LINGER, bye).await;
}
