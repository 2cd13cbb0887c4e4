//! Processes in running containers: prepared for a client that talks to the shim itself, or run and waited for.

use super::Container;
use super::assemble::security_context;
use super::plan::{command, databases, user};
use crate::error::{Error, Kind, Result};
use crate::ids::new_id;
use crate::node::Node;
use crate::pod::{ExecEnd, Pod, short, userns};
use crate::request::ExecRequest;
use crate::shim::ShimError;
use crate::tasks::blocking;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use strata_api::cri;
use strata_sys::path::Root;
use strata_wire::{ExecPlan, Reply, Request};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

/// How long output may go on after the process has ended: something it left behind may hold the pipes.
const DRAIN: Duration = Duration::from_secs(1);
/// How long a shim may take to begin an exec.
const BEGIN: Duration = Duration::from_secs(30);

/// What a process that was waited for has said.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExecOutput {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) exit_code: i32,
}

impl Node {
    /// Prepares an exec: the socket of the shim, and the plan to send it.
    pub(crate) async fn exec_plan(
        self: &Arc<Self>,
        id: &str,
        request: ExecRequest,
    ) -> Result<(PathBuf, ExecPlan)> {
        let container = self.find_container(id)?;
        self.settled(container.pod()).await?;
        container.known()?;
        let live = container.live();
        if !live.running() {
            return Err(Error::precondition(format!("container {} is not running", container.id())));
        }
        if live.paused {
            return Err(Error::precondition(format!(
                "Container {id} is paused, unpause the container before exec"
            )));
        }
        let socket = container.pod().need_shim()?.socket().to_owned();
        let node = self.clone();
        let plan = blocking(move || node.plan_exec(&container, request, live.pid)).await?;
        Ok((socket, plan))
    }

    fn plan_exec(&self, container: &Container, request: ExecRequest, pid: i32) -> Result<ExecPlan> {
        if request.command.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("no command to execute: name a program"));
        }
        if let Some(bad) = request.command.iter().chain(&request.env).find(|a| a.contains('\0')) {
            return Err(Error::invalid(format!("{bad:?} holds a NUL byte")));
        }
        let record = container.record();
        let mut context = security_context(&record.config);
        if request.privileged {
            context.privileged = true;
            context.no_new_privs = false;
        }
        let mut process = self.process(&record, &context)?;
        process.args = request.command;
        // A process of a container is as likely to be killed for memory as its init.
        process.oom_score_adj = None;
        if let Some(text) = &request.user {
            let root = Root::open(Path::new(&format!("/proc/{pid}/root")))
                .map_err(|_| Error::precondition(format!("container {} is not running", container.id())))?;
            let found = user::Wanted::parse(text).resolve(&databases(&root)?)?;
            let ids = userns::of_pod(container.pod().config())?;
            userns::check_user(ids, found.uid, found.gid, &found.groups)?;
            (process.uid, process.gid, process.groups) = (found.uid, found.gid, found.groups);
            command::put(&mut process.env, format!("HOME={}", found.home));
            process.caps = self.capabilities_of(&context, found.uid)?;
        }
        for line in request.env {
            command::put(&mut process.env, line);
        }
        if request.tty {
            command::put(&mut process.env, "TERM=xterm".into());
        }
        if !request.workdir.is_empty() {
            if !request.workdir.starts_with('/') {
                return Err(Error::invalid(format!(
                    "the working directory '{}' is invalid, it needs to be an absolute path",
                    request.workdir
                )));
            }
            process.cwd = request.workdir;
        }
        Ok(ExecPlan {
            container_id: record.id.clone(),
            exec_id: new_id()?,
            process,
            tty: request.tty,
            tty_size: request.tty_size,
            timeout_ms: request.timeout_ms,
        })
    }

    /// Begins an exec: its end, and with a terminal that terminal's master. Without one, `fds` are the process's stdin,
    /// stdout and stderr.
    pub(crate) async fn exec_begin(
        self: &Arc<Self>,
        id: &str,
        request: ExecRequest,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(oneshot::Receiver<ExecEnd>, Vec<OwnedFd>)> {
        let (ended, fds, mut caller) = self.exec_begin_for(id, request, fds).await?;
        caller.waits = false;
        Ok((ended, fds))
    }

    async fn exec_begin_for(
        self: &Arc<Self>,
        id: &str,
        request: ExecRequest,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(oneshot::Receiver<ExecEnd>, Vec<OwnedFd>, Caller)> {
        let container = self.find_container(id)?;
        let (_, plan) = self.exec_plan(id, request).await?;
        let pod = container.pod();
        let shim = pod.need_shim()?;
        let exec_id = plan.exec_id.clone();
        let program = plan.process.args.first().cloned().unwrap_or_default();
        let ended = pod.expect_exec(&exec_id);
        let container_id = plan.container_id.clone();
        let mut caller = Caller { pod: pod.clone(), container_id, exec_id, waits: true };
        match shim.call_with(Request::Exec(Box::new(plan)), fds, BEGIN).await {
            Ok((Reply::ExecStarted { .. }, fds)) => Ok((ended, fds, caller)),
            Ok((other, _)) => Err(Error::internal(format!("the shim answered an exec with {other:?}"))),
            Err(e) => {
                if matches!(e, ShimError::Failed(_)) {
                    caller.waits = false;
                    caller.pod.exec_ended(&caller.exec_id, None);
                }
                Err(Error::from(e)
                    .context(format!("exec {program:?} in container {}", short(container.id()))))
            }
        }
    }

    /// Runs a process in a container and waits for its end and its output (CRI ExecSync).
    pub(crate) async fn exec_sync(self: &Arc<Self>, id: &str, request: ExecRequest) -> Result<ExecOutput> {
        let timeout_ms = request.timeout_ms;
        let container = self.find_container(id)?;
        let program = request.command.first().cloned().unwrap_or_default();
        let (stdout, stdout_end) = pipe_pair()?;
        let (stderr, stderr_end) = pipe_pair()?;
        let null = rustix::fs::open(
            "/dev/null",
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(|e| Error::internal(format!("open(/dev/null): {e}")))?;
        let fds = [null.as_fd(), stdout_end.as_fd(), stderr_end.as_fd()];
        let (ended, _, mut caller) = self.exec_begin_for(id, request, &fds).await?;
        // Only the process holds these ends now, so that its end is the output's.
        drop((null, stdout_end, stderr_end));
        let limit = self.config.limits.exec_sync_output;
        let (out, err) = (Collected::default(), Collected::default());
        let reading = tokio::spawn(out.clone().read(stdout, limit));
        let reading_err = tokio::spawn(err.clone().read(stderr, limit));
        let end = ended
            .await
            .map_err(|_| Error::new(Kind::Unavailable, "the pod's shim went away during the exec"))?;
        caller.waits = false;
        let both = async { tokio::join!(reading, reading_err) };
        if tokio::time::timeout(DRAIN, both).await.is_err() {
            tracing::debug!(
                container = short(container.id()),
                "an exec left something behind that holds its output"
            );
        }
        if end.timed_out {
            return Err(Error::new(
                Kind::DeadlineExceeded,
                format!(
                    "exec {program:?} in container {}: timed out after {timeout_ms} ms and was killed",
                    short(container.id())
                ),
            ));
        }
        let (stdout, stderr) = (std::mem::take(&mut *out.lock()), std::mem::take(&mut *err.lock()));
        Ok(ExecOutput { stdout, stderr, exit_code: end.exit_code })
    }
}

/// Who waits for an exec. One that goes before its end leaves nobody who could come for the output: the exec is killed, and
/// with it what a call without a time limit would leave in the container for ever.
struct Caller {
    pod: Arc<Pod>,
    container_id: String,
    exec_id: String,
    waits: bool,
}

impl Drop for Caller {
    fn drop(&mut self) {
        if !self.waits {
            return;
        }
        self.pod.exec_ended(&self.exec_id, None);
        let (container_id, exec_id) = (self.container_id.clone(), self.exec_id.clone());
        // Without a runtime stratad is ending, and the shim goes on by itself.
        if let (Some(shim), Ok(runtime)) = (self.pod.shim(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                let kill = Request::KillExec { container_id, exec_id, signal: 9 };
                if let Err(e) = shim.done(kill, crate::shim::PROMPT).await {
                    tracing::debug!(error = %e, "an exec that nobody waits for");
                }
            });
        }
    }
}

fn pipe_pair() -> Result<(pipe::Receiver, OwnedFd)> {
    let fail = |e: &dyn std::fmt::Display| Error::internal(format!("pipe for an exec: {e}"));
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| fail(&e))?;
    let receiver = pipe::Receiver::from_owned_fd(read).map_err(|e| fail(&e))?;
    Ok((receiver, write))
}

/// What has been read so far of a stream.
#[derive(Clone, Default)]
struct Collected(Arc<std::sync::Mutex<Vec<u8>>>);

impl Collected {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reads to the end; what is over the limit is read too, so that the process is not stopped by it, and dropped.
    async fn read(self, mut from: pipe::Receiver, limit: usize) {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            let mut all = self.lock();
            let room = limit.saturating_sub(all.len()).min(n);
            all.extend_from_slice(&buffer[..room]);
        }
    }
}

/// CRI's exec request, as ours.
pub(crate) fn of_cri(request: &cri::ExecSyncRequest) -> Result<ExecRequest> {
    let seconds = u64::try_from(request.timeout)
        .map_err(|_| Error::invalid(format!("timeout {}: must not be negative", request.timeout)))?;
    Ok(ExecRequest {
        command: request.cmd.clone(),
        timeout_ms: seconds.saturating_mul(1000),
        ..ExecRequest::default()
    })
}
