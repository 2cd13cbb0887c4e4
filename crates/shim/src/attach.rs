//! Attached clients: output to them, input from them.

use crate::conn::{Attachment, Conn, Role};
use crate::log::Stream;
use crate::requests::{failure, unknown};
use crate::shim::{Owed, Shim};
use rustix::io::Errno;
use strata_wire::Reply;
use strata_wire::attach::{AttachFrame, MAX_PAYLOAD};
use strata_wire::message::{Failure, FailureKind};

/// How many buffers full of output one container gives before the others' turn.
const ROUNDS: usize = 4;

impl Shim {
    pub(crate) fn attach(&mut self, owed: Owed, id: &str, mut wanted: Attachment) -> Result<(), Failure> {
        let number = self.find(id)?;
        let container = self.containers.get_mut(&number).ok_or_else(|| unknown(id))?;
        if container.state().is_none() {
            let message = format!("container {id} is still being created");
            return Err(failure(FailureKind::WrongState, "attach", message));
        }
        let tty = container.plan.stdio.tty;
        let exited = container.exit_code();
        wanted.container = number;
        wanted.stdin &= container.plan.stdio.stdin;
        if wanted.stdin && container.first_attached.is_none() {
            container.first_attached = Some(owed.conn);
        }
        let Some(conn) = self.conns.get_mut(&owed.conn) else { return Ok(()) };
        conn.send(owed.request, Reply::Attached { tty }, Vec::new());
        // The client may have sent its first frames with the request.
        let role = std::mem::replace(&mut conn.role, Role::Rpc(strata_wire::frame::Decoder::default()));
        wanted.input = match role {
            Role::Rpc(decoder) => decoder.into_rest(),
            Role::Attached(before) => before.input,
        };
        conn.role = Role::Attached(wanted);
        if let Some(code) = exited {
            conn.send_frame(&AttachFrame::Exit(code));
        }
        self.take_input(owed.conn);
        Ok(())
    }

    /// An attached client has sent something.
    pub(crate) fn attached_ready(&mut self, id: u32, buffer: &mut [u8]) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let Role::Attached(attachment) = &mut conn.role else { return };
        match rustix::io::read(&conn.socket, &mut *buffer) {
            Ok(0) => return self.close(id),
            Ok(n) => attachment.input.extend_from_slice(&buffer[..n]),
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => return self.close(id),
        }
        self.take_input(id);
    }

    /// Takes a client's frames as far as the container takes its input; the rest waits, and so does the client.
    pub(crate) fn take_input(&mut self, id: u32) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let Role::Attached(attachment) = &mut conn.role else { return };
        let Some(container) = self.containers.get_mut(&attachment.container) else { return };
        let mut at = 0;
        loop {
            match AttachFrame::decode(&attachment.input[at..]) {
                Ok(Some((frame, n))) => {
                    at += n;
                    container.take_frame(id, frame, attachment.stdin);
                }
                Ok(None) => break,
                Err(_) => {
                    // What has been taken is not to be taken again as the last words of a client that has gone.
                    attachment.input.drain(..at);
                    return self.close(id);
                }
            }
            if container.streams.input_full() {
                container.streams.write_input(&self.poll, attachment.container);
            }
            if attachment.stdin && container.streams.input_full() {
                break;
            }
        }
        attachment.input.drain(..at);
        container.streams.write_input(&self.poll, attachment.container);
        let waits = attachment.stdin && container.streams.input_full();
        conn.pause(waits);
    }

    /// A container can take more input: clients that wait go on.
    pub(crate) fn input_writable(&mut self, id: u32) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        container.streams.write_input(&self.poll, id);
        let waiting: Vec<u32> = self
            .conns
            .iter()
            .filter(|(_, c)| matches!(&c.role, Role::Attached(a) if a.container == id && a.stdin))
            .map(|(n, _)| *n)
            .collect();
        waiting.into_iter().for_each(|n| self.take_input(n));
    }

    /// A container has closed its standard input: clients that wait are read from again, to no effect.
    pub(crate) fn input_refused(&mut self, id: u32) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        container.streams.refuse_input();
        self.input_writable(id);
    }

    /// A container has output. A client that is waited for holds it back, but not its end: what is left in the pipe
    /// then is not much, and epoll would report it for ever.
    pub(crate) fn output_ready(&mut self, id: u32, stream: Stream, gone: bool, buffer: &mut [u8]) {
        if !gone && self.held_back(id) {
            if let Some(container) = self.containers.get_mut(&id) {
                container.streams.hold(&self.poll, id, true);
            }
            return;
        }
        self.output(id, stream, buffer);
    }

    fn held_back(&self, id: u32) -> bool {
        self.conns.values().any(|conn| conn.holds_back(id))
    }

    /// Clients may have taken what held a container's output back.
    pub(crate) fn release_output(&mut self) {
        let held: Vec<u32> =
            self.containers.iter().filter(|(_, c)| c.streams.held()).map(|(id, _)| *id).collect();
        for id in held {
            let release = !self.held_back(id);
            if let Some(container) = self.containers.get_mut(&id).filter(|c| release || c.draining()) {
                container.streams.hold(&self.poll, id, false);
            }
        }
    }

    /// Takes output: to the log, and to whoever is attached.
    pub(crate) fn output(&mut self, id: u32, stream: Stream, buffer: &mut [u8]) {
        // Bounded, so that one talkative container does not keep the loop from the others; what is left makes epoll
        // report again.
        for _ in 0..ROUNDS {
            let Some(container) = self.containers.get_mut(&id) else { return };
            let Some(data) = container.streams.read(stream, buffer) else { break };
            if data.is_empty() {
                break;
            }
            if let Some(log) = &mut container.streams.log {
                log.write(stream, data);
            }
            for chunk in data.chunks(MAX_PAYLOAD) {
                match stream {
                    Stream::Stdout => {
                        let frame = AttachFrame::Stdout(chunk.to_vec());
                        self.tell_attached(id, &frame, |a| a.stdout);
                    }
                    Stream::Stderr => {
                        let frame = AttachFrame::Stderr(chunk.to_vec());
                        self.tell_attached(id, &frame, |a| a.stderr);
                    }
                }
            }
        }
        self.finish_if_drained(id);
    }

    /// Queues a frame for those attached clients that want it.
    pub(crate) fn tell_attached(
        &mut self,
        id: u32,
        frame: &AttachFrame,
        wants: impl Fn(&Attachment) -> bool,
    ) {
        for conn in self.conns.values_mut() {
            if matches!(&conn.role, Role::Attached(a) if a.container == id && wants(a)) {
                conn.send_frame(frame);
            }
        }
    }

    /// A client has gone. What it has sent is still the container's; if its input was the only one, that ends.
    pub(crate) fn client_gone(&mut self, id: u32, conn: &Conn) {
        let Role::Attached(attachment) = &conn.role else { return };
        let number = attachment.container;
        let Some(container) = self.containers.get_mut(&number) else { return };
        let mut rest = attachment.input.as_slice();
        while let Ok(Some((frame, n))) = AttachFrame::decode(rest) {
            rest = &rest[n..];
            if let AttachFrame::Stdin(data) = frame
                && attachment.stdin
            {
                container.streams.push_input(&data);
            }
        }
        if attachment.stdin && container.input_ends_with(id) {
            container.streams.end_input();
        }
        container.streams.write_input(&self.poll, number);
    }
}
