//! The loop, and what it knows.

use crate::conn::Conn;
use crate::containers::Container;
use crate::execs::{Exec, Leftover};
use crate::log::Stream;
use crate::poll::{Poll, Ready, Token};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use strata_cgroup::Hierarchy;
use strata_runtime::Namespaces;
use strata_sys::process::{self, Exited};
use strata_wire::PodPlan;

/// What is read at once from streams and attached clients; there is one such buffer.
const BUFFER: usize = 64 << 10;

/// How long after its start this process moves into its cgroup of the unified hierarchy: once its pod is up.
const MOVE_AFTER: Duration = Duration::from_secs(1);

/// A reply that is owed: the connection and the request's ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owed {
    pub(crate) conn: u32,
    pub(crate) request: u64,
}

/// Everything a shim knows.
#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) plan: PodPlan,
    pub(crate) poll: Poll,
    listener: OwnedFd,
    signals: nix::sys::signalfd::SignalFd,
    watch: OwnedFd,
    plan_path: PathBuf,
    pub(crate) hierarchy: Hierarchy,
    pub(crate) namespaces: Namespaces,
    pub(crate) state_dir: OwnedFd,
    pub(crate) pause: Option<Pause>,
    pub(crate) conns: BTreeMap<u32, Conn>,
    pub(crate) containers: BTreeMap<u32, Container>,
    pub(crate) execs: BTreeMap<u32, Exec>,
    pub(crate) leftovers: Vec<Leftover>,
    pub(crate) shutdown: Option<Shutdown>,
    /// What the group above the containers' has counted of kills for want of memory, but for those of containers that live.
    pub(crate) oom_settled: Option<u64>,
    next: u32,
    leaving: bool,
    /// When this process moves into its group of the unified hierarchy; `None`: it has.
    moves: Option<Instant>,
    /// Connections wait until then, since none could be taken.
    accepts_again: Option<Instant>,
}

/// The init of the pod's shared PID namespace.
#[derive(Debug)]
pub(crate) struct Pause {
    pub(crate) pid: i32,
    pub(crate) namespace: OwnedFd,
}

/// A shutdown under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shutdown {
    pub(crate) reply: Option<Owed>,
    pub(crate) until: Instant,
}

/// How long the last processes may take to go.
const SHUTDOWN_FOR: Duration = Duration::from_secs(10);

/// How long connections wait when none can be taken: epoll would report them without end.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// How soon a condition that nothing announces (an empty cgroup) is looked at again.
pub(crate) const TICK: Duration = Duration::from_millis(2);

impl Shim {
    #[allow(clippy::too_many_arguments)] // Called once, by setup, with what setup is there to make.
    pub(crate) fn new(
        plan: PodPlan,
        poll: Poll,
        listener: OwnedFd,
        signals: nix::sys::signalfd::SignalFd,
        watch: OwnedFd,
        hierarchy: Hierarchy,
        namespaces: Namespaces,
        state_dir: OwnedFd,
    ) -> Self {
        Self {
            poll,
            listener,
            signals,
            watch,
            plan_path: Path::new(&plan.state_dir).join("plan.json"),
            hierarchy,
            namespaces,
            state_dir,
            plan,
            pause: None,
            conns: BTreeMap::new(),
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            leftovers: Vec::new(),
            shutdown: None,
            oom_settled: None,
            next: 0,
            leaving: false,
            moves: Some(Instant::now() + MOVE_AFTER),
            accepts_again: None,
        }
    }

    /// Forks the init of a shared PID namespace, if the pod has one.
    pub(crate) fn make_shared_pid_namespace(&mut self) -> io::Result<()> {
        if !self.plan.shared_pid {
            return Ok(());
        }
        let group = self.hierarchy.group(&self.plan.pause_cgroup).map_err(io::Error::other)?;
        let child =
            strata_runtime::reaping_init(&group, &self.namespaces, self.user()).map_err(io::Error::other)?;
        let namespace = strata_sys::ns::open_of(child.pid, strata_sys::ns::NsKind::Pid)?;
        self.pause = Some(Pause { pid: child.pid, namespace });
        Ok(())
    }

    /// A number for something new.
    pub(crate) fn next_id(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    /// Runs until the pod is gone.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        // When nobody waits for this process any more, clients may still be reading what the containers said last: as long as it takes
        // them. It is looked for after all has been sent that they take: nothing would wake it up after the last of it.
        while !self.leaving || self.conns.values().any(Conn::unsent) {
            for ready in self.poll.wait(self.next_deadline())? {
                self.handle(ready, &mut buffer);
            }
            self.pass_deadlines();
            self.flush();
        }
        Ok(())
    }

    fn handle(&mut self, ready: Ready, buffer: &mut [u8]) {
        match ready.token {
            Token::Listener => self.accept(),
            Token::Signals => self.reap(buffer),
            Token::StateDir => self.look_at_state_dir(buffer),
            Token::Conn(id) => self.client_ready(id, buffer),
            Token::Container(id) => self.container_reported(id),
            Token::Exec(id) => self.exec_reported(id),
            Token::Hook(id) => self.hook_said(id),
            Token::Stdout(id) => {
                self.output_ready(id, Stream::Stdout, ready.gone, buffer);
                self.input_writable(id);
            }
            Token::Stderr(id) => self.output_ready(id, Stream::Stderr, ready.gone, buffer),
            Token::Stdin(id) if ready.gone => self.input_refused(id),
            Token::Stdin(id) => self.input_writable(id),
        }
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            match rustix::net::accept_with(&self.listener, flags) {
                Ok(socket) => {
                    let id = self.next_id();
                    if self.poll.add(&socket, Token::Conn(id), true, false).is_ok() {
                        self.conns.insert(id, Conn::new(socket));
                    }
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return,
                // Too many open files, or no memory.
                Err(_) => {
                    let _ = self.poll.change(&self.listener, Token::Listener, false, false);
                    self.accepts_again = Some(Instant::now() + ACCEPT_AGAIN);
                    return;
                }
            }
        }
    }

    /// Reaps everything that has ended. A container's init cannot be reaped before the processes that were exec'd into
    /// its PID namespace are, so no child may be waited for alone.
    fn reap(&mut self, buffer: &mut [u8]) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        while let Ok(Some((pid, how))) = process::reap() {
            self.ended(pid, how, buffer);
        }
    }

    fn ended(&mut self, pid: i32, how: Exited, buffer: &mut [u8]) {
        if let Some(id) = self.containers.iter().find(|(_, c)| c.pid == pid).map(|(id, _)| *id) {
            self.container_ended(id, how, buffer);
        } else if let Some(id) = self.execs.iter().find(|(_, e)| e.pid == pid).map(|(id, _)| *id) {
            self.exec_ended(id, how);
        } else if let Some(id) = self.hook_of(pid) {
            self.hook_ended(id, how);
        } else if self.pause.as_ref().is_some_and(|p| p.pid == pid) {
            // The kernel has killed every process of the namespace with it.
            self.pause = None;
        }
    }

    /// The earliest moment at which something is due without an event.
    fn next_deadline(&self) -> Option<Instant> {
        let containers = self.containers.values().filter_map(Container::deadline);
        let execs = self.execs.values().filter_map(|e| e.deadline);
        let now = Instant::now();
        let shutdown = self.shutdown.iter().filter(|s| s.reply.is_some() || self.alive()).map(|_| now + TICK);
        containers
            .chain(execs)
            .chain(shutdown)
            .chain(self.leftovers_due(now))
            .chain(self.moves)
            .chain(self.accepts_again)
            .min()
    }

    fn pass_deadlines(&mut self) {
        let now = Instant::now();
        let due = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        let containers: Vec<u32> =
            self.containers.iter().filter(|(_, c)| due(c.deadline())).map(|(id, _)| *id).collect();
        containers.into_iter().for_each(|id| self.container_due(id, now));
        let execs: Vec<u32> = self.execs.iter().filter(|(_, e)| due(e.deadline)).map(|(id, _)| *id).collect();
        execs.into_iter().for_each(|id| self.exec_due(id));
        self.look_at_leftovers(now);
        if due(self.accepts_again) {
            self.accepts_again = None;
            let _ = self.poll.change(&self.listener, Token::Listener, true, false);
        }
        if due(self.moves) {
            self.moves = None;
            self.enter_unified();
        }
        if let Some(shutdown) = self.shutdown {
            self.continue_shutdown(shutdown, now);
        }
    }

    /// A running process enters a v2 group by its procs file, for which the kernel waits until every processor has seen
    /// it: 7 ms and more, which nobody should wait for at the start. Children are born where they belong meanwhile.
    fn enter_unified(&self) {
        let group = match self.plan.shim_cgroup.as_str() {
            "" => None,
            name => self.hierarchy.group(name).ok(),
        };
        if let Some(dir) = group.and_then(|g| g.v2_dir())
            && let Err(e) = std::fs::write(dir.join("cgroup.procs"), "0")
        {
            // It stays in stratad's, where it is as safe from the kubelet.
            let _ = writeln!(io::stderr(), "strata-shim: {}: {e}", dir.display());
        }
    }

    /// Something in the state directory has been removed; without the plan, the pod is gone.
    fn look_at_state_dir(&mut self, buffer: &mut [u8]) {
        while rustix::io::read(&self.watch, &mut *buffer).is_ok_and(|n| n > 0) {}
        let plan = rustix::fs::access(&self.plan_path, rustix::fs::Access::EXISTS);
        if plan == Err(Errno::NOENT) && self.shutdown.is_none() {
            self.begin_shutdown(None);
        }
    }

    /// Kills everything, and leaves once it has gone.
    pub(crate) fn begin_shutdown(&mut self, reply: Option<Owed>) {
        for container in self.containers.values() {
            let _ = container.group.kill_now();
        }
        if let Some(pause) = &self.pause {
            let _ = process::kill(pause.pid, 9);
        }
        self.shutdown = Some(Shutdown { reply, until: Instant::now() + SHUTDOWN_FOR });
    }

    /// Whether something of the pod still runs, or is still read.
    fn alive(&self) -> bool {
        self.pause.is_some() || self.containers.values().any(|c| c.pid != 0 || c.draining())
    }

    fn continue_shutdown(&mut self, shutdown: Shutdown, now: Instant) {
        if self.alive() && now < shutdown.until {
            // What could not be killed at once: reading a group's processes takes a descriptor.
            for container in self.containers.values().filter(|c| c.pid != 0) {
                let _ = container.group.kill_now();
            }
            return;
        }
        if let Some(owed) = shutdown.reply {
            self.shutdown = Some(Shutdown { reply: None, ..shutdown });
            self.reply(owed, strata_wire::Reply::Ok);
        }
        self.leaving = true;
    }

    /// Sends what waits, and forgets connections that are over.
    fn flush(&mut self) {
        let (poll, mut over) = (&self.poll, Vec::new());
        for (id, conn) in &mut self.conns {
            if conn.flush() {
                conn.watch(poll, *id);
            } else {
                over.push(*id);
            }
        }
        over.into_iter().for_each(|id| self.close(id));
        self.release_output();
    }

    pub(crate) fn close(&mut self, id: u32) {
        if let Some(conn) = self.conns.remove(&id) {
            self.poll.remove(conn.socket.as_fd());
            self.client_gone(id, &conn);
        }
    }
}
