//! What both transports have in common: what is sent, over one connection, with bounded memory.
//!
//! A sender waits until the connection's writer takes its packet, and that waits for the client. What comes the other way is
//! [`super::demux`]'s.

use super::demux::{Incoming, Place};
use bytes::Bytes;
use tokio::sync::mpsc;

/// The longest piece that is handed on at once, in bytes.
pub(super) const PIECE: usize = 32 << 10;

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

impl Outgoing {
    /// A stream of this number.
    pub(super) fn new(stream: u32, packets: mpsc::Sender<Packet>) -> Self {
        Self { stream, packets, _place: None }
    }

    /// The other direction of a stream that the client has opened.
    pub(super) fn of(stream: u32, packets: mpsc::Sender<Packet>, incoming: &Incoming) -> Self {
        Self { stream, packets, _place: Some(incoming.place()) }
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
