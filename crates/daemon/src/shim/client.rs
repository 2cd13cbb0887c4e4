//! One connection to a shim: requests with deadlines, and its events.

use crate::error::{Error, Kind};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use strata_wire::frame::{self, Decoder, FrameError};
use strata_wire::message::{Failure, FailureKind};
use strata_wire::state::ContainerState;
use strata_wire::{Envelope, Event, Reply, Request};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

/// How long a shim may take for what it does at once.
pub(crate) const PROMPT: Duration = Duration::from_secs(10);

/// Why a shim did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ShimError {
    /// It said why.
    #[error("{0}")]
    Failed(Failure),
    /// It did not answer in time.
    #[error("the pod's shim did not answer within {0:?}; stratad goes on trying, or remove the pod")]
    Deadline(Duration),
    /// There is no connection to it, or it broke.
    #[error("the pod's shim cannot be reached: {0}")]
    Gone(String),
    /// It answered with something else.
    #[error("the pod's shim gave an unexpected answer: {0}")]
    Unexpected(String),
}

impl From<ShimError> for Error {
    fn from(error: ShimError) -> Self {
        let kind = match &error {
            ShimError::Failed(f) => match f.kind {
                FailureKind::NotFound => Kind::NotFound,
                FailureKind::AlreadyExists => Kind::AlreadyExists,
                FailureKind::WrongState => Kind::FailedPrecondition,
                FailureKind::Invalid => Kind::InvalidArgument,
                FailureKind::Timeout => Kind::DeadlineExceeded,
                FailureKind::ExecNotFound | FailureKind::ExecFailed | FailureKind::Internal => Kind::Internal,
            },
            ShimError::Deadline(_) => Kind::DeadlineExceeded,
            ShimError::Gone(_) => Kind::Unavailable,
            ShimError::Unexpected(_) => Kind::Internal,
        };
        Error::new(kind, error.to_string())
    }
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Incoming {
    Reply(Reply),
    Event(Event),
}

type Answer = (Reply, Vec<OwnedFd>);
type Outgoing = (Vec<u8>, Vec<OwnedFd>);

/// How many messages wait for a shim before those who ask wait too.
const QUEUE: usize = 16;

/// A connected shim.
#[derive(Debug)]
pub(crate) struct Shim {
    stream: UnixStream,
    /// Whole messages to be sent: who asks may stop asking in the middle of it, and the next message must not follow half of one.
    out: mpsc::Sender<Outgoing>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    next: AtomicU64,
    closed: watch::Sender<bool>,
    pid: i32,
    /// What is spoken with it.
    version: u32,
    socket: PathBuf,
}

/// What [`Shim::connect`] gives.
pub(crate) struct Connected {
    /// The connection.
    pub(crate) shim: Arc<Shim>,
    /// Every container that the shim knew when the events began.
    pub(crate) containers: Vec<ContainerState>,
    /// What it says from then on; ends with the connection.
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
}

impl Shim {
    /// Connects to the socket in a pod's state directory, makes sure that it is this pod's shim, and subscribes.
    pub(crate) async fn connect(dir: &Path, pod_id: &str) -> Result<Connected, ShimError> {
        let gone = |e: &dyn std::fmt::Display| ShimError::Gone(e.to_string());
        let fd = strata_sys::durable::open_dir(dir).map_err(|e| gone(&e))?;
        let path = strata_sys::path::short_path(&fd, SOCKET.as_ref());
        let stream = tokio::time::timeout(PROMPT, UnixStream::connect(&path))
            .await
            .map_err(|_| ShimError::Deadline(PROMPT))?
            .map_err(|e| gone(&format!("connect({}): {e}", dir.join(SOCKET).display())))?;
        drop(fd);
        let (out, outgoing) = mpsc::channel(QUEUE);
        let mut shim = Self {
            stream,
            out,
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            closed: watch::Sender::new(false),
            pid: 0,
            version: 0,
            socket: dir.join(SOCKET),
        };
        let mut decoder = Decoder::default();
        match tokio::time::timeout(PROMPT, shim.greet(&mut decoder, Request::hello())).await {
            Ok(Ok(Reply::Hello { pod_id: theirs, pid, version })) if theirs == pod_id => {
                (shim.pid, shim.version) = (pid, version);
            }
            Ok(Ok(Reply::Hello { pod_id: theirs, .. })) => {
                return Err(ShimError::Unexpected(format!("it is pod {theirs}'s")));
            }
            Ok(Ok(Reply::Error(failure))) => return Err(ShimError::Failed(failure)),
            Ok(Ok(other)) => return Err(ShimError::Unexpected(format!("{other:?}"))),
            Ok(Err(e)) => return Err(gone(&e)),
            Err(_) => return Err(ShimError::Deadline(PROMPT)),
        }
        let shim = Arc::new(shim);
        let (tell, events) = mpsc::unbounded_channel();
        tokio::spawn(read(Arc::clone(&shim), decoder, tell));
        tokio::spawn(write(Arc::clone(&shim), outgoing));
        match shim.call(Request::Subscribe, PROMPT).await? {
            Reply::State { containers, .. } => Ok(Connected { shim, containers, events }),
            other => Err(ShimError::Unexpected(format!("{other:?}"))),
        }
    }

    async fn greet(&self, decoder: &mut Decoder, hello: Request) -> Result<Reply, FrameError> {
        self.write(&frame::encode(&Envelope { id: 0, fds: 0, body: hello })?, &[]).await?;
        loop {
            if let Some((envelope, _)) = decoder.take::<Reply>()? {
                return Ok(envelope.body);
            }
            if self.fill(decoder).await? == 0 {
                return Err(FrameError::Closed);
            }
        }
    }

    /// Asks, and waits for the answer until the deadline. A failure that the shim tells is an error.
    pub(crate) async fn call(&self, request: Request, deadline: Duration) -> Result<Reply, ShimError> {
        self.call_with(request, &[], deadline).await.map(|(reply, _)| reply)
    }

    /// [`Self::call`] for a request that is answered by [`Reply::Ok`].
    pub(crate) async fn done(&self, request: Request, deadline: Duration) -> Result<(), ShimError> {
        match self.call(request, deadline).await? {
            Reply::Ok => Ok(()),
            other => Err(ShimError::Unexpected(format!("{other:?}"))),
        }
    }

    /// [`Self::call`], with descriptors both ways.
    pub(crate) async fn call_with(
        &self,
        request: Request,
        fds: &[BorrowedFd<'_>],
        deadline: Duration,
    ) -> Result<Answer, ShimError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.waiting).insert(id, answer);
        // Whatever ends this call early, nobody waits under this number any more.
        let _forget = Forget { shim: self, id };
        if *self.closed.borrow() {
            return Err(ShimError::Gone("it closed the connection".into()));
        }
        let asked = async {
            let envelope = Envelope { id, fds: u8::try_from(fds.len()).unwrap_or(u8::MAX), body: request };
            let bytes = frame::encode(&envelope).map_err(|e| ShimError::Unexpected(e.to_string()))?;
            let fds = fds.iter().map(BorrowedFd::try_clone_to_owned).collect::<Result<_, _>>();
            let fds = fds.map_err(|e| ShimError::Unexpected(format!("descriptors for it: {e}")))?;
            let gone = |_| ShimError::Gone("it closed the connection".into());
            self.out.send((bytes, fds)).await.map_err(gone)?;
            answered.await.map_err(|_| ShimError::Gone("it closed the connection".into()))
        };
        match tokio::time::timeout(deadline, asked).await {
            Err(_) => Err(ShimError::Deadline(deadline)),
            Ok(Ok((Reply::Error(failure), _))) => Err(ShimError::Failed(failure)),
            Ok(other) => other,
        }
    }

    /// The shim's process ID, as it says.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// The version of the protocol that it and this daemon speak.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    /// Where its socket is.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    async fn write(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), FrameError> {
        let (mut rest, mut fds) = (bytes, fds);
        while !rest.is_empty() {
            let sent = self
                .stream
                .async_io(Interest::WRITABLE, || Ok(frame::send(self.stream.as_fd(), rest, fds)?))
                .await
                .map_err(|e| socket_error("sendmsg", &e))?;
            rest = rest.get(sent..).unwrap_or_default();
            fds = &[];
        }
        Ok(())
    }

    async fn fill(&self, decoder: &mut Decoder) -> Result<usize, FrameError> {
        self.stream
            .async_io(Interest::READABLE, || Ok(decoder.fill(self.stream.as_fd())?))
            .await
            .map_err(|e| socket_error("recvmsg", &e))
    }
}

/// The socket's name in a pod's state directory.
pub(crate) const SOCKET: &str = "shim.sock";

fn socket_error(call: &'static str, error: &std::io::Error) -> FrameError {
    FrameError::Socket(call, rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO))
}

struct Forget<'a> {
    shim: &'a Shim,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.shim.waiting).remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends message after message, for as long as the connection lives.
async fn write(shim: Arc<Shim>, mut outgoing: mpsc::Receiver<Outgoing>) {
    let mut closed = shim.closed.subscribe();
    loop {
        let sent = tokio::select! {
            message = outgoing.recv() => match message {
                None => return,
                Some((bytes, fds)) => {
                    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                    tokio::select! {
                        sent = shim.write(&bytes, &fds) => sent,
                        () = over(&mut closed) => return,
                    }
                }
            },
            () = over(&mut closed) => return,
        };
        if let Err(e) = sent {
            tracing::debug!(shim = %shim.socket.display(), "the connection to a shim broke: {e}");
            // The reading side ends with it, and tells whoever waits.
            let _ = rustix::net::shutdown(&shim.stream, rustix::net::Shutdown::Both);
            return;
        }
    }
}

async fn over(closed: &mut watch::Receiver<bool>) {
    // Without a sender it is over too.
    let _ = closed.wait_for(|c| *c).await;
}

async fn read(shim: Arc<Shim>, mut decoder: Decoder, events: mpsc::UnboundedSender<Event>) {
    let ended = loop {
        match take(&shim, &mut decoder, &events) {
            Ok(true) => continue,
            Ok(false) => {}
            Err(e) => break e,
        }
        tokio::select! {
            filled = shim.fill(&mut decoder) => match filled {
                Ok(0) => break FrameError::Closed,
                Ok(_) => {}
                Err(e) => break e,
            },
            // Nobody listens any more: the pod is being forgotten.
            () = events.closed() => break FrameError::Closed,
        }
    };
    if !matches!(ended, FrameError::Closed) {
        tracing::warn!(shim = %shim.socket.display(), "the connection to a shim broke: {ended}");
    }
    shim.closed.send_replace(true);
    lock(&shim.waiting).clear();
}

/// Handles one received message; false: more bytes are needed.
fn take(
    shim: &Shim,
    decoder: &mut Decoder,
    events: &mpsc::UnboundedSender<Event>,
) -> Result<bool, FrameError> {
    let (envelope, fds) = match decoder.take::<Incoming>() {
        Ok(Some(message)) => message,
        Ok(None) => return Ok(false),
        // Only who asked for them misses them.
        Err(FrameError::Descriptors { id, named, came }) => {
            let error = FrameError::Descriptors { id, named, came };
            let failure = Failure {
                kind: FailureKind::Internal,
                step: "receive descriptors".into(),
                message: error.to_string(),
                errno: None,
            };
            (strata_wire::Envelope { id, fds: 0, body: Incoming::Reply(Reply::Error(failure)) }, Vec::new())
        }
        Err(e) => return Err(e),
    };
    match envelope.body {
        Incoming::Reply(reply) => {
            if let Some(waiter) = lock(&shim.waiting).remove(&envelope.id) {
                // The caller may have given up meanwhile.
                let _ = waiter.send((reply, fds));
            }
        }
        Incoming::Event(event) => {
            let _ = events.send(event);
        }
    }
    Ok(true)
}
