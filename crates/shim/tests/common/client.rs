//! A blocking client of a shim, for tests.

use super::PATIENCE;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use strata_wire::attach::AttachFrame;
use strata_wire::frame::{self, Decoder};
use strata_wire::message::{Failure, FailureKind};
use strata_wire::state::{ContainerState, ExitRecord};
use strata_wire::{ContainerPlan, Envelope, Event, ExecPlan, Reply, Request};

/// One connection.
pub struct Client {
    pub socket: UnixStream,
    decoder: Decoder,
    events: VecDeque<Event>,
    next: u64,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Incoming {
    Reply(Reply),
    Event(Event),
}

/// An exec without a terminal: the test's ends of its pipes.
pub struct Piped {
    pub pid: i32,
    pub stdin: Option<std::io::PipeWriter>,
    pub stdout: std::io::PipeReader,
    pub stderr: std::io::PipeReader,
}

impl Client {
    pub fn connect(socket: &Path) -> Self {
        let socket = UnixStream::connect(socket).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Self { socket, decoder: Decoder::default(), events: VecDeque::new(), next: 0 };
        let hello = client.call(Request::hello());
        assert!(matches!(hello, Reply::Hello { .. }), "{hello:?}");
        client
    }

    /// Sends a request without waiting for its reply; gives its number.
    pub fn send(&mut self, request: Request, fds: &[BorrowedFd<'_>]) -> u64 {
        self.next += 1;
        let count = u8::try_from(fds.len()).unwrap();
        frame::write(&self.socket, &Envelope { id: self.next, fds: count, body: request }, fds).unwrap();
        self.next
    }

    fn read(&mut self) -> (u64, Incoming, Vec<OwnedFd>) {
        let (envelope, fds) = frame::read::<Incoming>(&self.socket, &mut self.decoder).unwrap();
        (envelope.id, envelope.body, fds)
    }

    /// Waits for the reply to one request; events that come first are kept.
    pub fn reply(&mut self, number: u64) -> (Reply, Vec<OwnedFd>) {
        loop {
            match self.read() {
                (id, Incoming::Reply(reply), fds) => {
                    assert_eq!(id, number, "{reply:?}");
                    return (reply, fds);
                }
                (_, Incoming::Event(event), _) => self.events.push_back(event),
            }
        }
    }

    pub fn call_with(&mut self, request: Request, fds: &[BorrowedFd<'_>]) -> (Reply, Vec<OwnedFd>) {
        let number = self.send(request, fds);
        self.reply(number)
    }

    pub fn call(&mut self, request: Request) -> Reply {
        self.call_with(request, &[]).0
    }

    pub fn done(&mut self, request: Request) {
        let reply = self.call(request);
        assert_eq!(reply, Reply::Ok);
    }

    pub fn fails(&mut self, request: Request) -> Failure {
        match self.call(request) {
            Reply::Error(failure) => failure,
            other => panic!("it did not fail: {other:?}"),
        }
    }

    pub fn fails_with(&mut self, request: Request, kind: FailureKind) -> Failure {
        let failure = self.fails(request);
        assert_eq!(failure.kind, kind, "{failure}");
        failure
    }

    /// The next event.
    pub fn event(&mut self) -> Event {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        match self.read() {
            (_, Incoming::Event(event), _) => event,
            (id, Incoming::Reply(reply), _) => panic!("a reply nobody waits for: {id} {reply:?}"),
        }
    }

    pub fn subscribe(&mut self) -> Vec<ContainerState> {
        self.containers_of(Request::Subscribe)
    }

    pub fn containers(&mut self) -> Vec<ContainerState> {
        self.containers_of(Request::State)
    }

    fn containers_of(&mut self, request: Request) -> Vec<ContainerState> {
        match self.call(request) {
            Reply::State { containers, .. } => containers,
            other => panic!("{other:?}"),
        }
    }

    pub fn container(&mut self, id: &str) -> ContainerState {
        self.containers().into_iter().find(|c| c.id == id).unwrap()
    }

    pub fn create(&mut self, plan: &ContainerPlan) -> i32 {
        match self.call(Request::Create(Box::new(plan.clone()))) {
            Reply::Created { pid, .. } => pid,
            other => panic!("create {}: {other:?}", plan.id),
        }
    }

    pub fn start(&mut self, id: &str) {
        match self.call(Request::Start { id: id.into() }) {
            Reply::Started { started_at } => assert!(started_at > 0),
            other => panic!("start: {other:?}"),
        }
    }

    pub fn run(&mut self, plan: &ContainerPlan) -> i32 {
        let pid = self.create(plan);
        self.start(&plan.id);
        pid
    }

    /// Waits for the end of a container; other events are dropped. The client has subscribed.
    pub fn exited(&mut self, id: &str) -> ExitRecord {
        loop {
            match self.event() {
                Event::Exited(record) if record.id == id => return record,
                _ => {}
            }
        }
    }

    pub fn exec_exited(&mut self, exec: &str) -> (i32, bool) {
        loop {
            match self.event() {
                Event::ExecExited { exec_id, exit_code, timed_out, .. } if exec_id == exec => {
                    return (exit_code, timed_out);
                }
                _ => {}
            }
        }
    }

    /// Starts an exec with pipes.
    pub fn exec(&mut self, plan: &ExecPlan) -> Result<Piped, Failure> {
        let (in_r, in_w) = std::io::pipe().unwrap();
        let (out_r, out_w) = std::io::pipe().unwrap();
        let (err_r, err_w) = std::io::pipe().unwrap();
        let fds = [in_r.as_fd(), out_w.as_fd(), err_w.as_fd()];
        match self.call_with(Request::Exec(Box::new(plan.clone())), &fds).0 {
            Reply::ExecStarted { pid } => Ok(Piped { pid, stdin: Some(in_w), stdout: out_r, stderr: err_r }),
            Reply::Error(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    /// Runs an exec to its end: its output and its exit code.
    pub fn exec_output(&mut self, plan: &ExecPlan) -> (String, String, i32) {
        let mut piped = self.exec(plan).unwrap();
        drop(piped.stdin.take());
        let (mut out, mut err) = (String::new(), String::new());
        piped.stdout.read_to_string(&mut out).unwrap();
        piped.stderr.read_to_string(&mut err).unwrap();
        let (code, timed_out) = self.exec_exited(&plan.exec_id);
        assert!(!timed_out);
        (out, err, code)
    }

    pub fn remove(&mut self, id: &str) {
        self.done(Request::Remove { id: id.into() });
    }

    /// Turns this connection into an attach session.
    pub fn attach(self, id: &str, stdin: bool) -> Attached {
        self.attach_as(id, stdin, false)
    }

    /// Turns it into one that the container's output waits for.
    pub fn attach_waited_for(self, id: &str, stdin: bool) -> Attached {
        self.attach_as(id, stdin, true)
    }

    fn attach_as(mut self, id: &str, stdin: bool, wait: bool) -> Attached {
        let request = Request::Attach { id: id.into(), stdin, stdout: true, stderr: true, wait };
        let reply = self.call(request);
        assert!(matches!(reply, Reply::Attached { .. }), "{reply:?}");
        Attached { socket: self.socket, input: self.decoder.into_rest() }
    }
}

/// An attach session.
pub struct Attached {
    pub socket: UnixStream,
    input: Vec<u8>,
}

impl Attached {
    pub fn send(&mut self, frame: &AttachFrame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.socket.write_all(&bytes).unwrap();
    }

    pub fn type_in(&mut self, text: &str) {
        self.send(&AttachFrame::Stdin(text.as_bytes().to_vec()));
    }

    /// The next frame; `None`: the connection is over.
    pub fn frame(&mut self) -> Option<AttachFrame> {
        loop {
            if let Some((frame, n)) = AttachFrame::decode(&self.input).unwrap() {
                self.input.drain(..n);
                return Some(frame);
            }
            let mut chunk = [0; 65536];
            match self.socket.read(&mut chunk).unwrap() {
                0 => return None,
                n => self.input.extend_from_slice(&chunk[..n]),
            }
        }
    }

    /// Output until it holds a text.
    pub fn until(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            match self.frame() {
                Some(AttachFrame::Stdout(data) | AttachFrame::Stderr(data)) => {
                    seen.push_str(&String::from_utf8_lossy(&data));
                }
                other => panic!("{other:?} before {text:?}; so far {seen:?}"),
            }
        }
        seen
    }

    /// Output until the container's end: standard output, standard error, exit code.
    pub fn until_end(&mut self) -> (String, String, i32) {
        let (mut out, mut err) = (String::new(), String::new());
        loop {
            match self.frame() {
                Some(AttachFrame::Stdout(data)) => out.push_str(&String::from_utf8_lossy(&data)),
                Some(AttachFrame::Stderr(data)) => err.push_str(&String::from_utf8_lossy(&data)),
                Some(AttachFrame::Exit(code)) => {
                    assert_eq!(self.frame(), None, "the connection goes on after the exit");
                    return (out, err, code);
                }
                other => panic!("{other:?} after {} bytes; standard error: {err:?}", out.len()),
            }
        }
    }
}
