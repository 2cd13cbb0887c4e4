//! What a client sends, handed to the streams that it is for, with bounded memory.
//!
//! Each stream keeps [`STREAM_BACKLOG`] that nobody has taken, all of a connection together [`BACKLOG`]; when one of the two is full
//! the client is not read from. SPDY's windows cannot do this stream by stream: the clients in the field (moby/spdystream) neither
//! send nor heed WINDOW_UPDATE. So one stream that is not taken holds up the others of its connection. Where they belong together,
//! as those of a process do, that is what back-pressure means. Where they do not, as with a port forward's, a stream of which
//! nothing has been taken for a while ([`Demux::new`]'s `patience`) is given up, alone, when there is no room for more and another
//! one is open that waits behind it. One that is taken slowly never is, and nor is one that has the connection to itself.

use super::channel::PIECE;
use bytes::{Buf, Bytes};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// What a stream may hold that has come and that nobody has taken yet, in bytes.
pub(super) const STREAM_BACKLOG: usize = 1 << 20;

/// What all streams of a connection may hold, in bytes.
pub(super) const BACKLOG: usize = 4 << 20;

/// What a piece takes up beside its bytes, in bytes: a client that sends them one by one must not fill the memory with the rest.
const OVERHEAD: usize = 128;

/// How many streams a client may have at once: open ones, and those that somebody here still works for.
const MAX_STREAMS: usize = 4096;

/// How often a full connection's streams are looked at, in parts of the patience.
const LOOKS: u32 = 10;

/// A stream's place among those that its client may have; free once both of its directions have been dropped.
pub(super) type Place = Arc<OwnedSemaphorePermit>;

#[derive(Debug)]
enum Piece {
    /// Bytes, and the room that they take up: in the stream and in the connection.
    Data(Bytes, [OwnedSemaphorePermit; 2]),
    End,
}

/// What a stream has brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Bytes.
    Data(Bytes),
    /// The client has no more to send.
    End,
    /// The client has given the stream up, or the connection has ended.
    Reset,
}

/// Why a stream has ended before all that came was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The client has given it up.
    ByClient,
    /// It held up others.
    Stuck,
}

/// What of a stream waits to be taken.
#[derive(Debug)]
struct Backlog {
    room: Arc<Semaphore>,
    start: Instant,
    /// When something was last taken, or came while nothing was waiting: milliseconds after `start`.
    moved: AtomicU64,
}

impl Backlog {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn moves(&self) {
        self.moved.store(self.now(), Ordering::Relaxed);
    }

    fn waiting(&self) -> usize {
        STREAM_BACKLOG.saturating_sub(self.room.available_permits())
    }

    /// Whether something waits of which nothing has been taken for this long.
    fn stuck(&self, patience: Duration) -> bool {
        let still = self.now().saturating_sub(self.moved.load(Ordering::Relaxed));
        self.waiting() > 0 && Duration::from_millis(still) >= patience
    }
}

/// One stream, into the node. Dropping it discards what the client still sends.
#[derive(Debug)]
pub(super) struct Incoming {
    pieces: mpsc::UnboundedReceiver<Piece>,
    ended: bool,
    backlog: Arc<Backlog>,
    cut: Option<oneshot::Receiver<Cut>>,
    place: Place,
}

impl Incoming {
    /// What comes next. Nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> Received {
        if self.ended {
            return Received::End;
        }
        match self.pieces.recv().await {
            Some(Piece::Data(bytes, _room)) => {
                self.backlog.moves();
                Received::Data(bytes)
            }
            Some(Piece::End) => {
                self.ended = true;
                Received::End
            }
            None => Received::Reset,
        }
    }

    /// Waits until the stream is cut off, by whomever: what it has brought should be dropped then, whatever is done with it.
    /// Tells one caller.
    pub(super) fn cut(&mut self) -> impl Future<Output = Cut> + Send + use<> {
        let cut = self.cut.take();
        async move {
            match cut {
                Some(cut) => match cut.await {
                    Ok(cut) => cut,
                    // Its end is told in order.
                    Err(_) => std::future::pending().await,
                },
                None => std::future::pending().await,
            }
        }
    }

    /// The stream's place, for its other direction.
    pub(super) fn place(&self) -> Place {
        Arc::clone(&self.place)
    }
}

/// A stream that the client has open, or of which something still waits.
#[derive(Debug)]
struct Stream {
    to: mpsc::UnboundedSender<Piece>,
    /// The client has no more to send.
    ended: bool,
    backlog: Arc<Backlog>,
    cut: oneshot::Sender<Cut>,
}

impl Stream {
    /// Whether the client may have something to send that somebody would take.
    fn is_open(&self) -> bool {
        !self.ended && !self.to.is_closed()
    }
}

/// Hands what a client sends to the streams that it is for.
#[derive(Debug)]
pub(super) struct Demux {
    streams: HashMap<u32, Stream>,
    room: Arc<Semaphore>,
    places: Arc<Semaphore>,
    patience: Option<Duration>,
    start: Instant,
}

impl Demux {
    /// Without streams yet. `patience`: how long a stream may take nothing while it holds others up before it is given up;
    /// `None`: for ever.
    pub(super) fn new(patience: Option<Duration>) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            streams: HashMap::new(),
            room: semaphore(BACKLOG),
            places: semaphore(MAX_STREAMS),
            patience,
            start: Instant::now(),
        }
    }

    /// Opens a stream; `None` if there is one of this number, or the client has too many. Numbers need not go up: spdystream
    /// draws them and sends them under two locks.
    pub(super) fn open(&mut self, stream: u32) -> Option<Incoming> {
        if self.streams.len() >= MAX_STREAMS {
            self.streams.retain(|_, open| !open.to.is_closed());
        }
        if self.streams.len() >= MAX_STREAMS || self.streams.contains_key(&stream) {
            return None;
        }
        let place = Arc::new(Arc::clone(&self.places).try_acquire_owned().ok()?);
        let (to, pieces) = mpsc::unbounded_channel();
        let (cut, is_cut) = oneshot::channel();
        let room = Arc::new(Semaphore::new(STREAM_BACKLOG));
        let backlog = Arc::new(Backlog { room, start: self.start, moved: AtomicU64::new(0) });
        self.streams.insert(stream, Stream { to, ended: false, backlog: Arc::clone(&backlog), cut });
        Some(Incoming { pieces, ended: false, backlog, cut: Some(is_cut), place })
    }

    /// Delivers bytes; waits while too much lies undelivered. What nobody wants is dropped.
    pub(super) async fn deliver(&mut self, stream: u32, mut bytes: Bytes) {
        while bytes.has_remaining() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            let Some(room) = self.room(stream, piece.len() + OVERHEAD).await else { return };
            let Some(open) = self.streams.get(&stream) else { return };
            // A receiver that goes away drops what it had. Copied, or a byte could keep a whole buffer of the connection's.
            let _ = open.to.send(Piece::Data(Bytes::copy_from_slice(&piece), room));
        }
    }

    /// Waits for room, and gives up streams meanwhile that hold others up. `None`: nobody wants what the stream brings.
    async fn room(&mut self, stream: u32, bytes: usize) -> Option<[OwnedSemaphorePermit; 2]> {
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        loop {
            let Stream { to, backlog, .. } = self.streams.get(&stream).filter(|open| open.is_open())?;
            if backlog.waiting() == 0 {
                backlog.moves();
            }
            let (own, all) = (Arc::clone(&backlog.room), Arc::clone(&self.room));
            let both = async {
                // The semaphores are never closed.
                Some([
                    own.acquire_many_owned(permits).await.ok()?,
                    all.acquire_many_owned(permits).await.ok()?,
                ])
            };
            tokio::select! {
                biased;
                () = to.closed() => return None,
                room = both => return room,
                () = look(self.patience) => {}
            }
            if let Some(holder) = self.holder(stream, bytes) {
                self.cut(holder, Cut::Stuck);
            }
        }
    }

    /// The stream to give up so that there is room for the next piece of this one: one that is stuck while another one waits.
    fn holder(&self, wanting: u32, bytes: usize) -> Option<u32> {
        let patience = self.patience?;
        let stuck = |stream: &Stream| stream.backlog.stuck(patience);
        if !self.streams.values().any(|stream| stream.is_open() && !stuck(stream)) {
            return None;
        }
        let own = self.streams.get(&wanting)?;
        if own.backlog.room.available_permits() < bytes {
            return stuck(own).then_some(wanting);
        }
        let holders = self.streams.iter().filter(|(_, stream)| stuck(stream));
        let held: usize = holders.clone().map(|(_, stream)| stream.backlog.waiting()).sum();
        // Otherwise it is those that move who have most of the room.
        let worth = held > BACKLOG / 2;
        holders
            .max_by_key(|(_, stream)| stream.backlog.waiting())
            .filter(|_| worth)
            .map(|(number, _)| *number)
    }

    /// The client has no more to send on this stream.
    pub(super) fn end(&mut self, stream: u32) {
        self.streams.retain(|_, stream| !(stream.ended && stream.to.is_closed()));
        if let Some(stream) = self.streams.get_mut(&stream)
            && !stream.ended
        {
            stream.ended = true;
            let _ = stream.to.send(Piece::End);
        }
    }

    /// The client has given the stream up.
    pub(super) fn reset(&mut self, stream: u32) {
        self.cut(stream, Cut::ByClient);
    }

    fn cut(&mut self, stream: u32, why: Cut) {
        if let Some(stream) = self.streams.remove(&stream) {
            // Who has ended with the stream, or does not listen, has its end told in order.
            let _ = stream.cut.send(why);
        }
    }
}

/// Until a full connection's streams are to be looked at.
async fn look(patience: Option<Duration>) {
    match patience {
        Some(patience) => tokio::time::sleep(patience / LOOKS).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
