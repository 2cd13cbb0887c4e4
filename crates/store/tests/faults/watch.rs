//! Runs this program once more, as a worker, and decides about each call with which it changes a file.

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};
use strata_sys::notify::{Answer, Call, Listener, install};

/// A directory that does not exist: making one in it tells the supervisor something.
const MARKS: &str = "/strata-mark/";
/// No step takes nearly as long, even on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(120);
/// The lower half of a register that holds it.
const AT_FDCWD: u64 = 0xffff_ff9c;
/// Where the supervisor takes the listener.
const SOCKET: &str = "STRATA_FAULTS_SOCKET";

/// How a call names the files that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// A descriptor, at this place.
    Fd(usize),
    Path(usize),
    TwoPaths,
    /// A directory's descriptor, and a path after it.
    At(usize),
    TwoAt,
    /// As `Path` or `At`, if the flags after it say that it may make or empty a file.
    Open,
    OpenAt,
    /// The flags are in memory.
    OpenAt2,
    /// It would change files behind our back.
    Refused,
}

/// Every call that changes a file, its name, its attributes, or what of it is on disk.
const CALLS: &[(&str, Names)] = &[
    ("write", Names::Fd(0)),
    ("pwrite64", Names::Fd(0)),
    ("writev", Names::Fd(0)),
    ("pwritev", Names::Fd(0)),
    ("pwritev2", Names::Fd(0)),
    ("copy_file_range", Names::Fd(2)),
    ("sendfile", Names::Fd(0)),
    ("splice", Names::Fd(2)),
    ("fsync", Names::Fd(0)),
    ("fdatasync", Names::Fd(0)),
    ("syncfs", Names::Fd(0)),
    ("sync_file_range", Names::Fd(0)),
    ("ftruncate", Names::Fd(0)),
    ("truncate", Names::Path(0)),
    ("fallocate", Names::Fd(0)),
    ("fchmod", Names::Fd(0)),
    ("fchown", Names::Fd(0)),
    ("fsetxattr", Names::Fd(0)),
    ("fremovexattr", Names::Fd(0)),
    ("setxattr", Names::Path(0)),
    ("lsetxattr", Names::Path(0)),
    ("removexattr", Names::Path(0)),
    ("lremovexattr", Names::Path(0)),
    ("chmod", Names::Path(0)),
    ("chown", Names::Path(0)),
    ("lchown", Names::Path(0)),
    ("fchmodat", Names::At(0)),
    ("fchmodat2", Names::At(0)),
    ("fchownat", Names::At(0)),
    ("utimensat", Names::At(0)),
    ("mkdir", Names::Path(0)),
    ("mkdirat", Names::At(0)),
    ("mknod", Names::Path(0)),
    ("mknodat", Names::At(0)),
    ("symlink", Names::Path(1)),
    ("symlinkat", Names::At(1)),
    ("link", Names::TwoPaths),
    ("linkat", Names::TwoAt),
    ("rename", Names::TwoPaths),
    ("renameat", Names::TwoAt),
    ("renameat2", Names::TwoAt),
    ("unlink", Names::Path(0)),
    ("unlinkat", Names::At(0)),
    ("rmdir", Names::Path(0)),
    ("creat", Names::Path(0)),
    ("open", Names::Open),
    ("openat", Names::OpenAt),
    ("openat2", Names::OpenAt2),
    ("io_uring_setup", Names::Refused),
];

/// The numbers of the calls that this architecture has.
fn numbers() -> Vec<(libc_long, &'static str, Names)> {
    let number = |name: &str| name.parse::<syscalls::Sysno>().ok().map(|n| libc_long::from(n.id()));
    CALLS.iter().filter_map(|(name, names)| Some((number(name)?, *name, *names))).collect()
}

#[allow(non_camel_case_types)]
type libc_long = i64;

/// A call that is about to change something below the directory that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub call: &'static str,
    pub thread: u32,
    /// What it changes; for renames and links, from and to.
    pub paths: Vec<PathBuf>,
    /// Whether an `open` empties what is there.
    pub truncates: bool,
}

/// What the worker does.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    Step(&'a Step),
    Mark(&'a str),
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Go,
    Fail(Errno),
    /// It is told that it was done.
    Pretend,
    /// The process ends here.
    Kill,
}

/// What became of a worker.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub output: String,
}

/// Tells the supervisor that the worker has come this far. Without one, nothing happens.
pub fn mark(name: &str) {
    if std::env::var_os(SOCKET).is_some() {
        std::fs::create_dir(format!("{MARKS}{name}")).unwrap();
    }
}

/// In the worker: every change it makes from here on is asked for.
pub fn be_watched() {
    let all: Vec<&str> = CALLS.iter().map(|(name, _)| *name).collect();
    be_watched_for(&all);
}

/// Only these calls are asked for, and marks.
pub fn be_watched_for(names: &[&str]) {
    let socket = UnixStream::connect(std::env::var_os(SOCKET).unwrap()).unwrap();
    let asked = |name: &str| names.contains(&name) || matches!(name, "mkdir" | "mkdirat");
    let calls: Vec<_> =
        numbers().iter().filter(|(_, name, _)| asked(name)).map(|(number, ..)| *number).collect();
    let listener = install(&calls).unwrap();
    let fds = [listener.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    rustix::net::sendmsg(&socket, &[IoSlice::new(b"l")], &mut control, SendFlags::empty()).unwrap();
}

/// Starts a worker with these variables, and has `decide` judge every change below `watched` until it ends. Files for its
/// output and the socket go to `scratch`.
pub fn watch(
    scratch: &Path,
    watched: &Path,
    variables: &[(&str, String)],
    decide: &mut dyn FnMut(Seen<'_>) -> Verdict,
) -> Ended {
    let socket = scratch.join("socket");
    let _ = std::fs::remove_file(&socket);
    let at = UnixListener::bind(&socket).unwrap();
    let output = scratch.join("output");
    let file = File::create(&output).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "worker", "--nocapture", "--test-threads=1"])
        .env(SOCKET, &socket)
        .envs(variables.iter().map(|(k, v)| (k, v)))
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    let mut worker = Worker(child);
    if let Some(listener) = accept(&at, &mut worker) {
        Supervisor { listener: Listener::new(listener), table: numbers(), watched, decide }.run(&mut worker);
    }
    let status = worker.0.wait().unwrap();
    Ended { status, output: std::fs::read_to_string(output).unwrap_or_default() }
}

/// Killed when a test gives up.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn accept(at: &UnixListener, worker: &mut Worker) -> Option<OwnedFd> {
    at.set_nonblocking(true).unwrap();
    let begin = Instant::now();
    let socket = loop {
        if let Ok((socket, _)) = at.accept() {
            break socket;
        }
        if worker.0.try_wait().unwrap().is_some() {
            return None;
        }
        assert!(begin.elapsed() < PATIENCE, "the worker does not start");
        std::thread::sleep(Duration::from_millis(1));
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let (mut byte, flags) = ([0], RecvFlags::CMSG_CLOEXEC);
    rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags).unwrap();
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}

struct Supervisor<'a> {
    listener: Listener,
    table: Vec<(libc_long, &'static str, Names)>,
    watched: &'a Path,
    decide: &'a mut dyn FnMut(Seen<'_>) -> Verdict,
}

impl Supervisor<'_> {
    fn run(&mut self, worker: &mut Worker) {
        while let Some(call) = self.listener.next(PATIENCE).unwrap() {
            let answer = match self.judge(&call) {
                Verdict::Go => Answer::Continue,
                Verdict::Fail(errno) => Answer::Error(errno),
                Verdict::Pretend => Answer::Value(0),
                Verdict::Kill => {
                    worker.0.kill().unwrap();
                    continue;
                }
            };
            // A thread that was killed meanwhile needs none.
            self.listener.answer(&call, answer).unwrap();
        }
    }

    fn judge(&mut self, call: &Call) -> Verdict {
        let Some((_, name, names)) = self.table.iter().find(|(number, ..)| *number == call.number) else {
            return Verdict::Go;
        };
        if *names == Names::Refused {
            return Verdict::Fail(Errno::NOSYS);
        }
        let caller = Caller { pid: call.pid, args: call.args };
        let Some((paths, truncates)) = caller.files(*names) else { return Verdict::Go };
        if let Some(mark) = paths.first().and_then(|p| p.to_str()?.strip_prefix(MARKS)) {
            (self.decide)(Seen::Mark(mark));
            return Verdict::Pretend;
        }
        // A rename that must replace nothing, and would, changes nothing (renameat2(2), RENAME_NOREPLACE).
        let taken = || paths.get(1).is_some_and(|to| to.symlink_metadata().is_ok());
        let refused = *name == "renameat2" && call.args[4] & 1 != 0 && taken();
        if refused || !paths.iter().any(|p| p.starts_with(self.watched)) {
            return Verdict::Go;
        }
        (self.decide)(Seen::Step(&Step { call: name, thread: call.pid, paths, truncates }))
    }
}

/// The thread that waits, and what it asked for.
struct Caller {
    pid: u32,
    args: [u64; 6],
}

impl Caller {
    /// The files that the call changes; `None` for one that changes nothing. And whether it empties them.
    fn files(&self, names: Names) -> Option<(Vec<PathBuf>, bool)> {
        let one = |path: PathBuf| Some((vec![path], false));
        match names {
            Names::Fd(n) => one(self.fd(self.args[n])?),
            Names::Path(n) => one(self.at(None, n)?),
            Names::At(n) => one(self.at(Some(n), n + 1)?),
            Names::TwoPaths => Some((vec![self.at(None, 0)?, self.at(None, 1)?], false)),
            Names::TwoAt => Some((vec![self.at(Some(0), 1)?, self.at(Some(2), 3)?], false)),
            Names::Open => self.opened(self.at(None, 0)?, self.args[1]),
            Names::OpenAt => self.opened(self.at(Some(0), 1)?, self.args[2]),
            Names::OpenAt2 => {
                let flags: [u8; 8] = self.memory(self.args[2], 8)?.try_into().ok()?;
                self.opened(self.at(Some(0), 1)?, u64::from_ne_bytes(flags))
            }
            Names::Refused => None,
        }
    }

    fn opened(&self, path: PathBuf, flags: u64) -> Option<(Vec<PathBuf>, bool)> {
        use rustix::fs::OFlags;
        let flags = OFlags::from_bits_retain(u32::try_from(flags & 0xffff_ffff).ok()?);
        let truncates = flags.contains(OFlags::TRUNC);
        (flags.contains(OFlags::CREATE) || truncates).then(|| (vec![path], truncates))
    }

    fn fd(&self, number: u64) -> Option<PathBuf> {
        let link = match number & 0xffff_ffff {
            AT_FDCWD => format!("/proc/{}/cwd", self.pid),
            number => format!("/proc/{}/fd/{number}", self.pid),
        };
        std::fs::read_link(link).ok()
    }

    /// A path argument, absolute, and without descriptors' names in /proc.
    fn at(&self, dir: Option<usize>, path: usize) -> Option<PathBuf> {
        let dir = dir.map_or(AT_FDCWD, |n| self.args[n]);
        let path = match self.args[path] {
            // futimens and its like.
            0 => PathBuf::new(),
            address => PathBuf::from(std::ffi::OsString::from_vec(self.text(address)?)),
        };
        if let Ok(rest) = path.strip_prefix("/proc/self/fd") {
            let mut parts = rest.components();
            let number: u64 = parts.next()?.as_os_str().to_str()?.parse().ok()?;
            return Some(plain(&self.fd(number)?.join(parts.as_path())));
        }
        Some(plain(&if path.is_absolute() { path } else { self.fd(dir)?.join(path) }))
    }

    fn text(&self, mut address: u64) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        while text.len() < 4096 {
            // Not beyond the page: the next one may not be there.
            let piece = self.memory(address, usize::try_from(256 - address % 256).ok()?)?;
            if let Some(end) = piece.iter().position(|b| *b == 0) {
                text.extend_from_slice(&piece[..end]);
                return Some(text);
            }
            address += piece.len() as u64;
            text.extend(piece);
        }
        None
    }

    fn memory(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        let memory = File::open(format!("/proc/{}/mem", self.pid)).ok()?;
        memory.read_exact_at(&mut bytes, address).ok()?;
        Some(bytes)
    }
}

/// Without an empty last component.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}
