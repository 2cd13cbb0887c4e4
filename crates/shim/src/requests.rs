//! Requests, and their replies.

use crate::conn::{Attachment, Role};
use crate::shim::{Owed, Shim};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use strata_sys::process;
use strata_wire::frame::FrameError;
use strata_wire::message::{Failure, FailureKind};
use strata_wire::{Event, OLDEST, Reply, Request, VERSION, agree};

/// A failure without an error number.
pub(crate) fn failure(
    kind: FailureKind,
    step: impl Into<String>,
    message: impl std::fmt::Display,
) -> Failure {
    Failure { kind, step: step.into(), message: message.to_string(), errno: None }
}

/// The failure of a system call.
pub(crate) fn call_failed(step: &str, error: &strata_sys::Error) -> Failure {
    Failure { errno: Some(error.errno.raw_os_error()), ..failure(FailureKind::Internal, step, error) }
}

/// No such container.
pub(crate) fn unknown(id: &str) -> Failure {
    failure(FailureKind::NotFound, "find container", format!("this pod has no container {id}"))
}

impl Shim {
    /// A client has sent something, or can take more.
    pub(crate) fn client_ready(&mut self, id: u32, buffer: &mut [u8]) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let Role::Rpc(decoder) = &mut conn.role else {
            return self.attached_ready(id, buffer);
        };
        match decoder.fill(&conn.socket) {
            Ok(0) => return self.close(id),
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => return self.close(id),
        }
        loop {
            let Some(conn) = self.conns.get_mut(&id) else { return };
            let Role::Rpc(decoder) = &mut conn.role else { return };
            match decoder.take::<Request>() {
                Ok(Some((envelope, fds))) => {
                    let owed = Owed { conn: id, request: envelope.id };
                    self.request(owed, envelope.body, &fds);
                }
                Ok(None) => return,
                Err(e @ FrameError::Descriptors { id: request, .. }) => {
                    let error = failure(FailureKind::Internal, "receive descriptors", e);
                    self.reply(Owed { conn: id, request }, Reply::Error(error));
                }
                Err(FrameError::Json(e)) => {
                    // Where the next frame begins is known, but not what was asked: a newer client, perhaps.
                    let error = failure(FailureKind::Invalid, "read request", e);
                    conn.send(0, Reply::Error(error), Vec::new());
                    return self.close_after_flush(id);
                }
                Err(_) => return self.close(id),
            }
        }
    }

    fn close_after_flush(&mut self, id: u32) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.flush();
        }
        self.close(id);
    }

    /// Answers a request, now or later.
    fn request(&mut self, owed: Owed, request: Request, fds: &[OwnedFd]) {
        let answer = match request {
            Request::Hello { oldest, version } => self.hello(oldest, version),
            Request::State => Ok(Some(self.state())),
            Request::Subscribe => {
                if let Some(conn) = self.conns.get_mut(&owed.conn) {
                    conn.subscribed = true;
                }
                Ok(Some(self.state()))
            }
            Request::Create(plan) => self.create(owed, *plan).map(|()| None),
            Request::Continue { id } => self.continue_creation(owed, &id).map(|()| None),
            Request::Start { id } => self.start(owed, &id).map(|()| None),
            Request::Signal { id, signal, all } => self.signal(&id, signal, all).map(|()| Some(Reply::Ok)),
            Request::Remove { id } => self.remove(owed, &id).map(|()| None),
            Request::Exec(plan) => self.exec(owed, *plan, fds).map(|()| None),
            Request::KillExec { container_id, exec_id, signal } => {
                self.kill_exec(&container_id, &exec_id, signal).map(|()| Some(Reply::Ok))
            }
            Request::ReopenLog { id } => self.reopen_log(&id).map(|()| Some(Reply::Ok)),
            Request::Resize { id, rows, cols } => self.resize(&id, rows, cols).map(|()| Some(Reply::Ok)),
            Request::Attach { id, stdin, stdout, stderr, wait } => {
                let wanted = Attachment { container: 0, stdin, stdout, stderr, wait, input: Vec::new() };
                self.attach(owed, &id, wanted).map(|()| None)
            }
            Request::Shutdown => {
                self.begin_shutdown(Some(owed));
                Ok(None)
            }
        };
        match answer {
            Ok(Some(reply)) => self.reply(owed, reply),
            Ok(None) => {}
            Err(failure) => self.reply(owed, Reply::Error(failure)),
        }
    }

    fn hello(&self, oldest: u32, newest: u32) -> Result<Option<Reply>, Failure> {
        let version = agree(oldest, newest).ok_or_else(|| {
            let message = format!(
                "this shim speaks versions {OLDEST} to {VERSION} of the protocol, stratad or strata {oldest} to {newest}: its pod runs \
                 on; make the pod anew, or install a release that speaks one of them"
            );
            failure(FailureKind::Invalid, "hello", message)
        })?;
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Ok(Some(Reply::Hello { version, pod_id: self.plan.id.clone(), pid }))
    }

    fn state(&self) -> Reply {
        let containers = self.containers.values().filter_map(crate::containers::Container::state).collect();
        Reply::State { containers, pause_pid: self.pause.as_ref().map(|p| p.pid) }
    }

    /// Queues a reply; a client that has gone needs none.
    pub(crate) fn reply(&mut self, owed: Owed, reply: Reply) {
        self.reply_with(owed, reply, Vec::new());
    }

    /// As [`Self::reply`], with descriptors.
    pub(crate) fn reply_with(&mut self, owed: Owed, reply: Reply, fds: Vec<OwnedFd>) {
        if let Some(conn) = self.conns.get_mut(&owed.conn) {
            conn.send(owed.request, reply, fds);
        }
    }

    /// Tells every subscriber.
    pub(crate) fn announce(&mut self, event: &Event) {
        for conn in self.conns.values_mut().filter(|c| c.subscribed) {
            conn.send(0, event, Vec::new());
        }
    }

    /// The number of the container of this ID.
    pub(crate) fn find(&self, id: &str) -> Result<u32, Failure> {
        self.containers.iter().find(|(_, c)| c.plan.id == id).map(|(n, _)| *n).ok_or_else(|| unknown(id))
    }

    fn signal(&self, id: &str, signal: i32, all: bool) -> Result<(), Failure> {
        let step = format!("signal {signal}");
        let container = self.containers.get(&self.find(id)?).ok_or_else(|| unknown(id))?;
        if container.pid == 0 {
            return Err(failure(FailureKind::WrongState, step, format!("container {id} is not running")));
        }
        if !(1..=64).contains(&signal) {
            return Err(failure(FailureKind::Invalid, step, "there is no such signal"));
        }
        if all {
            let sent =
                if signal == 9 { container.group.kill_now() } else { container.group.signal_all(signal) };
            return sent.map_err(|e| failure(FailureKind::Internal, step, e));
        }
        match process::pidfd_send_signal(&container.pidfd, signal) {
            // It has ended and will be reaped in a moment.
            Err(e) if e.errno == Errno::SRCH => Ok(()),
            other => other.map_err(|e| call_failed(&step, &e)),
        }
    }

    fn reopen_log(&mut self, id: &str) -> Result<(), Failure> {
        let number = self.find(id)?;
        let log = self.containers.get_mut(&number).and_then(|c| c.streams.log.as_mut());
        match log {
            Some(log) => log.reopen().map_err(|e| call_failed("reopen log", &e)),
            None => {
                Err(failure(FailureKind::WrongState, "reopen log", format!("container {id} has no log file")))
            }
        }
    }

    fn resize(&self, id: &str, rows: u16, cols: u16) -> Result<(), Failure> {
        let container = self.containers.get(&self.find(id)?).ok_or_else(|| unknown(id))?;
        match container.streams.terminal() {
            Some(terminal) => {
                strata_sys::tty::set_size(terminal, rows, cols).map_err(|e| call_failed("resize", &e))
            }
            None => {
                Err(failure(FailureKind::WrongState, "resize", format!("container {id} has no terminal")))
            }
        }
    }
}
