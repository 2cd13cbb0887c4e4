//! Programs with a time limit, and what they wrote.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

/// What a program left.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line.
    pub command: String,
    /// The exit code; 128 + signal as a shell says it; 124 after the time limit.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Output {
    /// It must have succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.code == 0, "{self}");
        self
    }

    /// It must have failed; both outputs together.
    #[track_caller]
    pub fn fails(self) -> String {
        assert!(self.code != 0 && self.code != 124, "{self}");
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Standard output without white space around it.
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }

    /// Standard output must hold all of these.
    #[track_caller]
    pub fn has(self, needles: &[&str]) -> Self {
        for needle in needles {
            assert!(self.stdout.contains(needle), "no {needle:?} in: {self}");
        }
        self
    }

    /// Standard output must hold none of these.
    #[track_caller]
    pub fn lacks(self, needles: &[&str]) -> Self {
        for needle in needles {
            assert!(!self.stdout.contains(needle), "{needle:?} in: {self}");
        }
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("no JSON ({e}): {self}"))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "$ {}\n{}{}exit code {}", self.command, self.stdout, self.stderr, self.code)
    }
}

/// A program under timeout(1), so that no test hangs.
pub fn limited(program: impl AsRef<OsStr>, seconds: u64) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", &crate::patience(seconds).as_secs().to_string()]).arg(program);
    command
}

/// Runs it to its end.
#[must_use = "say .ok() or .fails()"]
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let words: Vec<String> =
        command.get_args().skip(3).map(|word| word.to_string_lossy().into_owned()).collect();
    let done =
        command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{:?}: {e}", command.get_program()));
    finished(words.join(" "), &done)
}

/// What a finished program left.
pub fn finished(command: String, done: &std::process::Output) -> Output {
    use std::os::unix::process::ExitStatusExt as _;
    Output {
        command,
        code: done.status.code().unwrap_or_else(|| 128 + done.status.signal().unwrap_or(0)),
        stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
    }
}
