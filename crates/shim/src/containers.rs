//! Containers, from their plan to their exit record.
//!
//! ```text
//!   Creating ──Ready──▶ Created ──Start──▶ Starting ──exec'd──▶ Running
//!      │ Failed/deadline   │ killed           │ Failed             │ init ends
//!      ▼                   ▼                  ▼                    ▼
//!   (forgotten)        Draining ◀─────────────┴────────────────────┘
//!                          │ output ended, or one second
//!                          ▼
//!                       Exited ──Remove──▶ (forgotten once its cgroup is empty)
//! ```

mod removal;

use crate::clock;
use crate::log::Stream;
use crate::poll::Token;
use crate::requests::{call_failed, failure, unknown};
use crate::shim::{Owed, Shim, TICK};
use crate::streams::Streams;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use strata_cgroup::Group;
use strata_runtime::{Channel, CreateContext, Report};
use strata_sys::process::{self, Exited};
use strata_wire::attach::AttachFrame;
use strata_wire::frame::FrameError;
use strata_wire::message::{Failure, FailureKind};
use strata_wire::plan::PidMode;
use strata_wire::state::{ContainerState, ExitRecord, Phase};
use strata_wire::{ContainerPlan, Event, Reply};

/// How long setting a container up may take if its plan does not say.
const CREATE_FOR: Duration = Duration::from_secs(120);

/// How long output may go on after the init has ended: a process outside its PID namespace may hold the pipes.
const DRAIN_FOR: Duration = Duration::from_secs(1);

/// Where a container stands; the module's head draws it.
#[derive(Debug)]
enum Stage {
    Creating { reply: Owed, until: Instant },
    Created,
    Starting { reply: Owed },
    Running,
    Draining { until: Instant },
    Exited,
}

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) plan: ContainerPlan,
    pub(crate) group: Group,
    /// Its init; 0 once it has been reaped.
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// Its PID namespace, for execs.
    pub(crate) pid_namespace: OwnedFd,
    pub(crate) streams: Streams,
    /// The client whose input ends standard input, if the plan says that the first one's does.
    pub(crate) first_attached: Option<u32>,
    channel: Option<Channel>,
    stage: Stage,
    started_at: i64,
    exit: Option<ExitRecord>,
    /// The exit code of a program that could not be run.
    failed: Option<i32>,
    /// Whoever waits for its removal, and until when.
    removing: Option<(Vec<Owed>, Instant)>,
}

impl Container {
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let stage = match self.stage {
            Stage::Creating { until, .. } | Stage::Draining { until } => Some(until),
            _ => None,
        };
        let removing = self.removing.as_ref().map(|_| Instant::now() + TICK);
        stage.into_iter().chain(removing).min()
    }

    pub(crate) fn draining(&self) -> bool {
        matches!(self.stage, Stage::Draining { .. })
    }

    pub(crate) fn running(&self) -> bool {
        matches!(self.stage, Stage::Running) && self.pid != 0
    }

    /// As clients see it; one that is still being created is not there yet.
    pub(crate) fn state(&self) -> Option<ContainerState> {
        let phase = match self.stage {
            Stage::Creating { .. } => return None,
            Stage::Created | Stage::Starting { .. } => Phase::Created,
            Stage::Running | Stage::Draining { .. } => Phase::Running,
            Stage::Exited => Phase::Exited,
        };
        Some(ContainerState {
            id: self.plan.id.clone(),
            phase,
            pid: self.pid,
            started_at: self.started_at,
            exit: self.exit.clone().filter(|_| phase == Phase::Exited),
            stdin_closed: self.streams.input_closed(),
        })
    }

    /// Whether a client's end of input is standard input's.
    pub(crate) fn input_ends_with(&self, client: u32) -> bool {
        self.plan.stdio.stdin_once && self.first_attached == Some(client)
    }

    /// Takes what an attached client has sent.
    pub(crate) fn take_frame(&mut self, client: u32, frame: AttachFrame, stdin: bool) {
        match frame {
            AttachFrame::Stdin(data) if stdin => self.streams.push_input(&data),
            AttachFrame::StdinEof if stdin && self.input_ends_with(client) => self.streams.end_input(),
            AttachFrame::Resize { rows, cols } => {
                if let Some(terminal) = self.streams.terminal() {
                    let _ = strata_sys::tty::set_size(terminal, rows, cols);
                }
            }
            // The shim's own kinds mean nothing from a client.
            _ => {}
        }
    }

    /// Whether its init has ended, and been accounted for.
    pub(crate) fn ended(&self) -> bool {
        self.exit.is_some()
    }

    pub(crate) fn exit_code(&self) -> Option<i32> {
        self.exit.as_ref().filter(|_| matches!(self.stage, Stage::Exited)).map(|exit| exit.exit_code)
    }
}

impl Shim {
    pub(crate) fn create(&mut self, reply: Owed, plan: ContainerPlan) -> Result<(), Failure> {
        let step = "create";
        if self.containers.values().any(|c| c.plan.id == plan.id) {
            return Err(failure(FailureKind::AlreadyExists, step, format!("container {} exists", plan.id)));
        }
        if self.shutdown.is_some() || (plan.pid == PidMode::Pod && self.pause.is_none()) {
            return Err(failure(FailureKind::WrongState, step, "the pod has been stopped"));
        }
        let group = self.hierarchy.group(&plan.cgroup).map_err(|e| failure(FailureKind::Invalid, step, e))?;
        self.begin_oom_count(&group);
        let pid = match plan.pid {
            PidMode::Target => Some(self.target_of(&plan)?),
            _ => self.pause.as_ref().map(|p| p.namespace.as_fd()),
        };
        let (streams, ends) = Streams::new(&plan.stdio).map_err(|e| call_failed("standard streams", &e))?;
        let context = CreateContext {
            namespaces: &self.namespaces,
            pid,
            user: self.user(),
            cgroup: &group,
            streams: ends.standard_fds(),
        };
        let spawned =
            strata_runtime::create(&plan, &context).map_err(|failed| self.blame_target(&plan, failed))?;
        drop(ends);
        let registered = strata_sys::ns::open_of(spawned.pid, strata_sys::ns::NsKind::Pid)
            .map_err(|e| call_failed(step, &e))
            .and_then(|namespace| {
                let id = self.next_id();
                self.poll
                    .add(&spawned.channel, Token::Container(id), true, false)
                    .map_err(|e| failure(FailureKind::Internal, step, e))?;
                Ok((id, namespace))
            });
        let (id, pid_namespace) = match registered {
            Ok(both) => both,
            Err(failure) => {
                let _ = process::pidfd_send_signal(&spawned.pidfd, 9);
                return Err(failure);
            }
        };
        let allowed = match plan.create_timeout_ms {
            0 => CREATE_FOR,
            ms => Duration::from_millis(ms),
        };
        let container = Container {
            plan,
            group,
            pid: spawned.pid,
            pidfd: spawned.pidfd,
            pid_namespace,
            streams,
            first_attached: None,
            channel: Some(spawned.channel),
            stage: Stage::Creating { reply, until: Instant::now() + allowed },
            started_at: 0,
            exit: None,
            failed: None,
            removing: None,
        };
        self.containers.insert(id, container);
        Ok(())
    }

    pub(crate) fn start(&mut self, reply: Owed, id: &str) -> Result<(), Failure> {
        let number = self.find(id)?;
        let container = self.containers.get_mut(&number).ok_or_else(|| unknown(id))?;
        let (Stage::Created, Some(channel)) = (&container.stage, &container.channel) else {
            let message = format!("container {id} is not waiting to be started");
            return Err(failure(FailureKind::WrongState, "start", message));
        };
        channel.release().map_err(|e| call_failed("start", &e))?;
        container.stage = Stage::Starting { reply };
        Ok(())
    }

    /// The init has reported, or has closed the channel by running its program or by dying.
    pub(crate) fn container_reported(&mut self, id: u32) {
        loop {
            let Some(container) = self.containers.get_mut(&id) else { return };
            let Some(channel) = &mut container.channel else { return };
            match channel.receive() {
                Ok(None) => return,
                Ok(Some((Report::Moved { pid }, fds))) => self.container_moved(id, pid, fds),
                Ok(Some((Report::Ready { warnings }, fds))) => self.container_ready(id, warnings, fds),
                Ok(Some((Report::Failed(failure), _))) => return self.container_failed(id, failure),
                Err(FrameError::Closed) => return self.container_closed_channel(id),
                Err(e) => {
                    let failure = failure(FailureKind::Internal, "report of the container's init", e);
                    return self.container_failed(id, failure);
                }
            }
        }
    }

    fn container_ready(&mut self, id: u32, warnings: Vec<String>, mut fds: Vec<OwnedFd>) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        let Stage::Creating { reply, .. } = container.stage else { return };
        let watched = match fds.pop() {
            Some(master) => container.streams.set_terminal(master).map_err(std::io::Error::from),
            None => Ok(()),
        }
        .and_then(|()| container.streams.watch(&self.poll, id));
        if let Err(e) = watched {
            return self.container_failed(id, failure(FailureKind::Internal, "watch standard streams", e));
        }
        container.stage = Stage::Created;
        if let Some(log) = &mut container.streams.log {
            log.keep();
        }
        let pid = container.pid;
        self.reply(reply, Reply::Created { pid, warnings });
    }

    /// A step failed. Before the barrier nothing is left of the container; after it, it has an exit record.
    pub(crate) fn container_failed(&mut self, id: u32, failed: Failure) {
        let Some(container) = self.containers.get(&id) else { return };
        let failed = self.blame_target(&container.plan, failed);
        let Some(container) = self.containers.get_mut(&id) else { return };
        container.channel = None;
        let _ = process::pidfd_send_signal(&container.pidfd, 9);
        match container.stage {
            Stage::Creating { reply, .. } => {
                if self.namespaces.user.is_some() {
                    // There may be another process that is not known yet, of the second stage.
                    let _ = container.group.kill_now();
                }
                let removing = container.removing.take();
                self.containers.remove(&id);
                self.reply(reply, Reply::Error(failed));
                for removal in removing.into_iter().flat_map(|(owed, _)| owed) {
                    self.reply(removal, Reply::Ok);
                }
            }
            Stage::Starting { reply } => {
                container.stage = Stage::Running;
                container.failed = Some(strata_runtime::exit_code(failed.kind));
                self.reply(reply, Reply::Error(failed));
            }
            _ => {}
        }
    }

    fn container_closed_channel(&mut self, id: u32) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        match container.stage {
            Stage::Starting { reply } => {
                container.channel = None;
                container.started_at = clock::now();
                container.stage = Stage::Running;
                let started_at = container.started_at;
                self.reply(reply, Reply::Started { started_at });
            }
            Stage::Creating { .. } => {
                let message = "the process died without saying why; the node may be out of memory, or the \
                    container's cgroup has been killed before and must be made anew";
                self.container_failed(id, failure(FailureKind::Internal, "create the container", message));
            }
            // Killed at the barrier: its end will be reaped.
            _ => container.channel = None,
        }
    }

    /// The init has been reaped.
    pub(crate) fn container_ended(&mut self, id: u32, how: Exited, buffer: &mut [u8]) {
        // What it said last may not have been read yet.
        let pid = self.containers.get(&id).map(|c| c.pid);
        self.container_reported(id);
        if self.containers.get(&id).is_none_or(|c| pid != Some(c.pid)) {
            // It was the first stage, which has just told that another process goes on.
            return;
        }
        let oom_killed = self.oom_killed(id);
        let Some(container) = self.containers.get_mut(&id) else { return };
        container.pid = 0;
        container.channel = None;
        if container.plan.pid != PidMode::Container {
            // No kernel kills the rest of a PID namespace that is not the container's own.
            let _ = container.group.kill_now();
        }
        // What could not be run may have been killed before it could exit by itself.
        let how = container.failed.map_or(how, Exited::Code);
        let signal = match how {
            Exited::Signal { signal, .. } => Some(signal),
            Exited::Code(_) => None,
        };
        container.exit = Some(ExitRecord {
            id: container.plan.id.clone(),
            exit_code: how.shell_code(),
            signal,
            started_at: container.started_at,
            finished_at: clock::now(),
            oom_killed,
            log_bytes_dropped: 0,
        });
        container.stage = Stage::Draining { until: Instant::now() + DRAIN_FOR };
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.output(id, stream, buffer);
        }
        self.finish_if_drained(id);
    }

    pub(crate) fn finish_if_drained(&mut self, id: u32) {
        if self.containers.get(&id).is_some_and(|c| c.draining() && c.streams.ended()) {
            self.finish(id);
        }
    }

    /// All output is in the log: the exit record is written, then announced.
    fn finish(&mut self, id: u32) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        container.streams.close();
        let log = container.streams.log.take().map(|mut log| {
            log.finish();
            log.lost()
        });
        container.stage = Stage::Exited;
        let Some(exit) = &mut container.exit else { return };
        exit.log_bytes_dropped = log.unwrap_or(0);
        let (exit, name) = (exit.clone(), OsString::from(format!("{}.exit", exit.id)));
        // Encoding plain fields cannot fail; a state directory that is gone or full leaves the event.
        if let Ok(json) = serde_json::to_vec(&exit) {
            let _ = strata_sys::durable::write_file_volatile(&self.state_dir, &name, &json, 0o600);
        }
        self.tell_attached(id, &AttachFrame::Exit(exit.exit_code), |_| true);
        self.announce(&Event::Exited(exit));
        self.continue_removal(id, Instant::now());
    }

    /// A container's deadline has passed, or its removal is to be looked at again.
    pub(crate) fn container_due(&mut self, id: u32, now: Instant) {
        let Some(container) = self.containers.get(&id) else { return };
        match container.stage {
            Stage::Creating { until, .. } if until <= now => {
                let waiting = strata_cgroup::control::describe(container.pid);
                let message = format!("the deadline has passed; {waiting}");
                self.container_failed(id, failure(FailureKind::Timeout, "create the container", message));
            }
            Stage::Draining { until } if until <= now => self.finish(id),
            _ => {}
        }
        self.continue_removal(id, now);
    }
}
