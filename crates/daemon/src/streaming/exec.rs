//! A process in a container, with a client's streams: back-pressure both ways, and the exit code at its end.
//!
//! When the client goes, the process loses its pipes or its terminal, which hangs up: what that does is the program's
//! choice, as it is when a shell's window is closed. It is not killed: as with sshd, containerd and CRI-O, one that neither
//! reads nor writes and has no terminal goes on until it or its container ends. A connection that a proxy on the way has
//! dropped for its silence must not stop a migration halfway.

use super::Wanted;
use super::channel::{Outgoing, PIECE};
use super::demux::{Incoming, Received};
use super::status::Ended;
use super::streams::{Session, Sizes};
use crate::error::{Error, Result};
use crate::node::Node;
use crate::pod::ExecEnd;
use crate::request::ExecRequest;
use rustix::fs::{Mode, OFlags};
use rustix::termios::Winsize;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};

/// How long output may stay silent after the process has ended before what still holds it open is left alone.
const DRAIN: Duration = Duration::from_secs(1);

/// A process that runs, and this end of its streams.
struct Process {
    end: oneshot::Receiver<ExecEnd>,
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    terminal: Option<OwnedFd>,
}

/// Runs the process until it ends or the client goes.
pub(super) async fn run(
    node: &Arc<Node>,
    container: &str,
    command: Vec<String>,
    wanted: Wanted,
    mut session: Session,
) {
    let process = match start(node, container, command, wanted).await {
        Ok(process) => process,
        Err(e) => {
            let why = format!("error executing command in container: {e}");
            return session.finish(&Ended::Failed(why)).await;
        }
    };
    let (tell, told) = watch::channel(false);
    let output = show(process.stdout, session.stdout.take(), told.clone());
    let errors = show(process.stderr, session.stderr.take(), told);
    let end = async {
        let end = process.end.await;
        tell.send_replace(true);
        end
    };
    let input = session.stdin.take();
    let typed = feed(input, process.stdin);
    let sizes = std::mem::take(&mut session.sizes);
    let resized = follow(sizes, process.terminal);
    let ended = tokio::select! {
        (end, (), ()) = async { tokio::join!(end, output, errors) } => end,
        () = session.gone() => return,
        () = async { tokio::join!(typed, resized).0 } => return,
    };
    let ended = match ended {
        Ok(ExecEnd { exit_code: 0, .. }) => Ended::Success,
        Ok(end) => Ended::ExitCode(end.exit_code),
        Err(_) => Ended::Failed("the pod's shim went away during the exec".into()),
    };
    session.finish(&ended).await;
}

async fn start(node: &Arc<Node>, container: &str, command: Vec<String>, wanted: Wanted) -> Result<Process> {
    let request = ExecRequest { command, tty: wanted.tty, ..ExecRequest::default() };
    if wanted.tty {
        let (end, fds) = node.exec_begin(container, request, &[]).await?;
        let master =
            fds.into_iter().next().ok_or_else(|| Error::internal("the pod's shim sent no terminal"))?;
        let fail = |e: std::io::Error| Error::internal(format!("the process's terminal: {e}"));
        rustix::io::ioctl_fionbio(&master, true).map_err(|e| fail(e.into()))?;
        // A terminal is read and written like a pipe; only its name for the end is another.
        let stdin = pipe::Sender::from_owned_fd_unchecked(master.try_clone().map_err(fail)?).map_err(fail)?;
        let stdout =
            pipe::Receiver::from_owned_fd_unchecked(master.try_clone().map_err(fail)?).map_err(fail)?;
        return Ok(Process {
            end,
            stdin: wanted.stdin.then_some(stdin),
            stdout: Some(stdout),
            stderr: None,
            terminal: Some(master),
        });
    }
    let (theirs_in, stdin) = if wanted.stdin {
        let (read, write) = ends()?;
        (read, Some(pipe::Sender::from_owned_fd(write).map_err(no_pipe)?))
    } else {
        (null()?, None)
    };
    let (theirs_out, stdout) = reader(wanted.stdout)?;
    let (theirs_err, stderr) = reader(wanted.stderr)?;
    let fds = [theirs_in.as_fd(), theirs_out.as_fd(), theirs_err.as_fd()];
    let (end, _) = node.exec_begin(container, request, &fds).await?;
    Ok(Process { end, stdin, stdout, stderr, terminal: None })
}

fn no_pipe(e: impl std::fmt::Display) -> Error {
    Error::internal(format!("pipe for an exec: {e}"))
}

fn ends() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(no_pipe)
}

fn null() -> Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::internal(format!("open(/dev/null): {e}")))
}

/// The process's end of an output, and ours if it is wanted.
fn reader(wanted: bool) -> Result<(OwnedFd, Option<pipe::Receiver>)> {
    if !wanted {
        return Ok((null()?, None));
    }
    let (read, write) = ends()?;
    Ok((write, Some(pipe::Receiver::from_owned_fd(read).map_err(no_pipe)?)))
}

/// The process's output, to its end: the pipe's, or silence after the process has ended. Without anybody who wants a
/// terminal's output it is read nevertheless, or the process would stop.
async fn show(from: Option<pipe::Receiver>, to: Option<Outgoing>, mut ended: watch::Receiver<bool>) {
    if let Some(mut from) = from {
        let mut buffer = vec![0; PIECE];
        loop {
            let over = *ended.borrow();
            let got = if over {
                let Ok(got) = tokio::time::timeout(DRAIN, from.read(&mut buffer)).await else { break };
                got
            } else {
                tokio::select! {
                    got = from.read(&mut buffer) => got,
                    changed = ended.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => break,
                    },
                }
            };
            // EIO: no process has the terminal open any more (pty(7)).
            let Ok(n @ 1..) = got else { break };
            if let Some(to) = &to
                && to.write(buffer.get(..n).unwrap_or_default()).await.is_err()
            {
                break;
            }
        }
    }
    if let Some(to) = to {
        let _ = to.finish().await;
    }
}

/// The client's input, to the process; never ends.
async fn feed(from: Option<Incoming>, to: Option<pipe::Sender>) {
    if let (Some(mut from), Some(mut to)) = (from, to) {
        while let Received::Data(data) = from.next().await {
            // The process has closed its input: what the client still sends is dropped with this receiver.
            if to.write_all(&data).await.is_err() {
                break;
            }
        }
    }
    std::future::pending::<()>().await;
}

/// Keeps the process's terminal as large as the client's; never ends.
async fn follow(mut sizes: Sizes, terminal: Option<OwnedFd>) {
    let Some(terminal) = terminal else { return std::future::pending().await };
    loop {
        let (rows, columns) = sizes.next().await;
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // A terminal that hung up has no size; its end is on its way.
        let _ = rustix::termios::tcsetwinsize(&terminal, size);
    }
}
