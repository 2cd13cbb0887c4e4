//! Hooks of the container's namespaces, one after the other: before `pivot_root`, and before the program.
//!
//! Each is a child of this process, with a group of its own in the container's: it is killed with all that it has started when its
//! time is over, and what it leaves running is killed with its end. Nothing here waits for one.

use crate::containers::{Container, Stage, allowed};
use crate::execs::Leftover;
use crate::poll::Token;
use crate::requests::{call_failed, failure, unknown};
use crate::shim::{Owed, Shim};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;
use strata_cgroup::Group;
use strata_runtime::{ExecContext, Place, StandardFds};
use strata_sys::process::{self, Exited};
use strata_sys::{CallExt, memfd};
use strata_wire::Reply;
use strata_wire::hooks::{self, Hook, MAX_SAID, Point, Status};
use strata_wire::message::{Failure, FailureKind};

/// A hook that runs.
#[derive(Debug)]
pub(crate) struct HookRun {
    /// Which of the plan's.
    index: usize,
    pub(crate) pid: i32,
    pidfd: OwnedFd,
    group: Option<Group>,
    /// What it writes, and the end of what it has written.
    output: OwnedFd,
    said: Vec<u8>,
    /// When it is killed; `None`: it has been.
    pub(crate) deadline: Option<Instant>,
    begun: Instant,
    /// When all hooks of this point must have ended.
    all_until: Instant,
}

impl HookRun {
    /// Reads what there is, and keeps the last of it; whether nothing more comes.
    fn listen(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match rustix::io::read(&self.output, &mut buffer) {
                Ok(0) => return true,
                Ok(n) => {
                    self.said.extend_from_slice(&buffer[..n]);
                    let excess = self.said.len().saturating_sub(MAX_SAID);
                    self.said.drain(..excess);
                }
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn kill(&self) {
        // The first process by its own descriptor too, should it have no group.
        let _ = process::pidfd_send_signal(&self.pidfd, 9);
        if let Some(group) = &self.group {
            let _ = group.kill_now();
        }
    }

    /// Kills it; its group goes once it is empty.
    pub(crate) fn give_up(self, container: u32) -> Option<Leftover> {
        self.kill();
        self.group.filter(|group| !group.remove_if_empty()).map(|group| Leftover::of(container, group))
    }
}

impl Container {
    fn hooks(&self) -> &[Hook] {
        self.plan.hooks.as_ref().map(|hooks| hooks.hooks.as_slice()).unwrap_or_default()
    }
}

impl Shim {
    /// A container with hooks is mounted: those of the node's namespaces are stratad's to run.
    pub(crate) fn container_mounted(&mut self, id: u32, inner_pid: i32) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        let Stage::Creating { reply, .. } = container.stage else { return };
        container.inner_pid = inner_pid;
        container.stage = Stage::Prepared { until: Instant::now() + allowed(&container.plan) };
        let pid = container.pid;
        self.reply(reply, Reply::Prepared { pid });
    }

    pub(crate) fn continue_creation(&mut self, reply: Owed, id: &str) -> Result<(), Failure> {
        let number = self.find(id)?;
        let container = self.containers.get_mut(&number).ok_or_else(|| unknown(id))?;
        if !matches!(container.stage, Stage::Prepared { .. }) {
            let message = format!("container {id} is not being created");
            return Err(failure(FailureKind::WrongState, "continue", message));
        }
        container.stage = Stage::Creating { reply, until: Instant::now() + allowed(&container.plan) };
        self.begin_hooks(number, Point::CreateContainer);
        Ok(())
    }

    /// Runs a point's hooks, if it has any; then the container goes on.
    pub(crate) fn begin_hooks(&mut self, id: u32, point: Point) {
        let Some(container) = self.containers.get(&id) else { return };
        let until = Instant::now() + allowed(&container.plan);
        match container.hooks().iter().position(|hook| hook.point == point) {
            Some(index) => self.run_hook(id, index, until),
            None => self.go_on(id),
        }
    }

    fn run_hook(&mut self, id: u32, index: usize, all_until: Instant) {
        match self.spawn_hook(id, index, all_until) {
            Ok(run) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.hook = Some(run);
                }
            }
            Err(failure) => self.container_failed(id, failure),
        }
    }

    fn spawn_hook(&mut self, id: u32, index: usize, all_until: Instant) -> Result<HookRun, Failure> {
        let number = self.next_id();
        let lost = || failure(FailureKind::Internal, "hook", "its container has gone");
        let container = self.containers.get(&id).ok_or_else(lost)?;
        let hooks = container.plan.hooks.as_ref().ok_or_else(lost)?;
        let hook = hooks.hooks.get(index).ok_or_else(lost)?;
        let step = format!("the {hook}");
        let failed = |e: &strata_sys::Error| call_failed(&step, e);
        let (status, place) = match hook.point {
            Point::StartContainer => (Status::Created, Place::Inside(&container.plan.process)),
            _ => {
                let oom_score_adj = container.plan.process.oom_score_adj;
                (Status::Creating, Place::Outside { bundle: &hooks.bundle, oom_score_adj })
            }
        };
        let state = serde_json::to_vec(&hooks.state(&container.plan.id, status, container.inner_pid));
        let state = state.map_err(|e| failure(FailureKind::Internal, &step, e))?;
        let state = memfd::filled("state", &state).map_err(|e| failed(&e))?;
        let (output, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
            .call(|| "pipe2(O_CLOEXEC)".into())
            .map_err(|e| failed(&e))?;
        rustix::fs::fcntl_setfl(&output, OFlags::NONBLOCK)
            .call(|| "fcntl(F_SETFL, O_NONBLOCK)".into())
            .map_err(|e| failed(&e))?;
        let streams = StandardFds {
            stdin: Some(state.as_fd()),
            stdout: Some(theirs.as_fd()),
            stderr: Some(theirs.as_fd()),
        };
        // A group that was killed must not be used again (CLONE_INTO_CGROUP).
        let name = format!("hook-{number}");
        let make = |context: &ExecContext<'_>| strata_runtime::hook(hook, place, context);
        let (child, group) = self.make_in(container, &name, streams, make)?;
        let begun = Instant::now();
        let limit = hook.limit(all_until.saturating_duration_since(begun));
        let run = HookRun {
            index,
            pid: child.pid,
            pidfd: child.pidfd,
            group,
            output,
            said: Vec::new(),
            deadline: Some(begun + limit),
            begun,
            all_until,
        };
        if let Err(e) = self.poll.add(&run.output, Token::Hook(id), true, false) {
            self.leftovers.extend(run.give_up(id));
            return Err(failure(FailureKind::Internal, step, e));
        }
        Ok(run)
    }

    /// The container whose hook this process is.
    pub(crate) fn hook_of(&self, pid: i32) -> Option<u32> {
        let of = |c: &Container| c.hook.as_ref().is_some_and(|hook| hook.pid == pid);
        self.containers.iter().find(|(_, c)| of(c)).map(|(id, _)| *id)
    }

    pub(crate) fn hook_said(&mut self, id: u32) {
        let Some(hook) = self.containers.get_mut(&id).and_then(|c| c.hook.as_mut()) else { return };
        if hook.listen() {
            // epoll would tell of its end again and again.
            self.poll.remove(&hook.output);
        }
    }

    pub(crate) fn hook_ended(&mut self, id: u32, how: Exited) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        let Some(mut run) = container.hook.take() else { return };
        run.listen();
        let (index, all_until, timed_out) = (run.index, run.all_until, run.deadline.is_none());
        let said = std::mem::take(&mut run.said);
        let after = run.begun.elapsed();
        let next = container.hooks().get(index + 1).map(|hook| hook.point);
        let Some(hook) = container.hooks().get(index).cloned() else { return };
        self.leftovers.extend(run.give_up(id));
        if let (Exited::Code(0), false) = (how, timed_out) {
            return match next == Some(hook.point) {
                true => self.run_hook(id, index + 1, all_until),
                false => self.go_on(id),
            };
        }
        let (kind, text) = match how {
            _ if timed_out => (
                FailureKind::Timeout,
                format!("did not end within {:.1} s and was killed", after.as_secs_f64()),
            ),
            Exited::Code(code) => (FailureKind::Internal, format!("has failed with exit code {code}")),
            Exited::Signal { signal, .. } => {
                (FailureKind::Internal, format!("was killed by {}", strata_sys::signal::name(signal)))
            }
        };
        let step = format!("run {} hooks", hook.point.name());
        self.container_failed(id, failure(kind, step, hooks::complaint(&hook, &text, &said)));
    }

    /// All hooks of a point have run.
    fn go_on(&mut self, id: u32) {
        let Some(channel) = self.containers.get(&id).and_then(|c| c.channel.as_ref()) else { return };
        if let Err(e) = channel.release() {
            self.container_failed(id, call_failed("go on after the hooks", &e));
        }
    }

    /// Kills a hook whose time is over; its end tells of it.
    pub(crate) fn hook_due(&mut self, id: u32, now: Instant) {
        let Some(hook) = self.containers.get_mut(&id).and_then(|c| c.hook.as_mut()) else { return };
        if hook.deadline.is_some_and(|at| at <= now) {
            hook.deadline = None;
            hook.kill();
        }
    }
}
