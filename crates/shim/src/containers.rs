//! Containers, from their plan to their exit record.
//!
//! ```text
//!   Creating ──Ready──▶ Created ──Start──▶ Starting ──exec'd──▶ Running
//!    │  │ Mounted, with hooks
//!    │  └▶ Prepared ──Continue──▶ (Creating)
//!      │ Failed/deadline   │ killed           │ Failed             │ init ends
//!      ▼                   ▼                  ▼                    ▼
//!   (forgotten)        Draining ◀─────────────┴────────────────────┘
//!                          │ output ended, or one second
//!                          ▼
//!                       Exited ──Remove──▶ (forgotten once its cgroup is empty)
//! ```

mod ended;
mod removal;

use crate::clock;
use crate::hooks::HookRun;
use crate::poll::Token;
use crate::requests::{call_failed, failure, unknown};
use crate::shim::{Owed, Shim, TICK};
use crate::streams::Streams;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use strata_cgroup::Group;
use strata_runtime::{Channel, CreateContext, Report};
use strata_sys::process;
use strata_wire::attach::AttachFrame;
use strata_wire::frame::FrameError;
use strata_wire::hooks::Point;
use strata_wire::message::{Failure, FailureKind};
use strata_wire::plan::PidMode;
use strata_wire::state::{ContainerState, ExitRecord, Phase};
use strata_wire::{ContainerPlan, Reply};

/// How long setting a container up may take if its plan does not say.
const CREATE_FOR: Duration = Duration::from_secs(120);

/// How long output may go on after the init has ended: a process outside its PID namespace may hold the pipes.
const DRAIN_FOR: Duration = Duration::from_secs(1);

/// Where a container stands; the module's head draws it.
#[derive(Debug)]
pub(crate) enum Stage {
    Creating {
        reply: Owed,
        until: Instant,
    },
    /// Hooks of the node's namespaces run, and `stratad` says when the others may.
    Prepared {
        until: Instant,
    },
    Created,
    Starting {
        reply: Owed,
    },
    Running,
    Draining {
        until: Instant,
    },
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
    pub(crate) channel: Option<Channel>,
    pub(crate) stage: Stage,
    /// The hook that runs.
    pub(crate) hook: Option<HookRun>,
    /// Its init's ID as itself has it; 0: not known.
    pub(crate) inner_pid: i32,
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
            Stage::Creating { until, .. } | Stage::Prepared { until } | Stage::Draining { until } => {
                Some(until)
            }
            _ => None,
        };
        let hook = self.hook.as_ref().and_then(|hook| hook.deadline);
        let removing = self.removing.as_ref().map(|_| Instant::now() + TICK);
        stage.into_iter().chain(hook).chain(removing).min()
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
            Stage::Creating { .. } | Stage::Prepared { .. } => return None,
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
        let until = Instant::now() + allowed(&plan);
        let container = Container {
            plan,
            group,
            pid: spawned.pid,
            pidfd: spawned.pidfd,
            pid_namespace,
            streams,
            first_attached: None,
            channel: Some(spawned.channel),
            stage: Stage::Creating { reply, until },
            hook: None,
            inner_pid: 0,
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
        if !matches!((&container.stage, &container.channel), (Stage::Created, Some(_))) {
            let message = format!("container {id} is not waiting to be started");
            return Err(failure(FailureKind::WrongState, "start", message));
        }
        container.stage = Stage::Starting { reply };
        self.begin_hooks(number, Point::StartContainer);
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
                Ok(Some((Report::Mounted { pid }, _))) => self.container_mounted(id, pid),
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
        let leftover = container.hook.take().map(|hook| hook.give_up(id));
        self.leftovers.extend(leftover.flatten());
        match container.stage {
            Stage::Creating { .. } | Stage::Prepared { .. } => {
                let reply = match container.stage {
                    Stage::Creating { reply, .. } => Some(reply),
                    _ => None,
                };
                if self.namespaces.user.is_some() {
                    // There may be another process that is not known yet, of the second stage.
                    let _ = container.group.kill_now();
                }
                let removing = container.removing.take();
                self.containers.remove(&id);
                if let Some(reply) = reply {
                    self.reply(reply, Reply::Error(failed));
                }
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
            Stage::Starting { .. } if container.hook.is_some() => {
                let message = "it was killed while its hooks ran";
                self.container_failed(id, failure(FailureKind::WrongState, "start", message));
            }
            Stage::Starting { reply } => {
                container.channel = None;
                container.started_at = clock::now();
                container.stage = Stage::Running;
                let started_at = container.started_at;
                self.reply(reply, Reply::Started { started_at });
            }
            Stage::Creating { .. } | Stage::Prepared { .. } => {
                let message = "the process died without saying why; the node may be out of memory, or the \
                    container's cgroup has been killed before and must be made anew";
                self.container_failed(id, failure(FailureKind::Internal, "create the container", message));
            }
            // Killed at the barrier: its end will be reaped.
            _ => container.channel = None,
        }
    }

    /// A container's deadline has passed, or its removal is to be looked at again.
    pub(crate) fn container_due(&mut self, id: u32, now: Instant) {
        let Some(container) = self.containers.get(&id) else { return };
        match container.stage {
            Stage::Creating { until, .. } | Stage::Prepared { until } if until <= now => {
                let waiting = strata_cgroup::control::describe(container.pid);
                let message = format!("the deadline has passed; {waiting}");
                self.container_failed(id, failure(FailureKind::Timeout, "create the container", message));
            }
            Stage::Draining { until } if until <= now => self.finish(id),
            _ => {}
        }
        self.hook_due(id, now);
        self.continue_removal(id, now);
    }
}

/// How long setting a container up may take, and how long its hooks before its program.
pub(crate) fn allowed(plan: &ContainerPlan) -> Duration {
    match plan.create_timeout_ms {
        0 => CREATE_FOR,
        ms => Duration::from_millis(ms),
    }
}
