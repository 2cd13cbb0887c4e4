//! A connection to a pod's shim.

use crate::client::unix_connect;
use crate::error::{Error, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use strata_wire::frame::{self, Decoder, FrameError};
use strata_wire::{Envelope, Event, Reply, Request};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// A shim that answered the greeting.
#[derive(Debug)]
pub(crate) struct Shim {
    stream: UnixStream,
    decoder: Decoder,
    next: u64,
}

/// What a shim says.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Incoming {
    Reply(Reply),
    Event(Event),
}

impl Shim {
    /// Connects and greets.
    pub(crate) async fn connect(socket: &str) -> Result<Self> {
        let stream = unix_connect(Path::new(socket))
            .await
            .map_err(|e| Error::Shim(format!("cannot connect to the pod's shim at {socket}: {e}")))?;
        let mut shim = Self { stream, decoder: Decoder::default(), next: 1 };
        match shim.call(Request::hello(), &[]).await?.0 {
            Reply::Hello { .. } => Ok(shim),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks, and waits for the answer. A failure is an error.
    pub(crate) async fn call(
        &mut self,
        request: Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>)> {
        let id = self.send(request, fds).await?;
        loop {
            let (envelope, fds) = self.receive().await?;
            match envelope.body {
                Incoming::Reply(Reply::Error(f)) if envelope.id == id || envelope.id == 0 => {
                    return Err(Error::Program(f));
                }
                Incoming::Reply(reply) if envelope.id == id => return Ok((reply, fds)),
                _ => {}
            }
        }
    }

    /// Asks without waiting for the answer.
    pub(crate) async fn send(&mut self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<u64> {
        let id = self.next;
        self.next += 1;
        let count = u8::try_from(fds.len()).unwrap_or(u8::MAX);
        let bytes = frame::encode(&Envelope { id, fds: count, body: request }).map_err(|e| broken(&e))?;
        let (mut rest, mut fds) = (&bytes[..], fds);
        while !rest.is_empty() {
            let sent = self
                .stream
                .async_io(Interest::WRITABLE, || Ok(frame::send(self.stream.as_fd(), rest, fds)?))
                .await
                .map_err(|e| broken(&e))?;
            rest = rest.get(sent..).unwrap_or_default();
            fds = &[];
        }
        Ok(id)
    }

    /// The next event. Nothing is lost if the future is dropped.
    pub(crate) async fn event(&mut self) -> Result<Event> {
        loop {
            if let (Envelope { body: Incoming::Event(event), .. }, _) = self.receive().await? {
                return Ok(event);
            }
        }
    }

    /// The connection itself, and what has come on it after the last reply.
    pub(crate) fn into_stream(self) -> (UnixStream, Vec<u8>) {
        (self.stream, self.decoder.into_rest())
    }

    async fn receive(&mut self) -> Result<(Envelope<Incoming>, Vec<OwnedFd>)> {
        loop {
            if let Some(message) = self.decoder.take::<Incoming>().map_err(|e| broken(&e))? {
                return Ok(message);
            }
            let (stream, decoder) = (&self.stream, &mut self.decoder);
            let got = stream
                .async_io(Interest::READABLE, || Ok(decoder.fill(stream.as_fd())?))
                .await
                .map_err(|e| broken(&e))?;
            if got == 0 {
                return Err(broken(&FrameError::Closed));
            }
        }
    }
}

fn broken(error: &dyn std::fmt::Display) -> Error {
    Error::Shim(format!("the session with the pod's shim broke: {error}"))
}

/// The shim answered something else than its protocol allows.
pub(crate) fn unexpected(reply: &Reply) -> Error {
    Error::Shim(format!("the pod's shim gave an unexpected answer: {reply:?}"))
}
