//! What both transports have in common: streams in two directions over one connection, with bounded memory.
//!
//! Into the node a connection's reader hands pieces to the streams' receivers; what they have not taken counts against
//! the connection's [`BACKLOG`], and when that is full the client is not read from. SPDY's windows cannot do this stream by
//! stream: the clients in the field (moby/spdystream) neither send nor heed WINDOW_UPDATE. Out of the node a sender waits
//! until the connection's writer takes its packet, and that waits for the client.

use bytes::{Buf, Bytes};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// What a connection's streams may hold that has come and that nobody has taken yet, in bytes.
pub(super) const BACKLOG: usize = 1 << 20;

/// The longest piece that is handed on at once, in bytes.
pub(super) const PIECE: usize = 32 << 10;

/// What a piece takes up beside its bytes, in bytes: a client that sends them one by one must not fill the memory with the rest.
const OVERHEAD: usize = 128;

/// How many streams a client may have at once: open ones, and those that somebody here still works for.
const MAX_STREAMS: usize = 4096;

/// How many packets wait for the client to read.
pub(super) const QUEUE: usize = 4;

/// What is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet {
    /// Bytes of a stream, and whether they are its last.
    Data {
        /// The stream.
        stream: u32,
        /// What.
        bytes: Bytes,
        /// Nothing follows in this direction.
        last: bool,
    },
    /// The stream is over in both directions.
    Reset {
        /// The stream.
        stream: u32,
        /// It was never begun: its opening is refused.
        refused: bool,
    },
    /// The client's stream is accepted.
    Accept {
        /// The stream.
        stream: u32,
    },
    /// A ping's answer.
    Pong(u32),
}

/// The connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// One stream, out of the node.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    stream: u32,
    packets: mpsc::Sender<Packet>,
    _place: Option<Place>,
}

/// A stream's place among those that its client may have; free once both of its directions have been dropped.
type Place = Arc<OwnedSemaphorePermit>;

impl Outgoing {
    /// A stream of this number.
    pub(super) fn new(stream: u32, packets: mpsc::Sender<Packet>) -> Self {
        Self { stream, packets, _place: None }
    }

    /// The other direction of a stream that the client has opened.
    pub(super) fn of(stream: u32, packets: mpsc::Sender<Packet>, incoming: &Incoming) -> Self {
        Self { stream, packets, _place: Some(incoming.place.clone()) }
    }

    /// Sends, as fast as the client reads.
    pub(super) async fn write(&self, data: &[u8]) -> Result<(), Gone> {
        for piece in data.chunks(PIECE) {
            self.packet(Bytes::copy_from_slice(piece), false).await?;
        }
        Ok(())
    }

    /// Sends an empty message, which some clients take for the sign that all is ready.
    pub(super) async fn touch(&self) -> Result<(), Gone> {
        self.packet(Bytes::new(), false).await
    }

    /// Says that nothing follows.
    pub(super) async fn finish(self) -> Result<(), Gone> {
        self.packet(Bytes::new(), true).await
    }

    /// Ends the stream in both directions.
    pub(super) async fn reset(self) -> Result<(), Gone> {
        self.packets.send(Packet::Reset { stream: self.stream, refused: false }).await.map_err(|_| Gone)
    }

    /// Waits until the connection is over.
    pub(super) async fn gone(&self) {
        self.packets.closed().await;
    }

    async fn packet(&self, bytes: Bytes, last: bool) -> Result<(), Gone> {
        self.packets.send(Packet::Data { stream: self.stream, bytes, last }).await.map_err(|_| Gone)
    }
}

#[derive(Debug)]
enum Piece {
    Data(Bytes, OwnedSemaphorePermit),
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

/// One stream, into the node. Dropping it discards what the client still sends.
#[derive(Debug)]
pub(super) struct Incoming {
    pieces: mpsc::UnboundedReceiver<Piece>,
    ended: bool,
    place: Place,
}

impl Incoming {
    /// What comes next. Nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> Received {
        if self.ended {
            return Received::End;
        }
        match self.pieces.recv().await {
            Some(Piece::Data(bytes, _room)) => Received::Data(bytes),
            Some(Piece::End) => {
                self.ended = true;
                Received::End
            }
            None => Received::Reset,
        }
    }
}

/// Hands what a client sends to the streams that it is for.
#[derive(Debug)]
pub(super) struct Demux {
    streams: HashMap<u32, mpsc::UnboundedSender<Piece>>,
    room: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Demux {
    /// Without streams yet.
    pub(super) fn new() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { streams: HashMap::new(), room: semaphore(BACKLOG), places: semaphore(MAX_STREAMS) }
    }

    /// Opens a stream; `None` if there is one of this number, or the client has too many. Numbers need not go up: spdystream
    /// draws them and sends them under two locks.
    pub(super) fn open(&mut self, stream: u32) -> Option<Incoming> {
        if self.streams.len() >= MAX_STREAMS {
            self.streams.retain(|_, to| !to.is_closed());
        }
        if self.streams.len() >= MAX_STREAMS || self.streams.contains_key(&stream) {
            return None;
        }
        let place = Arc::new(Arc::clone(&self.places).try_acquire_owned().ok()?);
        let (to, pieces) = mpsc::unbounded_channel();
        self.streams.insert(stream, to);
        Some(Incoming { pieces, ended: false, place })
    }

    /// Delivers bytes; waits while too much lies undelivered. What nobody wants is dropped.
    pub(super) async fn deliver(&self, stream: u32, mut bytes: Bytes) {
        let Some(to) = self.streams.get(&stream) else { return };
        while bytes.has_remaining() && !to.is_closed() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            let permits = u32::try_from(piece.len() + OVERHEAD).unwrap_or(u32::MAX);
            let room = tokio::select! {
                room = Arc::clone(&self.room).acquire_many_owned(permits) => room,
                () = to.closed() => return,
            };
            // The semaphore is never closed; a receiver that goes away drops what it had. Copied, or a byte could keep a whole
            // buffer of the connection's.
            if let Ok(room) = room {
                let _ = to.send(Piece::Data(Bytes::copy_from_slice(&piece), room));
            }
        }
    }

    /// The client has no more to send on this stream.
    pub(super) fn end(&mut self, stream: u32) {
        if let Some(to) = self.streams.remove(&stream) {
            let _ = to.send(Piece::End);
        }
    }

    /// The client has given the stream up.
    pub(super) fn reset(&mut self, stream: u32) {
        self.streams.remove(&stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_stream_ends_or_is_reset() {
        let mut demux = Demux::new();
        let (mut one, mut two) = (demux.open(1).unwrap(), demux.open(3).unwrap());
        demux.deliver(1, Bytes::from_static(b"abc")).await;
        demux.end(1);
        demux.deliver(1, Bytes::from_static(b"too late")).await;
        demux.deliver(3, Bytes::from_static(b"x")).await;
        demux.reset(3);
        assert_eq!(one.next().await, Received::Data(Bytes::from_static(b"abc")));
        assert_eq!(one.next().await, Received::End);
        assert_eq!(one.next().await, Received::End);
        assert_eq!(two.next().await, Received::Data(Bytes::from_static(b"x")));
        assert_eq!(two.next().await, Received::Reset);
    }

    #[tokio::test]
    async fn what_nobody_takes_stops_the_reader_until_it_is_taken_or_dropped() {
        let mut demux = Demux::new();
        let (mut slow, other) = (demux.open(1).unwrap(), demux.open(3).unwrap());
        demux.deliver(1, Bytes::from(vec![7; BACKLOG - BACKLOG / PIECE * OVERHEAD])).await;
        assert!(demux.deliver(3, Bytes::from_static(b"x")).now_or_never().is_none(), "over the bound");
        assert!(matches!(slow.next().await, Received::Data(_)));
        demux.deliver(3, Bytes::from_static(b"x")).await;
        drop(other);
        demux.deliver(3, Bytes::from(vec![7; 4 * BACKLOG])).await;
        drop(slow);
        demux.deliver(1, Bytes::from(vec![7; 4 * BACKLOG])).await;
    }

    #[tokio::test]
    async fn a_client_cannot_open_streams_without_end() {
        let mut demux = Demux::new();
        let mut open: Vec<_> = (0..4096).map(|n| demux.open(n).unwrap()).collect();
        assert!(demux.open(5000).is_none());
        open.truncate(100);
        assert!(demux.open(5000).is_some());
    }

    #[tokio::test]
    async fn streams_that_the_client_has_ended_count_while_they_are_worked_for() {
        let mut demux = Demux::new();
        let (packets, _to_send) = mpsc::channel(1);
        let mut kept = Vec::new();
        for n in 0..4096 {
            let incoming = demux.open(n).unwrap();
            kept.push(Outgoing::of(n, packets.clone(), &incoming));
            demux.end(n);
        }
        assert!(demux.open(5000).is_none());
        kept.pop();
        assert!(demux.open(5000).is_some());
    }

    #[tokio::test]
    async fn single_bytes_do_not_fill_the_memory() {
        let mut demux = Demux::new();
        let mut slow = demux.open(1).unwrap();
        let buffer = Bytes::from(vec![7; PIECE]);
        for _ in 0..BACKLOG / (1 + OVERHEAD) {
            demux.deliver(1, buffer.slice(..1)).await;
        }
        assert!(demux.deliver(1, Bytes::from(vec![7; OVERHEAD])).now_or_never().is_none(), "over the bound");
        assert!(buffer.is_unique(), "what waits keeps the connection's buffer");
        assert!(matches!(slow.next().await, Received::Data(_)));
    }
}
