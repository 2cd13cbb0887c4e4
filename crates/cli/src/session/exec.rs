//! A process run in a container, with this process's standard streams.
//!
//! Without a terminal the process gets pipes, never this process's own descriptors: a container must not hold a file
//! or the terminal of the host.

use super::shim::{Shim, unexpected};
use super::streams::{LITTLE, Sink, read_stdin};
use crate::error::{Error, Result};
use crate::signals::{self, Impatience, PROXIED};
use crate::terminal::{self, Raw};
use nix::sys::signal::Signal;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use strata_wire::{Event, ExecPlan, Reply, Request};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};

/// How long output may stay silent after the process has ended before what still holds it open is left alone.
const DRAIN: Duration = Duration::from_secs(1);

fn failed(what: &'static str) -> impl Fn(Errno) -> Error {
    move |e| Error::io(what, e.into())
}

/// Starts the process and leaves it.
pub(crate) async fn detached(socket: &str, plan: ExecPlan) -> Result<()> {
    let null = dev_null(OFlags::RDWR)?;
    let mut shim = Shim::connect(socket).await?;
    let fd = null.as_fd();
    match shim.call(Request::Exec(Box::new(plan)), &[fd, fd, fd]).await? {
        (Reply::ExecStarted { .. }, _) => Ok(()),
        (other, _) => Err(unexpected(&other)),
    }
}

/// Runs the process with pipes; its exit code.
pub(crate) async fn piped(socket: &str, plan: ExecPlan, stdin: bool) -> Result<i32> {
    let caught = signals::listen(&PROXIED)?;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(failed("pipe2"));
    let (theirs_in, ours_in) = if stdin {
        let (read, write) = pipe()?;
        (read, Some(write))
    } else {
        (dev_null(OFlags::RDONLY)?, None)
    };
    let (out, theirs_out) = pipe()?;
    let (err, theirs_err) = pipe()?;
    let mut shim = Shim::connect(socket).await?;
    let (container, exec) = (plan.container_id.clone(), plan.exec_id.clone());
    let fds: [BorrowedFd<'_>; 3] = [theirs_in.as_fd(), theirs_out.as_fd(), theirs_err.as_fd()];
    match shim.call(Request::Exec(Box::new(plan)), &fds).await? {
        (Reply::ExecStarted { .. }, _) => {}
        (other, _) => return Err(unexpected(&other)),
    }
    // Only the process holds their ends now: their end of file is its.
    drop((theirs_in, theirs_out, theirs_err));
    if let Some(ours) = ours_in {
        let sender = pipe::Sender::from_owned_fd(ours).map_err(|e| Error::io("pipe", e))?;
        tokio::spawn(feed(sender));
    }
    let (ended, end) = watch::channel(false);
    let receiver = |fd| pipe::Receiver::from_owned_fd(fd).map_err(|e| Error::io("pipe", e));
    let out = tokio::spawn(show(receiver(out)?, Sink::stdout(LITTLE), end.clone()));
    let err = tokio::spawn(show(receiver(err)?, Sink::stderr(LITTLE), end));
    let code = wait(&mut shim, &container, &exec, caught).await;
    ended.send_replace(true);
    let _ = out.await;
    let _ = err.await;
    code
}

/// Runs the process on a terminal of its own; its exit code.
pub(crate) async fn terminal(socket: &str, plan: ExecPlan, stdin: bool) -> Result<i32> {
    let mut shim = Shim::connect(socket).await?;
    let (container, exec) = (plan.container_id.clone(), plan.exec_id.clone());
    let master = match shim.call(Request::Exec(Box::new(plan)), &[]).await? {
        (Reply::ExecStarted { .. }, mut fds) => {
            fds.pop().ok_or_else(|| Error::Shim("the pod's shim sent no terminal".into()))?
        }
        (other, _) => return Err(unexpected(&other)),
    };
    let raw = (stdin && terminal::stdin_is_terminal()).then(Raw::enter).transpose()?;
    let caught = signals::listen(&PROXIED)?;
    rustix::io::ioctl_fionbio(&master, true).map_err(failed("FIONBIO on the terminal"))?;
    let master = Arc::new(watched(master)?);
    let (ended, end) = watch::channel(false);
    let shown = tokio::spawn(show(Master(Arc::clone(&master)), Sink::stdout(LITTLE), end));
    if stdin {
        tokio::spawn(type_in(Arc::clone(&master)));
    }
    let code = tokio::select! {
        code = wait(&mut shim, &container, &exec, caught) => code,
        e = follow_size(&master, raw.as_ref()) => Err(e),
    };
    ended.send_replace(true);
    let _ = shown.await;
    drop(raw);
    code
}

// The replacement is `unsafe` for descriptors that may change under it, which an `OwnedFd` does not.
#[allow(deprecated)]
fn watched(master: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(master).map_err(|e| Error::io("the terminal", e))
}

fn dev_null(access: OFlags) -> Result<OwnedFd> {
    rustix::fs::open("/dev/null", access | OFlags::CLOEXEC, Mode::empty()).map_err(failed("/dev/null"))
}

/// Waits for the process's end, passing signals on to it meanwhile.
async fn wait(
    shim: &mut Shim,
    container: &str,
    exec: &str,
    mut caught: mpsc::UnboundedReceiver<Signal>,
) -> Result<i32> {
    let mut impatience = Impatience::default();
    loop {
        tokio::select! {
            event = shim.event() => {
                if let Event::ExecExited { exec_id, exit_code, .. } = event?
                    && exec_id == exec
                {
                    return Ok(exit_code);
                }
            }
            Some(signal) = caught.recv() => {
                if impatience.exhausted_by(signal) {
                    return Err(Error::local("got 3 SIGTERM/SIGINTs, forcefully exiting"));
                }
                let (container_id, exec_id) = (container.to_owned(), exec.to_owned());
                let request = Request::KillExec { container_id, exec_id, signal: signal as i32 };
                shim.send(request, &[]).await?;
            }
        }
    }
}

/// Standard input to the process.
async fn feed(mut to: pipe::Sender) {
    let mut input = read_stdin();
    while let Some(data) = input.recv().await {
        if to.write_all(&data).await.is_err() {
            return;
        }
    }
}

/// What the process's output can be read from.
trait Source {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

impl Source for pipe::Receiver {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        AsyncReadExt::read(self, buffer).await
    }
}

struct Master(Arc<AsyncFd<OwnedFd>>);

impl Source for Master {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // EIO: no process has the terminal open any more (pty(7)).
        self.0.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *buffer)?)).await
    }
}

/// The process's output, to its end: the pipe's, or silence after the process has ended.
async fn show(mut from: impl Source, to: Sink, mut end: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let ended = *end.borrow();
        let got = if ended {
            match tokio::time::timeout(DRAIN, from.read(&mut buffer)).await {
                Ok(got) => got,
                Err(_) => break,
            }
        } else {
            tokio::select! {
                got = from.read(&mut buffer) => got,
                _ = end.changed() => continue,
            }
        };
        match got {
            Ok(0) | Err(_) => break,
            // Dropping the pipe tells the process that nobody reads.
            Ok(n) if !to.write(buffer.get(..n).unwrap_or_default().to_vec()).await => break,
            Ok(_) => {}
        }
    }
    drop(from);
    to.finish().await;
}

/// What is typed, to the process's terminal.
async fn type_in(master: Arc<AsyncFd<OwnedFd>>) {
    let mut input = read_stdin();
    while let Some(data) = input.recv().await {
        let mut rest = &data[..];
        while !rest.is_empty() {
            let wrote = master.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, rest)?)).await;
            match wrote {
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(_) => return,
            }
        }
    }
}

/// Keeps the process's terminal as large as the caller's; ends only with an error.
async fn follow_size(master: &AsyncFd<OwnedFd>, raw: Option<&Raw>) -> Error {
    let mut winch = match signals::listen(&[Signal::SIGWINCH, Signal::SIGCONT]) {
        Ok(winch) => winch,
        Err(e) => return e,
    };
    loop {
        if let Some((rows, cols)) = terminal::size() {
            let size = rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
            // A terminal that hung up has no size; its end is on its way.
            let _ = rustix::termios::tcsetwinsize(master.get_ref(), size);
        }
        match winch.recv().await {
            Some(Signal::SIGCONT) => raw.into_iter().for_each(Raw::again),
            Some(_) => {}
            None => return std::future::pending().await,
        }
    }
}
