//! From the command line to a shim that can be run.

use crate::poll::{Poll, Token};
use crate::shim::Shim;
use rustix::fs::{Mode, OFlags};
use std::io;
use std::path::Path;
use strata_cgroup::Hierarchy;
use strata_runtime::Namespaces;
use strata_sys::{ns, process};
use strata_wire::PodPlan;

/// The listening socket's number: stratad binds it before it starts the shim, so that it can be connected to at once.
const LISTENER: i32 = 3;

/// An error that ends the shim, as text for its log.
fn fatal(what: &str, e: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{what}: {e}"))
}

/// Reads the plan, takes its place in the system, and opens what it will need.
pub(crate) fn start() -> io::Result<Shim> {
    let plan = read_plan()?;
    // Whatever can fail later must not end in a process that others may trace or that leaves orphans to init.
    process::set_not_dumpable()?;
    process::set_child_subreaper()?;
    // Run from a descriptor, it would be called by that one's number in every list of processes.
    let _ = rustix::thread::set_name(c"strata-shim");
    // Fails only for a process group leader, which nothing but a person's shell makes of it.
    let _ = rustix::process::setsid();
    // Nor keep a file system of the host busy.
    let _ = rustix::process::chdir("/");
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let listener = process::inherited_fd(LISTENER)?;
    rustix::io::ioctl_fionbio(&listener, true)?;

    let hierarchy = Hierarchy::detect().map_err(|e| fatal("cgroups", e))?;
    if !plan.shim_cgroup.is_empty() {
        let own = hierarchy.group(&plan.shim_cgroup).map_err(|e| fatal("own cgroup", e))?;
        let join = own.join().map_err(|e| fatal("own cgroup", e))?;
        join.enter().map_err(|e| fatal("own cgroup", e))?;
    }
    if let Some(adj) = plan.oom_score_adj {
        // Clamped to what the node allows: stratad has warned of it once.
        let _ = std::fs::write("/proc/self/oom_score_adj", adj.to_string());
    }
    let namespaces = open_namespaces(&plan)?;
    let state_dir = rustix::fs::open(
        plan.state_dir.as_str(),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| fatal(&format!("open the state directory {}", plan.state_dir), e))?;

    let poll = Poll::new()?;
    poll.add(&listener, Token::Listener, true, false)?;
    let signals = signals()?;
    poll.add(&signals, Token::Signals, true, false)?;
    let watch = watch(&plan.state_dir)?;
    poll.add(&watch, Token::StateDir, true, false)?;
    let mut shim = Shim::new(plan, poll, listener, signals, watch, hierarchy, namespaces, state_dir);
    shim.make_shared_pid_namespace()?;
    Ok(shim)
}

fn read_plan() -> io::Result<PodPlan> {
    let mut args = std::env::args_os().skip(1);
    let (Some(flag), Some(path), None) = (args.next(), args.next(), args.next()) else {
        return Err(io::Error::other("usage: strata-shim --plan FILE; it is started by stratad"));
    };
    if flag != "--plan" {
        return Err(io::Error::other("usage: strata-shim --plan FILE; it is started by stratad"));
    }
    let text = std::fs::read(&path).map_err(|e| fatal(&format!("read {}", Path::new(&path).display()), e))?;
    serde_json::from_slice(&text).map_err(|e| fatal(&format!("parse {}", Path::new(&path).display()), e))
}

fn open_namespaces(plan: &PodPlan) -> io::Result<Namespaces> {
    let open = |path: &Option<String>| path.as_ref().map(|p| ns::open(Path::new(p))).transpose();
    Ok(Namespaces {
        net: open(&plan.namespaces.net)?,
        ipc: open(&plan.namespaces.ipc)?,
        uts: open(&plan.namespaces.uts)?,
        user: open(&plan.namespaces.user)?,
    })
}

/// SIGCHLD as a descriptor; what would end the process by a person's mistake is ignored: it ends with its pod.
fn signals() -> io::Result<nix::sys::signalfd::SignalFd> {
    use nix::sys::signal::{SigSet, Signal};
    use nix::sys::signalfd::{SfdFlags, SignalFd};
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        mask.add(signal);
    }
    mask.thread_block()?;
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    Ok(SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Tells when something is removed from the pod's state directory. Not when the directory itself goes: its listening
/// socket keeps it, unnamed, for as long as the shim lives.
fn watch(state_dir: &str) -> io::Result<std::os::fd::OwnedFd> {
    use rustix::fs::inotify;
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(
        &fd,
        state_dir,
        inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVE_SELF | inotify::WatchFlags::ONLYDIR,
    )?;
    Ok(fd)
}
