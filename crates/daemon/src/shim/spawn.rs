//! Starting shims: one sealed copy of the binary per daemon, a listening socket handed down as descriptor 3.

use super::client::SOCKET;
use super::process;
use crate::error::{Error, Result};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags};
use rustix::fs::{Mode, OFlags};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use strata_sys::{durable, memfd, path::fd_path, path::short_path};
use strata_wire::PodPlan;

/// The descriptor on which a shim finds its listening socket.
const LISTENER: i32 = 3;

/// What every shim of this daemon is run from.
#[derive(Debug)]
pub(crate) struct Spawner {
    binary: OwnedFd,
    children: std::sync::Arc<Children>,
}

impl Spawner {
    /// Copies the shim's binary into a sealed memfd, so that no container can write it through /proc/PID/exe
    /// (CVE-2019-5736).
    pub(crate) fn new(configured: &Path) -> Result<Self> {
        let path = locate(configured)?;
        let bytes = std::fs::read(&path).map_err(|e| {
            let hint = "install strata-shim beside stratad, or set [runtime] shim";
            Error::internal(format!("{}: the shim cannot be read: {e}; {hint}", path.display()))
        })?;
        let binary = memfd::sealed("strata-shim", &bytes).map_err(|e| Error::internal(e.to_string()))?;
        Ok(Self { binary, children: std::sync::Arc::default() })
    }

    /// The shims that this daemon has started.
    pub(crate) fn children(&self) -> &std::sync::Arc<Children> {
        &self.children
    }

    /// Starts a pod's shim. Its plan is on disk and its socket takes connections when this returns.
    pub(crate) fn spawn(&self, dir: &Path, plan: &PodPlan) -> Result<()> {
        self.try_spawn(dir, plan)
            .map_err(|e| Error::internal(format!("the shim of pod {} cannot be started: {e}", plan.id)))
    }

    fn try_spawn(&self, dir: &Path, plan: &PodPlan) -> std::io::Result<()> {
        let dir_fd = durable::open_dir(dir)?;
        let json = serde_json::to_vec(plan)?;
        durable::write_file_volatile(&dir_fd, "plan.json".as_ref(), &json, 0o600)?;
        let listener = listen(dir_fd.as_fd())?;
        let log = rustix::fs::openat(
            &dir_fd,
            "shim.log",
            OFlags::CREATE | OFlags::APPEND | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::from_raw_mode(0o600),
        )?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let mut actions = PosixSpawnFileActions::init()?;
        // The sources must not be overwritten by an earlier step: all are above the targets.
        let held: Vec<OwnedFd> = [null.as_fd(), log.as_fd(), listener.as_fd()]
            .into_iter()
            .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, LISTENER + 1))
            .collect::<Result<_, _>>()?;
        if let [null, log, listener] = held.as_slice() {
            for (fd, target) in [(null, 0), (null, 1), (log, 2), (listener, LISTENER)] {
                actions.add_dup2(fd.as_raw_fd(), target)?;
            }
        }
        let mut attr = PosixSpawnAttr::init()?;
        // The daemon's threads may block signals; a shim starts with none blocked.
        attr.set_sigmask(&nix::sys::signal::SigSet::empty())?;
        attr.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK)?;
        let args = [
            c"strata-shim".to_owned(),
            c"--plan".to_owned(),
            CString::new(dir.join("plan.json").as_os_str().as_bytes())?,
        ];
        let env: [CString; 1] = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
        let program = fd_path(&self.binary);
        let pid = nix::spawn::posix_spawn(program.as_path(), &actions, &attr, &args, &env)?;
        let Some(child) = rustix::process::Pid::from_raw(pid.as_raw()) else {
            return Err(rustix::io::Errno::SRCH.into());
        };
        self.children.add(child);
        durable::write_file_volatile(
            &dir_fd,
            process::PID.as_ref(),
            pid.as_raw().to_string().as_bytes(),
            0o600,
        )?;
        Ok(())
    }
}

/// A listening socket in a directory, whatever the length of its path.
fn listen(dir: std::os::fd::BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    strata_sys::path::remove_at(dir, SOCKET.as_ref(), false)?;
    let listener = std::os::unix::net::UnixListener::bind(short_path(dir, SOCKET.as_ref()))?;
    listener.set_nonblocking(true)?;
    Ok(listener.into())
}

fn locate(configured: &Path) -> Result<PathBuf> {
    if !configured.as_os_str().is_empty() {
        return Ok(configured.into());
    }
    let this = std::env::current_exe().map_err(|e| {
        Error::internal(format!("/proc/self/exe: {e}; set [runtime] shim to the shim's path"))
    })?;
    Ok(this.with_file_name("strata-shim"))
}

/// The shims that this daemon has started, to be reaped when they end. Those of an earlier daemon are init's.
#[derive(Debug, Default)]
pub(crate) struct Children(std::sync::Mutex<Vec<rustix::process::Pid>>);

impl Children {
    /// Adds one.
    fn add(&self, pid: rustix::process::Pid) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(pid);
    }

    /// Reaps those that have ended; only ours, so that other children of this process keep their exit codes.
    fn reap(&self) {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let mut pids = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        pids.retain(|pid| matches!(waitid(WaitId::Pid(*pid), options), Ok(None)));
    }

    /// Reaps on every SIGCHLD, for good.
    pub(crate) async fn reap_forever(self: std::sync::Arc<Self>) {
        use tokio::signal::unix::{SignalKind, signal};
        let mut ended = match signal(SignalKind::child()) {
            Ok(stream) => stream,
            Err(e) => {
                tracing::warn!("SIGCHLD cannot be watched, ended shims will stay zombies: {e}");
                return;
            }
        };
        loop {
            self.reap();
            if ended.recv().await.is_none() {
                return;
            }
        }
    }
}
