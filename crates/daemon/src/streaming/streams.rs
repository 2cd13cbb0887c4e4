//! The streams of an exec or attach session, found among what a transport has.

use super::channel::Outgoing;
use super::demux::{Incoming, Received};
use super::handshake::{Encoding, Transport};
use super::spdy::{self, Connection};
use super::status::{Ended, Form};
use super::websocket::channels;
use super::{Activity, OPEN_WITHIN, Wanted, websocket};
use std::future::Future;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;

/// A session's streams.
#[derive(Debug)]
pub(super) struct Session {
    /// Input, if it was asked for.
    pub(super) stdin: Option<Incoming>,
    /// Output.
    pub(super) stdout: Option<Outgoing>,
    /// Error output.
    pub(super) stderr: Option<Outgoing>,
    /// The terminal's sizes.
    pub(super) sizes: Sizes,
    /// How the session ended.
    error: Outgoing,
    /// The other direction of the input's stream, where the transport has one: clients wait for its end.
    stdin_end: Option<Outgoing>,
    form: Form,
}

impl Session {
    /// Waits until the client has gone.
    pub(super) async fn gone(&self) {
        self.error.gone().await;
    }

    /// Says how the session ended, the last thing on it.
    pub(super) async fn finish(mut self, ended: &Ended) {
        // Whether the client still listens does not matter any more.
        for outgoing in [self.stdout.take(), self.stderr.take(), self.stdin_end.take()].into_iter().flatten()
        {
            let _ = outgoing.finish().await;
        }
        let _ = self.error.write(ended.encode(self.form).as_bytes()).await;
        let _ = self.error.finish().await;
    }
}

/// Waits for the streams that an SPDY client opens; `None` if it does not open them in time, or goes away.
pub(super) async fn of_spdy(mut connection: Connection, wanted: Wanted, version: u8) -> Option<Session> {
    let form = Transport::Spdy { version }.form();
    let (mut error, mut stdin, mut stdout, mut stderr, mut resize) = (None, None, None, None, None);
    let opening = async {
        loop {
            let resizes = wanted.tty && version >= 3;
            let complete = error.is_some()
                && (!wanted.stdin || stdin.is_some())
                && (!wanted.stdout || stdout.is_some())
                && (!wanted.stderr || stderr.is_some())
                && (!resizes || resize.is_some());
            if complete {
                return Some(());
            }
            let opened = connection.next().await?;
            let place = match spdy::value(&opened.headers, "streamtype") {
                "error" => Some(&mut error),
                "stdin" if wanted.stdin => Some(&mut stdin),
                "stdout" if wanted.stdout => Some(&mut stdout),
                "stderr" if wanted.stderr => Some(&mut stderr),
                "resize" if resizes => Some(&mut resize),
                _ => None,
            };
            match place {
                Some(place @ None) => *place = Some(opened),
                // Not asked for, or there already: it has no content.
                _ => _ = opened.outgoing.finish().await,
            }
        }
    };
    tokio::time::timeout(OPEN_WITHIN, opening).await.ok()??;
    let (stdin, stdin_end) = stdin.map(|o| (o.incoming, o.outgoing)).unzip();
    Some(Session {
        stdin,
        stdin_end,
        stdout: stdout.map(|o| o.outgoing),
        stderr: stderr.map(|o| o.outgoing),
        sizes: Sizes::new(resize.map(|o| o.incoming)),
        error: error?.outgoing,
        form,
    })
}

/// Channels of an exec or attach session.
const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const ERROR: u32 = 3;
const RESIZE: u32 = 4;

/// The streams of a WebSocket client, and the work of moving them.
pub(super) async fn of_websocket<S>(
    socket: WebSocketStream<S>,
    wanted: Wanted,
    encoding: Encoding,
    version: u8,
    activity: Activity,
) -> (Session, impl Future<Output = ()> + Send)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let into: &[u32] = if wanted.stdin { &[RESIZE, STDIN] } else { &[RESIZE] };
    let form = websocket::Form { encoding, closes: version >= 5 };
    let (incoming, packets, work) = channels(socket, form, into, None, activity);
    let mut incoming = incoming.into_iter();
    let sizes = Sizes::new(incoming.next());
    let out = |channel, wanted: bool| wanted.then(|| Outgoing::new(channel, packets.clone()));
    let session = Session {
        stdin: incoming.next(),
        stdin_end: None,
        stdout: out(STDOUT, wanted.stdout),
        stderr: out(STDERR, wanted.stderr),
        error: Outgoing::new(ERROR, packets.clone()),
        sizes,
        form: Transport::Channels { encoding, version }.form(),
    };
    // Tells clients that all is ready; the queue has room for it.
    let first = session.stdout.as_ref().or(session.stderr.as_ref()).unwrap_or(&session.error);
    let _ = first.touch().await;
    (session, work)
}

/// Terminal sizes, as the client tells them: JSON values one after the other.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    from: Option<Incoming>,
    text: Vec<u8>,
}

/// `remotecommand.TerminalSize`
#[derive(serde::Deserialize)]
struct Size {
    #[serde(rename = "Width")]
    columns: u16,
    #[serde(rename = "Height")]
    rows: u16,
}

/// What a size may be long, in bytes.
const MAX_SIZE: usize = 1024;

impl Sizes {
    fn new(from: Option<Incoming>) -> Self {
        Self { from, text: Vec::new() }
    }

    /// The next rows and columns; never ends. Nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> (u16, u16) {
        loop {
            if let Some(size) = self.take() {
                return size;
            }
            let Some(from) = &mut self.from else { return std::future::pending().await };
            match from.next().await {
                Received::Data(data) => self.text.extend_from_slice(&data),
                Received::End | Received::Reset => self.from = None,
            }
        }
    }

    fn take(&mut self) -> Option<(u16, u16)> {
        loop {
            let mut values = serde_json::Deserializer::from_slice(&self.text).into_iter::<Size>();
            let value = values.next()?;
            let taken = values.byte_offset();
            match value {
                Ok(size) => {
                    self.text.drain(..taken);
                    if size.rows > 0 && size.columns > 0 {
                        return Some((size.rows, size.columns));
                    }
                }
                Err(e) if e.is_eof() && self.text.len() < MAX_SIZE => return None,
                Err(_) => {
                    // No sizes: the client goes without them.
                    (self.from, self.text) = (None, Vec::new());
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
