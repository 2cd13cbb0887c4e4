//! An SPDY/3.1 client of a few lines: for the protocols that crictl does not speak, and for many streams.

use super::raw;
use flate2::{Compress, Compression, FlushCompress};
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use strata_e2e::node::Node;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const FIN: u8 = 1;

/// What the server says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Reply(u32),
    Data { stream: u32, bytes: Vec<u8>, last: bool },
    Reset(u32),
    Other,
}

/// A connection.
pub(super) struct Spdy {
    stream: TcpStream,
    /// Without the protocol's dictionary, which nobody has to use: crictl does.
    headers: Compress,
    next: u32,
}

impl Spdy {
    /// Connects, for this protocol; an empty one is not named.
    pub(super) fn connect(node: &Node, url: &str, protocol: &str) -> Self {
        let mut headers = "Upgrade: SPDY/3.1\r\n".to_owned();
        if !protocol.is_empty() {
            headers.push_str(&format!("X-Stream-Protocol-Version: {protocol}\r\n"));
        }
        let (head, stream) = raw::request(node, url, "POST", &headers);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let chosen = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("x-stream-protocol-version").then(|| value.trim())
        });
        assert_eq!(chosen.unwrap_or_default(), protocol, "{head}");
        Self { stream, headers: Compress::new(Compression::fast(), true), next: 1 }
    }

    fn control(&mut self, kind: u16, payload: &[u8]) -> io::Result<()> {
        let mut frame = [[0x80, 3], kind.to_be_bytes()].concat();
        frame.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame)
    }

    /// Opens a stream; its number.
    pub(super) fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let number = self.next;
        self.next += 2;
        let word = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
        let mut plain = word(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&word(text.len()));
            plain.extend_from_slice(text.as_bytes());
        }
        let mut block = Vec::with_capacity(plain.len() + 256);
        self.headers.compress_vec(&plain, &mut block, FlushCompress::Sync).unwrap();
        assert!(block.len() < block.capacity(), "the block is whole");
        self.control(SYN_STREAM, &[&number.to_be_bytes()[..], &[0; 6], &block].concat()).unwrap();
        number
    }

    /// Sends bytes, as one frame.
    pub(super) fn data(&mut self, stream: u32, bytes: &[u8], last: bool) -> io::Result<()> {
        let mut frame = stream.to_be_bytes().to_vec();
        let flags = if last { u32::from(FIN) << 24 } else { 0 };
        frame.extend_from_slice(&(flags | u32::try_from(bytes.len()).unwrap()).to_be_bytes());
        frame.extend_from_slice(bytes);
        self.stream.write_all(&frame)
    }

    /// Gives a stream up.
    pub(super) fn reset(&mut self, stream: u32) -> io::Result<()> {
        self.control(RST_STREAM, &[stream.to_be_bytes(), 5u32.to_be_bytes()].concat())
    }

    /// The next frame; `None` at the connection's end.
    pub(super) fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 8];
        self.stream.read_exact(&mut head).ok()?;
        let [a, b, c, d, flags, length @ ..] = head;
        let length = usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).ok()?;
        let word = u32::from_be_bytes([a, b, c, d]);
        if word >> 31 == 0 {
            return Some(Frame::Data { stream: word, bytes: payload, last: flags & FIN != 0 });
        }
        let stream = payload.first_chunk().map_or(0, |four| u32::from_be_bytes(*four));
        Some(match u16::from_be_bytes([c, d]) {
            SYN_REPLY => Frame::Reply(stream),
            RST_STREAM => Frame::Reset(stream),
            _ => Frame::Other,
        })
    }

    /// The same connection, to write data on while this one reads.
    pub(super) fn another(&self) -> Self {
        let stream = self.stream.try_clone().unwrap();
        Self { stream, headers: Compress::new(Compression::fast(), true), next: u32::MAX }
    }
}
