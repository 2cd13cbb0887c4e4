//! Running one hook in the node's namespaces.
//!
//! It is the leader of a process group of its own, in a cgroup of its own where there are any, so that one that hangs is killed with
//! what it has started, and it ends with this daemon: the next one ends what it had started, and runs what is owed then.

use super::groups::HookGroup;
use crate::error::{Error, Kind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};
use strata_sys::memfd;
use strata_wire::hooks::{Hook, MAX_SAID, complaint};

/// How long one that was killed may take to end: it may wait for a device.
const KILL: Duration = Duration::from_secs(5);

/// Runs it, and waits for it in this thread.
///
/// # Errors
/// [`Kind::FailedPrecondition`] if it cannot be run, [`Kind::DeadlineExceeded`] if it does not end in time and is killed,
/// [`Kind::Internal`] if it fails.
pub(super) fn run(
    hook: &Hook,
    bundle: &Path,
    state: &[u8],
    limit: Duration,
    group: Option<&HookGroup>,
) -> Result<()> {
    let failed = |kind, how: String, said: &[u8]| Error::new(kind, complaint(hook, &how, said));
    let begun = Instant::now();
    let (output, mut child) = spawn(hook, bundle, state, group)
        .map_err(|e| failed(Kind::FailedPrecondition, format!("cannot be run: {e}"), &[]))?;
    let (status, said) = follow(&mut child, &output, begun + limit, group)
        .map_err(|e| failed(Kind::Internal, format!("cannot be waited for: {e}"), &[]))?;
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(failed(Kind::Internal, ending(status), &said)),
        None => {
            let how = format!("did not end within {:.1} s and was killed", begun.elapsed().as_secs_f64());
            Err(failed(Kind::DeadlineExceeded, how, &said))
        }
    }
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("has failed with exit code {code}"),
        (None, signal) => format!("was killed by {}", strata_sys::signal::name(signal.unwrap_or(0))),
    }
}

fn spawn(
    hook: &Hook,
    bundle: &Path,
    state: &[u8],
    group: Option<&HookGroup>,
) -> std::io::Result<(OwnedFd, Child)> {
    let state = memfd::filled("state", state)?;
    let (output, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&output, OFlags::NONBLOCK)?;
    let mut command = Command::new(&hook.path);
    let argv = hook.argv();
    command.arg0(argv.first().unwrap_or(&hook.path)).args(argv.iter().skip(1)).env_clear();
    command.envs(hook.env.iter().filter_map(|line| line.split_once('=')));
    command.current_dir(bundle).process_group(0);
    command.stdin(state).stdout(theirs.try_clone()?).stderr(theirs);
    // First, while the descriptors are open to it.
    if let Some(group) = group {
        strata_sys::process::enter_groups(&mut command, group.entrances()?);
    }
    strata_sys::process::bind_to_thread(&mut command);
    Ok((output, command.spawn()?))
}

/// Reads what it writes until it ends; without a status it had to be killed.
fn follow(
    child: &mut Child,
    output: &OwnedFd,
    deadline: Instant,
    group: Option<&HookGroup>,
) -> std::io::Result<(Option<ExitStatus>, Vec<u8>)> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    let mut said = Vec::new();
    let ended = pidfd_open(pid, PidfdFlags::empty())
        .and_then(|pidfd| wait(&pidfd, output, &mut said, deadline))
        .inspect_err(|_| kill(pid, group))?;
    if ended {
        return Ok((Some(child.wait()?), said));
    }
    kill(pid, group);
    let patience = Instant::now() + KILL;
    while child.try_wait()?.is_none() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok((None, said))
}

fn kill(pid: Pid, group: Option<&HookGroup>) {
    // While it has not been waited for, its number is its own.
    let _ = kill_process_group(pid, Signal::KILL);
    if let Some(group) = group {
        group.kill();
    }
}

/// Whether it has ended before the deadline.
fn wait(
    pidfd: &OwnedFd,
    output: &OwnedFd,
    said: &mut Vec<u8>,
    deadline: Instant,
) -> rustix::io::Result<bool> {
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(500);
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut both = [PollFd::new(pidfd, PollFlags::IN), PollFd::new(output, PollFlags::IN)];
        let watched = if open { &mut both[..] } else { &mut both[..1] };
        match poll(watched, Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        let ended = !both[0].revents().is_empty();
        // What it left in the background may hold its output open: what is there now is all.
        open = listen(output, said)?;
        if ended || Instant::now() >= deadline {
            return Ok(ended);
        }
    }
}

/// Reads what there is, and keeps the last of it; whether more may come.
fn listen(output: &OwnedFd, said: &mut Vec<u8>) -> rustix::io::Result<bool> {
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(output, &mut buffer) {
            Ok(0) => return Ok(false),
            Ok(n) => {
                said.extend_from_slice(&buffer[..n]);
                let excess = said.len().saturating_sub(MAX_SAID);
                said.drain(..excess);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(true),
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_wire::hooks::Point;

    fn sh(script: &str, limit: u64) -> Result<()> {
        let hook = Hook {
            point: Point::Poststop,
            path: "/bin/sh".into(),
            args: ["hook", "-c", script].map(str::to_owned).to_vec(),
            env: vec!["A=1".into()],
            timeout: 0,
        };
        run(&hook, Path::new("/"), b"{\"id\":\"c1\"}", Duration::from_secs(limit), None)
    }

    #[test]
    fn it_reads_the_state_and_has_its_own_name_and_environment_only() {
        let script = "read s; echo \"$0 $s $A $PWD ${HOME-none}\"; exit 3";
        let error = sh(script, 60).unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
        let expected =
            "the poststop hook /bin/sh has failed with exit code 3; it wrote: hook {\"id\":\"c1\"} 1 / none";
        assert_eq!(error.to_string(), expected);
        sh("exit 0", 60).unwrap();
    }

    #[test]
    fn how_it_ended_is_told() {
        let error = sh("kill -9 $$", 60).unwrap_err().to_string();
        assert!(error.contains("SIGKILL"), "{error}");
        let missing = Hook {
            point: Point::Poststop,
            path: "/no/such/hook".into(),
            args: Vec::new(),
            env: Vec::new(),
            timeout: 0,
        };
        let error = run(&missing, Path::new("/"), b"{}", Duration::from_secs(60), None).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(error.to_string().contains("/no/such/hook"), "{error}");
    }

    #[test]
    fn one_that_hangs_is_killed_with_what_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("pid");
        let error = sh(
            &format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; echo waiting; wait", at.display()),
            4,
        )
        .unwrap_err();
        assert_eq!(error.kind(), Kind::DeadlineExceeded);
        assert!(error.to_string().contains("it wrote: waiting"), "{error}");
        let pid = std::fs::read_to_string(at).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let runs = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        while runs() {
            assert!(Instant::now() < until, "{pid} runs on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_is_left_in_the_background_does_not_hold_it_up() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("pid");
        sh(&format!("yes | head -c 1000000; sleep 1000 & echo $! > {}", at.display()), 60).unwrap();
        let pid: i32 = std::fs::read_to_string(at).unwrap().trim().parse().unwrap();
        strata_sys::process::kill(pid, 9).unwrap();
    }
}
