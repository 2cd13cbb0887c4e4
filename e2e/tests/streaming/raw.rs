//! A WebSocket client of a few lines: for the protocols that crictl does not speak, for tokens, and for many sessions.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use strata_e2e::node::Node;

/// Asks for an upgrade with these header lines; the answer's head and the connection.
pub(super) fn request(node: &Node, url: &str, method: &str, headers: &str) -> (String, TcpStream) {
    let rest = url.strip_prefix("http://").unwrap_or_else(|| panic!("{url}"));
    let (host, path) = rest.split_once('/').unwrap_or_else(|| panic!("{url}"));
    let mut stream = node.netns().run(|| TcpStream::connect(host)).unwrap_or_else(|e| panic!("{host}: {e}"));
    stream.set_read_timeout(Some(strata_e2e::patience(60))).unwrap();
    let request =
        format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&head)));
        head.push(byte[0]);
    }
    (String::from_utf8_lossy(&head).into_owned(), stream)
}

/// A request for a WebSocket in this protocol (an empty one is not named); the status code and the connection.
pub(super) fn upgrade(node: &Node, url: &str, protocol: &str) -> (u16, TcpStream) {
    let mut headers =
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            .to_owned();
    if !protocol.is_empty() {
        headers.push_str(&format!("Sec-WebSocket-Protocol: {protocol}\r\n"));
    }
    let (head, stream) = request(node, url, "GET", &headers);
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.unwrap_or_else(|| panic!("{head}")), stream)
}

/// What a session has said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// By channel: input's is empty.
    pub channels: [Vec<u8>; 5],
    /// The close frame's code.
    pub closed: Option<u16>,
}

impl Said {
    pub(super) fn text(&self, channel: usize) -> String {
        String::from_utf8_lossy(&self.channels[channel]).into_owned()
    }
}

/// A session.
pub(super) struct Client(TcpStream);

impl Client {
    pub(super) fn connect(node: &Node, url: &str, protocol: &str) -> Self {
        let (status, stream) = upgrade(node, url, protocol);
        assert_eq!(status, 101, "{url}");
        Self(stream)
    }

    /// Sends a message, masked with zeros.
    pub(super) fn send(&mut self, opcode: u8, message: &[u8]) -> io::Result<()> {
        let mut frame = vec![0x80 | opcode, 0x80 | 127];
        frame.extend_from_slice(&(message.len() as u64).to_be_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(message);
        self.0.write_all(&frame)
    }

    /// Sends bytes on a channel.
    pub(super) fn write(&mut self, channel: u8, data: &[u8]) -> io::Result<()> {
        self.send(2, &[&[channel][..], data].concat())
    }

    /// The next message's kind and content; `None` at the connection's end.
    pub(super) fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).ok()?;
        let mut len = u64::from(head[1]);
        if len == 126 {
            let mut more = [0; 2];
            self.0.read_exact(&mut more).ok()?;
            len = u16::from_be_bytes(more).into();
        } else if len == 127 {
            let mut more = [0; 8];
            self.0.read_exact(&mut more).ok()?;
            len = u64::from_be_bytes(more);
        }
        let mut content = vec![0; usize::try_from(len).unwrap()];
        self.0.read_exact(&mut content).ok()?;
        Some((head[0] & 0xf, content))
    }

    /// Everything until the end, in binary channels.
    pub(super) fn all(&mut self) -> Said {
        let mut said = Said::default();
        while let Some((opcode, content)) = self.read() {
            match opcode {
                8 => {
                    said.closed = content.first_chunk::<2>().map(|code| u16::from_be_bytes(*code));
                    let _ = self.send(8, &content);
                    break;
                }
                2 => said.channels[usize::from(content[0])].extend_from_slice(&content[1..]),
                other => panic!("a message of kind {other}"),
            }
        }
        said
    }

    /// The same connection, to write on while this one reads.
    pub(super) fn another(&self) -> Self {
        Self(self.0.try_clone().unwrap())
    }
}
