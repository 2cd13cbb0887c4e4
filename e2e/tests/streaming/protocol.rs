//! A session in any of the protocols of exec and attach (k8s.io/apimachinery/pkg/util/remotecommand): the same five channels,
//! found and ended in different ways.

use super::raw::{Client, Said};
use super::spdy::{Frame, Spdy};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::io;
use strata_e2e::node::Node;

pub(super) const STDIN: usize = 0;
pub(super) const STDOUT: usize = 1;
pub(super) const STDERR: usize = 2;
pub(super) const ERROR: usize = 3;
pub(super) const RESIZE: usize = 4;
/// Those of a process without a terminal.
pub(super) const PIPES: [usize; 3] = [STDIN, STDOUT, STDERR];
const KINDS: [&str; 5] = ["stdin", "stdout", "stderr", "error", "resize"];

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Protocol {
    pub spdy: bool,
    pub name: &'static str,
}

const fn over(spdy: bool, name: &'static str) -> Protocol {
    Protocol { spdy, name }
}

/// All of them; without a name the first version is meant.
pub(super) const PROTOCOLS: [Protocol; 12] = [
    over(true, ""),
    over(true, "channel.k8s.io"),
    over(true, "v2.channel.k8s.io"),
    over(true, "v3.channel.k8s.io"),
    over(true, "v4.channel.k8s.io"),
    over(true, "v5.channel.k8s.io"),
    over(false, ""),
    over(false, "channel.k8s.io"),
    over(false, "base64.channel.k8s.io"),
    over(false, "v4.channel.k8s.io"),
    over(false, "v4.base64.channel.k8s.io"),
    over(false, "v5.channel.k8s.io"),
];

impl Protocol {
    fn version(self) -> u8 {
        let digit = self.name.strip_prefix('v').and_then(|rest| rest.bytes().next());
        digit.map_or(1, |digit| digit - b'0')
    }

    fn base64(self) -> bool {
        self.name.contains("base64")
    }

    /// Whether a client can end its input and listen on.
    pub(super) fn ends_input(self) -> bool {
        self.spdy || self.version() >= 5
    }

    /// Whether a client can tell the size of its terminal.
    pub(super) fn resizes(self) -> bool {
        !self.spdy || self.version() >= 3
    }

    /// The exit code that the error channel's content tells; 0 for a session that has ended well.
    pub(super) fn exit_code(self, told: &str) -> i32 {
        if self.version() < 4 {
            let code = told.rsplit_once("exit status ").map_or("0", |(_, code)| code);
            assert!(told.is_empty() || told.contains("exit status "), "{self:?}: {told}");
            return code.parse().unwrap_or_else(|e| panic!("{self:?}: {told}: {e}"));
        }
        let status: Value = serde_json::from_str(told).unwrap_or_else(|e| panic!("{self:?}: {told:?}: {e}"));
        if status["status"] == "Success" {
            return 0;
        }
        assert_eq!(status["reason"], "NonZeroExitCode", "{self:?}: {told}");
        let cause = &status["details"]["causes"][0];
        assert_eq!(cause["reason"], "ExitCode", "{self:?}: {told}");
        cause["message"].as_str().unwrap().parse().unwrap()
    }

    /// Begins a session with these channels and the error channel.
    pub(super) fn session(self, node: &Node, url: &str, channels: &[usize]) -> Session {
        if !self.spdy {
            return Session::WebSocket(self, Client::connect(node, url, self.name));
        }
        let mut spdy = Spdy::connect(node, url, self.name);
        let mut streams = [0; 5];
        for channel in [&[ERROR], channels].concat() {
            streams[channel] = spdy.open(&[("streamtype", KINDS[channel])]);
        }
        Session::Spdy(spdy, streams)
    }
}

/// A session.
pub(super) enum Session {
    WebSocket(Protocol, Client),
    Spdy(Spdy, [u32; 5]),
}

impl Session {
    /// Sends bytes on a channel.
    pub(super) fn write(&mut self, channel: usize, data: &[u8]) -> io::Result<()> {
        match self {
            Self::WebSocket(protocol, client) if protocol.base64() => {
                client.send(1, format!("{channel}{}", STANDARD.encode(data)).as_bytes())
            }
            Self::WebSocket(_, client) => client.write(u8::try_from(channel).unwrap(), data),
            Self::Spdy(spdy, streams) => spdy.data(streams[channel], data, false),
        }
    }

    /// Ends the input.
    pub(super) fn end_input(&mut self) -> io::Result<()> {
        match self {
            Self::WebSocket(_, client) => client.send(2, &[255, 0]),
            Self::Spdy(spdy, streams) => spdy.data(streams[STDIN], &[], true),
        }
    }

    /// The next bytes of a channel; `None` once nothing follows.
    pub(super) fn read(&mut self) -> Option<(usize, Vec<u8>)> {
        match self {
            Self::WebSocket(protocol, client) => match client.read()? {
                (2, content) if !protocol.base64() => Some((content[0].into(), content[1..].to_vec())),
                (1, content) if protocol.base64() => {
                    Some(((content[0] - b'0').into(), STANDARD.decode(&content[1..]).unwrap()))
                }
                (8, _) => None,
                other => panic!("{protocol:?}: a message of kind {}", other.0),
            },
            Self::Spdy(spdy, streams) => loop {
                match spdy.read()? {
                    Frame::Data { stream, bytes, last } => {
                        let channel = streams.iter().position(|s| *s == stream).unwrap();
                        // The error stream's end is the session's.
                        if last && channel == ERROR && bytes.is_empty() {
                            return None;
                        }
                        return Some((channel, bytes));
                    }
                    Frame::Reset(stream) => panic!("stream {stream} was reset"),
                    Frame::Reply(_) | Frame::Other => {}
                }
            },
        }
    }

    /// Everything until the end.
    pub(super) fn all(&mut self) -> Said {
        let mut said = Said::default();
        while let Some((channel, bytes)) = self.read() {
            said.channels[channel].extend_from_slice(&bytes);
        }
        said
    }

    /// What comes on a channel until it ends in this.
    pub(super) fn until(&mut self, channel: usize, end: &str) -> String {
        let mut said = String::new();
        while !said.ends_with(end) {
            let (from, bytes) = self.read().unwrap_or_else(|| panic!("ended after {said:?}"));
            assert!(
                from == channel || bytes.is_empty(),
                "channel {from}: {}",
                String::from_utf8_lossy(&bytes)
            );
            said.push_str(&String::from_utf8_lossy(&bytes));
        }
        said
    }

    /// The same session, to write on while this one reads.
    pub(super) fn another(&self) -> Self {
        match self {
            Self::WebSocket(protocol, client) => Self::WebSocket(*protocol, client.another()),
            Self::Spdy(spdy, streams) => Self::Spdy(spdy.another(), *streams),
        }
    }
}
