//! One client's connection.

use crate::poll::{Poll, Token};
use rustix::io::Errno;
use serde::Serialize;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use strata_wire::attach::{AttachFrame, MAX_LAG};
use strata_wire::frame::{self, Decoder};
use strata_wire::message::Envelope;

/// What a client's bytes mean.
#[derive(Debug)]
pub(crate) enum Role {
    /// Requests.
    Rpc(Decoder),
    /// Attach frames.
    Attached(Attachment),
}

/// An attached client.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) container: u32,
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    /// The container's output waits for it.
    pub(crate) wait: bool,
    /// Received and not yet decoded.
    pub(crate) input: Vec<u8>,
}

/// Bytes that wait to be sent, with the descriptors that go with the first of them.
#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    at: usize,
    fds: Vec<OwnedFd>,
}

/// A connection. It never blocks: what the client does not take waits here.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) socket: OwnedFd,
    pub(crate) role: Role,
    pub(crate) subscribed: bool,
    out: VecDeque<Outgoing>,
    queued: usize,
    /// Close once everything is sent.
    closing: bool,
    /// Do not read: what this client sends would have nowhere to go.
    paused: bool,
}

impl Conn {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            role: Role::Rpc(Decoder::default()),
            subscribed: false,
            out: VecDeque::new(),
            queued: 0,
            closing: false,
            paused: false,
        }
    }

    /// Queues a message. One that cannot be encoded is a bug that only its receiver would notice: it is cut off.
    pub(crate) fn send<T: Serialize>(&mut self, id: u64, body: T, fds: Vec<OwnedFd>) {
        let count = u8::try_from(fds.len()).unwrap_or(u8::MAX);
        match frame::encode(&Envelope { id, fds: count, body }) {
            Ok(bytes) => self.queue(bytes, fds),
            Err(_) => self.closing = true,
        }
    }

    /// Queues attach frames; a client that is too far behind is told and cut off, unless it is waited for.
    pub(crate) fn send_frame(&mut self, frame: &AttachFrame) {
        if self.closing {
            return;
        }
        if self.queued > MAX_LAG && !self.flush() {
            self.closing = true;
            return;
        }
        let waited_for = matches!(&self.role, Role::Attached(a) if a.wait);
        if self.queued > MAX_LAG && !waited_for {
            // What has been begun must be ended, or the client could not read the word that says so.
            self.out.truncate(1);
            let mut lagged = Vec::new();
            AttachFrame::Lagged.encode(&mut lagged);
            self.queue(lagged, Vec::new());
            self.closing = true;
            return;
        }
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.queue(bytes, Vec::new());
        self.closing |= matches!(frame, AttachFrame::Exit(_));
    }

    /// Whether output of this container is to wait until the client has taken more.
    pub(crate) fn holds_back(&self, container: u32) -> bool {
        let attached = matches!(&self.role, Role::Attached(a) if a.wait && a.container == container);
        attached && !self.closing && self.queued > MAX_LAG / 4
    }

    fn queue(&mut self, bytes: Vec<u8>, fds: Vec<OwnedFd>) {
        self.queued += bytes.len();
        self.out.push_back(Outgoing { bytes, at: 0, fds });
    }

    /// Sends what the client takes; `false`: the connection is over.
    pub(crate) fn flush(&mut self) -> bool {
        while let Some(first) = self.out.front_mut() {
            let fds: Vec<_> = first.fds.iter().map(AsFd::as_fd).collect();
            match frame::send(&self.socket, &first.bytes[first.at..], &fds) {
                Ok(n) => {
                    drop(fds);
                    first.fds.clear();
                    first.at += n;
                    self.queued -= n;
                    if first.at == first.bytes.len() {
                        self.out.pop_front();
                    }
                }
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        !self.closing
    }

    /// Whether something waits to be sent.
    pub(crate) fn unsent(&self) -> bool {
        !self.out.is_empty()
    }

    /// Stops or resumes reading.
    pub(crate) fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Tells epoll what this connection waits for.
    pub(crate) fn watch(&self, poll: &Poll, id: u32) {
        // The descriptor is registered as long as the connection lives, so this does not fail for a reason that
        // could be acted on.
        let _ = poll.change(&self.socket, Token::Conn(id), !self.paused, !self.out.is_empty());
    }
}
