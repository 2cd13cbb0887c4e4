//! Frames (SPDY Protocol, Draft 3.1, section 2.2).
//!
//! ```text
//!   control  1 | version 15 | type 16 || flags 8 | length 24 || payload
//!   data     0 | stream 31            || flags 8 | length 24 || payload
//! ```

use super::headers::{self, Headers};
use crate::streaming::channel::{PIECE, Packet};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
/// The last frame of its sender in this stream.
const FIN: u8 = 1;
/// RST_STREAM's status codes (section 2.6.3).
const REFUSED_STREAM: u32 = 3;
const CANCEL: u32 = 5;

/// The longest control frame that is read, in bytes: a header block, or a list of settings.
const MAX_CONTROL: usize = 64 << 10;

/// What makes a connection unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The connection failed or ended inside a frame.
    #[error("the connection broke: {0}")]
    Io(std::io::ErrorKind),
    /// A header block cannot be read.
    #[error("SPDY headers: {0}")]
    Headers(&'static str),
    /// A frame makes no sense.
    #[error("SPDY frame: {0}")]
    Frame(&'static str),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error.kind())
    }
}

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// It opens a stream.
    Open {
        /// The stream.
        stream: u32,
        /// It will send nothing in it.
        last: bool,
        /// What it is for.
        headers: Headers,
    },
    /// A part of a data frame.
    Data {
        /// The stream.
        stream: u32,
        /// What.
        bytes: Bytes,
        /// Nothing follows in this stream.
        last: bool,
    },
    /// It gives a stream up.
    Reset(u32),
    /// It asks for an answer.
    Ping(u32),
    /// It opens no more streams.
    GoAway,
    /// Nothing that this end needs: SETTINGS, WINDOW_UPDATE, headers that come later.
    Other,
}

/// A data frame that has come in part.
#[derive(Clone, Copy, Debug)]
struct Partial {
    stream: u32,
    left: usize,
    last: bool,
}

/// Reads frames.
pub(super) struct Reader<R> {
    io: R,
    buffer: BytesMut,
    headers: headers::Reader,
    partial: Option<Partial>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(io: R) -> Self {
        Self { io, buffer: BytesMut::new(), headers: headers::Reader::new(), partial: None }
    }

    /// The next frame; `None` at the connection's end. A long data frame comes in pieces as they arrive.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Fault> {
        if let Some(partial) = self.partial.take() {
            return self.data(partial).await.map(Some);
        }
        if !self.fill(8).await? {
            return if self.buffer.is_empty() { Ok(None) } else { Err(cut_off()) };
        }
        let head = self.buffer.split_to(8).freeze();
        let (word, flags, length) = (number(&head, 0)?, head.get(4).copied().unwrap_or(0), number(&head, 4)?);
        let length = usize::try_from(length & 0x00ff_ffff).map_err(|_| Fault::Frame("its length"))?;
        if word & 0x8000_0000 == 0 {
            if word == 0 {
                return Err(Fault::Frame("data for stream 0"));
            }
            return self.data(Partial { stream: word, left: length, last: flags & FIN != 0 }).await.map(Some);
        }
        let [a, b, c, d] = word.to_be_bytes();
        if u16::from_be_bytes([a & 0x7f, b]) != VERSION {
            return Err(Fault::Frame("of another version"));
        }
        if length > MAX_CONTROL {
            return Err(Fault::Frame("longer than control frames may be"));
        }
        if !self.fill(length).await? {
            return Err(cut_off());
        }
        let payload = self.buffer.split_to(length).freeze();
        self.control(u16::from_be_bytes([c, d]), flags, &payload).map(Some)
    }

    fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> Result<Frame, Fault> {
        match kind {
            SYN_STREAM => {
                let stream = stream(payload)?;
                let headers = self.headers.read(after(payload, 10)?)?;
                Ok(Frame::Open { stream, last: flags & FIN != 0, headers })
            }
            // Read although nobody wants them: the compression goes on from block to block.
            SYN_REPLY | HEADERS => {
                self.headers.read(after(payload, 4)?)?;
                Ok(Frame::Other)
            }
            RST_STREAM => Ok(Frame::Reset(stream(payload)?)),
            PING => Ok(Frame::Ping(number(payload, 0)?)),
            GOAWAY => Ok(Frame::GoAway),
            _ => Ok(Frame::Other),
        }
    }

    async fn data(&mut self, mut partial: Partial) -> Result<Frame, Fault> {
        if partial.left > 0 && self.buffer.is_empty() {
            // Kept meanwhile, so that nothing is lost if this future is dropped.
            self.partial = Some(partial);
            if !self.fill(1).await? {
                return Err(cut_off());
            }
            self.partial = None;
        }
        let bytes = self.buffer.split_to(partial.left.min(self.buffer.len()).min(PIECE)).freeze();
        partial.left -= bytes.len();
        if partial.left > 0 {
            self.partial = Some(partial);
        }
        Ok(Frame::Data { stream: partial.stream, bytes, last: partial.last && partial.left == 0 })
    }

    /// Reads until this many bytes are there; `false` if the connection ends before.
    async fn fill(&mut self, bytes: usize) -> Result<bool, Fault> {
        while self.buffer.len() < bytes {
            self.buffer.reserve(PIECE);
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn cut_off() -> Fault {
    Fault::Io(std::io::ErrorKind::UnexpectedEof)
}

fn number(bytes: &[u8], at: usize) -> Result<u32, Fault> {
    let four = bytes.get(at..).and_then(|b| b.first_chunk::<4>()).ok_or(Fault::Frame("too short"))?;
    Ok(u32::from_be_bytes(*four))
}

fn stream(payload: &[u8]) -> Result<u32, Fault> {
    match number(payload, 0)? & 0x7fff_ffff {
        0 => Err(Fault::Frame("about stream 0")),
        stream => Ok(stream),
    }
}

fn after(payload: &[u8], at: usize) -> Result<&[u8], Fault> {
    payload.get(at..).ok_or(Fault::Frame("too short"))
}

/// Encodes what is said to a client.
pub(super) struct Writer {
    headers: headers::Writer,
}

impl Writer {
    pub(super) fn new() -> Result<Self, Fault> {
        Ok(Self { headers: headers::Writer::new()? })
    }

    /// The frame of a packet.
    pub(super) fn encode(&mut self, packet: &Packet) -> Result<Vec<u8>, Fault> {
        match packet {
            Packet::Data { stream, bytes, last } => {
                let mut frame = Vec::with_capacity(8 + bytes.len());
                frame.extend_from_slice(&stream.to_be_bytes());
                // Packets are at most PIECE long.
                let length = u32::try_from(bytes.len()).map_err(|_| Fault::Frame("too long"))? & 0x00ff_ffff;
                let flags = if *last { u32::from(FIN) << 24 } else { 0 };
                frame.extend_from_slice(&(flags | length).to_be_bytes());
                frame.extend_from_slice(bytes);
                Ok(frame)
            }
            Packet::Reset { stream, refused } => {
                let status = if *refused { REFUSED_STREAM } else { CANCEL };
                control(RST_STREAM, &[stream.to_be_bytes(), status.to_be_bytes()].concat())
            }
            Packet::Accept { stream } => {
                let block = self.headers.write(&[])?;
                control(SYN_REPLY, &[&stream.to_be_bytes()[..], &block].concat())
            }
            Packet::Pong(id) => control(PING, &id.to_be_bytes()),
        }
    }
}

/// The last frame of a connection: GOAWAY with the last stream that was accepted.
pub(super) fn go_away(stream: u32) -> Result<Vec<u8>, Fault> {
    control(GOAWAY, &[stream.to_be_bytes(), 0u32.to_be_bytes()].concat())
}

fn control(kind: u16, payload: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut frame = (0x8000 | VERSION).to_be_bytes().to_vec();
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(
        &u32::try_from(payload.len()).map_err(|_| Fault::Frame("too long"))?.to_be_bytes(),
    );
    frame.extend_from_slice(payload);
    Ok(frame)
}

/// A client's frames, for tests of what serves it.
#[cfg(test)]
pub(in crate::streaming) mod client {
    use super::*;

    /// What a client writes; its headers are one compression.
    pub(in crate::streaming) struct Client(headers::Writer);

    impl Client {
        pub(in crate::streaming) fn new() -> Self {
            Self(headers::Writer::new().unwrap())
        }

        pub(in crate::streaming) fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
            let block = self.0.write(headers).unwrap();
            control(SYN_STREAM, &[&stream.to_be_bytes()[..], &[0; 6], &block].concat()).unwrap()
        }

        pub(in crate::streaming) fn data(stream: u32, bytes: &[u8], last: bool) -> Vec<u8> {
            let bytes = Bytes::copy_from_slice(bytes);
            Writer::new().unwrap().encode(&Packet::Data { stream, bytes, last }).unwrap()
        }

        pub(in crate::streaming) fn reset(stream: u32) -> Vec<u8> {
            control(RST_STREAM, &[stream.to_be_bytes(), CANCEL.to_be_bytes()].concat()).unwrap()
        }

        pub(in crate::streaming) fn ping(id: u32) -> Vec<u8> {
            control(PING, &id.to_be_bytes()).unwrap()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::client::Client;
    use super::*;

    async fn frames(bytes: &[u8]) -> (Vec<Frame>, Option<Fault>) {
        let mut reader = Reader::new(bytes);
        let mut all = Vec::new();
        loop {
            match reader.next().await {
                Ok(Some(frame)) => all.push(frame),
                Ok(None) => return (all, None),
                Err(fault) => return (all, Some(fault)),
            }
        }
    }

    #[tokio::test]
    async fn frames_are_read() {
        let mut client = Client::new();
        let bytes = [
            client.open(1, &[("streamtype", "stdin")]),
            Client::data(1, b"hello", false),
            Client::data(1, b"", true),
            Client::ping(7),
            Client::reset(1),
            control(9, &[0; 8]).unwrap(),
            client.open(3, &[("streamtype", "error")]),
            go_away(0).unwrap(),
        ]
        .concat();
        let headers = |value: &str| vec![("streamtype".to_owned(), value.to_owned())];
        let wanted = vec![
            Frame::Open { stream: 1, last: false, headers: headers("stdin") },
            Frame::Data { stream: 1, bytes: Bytes::from_static(b"hello"), last: false },
            Frame::Data { stream: 1, bytes: Bytes::new(), last: true },
            Frame::Ping(7),
            Frame::Reset(1),
            Frame::Other,
            Frame::Open { stream: 3, last: false, headers: headers("error") },
            Frame::GoAway,
        ];
        assert_eq!(frames(&bytes).await, (wanted, None));
        // Cut off anywhere but between frames, the end is an error and no frame is made up.
        for end in 1..bytes.len() {
            let (all, fault) = frames(&bytes[..end]).await;
            assert!(
                all.len() < 9 && (fault.is_none() || fault == Some(cut_off())),
                "{end}: {all:?} {fault:?}"
            );
        }
    }

    #[tokio::test]
    async fn long_data_comes_in_pieces_that_end_once() {
        let all = vec![9; 5 * PIECE + 1];
        let (pieces, fault) = frames(&Client::data(5, &all, true)).await;
        assert_eq!(fault, None);
        let mut joined = Vec::new();
        for (n, piece) in pieces.iter().enumerate() {
            let Frame::Data { stream: 5, bytes, last } = piece else { panic!("{piece:?}") };
            assert!(bytes.len() <= PIECE && *last == (n + 1 == pieces.len()));
            joined.extend_from_slice(bytes);
        }
        assert_eq!(joined, all);
    }

    #[tokio::test]
    async fn nonsense_is_refused() {
        for bytes in [
            b"\0\0\0\0\0\0\0\0".to_vec(),
            b"\x80\x02\0\x06\0\0\0\x04\0\0\0\x01".to_vec(),
            b"\x80\x03\0\x06\0\xff\xff\xff".to_vec(),
            control(RST_STREAM, &[0; 8]).unwrap(),
            control(SYN_STREAM, &[0; 4]).unwrap(),
            control(PING, &[]).unwrap(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ] {
            let (all, fault) = frames(&bytes).await;
            assert!(fault.is_some(), "{bytes:?}: {all:?}");
        }
    }
}
