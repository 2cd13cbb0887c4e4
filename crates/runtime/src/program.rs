//! The last steps: terminal, rights, working directory, descriptors, execve(2).

use crate::{Step, failure, identity};
use rustix::fs::{FileType, Mode, Uid};
use rustix::io::Errno;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use strata_sys::path::Root;
use strata_sys::tty::{self, Pty};
use strata_sys::{CallExt, process};
use strata_wire::message::{Failure, FailureKind};
use strata_wire::plan::Process;

/// The PATH of a program whose environment has none, as execvp(3) and Docker have it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes a terminal the controlling one and all three standard streams. The caller leads a session.
///
/// It becomes the user's, as grantpt(3) has it, or /dev/tty could be used but /dev/stdout not be opened.
pub(crate) fn take_terminal(pty: &Pty, uid: u32) -> Result<(), Failure> {
    rustix::fs::fchown(&pty.slave, Some(Uid::from_raw(uid)), None)
        .call(|| format!("fchown(terminal, {uid})"))
        .step(|| "controlling terminal".into())?;
    tty::set_controlling(&pty.slave).step(|| "controlling terminal".into())?;
    for to in 0..=2 {
        process::set_standard_fd(pty.slave.as_fd(), to).step(|| "standard streams".into())?;
    }
    Ok(())
}

/// Becomes the program; returns only what failed.
pub(crate) fn run(plan: &Process, proc: &Root, channel: BorrowedFd<'_>) -> Failure {
    match prepare(plan, proc, channel) {
        Ok(command) => exec(&command, plan),
        Err(failure) => failure,
    }
}

/// As [`run`], for the program at a path, whatever its name in argv.
pub(crate) fn run_file(path: &str, plan: &Process, proc: &Root, channel: BorrowedFd<'_>) -> Failure {
    match prepare(plan, proc, channel) {
        Ok(_) => become_file(path, plan),
        Err(failure) => failure,
    }
}

/// Becomes the program at a path, with the rights that this process has; returns only what failed.
pub(crate) fn become_file(path: &str, plan: &Process) -> Failure {
    match (Command::new(plan), CString::new(path)) {
        (Ok(command), Ok(file)) => refused(path, &process::execve(&file, &command.argv, &command.envp)),
        (Err(failure), _) => failure,
        (_, Err(e)) => failure(FailureKind::Invalid, "program", e),
    }
}

struct Command {
    argv: Vec<CString>,
    envp: Vec<CString>,
}

impl Command {
    fn new(plan: &Process) -> Result<Self, Failure> {
        let strings = |texts: &[String], what: &str| -> Result<Vec<CString>, Failure> {
            let bad = |e| failure(FailureKind::Invalid, what, e);
            texts.iter().map(|t| CString::new(t.as_bytes()).map_err(bad)).collect()
        };
        Ok(Self { argv: strings(&plan.args, "arguments")?, envp: strings(&plan.env, "environment")? })
    }
}

fn prepare(plan: &Process, proc: &Root, channel: BorrowedFd<'_>) -> Result<Command, Failure> {
    let command = Command::new(plan)?;
    // A directory that only root may enter is entered as root, as the user sees it afterwards.
    let as_root = rustix::process::chdir(plan.cwd.as_str());
    // Nothing of the host's may leak into the program: all but the standard streams close at execve(2), the channel
    // included, whose end tells the caller that the program runs.
    process::close_fds_except(&[]).step(|| "close descriptors".into())?;
    debug_assert!(channel.as_raw_fd() > 2);
    own_streams(plan.uid)?;
    identity::assume(plan, proc)?;
    if as_root.is_err() {
        rustix::process::chdir(plan.cwd.as_str())
            .call(|| format!("chdir({:?})", plan.cwd))
            .step(|| format!("enter the working directory {}", plan.cwd))?;
    }
    rustix::process::umask(Mode::from_raw_mode(plan.umask.unwrap_or(0o022)));
    Ok(command)
}

/// Gives the program's user its pipes, or /dev/stdout could be written but not opened. Only those: a file or a terminal
/// that a client of an exec brought stays its owner's.
fn own_streams(uid: u32) -> Result<(), Failure> {
    let step = || "owner of the standard streams".to_owned();
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let stat = rustix::fs::fstat(fd).call(|| "fstat".into()).step(step)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo && stat.st_uid != uid {
            rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None)
                .call(|| format!("fchown({uid})"))
                .step(step)?;
        }
    }
    Ok(())
}

fn exec(command: &Command, plan: &Process) -> Failure {
    let Some(name) = plan.args.first().filter(|name| !name.is_empty()) else {
        return failure(FailureKind::Invalid, "exec", "no command is given");
    };
    if name.contains('/') {
        let error = process::execve(&command.argv[0], &command.argv, &command.envp);
        return refused(name, &error);
    }
    let path = plan.env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut denied = None;
    for dir in path.split(':') {
        let dir = if dir.is_empty() { "." } else { dir };
        let Ok(candidate) = CString::new(format!("{dir}/{name}")) else { continue };
        let error = process::execve(&candidate, &command.argv, &command.envp);
        match error.errno {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => denied = Some(error),
            _ => return refused(name, &error),
        }
    }
    match denied {
        Some(error) => refused(name, &error),
        None => Failure {
            errno: Some(Errno::NOENT.raw_os_error()),
            ..failure(
                FailureKind::ExecNotFound,
                format!("exec {name:?}"),
                format!("executable file not found in $PATH ({path})"),
            )
        },
    }
}

fn refused(name: &str, error: &strata_sys::Error) -> Failure {
    let kind = match error.errno {
        Errno::NOENT | Errno::NOTDIR => FailureKind::ExecNotFound,
        _ => FailureKind::ExecFailed,
    };
    Failure {
        kind,
        step: format!("exec {name:?}"),
        message: error.to_string(),
        errno: Some(error.errno.raw_os_error()),
    }
}
