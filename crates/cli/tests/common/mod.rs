//! A stand-in for stratad and a pod's shim: the protocols are the real ones, the "container" is a shell of this node.

#![allow(dead_code)]

pub mod daemon;
pub mod shim;

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex};

/// The one container that there is.
pub const ID: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";

/// What the stand-ins share.
#[derive(Default)]
pub struct State {
    /// What the container runs.
    pub script: String,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether the image has to be pulled first.
    pub image_missing: Mutex<bool>,
    /// The text with which a start fails.
    pub start_fails: Option<&'static str>,
    /// What the daemon was asked, in order.
    pub calls: Mutex<Vec<String>>,
    pub phase: Mutex<Phase>,
    pub changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Phase {
    #[default]
    Created,
    Running(i32),
    Started,
    Exited(i32),
}

impl State {
    pub fn called(&self, what: impl Into<String>) {
        self.calls.lock().unwrap().push(what.into());
    }

    pub fn set(&self, phase: Phase) {
        *self.phase.lock().unwrap() = phase;
        self.changed.notify_all();
    }

    /// Waits for a phase that `wanted` knows.
    pub fn wait<T>(&self, wanted: impl Fn(Phase) -> Option<T>) -> T {
        let mut phase = self.phase.lock().unwrap();
        loop {
            if let Some(found) = wanted(*phase) {
                return found;
            }
            phase = self.changed.wait(phase).unwrap();
        }
    }
}

pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

/// Both stand-ins, in a directory of their own.
pub struct Node {
    pub dir: tempfile::TempDir,
    pub state: Arc<State>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Node {
    pub fn new(state: State) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = Arc::new(state);
        shim::serve(&dir.path().join("shim.sock"), Arc::clone(&state));
        let mut node = Self { dir, state, runtime: None };
        node.start_daemon();
        node
    }

    pub fn start_daemon(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        daemon::serve(&runtime, self.dir.path(), Arc::clone(&self.state));
        self.runtime = Some(runtime);
    }

    /// As `kill -9`: connections break.
    pub fn kill_daemon(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
        std::fs::remove_file(self.dir.path().join("strata.sock")).unwrap();
    }

    /// A container that runs this.
    pub fn running(script: &str) -> Self {
        Self::new(State { script: script.into(), ..State::default() })
    }

    /// The command line, aimed at this node.
    pub fn strata(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PathBuf::from(env!("CARGO_BIN_EXE_strata")));
        command.arg("--socket").arg(self.dir.path().join("strata.sock")).args(args);
        command
    }

    pub fn calls(&self) -> Vec<String> {
        self.state.calls.lock().unwrap().clone()
    }
}
