//! Requests, replies and events.

use crate::plan::{ContainerPlan, ExecPlan};
use crate::state::{ContainerState, ExitRecord};
use serde::{Deserialize, Serialize};

/// One frame's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// Chosen by the client; a reply repeats it; 0 in events.
    pub id: u64,
    /// How many file descriptors come with this frame.
    #[serde(default)]
    pub fds: u8,
    /// The message.
    pub body: T,
}

/// What a client asks of a shim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// First on every connection; answered by [`Reply::Hello`].
    Hello {
        /// The client's [`crate::OLDEST`].
        #[serde(default)]
        oldest: u32,
        /// The client's [`crate::VERSION`].
        version: u32,
    },
    /// Answered by [`Reply::State`]; from then on this connection gets every [`Event`] of the pod. Nothing falls
    /// between the state and the first event.
    Subscribe,
    /// Answered by [`Reply::State`].
    State,
    /// Sets a container up to the barrier before its program; answered by [`Reply::Created`]. One whose plan has hooks is set up to
    /// the one before `pivot_root`; answered by [`Reply::Prepared`].
    Create(Box<ContainerPlan>),
    /// Goes on with a container with hooks, whose creation has been answered by [`Reply::Prepared`]; answered by
    /// [`Reply::Created`]. Since version 2.
    Continue {
        /// The container.
        id: String,
    },
    /// Lets a created container's program run; answered by [`Reply::Started`] once execve(2) has succeeded.
    Start {
        /// The container.
        id: String,
    },
    /// Signals a container.
    Signal {
        /// The container.
        id: String,
        /// Signal number.
        signal: i32,
        /// Every process of its cgroup, not only its init.
        all: bool,
    },
    /// Kills what is left of a container and forgets it; answered once no process of it is left.
    Remove {
        /// The container.
        id: String,
    },
    /// Runs a process in a container. Without a tty the frame brings its stdin, stdout and stderr, in that order;
    /// with one, the reply brings the terminal's master. [`Event::ExecExited`] comes on this connection. The process
    /// outlives the connection.
    Exec(Box<ExecPlan>),
    /// Kills every process of an exec.
    KillExec {
        /// The container.
        container_id: String,
        /// The exec.
        exec_id: String,
        /// Signal number; `SIGKILL` takes the whole cgroup of the exec, others its first process.
        signal: i32,
    },
    /// Opens the log file anew, after a rotation.
    ReopenLog {
        /// The container.
        id: String,
    },
    /// Resizes a container's terminal.
    Resize {
        /// The container.
        id: String,
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Turns this connection into an attach session; answered by [`Reply::Attached`].
    Attach {
        /// The container.
        id: String,
        /// Whether the client sends stdin.
        stdin: bool,
        /// Whether it wants stdout (or the terminal).
        stdout: bool,
        /// Whether it wants stderr.
        stderr: bool,
        /// Whether the container's output waits for this client, as a program waits for a pipe's reader: for whoever
        /// runs a container in the foreground. Other clients are cut off when they lag
        /// ([`MAX_LAG`](crate::attach::MAX_LAG)).
        #[serde(default)]
        wait: bool,
    },
    /// Kills everything, answers, and leaves.
    Shutdown,
}

impl Request {
    /// The greeting of this release.
    #[must_use]
    pub fn hello() -> Self {
        Self::Hello { oldest: crate::OLDEST, version: crate::VERSION }
    }
}

/// What a shim answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Ok,
    /// To [`Request::Hello`].
    Hello {
        /// What is spoken on this connection from here on ([`crate::agree`]).
        version: u32,
        /// Its pod.
        pod_id: String,
        /// Its process ID.
        pid: i32,
    },
    /// Every container that the shim knows.
    State {
        /// In order of creation.
        containers: Vec<ContainerState>,
        /// The reaping init of a shared PID namespace.
        pause_pid: Option<i32>,
    },
    /// To [`Request::Create`] of a plan with hooks.
    Prepared {
        /// The container's process, in the shim's PID namespace.
        pid: i32,
    },
    /// To [`Request::Create`], or to [`Request::Continue`].
    Created {
        /// The container's init, in the shim's PID namespace.
        pid: i32,
        /// What the node could not give, one sentence each.
        #[serde(default)]
        warnings: Vec<String>,
    },
    /// To [`Request::Start`].
    Started {
        /// When the program began, in nanoseconds since 1970: what the exit record will say too.
        started_at: i64,
    },
    /// To [`Request::Exec`].
    ExecStarted {
        /// The process, in the shim's PID namespace.
        pid: i32,
    },
    /// To [`Request::Attach`].
    Attached {
        /// Whether the container has a terminal.
        tty: bool,
    },
    /// It failed.
    Error(Failure),
}

/// A typed failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}: {message}")]
pub struct Failure {
    /// What sort, for the status code.
    pub kind: FailureKind,
    /// The step that failed, such as `mount /proc` or `exec /bin/sh`.
    pub step: String,
    /// What happened, the call and the error number's text included.
    pub message: String,
    /// The error number, if a system call failed.
    #[serde(default)]
    pub errno: Option<i32>,
}

/// Sorts of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// No such container or exec.
    NotFound,
    /// It exists already.
    AlreadyExists,
    /// Not in this state (not running, already started).
    WrongState,
    /// The request makes no sense.
    Invalid,
    /// The program cannot be found (exit code 127 of a command line).
    ExecNotFound,
    /// The program cannot be executed (exit code 126).
    ExecFailed,
    /// A deadline passed.
    Timeout,
    /// Anything else.
    Internal,
}

/// What a shim says unasked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A container's init has ended; its exit record is already in the state directory.
    Exited(ExitRecord),
    /// An exec that was started on this connection has ended.
    ExecExited {
        /// The container.
        container_id: String,
        /// The exec.
        exec_id: String,
        /// Exit code, or 128 and the signal's number.
        exit_code: i32,
        /// Whether the shim killed it at its deadline.
        timed_out: bool,
    },
}
