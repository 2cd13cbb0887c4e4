//! A connection that becomes an attach session: bytes, no more requests.

use super::client::{PROMPT, SOCKET, Shim, ShimError};
use std::os::fd::AsFd;
use std::path::Path;
use strata_wire::frame::{self, Decoder, FrameError};
use strata_wire::{Envelope, Reply, Request};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// An attach session that has begun: from now on no output is missed.
#[derive(Debug)]
pub(crate) struct Session {
    /// Attach frames, both ways.
    pub(crate) stream: UnixStream,
    /// What has come already.
    pub(crate) received: Vec<u8>,
    /// Whether the container has a terminal.
    pub(crate) tty: bool,
}

impl Shim {
    /// Attaches to a container, over a connection of its own. The container's output does not wait for this session.
    pub(crate) async fn attach(
        &self,
        id: &str,
        (stdin, stdout, stderr): (bool, bool, bool),
    ) -> Result<Session, ShimError> {
        let gone = |e: &dyn std::fmt::Display| ShimError::Gone(e.to_string());
        let dir = self.socket().parent().unwrap_or_else(|| Path::new("/"));
        let fd = strata_sys::durable::open_dir(dir).map_err(|e| gone(&e))?;
        let path = strata_sys::path::short_path(&fd, SOCKET.as_ref());
        let request = Request::Attach { id: id.to_owned(), stdin, stdout, stderr, wait: false };
        let attaching = async {
            let mut stream = UnixStream::connect(&path).await.map_err(|e| gone(&e))?;
            let mut decoder = Decoder::default();
            match ask(&mut stream, &mut decoder, 1, Request::hello()).await? {
                Reply::Hello { .. } => {}
                other => return Err(ShimError::Unexpected(format!("{other:?}"))),
            }
            match ask(&mut stream, &mut decoder, 2, request).await? {
                Reply::Attached { tty } => Ok(Session { stream, received: decoder.into_rest(), tty }),
                other => Err(ShimError::Unexpected(format!("{other:?}"))),
            }
        };
        tokio::time::timeout(PROMPT, attaching).await.map_err(|_| ShimError::Deadline(PROMPT))?
    }
}

async fn ask(
    stream: &mut UnixStream,
    decoder: &mut Decoder,
    id: u64,
    body: Request,
) -> Result<Reply, ShimError> {
    let gone = |e: &dyn std::fmt::Display| ShimError::Gone(e.to_string());
    let bytes = frame::encode(&Envelope { id, fds: 0, body }).map_err(|e| gone(&e))?;
    stream.write_all(&bytes).await.map_err(|e| gone(&e))?;
    loop {
        match decoder.take::<Reply>().map_err(|e| gone(&e))? {
            Some((Envelope { body: Reply::Error(failure), .. }, _)) => {
                return Err(ShimError::Failed(failure));
            }
            Some((envelope, _)) => return Ok(envelope.body),
            None => {}
        }
        let filling = stream.async_io(Interest::READABLE, || Ok(decoder.fill(stream.as_fd())?));
        if filling.await.map_err(|e| gone(&e))? == 0 {
            return Err(gone(&FrameError::Closed));
        }
    }
}
