//! Attached to a container's own standard streams.

use super::shim::{Shim, unexpected};
use super::streams::{LITTLE, MUCH, Sink, read_stdin};
use crate::detach::Filter;
use crate::error::{Error, Result};
use crate::terminal::{self, Raw};
use nix::sys::signal::Signal;
use strata_api::debug::PrepareAttachResponse;
use strata_wire::attach::AttachFrame;
use strata_wire::{Reply, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// Which streams a session is about.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Send input.
    pub(crate) stdin: bool,
    /// Show output (or the terminal).
    pub(crate) stdout: bool,
    /// Show error output.
    pub(crate) stderr: bool,
    /// Let the container's output wait for this session rather than lose it.
    pub(crate) wait: bool,
    /// The keys that leave a terminal's session.
    pub(crate) detach_keys: Vec<u8>,
    /// Make a program that draws its screen only when its size changes draw it for this session.
    pub(crate) redraw: bool,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The container has ended with this code.
    Exited(i32),
    /// The user has left; the container goes on.
    Detached,
    /// Nobody reads the output any more; the container goes on.
    ReaderGone,
    /// The connection has ended without a word: only stratad can know what became of the container.
    Lost,
}

/// A session that has begun: from now on no output is missed.
#[derive(Debug)]
pub(crate) struct Session {
    stream: UnixStream,
    received: Vec<u8>,
    wanted: Wanted,
    tty: bool,
}

impl Session {
    /// Attaches.
    pub(crate) async fn begin(to: &PrepareAttachResponse, wanted: Wanted) -> Result<Self> {
        let mut shim = Shim::connect(&to.socket).await?;
        let Wanted { stdin, stdout, stderr, wait, .. } = wanted;
        let request = Request::Attach { id: to.container_id.clone(), stdin, stdout, stderr, wait };
        match shim.call(request, &[]).await? {
            (Reply::Attached { tty }, _) => {
                let (stream, received) = shim.into_stream();
                Ok(Self { stream, received, wanted, tty })
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Moves input and output until the session ends.
    pub(crate) async fn run(self) -> Result<Ended> {
        let raw =
            (self.tty && self.wanted.stdin && terminal::stdin_is_terminal()).then(Raw::enter).transpose()?;
        let winch = crate::signals::listen(&[Signal::SIGWINCH, Signal::SIGCONT])?;
        let (reader, writer) = self.stream.into_split();
        let input = self.wanted.stdin.then(read_stdin);
        let filter = Filter::new(if self.tty { self.wanted.detach_keys } else { Vec::new() });
        let redraw = self.tty && self.wanted.redraw;
        let sender = Sender { writer, tty: self.tty, redraw, raw: raw.as_ref() };
        let room = if self.wanted.wait { LITTLE } else { MUCH };
        let sinks = Sinks { stdout: Sink::stdout(room), stderr: Sink::stderr(room) };
        let ended = tokio::select! {
            ended = sinks.show(reader, self.received) => ended,
            () = sender.send(input, filter, winch) => Ok(Ended::Detached),
        };
        sinks.stdout.finish().await;
        sinks.stderr.finish().await;
        drop(raw);
        if matches!(ended, Ok(Ended::Detached)) {
            crate::output::complain("read escape sequence");
        }
        ended
    }
}

struct Sinks {
    stdout: Sink,
    stderr: Sink,
}

impl Sinks {
    /// Shows what comes until the last frame.
    async fn show(&self, mut reader: OwnedReadHalf, mut received: Vec<u8>) -> Result<Ended> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let mut at = 0;
            loop {
                let rest = received.get(at..).unwrap_or_default();
                let Some((frame, n)) = AttachFrame::decode(rest).map_err(|e| Error::Shim(e.to_string()))?
                else {
                    break;
                };
                at += n;
                let read = match frame {
                    AttachFrame::Stdout(data) => self.stdout.write(data).await,
                    AttachFrame::Stderr(data) => self.stderr.write(data).await,
                    AttachFrame::Exit(code) => return Ok(Ended::Exited(code)),
                    AttachFrame::Lagged => {
                        return Err(Error::Shim(
                            "the output was taken too slowly and this session was cut off; the container goes on, \
                             `strata logs` has all of it"
                                .into(),
                        ));
                    }
                    _ => true,
                };
                if !read {
                    return Ok(Ended::ReaderGone);
                }
            }
            received.drain(..at);
            match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => return Ok(Ended::Lost),
                Ok(n) => received.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            }
        }
    }
}

/// This side's half of the connection.
struct Sender<'a> {
    writer: OwnedWriteHalf,
    tty: bool,
    redraw: bool,
    raw: Option<&'a Raw>,
}

impl Sender<'_> {
    /// Sends input and the terminal's size; returns when the user leaves, and only then: that the shim has gone, the
    /// reader will say.
    async fn send(
        mut self,
        mut input: Option<mpsc::Receiver<Vec<u8>>>,
        mut filter: Filter,
        mut winch: mpsc::UnboundedReceiver<Signal>,
    ) {
        let mut bytes = self.size();
        loop {
            if !bytes.is_empty() && self.writer.write_all(&bytes).await.is_err() {
                return std::future::pending().await;
            }
            bytes.clear();
            tokio::select! {
                data = next(&mut input) => match data {
                    Some(data) => {
                        let (data, leave) = filter.feed(&data);
                        AttachFrame::Stdin(data).encode(&mut bytes);
                        if leave {
                            let _ = self.writer.write_all(&bytes).await;
                            return;
                        }
                    }
                    None => {
                        input = None;
                        AttachFrame::StdinEof.encode(&mut bytes);
                    }
                },
                Some(signal) = winch.recv() => {
                    bytes = self.size();
                    if let (Signal::SIGCONT, Some(raw)) = (signal, self.raw) {
                        raw.again();
                    }
                }
            }
        }
    }

    /// The frames that give the container's terminal this one's size.
    fn size(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Some((rows, cols)) = terminal::size().filter(|_| self.tty) else { return bytes };
        if std::mem::take(&mut self.redraw) {
            // The kernel signals changes only.
            AttachFrame::Resize { rows: rows.saturating_add(1), cols }.encode(&mut bytes);
        }
        AttachFrame::Resize { rows, cols }.encode(&mut bytes);
        bytes
    }
}

/// The next input; without any, waits for ever.
async fn next(input: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}
