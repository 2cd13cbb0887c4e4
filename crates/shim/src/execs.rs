//! Execs: processes run in a container by somebody outside.

use crate::family;
use crate::poll::Token;
use crate::requests::{failure, unknown};
use crate::shim::{Owed, Shim, TICK};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use strata_cgroup::Group;
use strata_runtime::{Channel, Report, StandardFds};
use strata_sys::process::{self, Exited};
use strata_wire::frame::FrameError;
use strata_wire::message::{Failure, FailureKind};
use strata_wire::{Event, ExecPlan, Reply};

/// One exec.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) container: u32,
    pub(crate) pid: i32,
    /// When all of it is killed.
    pub(crate) deadline: Option<Instant>,
    container_id: String,
    exec_id: String,
    pidfd: OwnedFd,
    group: Option<Group>,
    channel: Option<Channel>,
    /// Owed until the program runs.
    reply: Option<Owed>,
    /// The terminal's master, for that reply.
    master: Option<OwnedFd>,
    /// Whether it was set up.
    ready: bool,
    conn: u32,
    timed_out: bool,
}

/// The group of an exec that has ended, where others of its processes have not.
#[derive(Debug)]
pub(crate) struct Leftover {
    pub(crate) container: u32,
    group: Group,
    /// Until when it is expected to become empty.
    until: Instant,
}

/// How long the processes of a killed exec may take to go before nobody waits for it any more.
const LEFTOVERS_FOR: Duration = Duration::from_secs(2);

impl Leftover {
    /// A group that is empty in a moment.
    pub(crate) fn of(container: u32, group: Group) -> Self {
        Self { container, group, until: Instant::now() + LEFTOVERS_FOR }
    }
}

/// What names a child cgroup: never a path.
fn valid_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

impl Shim {
    pub(crate) fn exec(&mut self, reply: Owed, mut plan: ExecPlan, fds: &[OwnedFd]) -> Result<(), Failure> {
        let step = "exec";
        let number = self.find(&plan.container_id)?;
        if !valid_id(&plan.exec_id) {
            return Err(failure(FailureKind::Invalid, step, format!("{:?} is no exec ID", plan.exec_id)));
        }
        if self.execs.values().any(|e| e.container == number && e.exec_id == plan.exec_id) {
            return Err(failure(
                FailureKind::AlreadyExists,
                step,
                format!("exec {} is running", plan.exec_id),
            ));
        }
        self.leftovers.retain(|left| left.group.exists() && !left.group.remove_if_empty());
        let container = self.containers.get(&number).ok_or_else(|| unknown(&plan.container_id))?;
        if !container.running() {
            let message = format!("container {} is not running", plan.container_id);
            return Err(failure(FailureKind::WrongState, step, message));
        }
        plan.process.oom_score_adj = plan.process.oom_score_adj.or(container.plan.process.oom_score_adj);
        let stream = |n: usize| -> Option<BorrowedFd<'_>> { fds.get(n).map(AsFd::as_fd) };
        let streams = StandardFds { stdin: stream(0), stdout: stream(1), stderr: stream(2) };
        let name = format!("exec-{}", plan.exec_id);
        let (spawned, group) = self
            .make_in(container, &name, streams, |context| strata_runtime::exec(&plan, context))
            .map_err(|failed| self.blame_end_of(number, failed))?;
        let id = self.next_id();
        if let Err(e) = self.poll.add(&spawned.channel, Token::Exec(id), true, false) {
            let _ = process::pidfd_send_signal(&spawned.pidfd, 9);
            return Err(failure(FailureKind::Internal, step, e));
        }
        let deadline = (plan.timeout_ms > 0).then(|| Instant::now() + Duration::from_millis(plan.timeout_ms));
        let exec = Exec {
            container: number,
            pid: spawned.pid,
            deadline,
            container_id: plan.container_id,
            exec_id: plan.exec_id,
            pidfd: spawned.pidfd,
            group,
            channel: Some(spawned.channel),
            reply: Some(reply),
            master: None,
            ready: false,
            conn: reply.conn,
            timed_out: false,
        };
        self.execs.insert(id, exec);
        Ok(())
    }

    /// The process has reported, or has closed the channel by running its program or by dying.
    pub(crate) fn exec_reported(&mut self, id: u32) {
        while let Some(exec) = self.execs.get_mut(&id) {
            let Some(channel) = &mut exec.channel else { return };
            let failed = match channel.receive() {
                Ok(None) => return,
                // A process joins what is there: it has one stage, and mounts nothing.
                Ok(Some((Report::Moved { .. } | Report::Mounted { .. }, _))) => continue,
                Ok(Some((Report::Ready { .. }, mut fds))) => {
                    (exec.master, exec.ready) = (fds.pop(), true);
                    continue;
                }
                Ok(Some((Report::Failed(failure), _))) => Some(failure),
                Err(FrameError::Closed) if exec.ready => None,
                Err(FrameError::Closed) if exec.timed_out => Some(failure(
                    FailureKind::Timeout,
                    "exec",
                    "the deadline has passed before it was set up",
                )),
                Err(FrameError::Closed) => {
                    let message = "the process died without saying why; the container may be out of memory";
                    Some(failure(FailureKind::Internal, "exec", message))
                }
                Err(e) => Some(failure(FailureKind::Internal, "report of the exec", e)),
            };
            exec.channel = None;
            let (number, Some(reply)) = (exec.container, exec.reply.take()) else { return };
            match failed {
                None => {
                    let (pid, fds) = (exec.pid, exec.master.take().into_iter().collect());
                    self.reply_with(reply, Reply::ExecStarted { pid }, fds);
                }
                Some(failure) => {
                    // It exits by itself; nobody waits for its end.
                    exec.conn = 0;
                    let _ = process::pidfd_send_signal(&exec.pidfd, 9);
                    let failure = self.blame_end_of(number, failure);
                    self.reply(reply, Reply::Error(failure));
                }
            }
        }
    }

    /// The process has been reaped. What it left running stays in its group until it ends or the container goes.
    pub(crate) fn exec_ended(&mut self, id: u32, how: Exited) {
        self.exec_reported(id);
        let Some(exec) = self.execs.remove(&id) else { return };
        if let Some(group) = exec.group.filter(|group| !group.remove_if_empty()) {
            // What was killed is gone in a moment, but what was left running may stay: that is looked at now and then.
            let until = Instant::now() + if exec.timed_out { LEFTOVERS_FOR } else { Duration::ZERO };
            self.leftovers.push(Leftover { container: exec.container, group, until });
        }
        let event = Event::ExecExited {
            container_id: exec.container_id,
            exec_id: exec.exec_id,
            exit_code: how.shell_code(),
            timed_out: exec.timed_out,
        };
        if let Some(conn) = self.conns.get_mut(&exec.conn) {
            conn.send(0, event, Vec::new());
        }
    }

    /// Its deadline has passed: all that it started is killed.
    pub(crate) fn exec_due(&mut self, id: u32) {
        if let Some(exec) = self.execs.get_mut(&id) {
            exec.deadline = None;
            exec.timed_out = true;
            exec.kill_all(self.containers.get(&exec.container).map(|c| &c.group));
        }
    }

    pub(crate) fn kill_exec(&mut self, container: &str, exec_id: &str, signal: i32) -> Result<(), Failure> {
        let number = self.find(container)?;
        let found = self.execs.values().find(|e| e.container == number && e.exec_id == exec_id);
        let Some(exec) = found else {
            let message = format!("container {container} has no running exec {exec_id}");
            return Err(failure(FailureKind::NotFound, "kill exec", message));
        };
        if signal == 9 {
            exec.kill_all(self.containers.get(&number).map(|c| &c.group));
            return Ok(());
        }
        process::pidfd_send_signal(&exec.pidfd, signal)
            .map_err(|e| failure(FailureKind::Internal, "kill exec", e))
    }
}

impl Shim {
    /// When leftovers of killed execs are to be looked at.
    pub(crate) fn leftovers_due(&self, now: Instant) -> Option<Instant> {
        self.leftovers.iter().any(|left| left.until > now).then(|| now + TICK)
    }

    /// Removes the groups of execs that have become empty.
    pub(crate) fn look_at_leftovers(&mut self, now: Instant) {
        self.leftovers.retain(|left| left.until <= now || !left.group.remove_if_empty());
    }
}

impl Exec {
    /// Kills all of it, in the group of its container.
    fn kill_all(&self, container: Option<&Group>) {
        if let Some(group) = &self.group {
            let _ = group.kill_now();
        }
        let is_in = |group: &Group| group.procs().is_ok_and(|pids| pids.contains(&self.pid));
        if let Some(container) = container.filter(|_| !self.group.as_ref().is_some_and(is_in)) {
            family::kill(self.pid, container);
        }
        let _ = process::pidfd_send_signal(&self.pidfd, 9);
    }
}
