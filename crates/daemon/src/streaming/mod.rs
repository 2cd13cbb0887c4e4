//! Exec, Attach and PortForward: CRI answers with a URL, and the client's streams come to the server here.
//!
//! ```text
//!   kubelet, crictl ── Exec, Attach, PortForward ──▶ cri::streaming ── ticket ──▶ tokens
//!                  ◀── http://127.0.0.1:PORT/exec/TOKEN ──┘                         │ once, within a minute
//!                   ── GET or POST, Upgrade ────────▶ server ── handshake ──────────┘
//!                   ◀─ SPDY/3.1 ────────────────────▶ spdy ──────┐
//!                   ◀─ WebSocket channels ──────────▶ websocket ─┼─▶ exec, attach ──▶ the pod's shim
//!                   ◀─ SPDY in WebSocket messages ──▶ tunnel ────┴─▶ forward ───────▶ localhost in the pod's network
//! ```
//!
//! Whoever can reach the server, a container in the host's network included, gets nowhere without a token, and a token is
//! a right to one session of one container or pod. [`channel`] and [`demux`] are what the transports have in common, [`streams`]
//! how a session's streams are found in them, [`status`] what the error stream says.

mod attach;
mod channel;
mod demux;
mod exec;
mod forward;
mod handshake;
mod server;
mod spdy;
mod status;
mod streams;
mod tls;
mod tokens;
mod tunnel;
mod websocket;

use crate::config;
use crate::error::{Error, Result};
use crate::node::Node;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokens::Tokens;

pub(crate) use forward::MAX_PORTS;

/// How long a client may take to open the streams of its session.
const OPEN_WITHIN: Duration = Duration::from_secs(30);

/// How long a client may take to close its connection once everything has been said.
const LINGER: Duration = Duration::from_secs(5);

/// Which of a process's streams a session is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Input.
    pub(crate) stdin: bool,
    /// Output.
    pub(crate) stdout: bool,
    /// Error output.
    pub(crate) stderr: bool,
    /// A terminal, whose size the client tells.
    pub(crate) tty: bool,
}

/// What a token is a right to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ticket {
    /// To run a process.
    Exec {
        /// The container's ID.
        container: String,
        /// argv
        command: Vec<String>,
        /// Its streams.
        wanted: Wanted,
    },
    /// To a container's own streams.
    Attach {
        /// The container's ID.
        container: String,
        /// Which of them.
        wanted: Wanted,
    },
    /// To the ports of a pod.
    Forward {
        /// The pod's ID.
        pod: String,
        /// The ports, for clients that do not name them in the session.
        ports: Vec<u16>,
    },
}

impl Ticket {
    /// The first part of its URL's path.
    fn path(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Attach { .. } => "attach",
            Self::Forward { .. } => "portforward",
        }
    }
}

/// The server: bound when the node is opened, served once it is there.
#[derive(Debug)]
pub(crate) struct Streaming {
    tokens: Tokens,
    listener: Mutex<Option<TcpListener>>,
    address: SocketAddr,
    tls: Option<tls::Acceptor>,
    idle: Duration,
    patience: Option<Duration>,
}

impl Streaming {
    /// Binds the configured address and reads the certificate.
    ///
    /// # Errors
    /// If the address is taken or the certificate cannot be used.
    pub(crate) fn open(config: &config::Streaming) -> Result<Self> {
        let fail = |e: &dyn std::fmt::Display| {
            Error::internal(format!("[streaming] address = \"{}\": {e}", config.address))
        };
        let tls = config.tls_files().map(|(cert, key)| tls::acceptor(cert, key)).transpose()?;
        let listener = TcpListener::bind(config.address).map_err(|e| fail(&e))?;
        listener.set_nonblocking(true).map_err(|e| fail(&e))?;
        let address = listener.local_addr().map_err(|e| fail(&e))?;
        Ok(Self {
            tokens: Tokens::default(),
            listener: Mutex::new(Some(listener)),
            address,
            tls,
            idle: Duration::from_secs(config.idle_timeout),
            patience: (config.stall_timeout > 0).then(|| Duration::from_secs(config.stall_timeout)),
        })
    }

    /// The URL at which a session can be had, once, within a minute.
    pub(crate) fn url(&self, ticket: Ticket) -> Result<String> {
        let path = ticket.path();
        let token = self.tokens.issue(ticket, Instant::now())?;
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}/{path}/{token}", self.address))
    }

    /// How long a stream of such a session may hold up the others. Those of a process belong together: one waits for the other.
    fn patience(&self, ticket: &Ticket) -> Option<Duration> {
        self.patience.filter(|_| matches!(ticket, Ticket::Forward { .. }))
    }

    /// What a URL's path is a right to; it is none from then on.
    fn redeem(&self, path: &str) -> Option<Ticket> {
        let (kind, token) = path.strip_prefix('/')?.split_once('/')?;
        self.tokens.take(token, Instant::now()).filter(|ticket| ticket.path() == kind)
    }
}

/// Serves sessions for as long as the daemon runs.
pub(crate) fn serve(node: &Arc<Node>) -> Result<()> {
    let listener = node.streaming.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(listener) = listener else { return Ok(()) };
    let listener = tokio::net::TcpListener::from_std(listener)
        .map_err(|e| Error::internal(format!("the streaming server: {e}")))?;
    tracing::info!(address = %node.streaming.address, tls = node.streaming.tls.is_some(), "streaming");
    tokio::spawn(server::accept(node.clone(), listener));
    Ok(())
}

/// When something was last said on a connection, by either side.
#[derive(Clone, Debug)]
struct Activity {
    start: Instant,
    last: Arc<AtomicU64>,
    limit: Duration,
}

impl Activity {
    fn new(limit: Duration) -> Self {
        Self { start: Instant::now(), last: Arc::default(), limit }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Something was said just now.
    fn touch(&self) {
        self.last.store(self.now(), Ordering::Relaxed);
    }

    /// Ends once nothing has been said for as long as is allowed.
    async fn idle(&self) {
        loop {
            let silent = Duration::from_millis(self.now().saturating_sub(self.last.load(Ordering::Relaxed)));
            let Some(left) = self.limit.checked_sub(silent).filter(|left| !left.is_zero()) else { return };
            tokio::time::sleep(left).await;
        }
    }
}
