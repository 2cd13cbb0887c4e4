//! Running one plugin (CNI specification 1.1, section 2): parameters in the environment, the configuration on standard input,
//! the answer on standard output.
//!
//! A plugin is the leader of a process group of its own: what is given up is killed with everything that it started. A daemon
//! that dies leaves it running; the next one looks for it by its pod ([`super::strays`]). It has done nothing yet if it
//! did not get its whole configuration.

use super::strays;
use crate::error::{Error, Kind};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// How much of an answer is read, in bytes.
const MAX_OUTPUT: u64 = 1 << 20;
/// How much of what a plugin complains is told, in characters.
const MAX_COMPLAINT: usize = 600;
/// How long output is waited for that something in the background holds open.
const DRAIN: Duration = Duration::from_secs(1);
/// Where programs are that plugins use (iptables), beside PATH, which need not hold the system's directories.
const SYSTEM: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What concerns this daemon only (sd_notify(3), sd_listen_fds(3)).
const OWN: [&str; 5] = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC"];

/// The codes of the specification that matter to a runtime.
pub(super) mod code {
    /// The plugin does not know the version.
    pub(in super::super) const VERSION: u64 = 1;
    /// A field is not supported.
    pub(in super::super) const FIELD: u64 = 2;
    /// The container is not there: nothing has to be cleaned up.
    pub(in super::super) const UNKNOWN: u64 = 3;
    /// The configuration is invalid.
    pub(in super::super) const CONFIG: u64 = 7;
    /// Try again later.
    pub(in super::super) const LATER: u64 = 11;
    /// STATUS: ADD cannot be served.
    pub(in super::super) const UNAVAILABLE: u64 = 50;
    /// STATUS: the same, and pods that are there may lack connections.
    pub(in super::super) const LIMITED: u64 = 51;
}

/// One call of one plugin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    /// `ADD`, `DEL`, `CHECK`, `STATUS` or `GC`.
    pub(super) verb: &'static str,
    /// The network's name, for messages.
    pub(super) network: &'a str,
    /// The plugin's program.
    pub(super) program: &'a str,
    /// What it is given.
    pub(super) config: &'a Map<String, Value>,
    /// The pod's ID; empty for verbs that concern none, as is what follows.
    pub(super) pod_id: &'a str,
    /// Where its network namespace is pinned; empty if it is gone.
    pub(super) netns: &'a str,
    /// The interface inside it.
    pub(super) interface: &'a str,
    /// `CNI_ARGS`
    pub(super) args: &'a str,
}

/// Where plugins are, and how long one may take.
#[derive(Clone, Debug)]
pub(super) struct Runner {
    pub(super) bin_dirs: Vec<PathBuf>,
    pub(super) timeout: Duration,
}

/// Why a plugin did not do what it was to do.
#[derive(Debug)]
pub(super) struct Failure {
    /// The code that it gave, if it gave any.
    pub(super) code: Option<u64>,
    /// The whole story.
    pub(super) error: Error,
}

/// What a plugin says on standard output if it fails.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    code: u64,
    msg: String,
    details: String,
}

impl Runner {
    /// The program of a plugin.
    pub(super) fn find(&self, program: &str) -> Result<PathBuf, Error> {
        self.bin_dirs.iter().map(|d| d.join(program)).find(|p| p.is_file()).ok_or_else(|| {
            let dirs: Vec<_> = self.bin_dirs.iter().map(|d| d.display().to_string()).collect();
            Error::precondition(format!(
                "there is no CNI plugin {program} in {}; install it, or set cni_bin_dirs under [network]",
                dirs.join(", ")
            ))
        })
    }

    /// Runs a plugin; what it answered.
    pub(super) async fn run(&self, call: &Call<'_>) -> Result<Vec<u8>, Failure> {
        self.run_for(call, self.timeout).await
    }

    /// The same with another limit.
    pub(super) async fn run_for(&self, call: &Call<'_>, limit: Duration) -> Result<Vec<u8>, Failure> {
        let told = |error: Error| Failure { code: None, error: error.context(call) };
        let program = self.find(call.program).map_err(told)?;
        let mut plugin = self.spawn(call, &program).map_err(told)?;
        let ended = tokio::time::timeout(limit, plugin.converse(call.config)).await;
        match ended {
            Ok(Ok(status)) if status.success() => {
                plugin.leave();
                Ok(std::mem::take(&mut plugin.stdout))
            }
            Ok(Ok(status)) => {
                plugin.leave();
                // Somebody may have killed it alone: what it had started must not go on.
                call.end_strays().await.map_err(told)?;
                Err(refused(call, status, &plugin.stdout, &plugin.stderr))
            }
            Ok(Err(e)) => Err(told(Error::internal(format!("{}: {e}", program.display())))),
            Err(_) => {
                let mut why = format!("no answer for {} s, so it was killed", limit.as_secs());
                match plugin.kill().await {
                    Ok(()) => call.end_strays().await.map_err(told)?,
                    Err(stuck) => why = format!("{why}; {stuck}"),
                }
                add_complaint(&mut why, &plugin.stderr);
                Err(told(Error::new(Kind::DeadlineExceeded, why)))
            }
        }
    }

    fn spawn(&self, call: &Call<'_>, program: &Path) -> Result<Plugin, Error> {
        let mut path = std::env::var_os("PATH").unwrap_or_default();
        if !path.is_empty() {
            path.push(":");
        }
        path.push(SYSTEM);
        let dirs: Vec<OsString> = self.bin_dirs.iter().map(|d| d.clone().into_os_string()).collect();
        let mut command = Command::new(program);
        for own in OWN {
            command.env_remove(own);
        }
        let child = command
            .env("PATH", path)
            .env("CNI_COMMAND", call.verb)
            .env(strays::VARIABLE, call.pod_id)
            .env("CNI_NETNS", call.netns)
            .env("CNI_IFNAME", call.interface)
            .env("CNI_ARGS", call.args)
            .env("CNI_PATH", dirs.join(std::ffi::OsStr::new(":")))
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Error::precondition(format!("{} cannot be run: {e}", program.display())))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Plugin { child, group, stdout: Vec::new(), stderr: Vec::new() })
    }
}

impl Call<'_> {
    /// Ends what a plugin that failed has started. A CHECK starts nothing, and the pod that it looks at runs on.
    async fn end_strays(&self) -> Result<(), Error> {
        if self.verb == "CHECK" { Ok(()) } else { strays::end(self.pod_id).await }
    }
}

impl std::fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CNI {} of network {} by the plugin {}", self.verb, self.network, self.program)
    }
}

/// A plugin that runs. Dropped, it is killed with its group.
struct Plugin {
    child: Child,
    /// Its process group while it must not outlive this.
    group: Option<Pid>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Plugin {
    /// Gives it its configuration and waits for its end, reading what it says.
    async fn converse(&mut self, config: &Map<String, Value>) -> std::io::Result<ExitStatus> {
        let config = serde_json::to_vec(config)?;
        let (stdin, stdout, stderr) =
            (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take());
        let write = async move {
            // One that ends without reading says why.
            if let Some(mut stdin) = stdin {
                let _ = stdin.write_all(&config).await;
            }
        };
        let (out, err) = (&mut self.stdout, &mut self.stderr);
        let mut talk = std::pin::pin!(async { tokio::join!(write, read(stdout, out), read(stderr, err)) });
        let mut said = false;
        let status = loop {
            tokio::select! {
                _ = &mut talk, if !said => said = true,
                status = self.child.wait() => break status?,
            }
        };
        // What it left in the background may hold its output open.
        if !said {
            let _ = tokio::time::timeout(DRAIN, talk).await;
        }
        Ok(status)
    }

    /// It has ended: its group's number may be somebody else's soon.
    fn leave(&mut self) {
        self.group = None;
    }

    /// Kills it with its group.
    ///
    /// # Errors
    /// If it does not end: it hangs in the kernel. What it is doing there may still happen.
    async fn kill(&mut self) -> Result<(), Error> {
        let Some(group) = self.group else { return Ok(()) };
        // While it has not been waited for, its number is its own.
        let _ = kill_process_group(group, Signal::KILL);
        let ended = tokio::time::timeout(strays::PATIENCE, self.child.wait()).await;
        self.leave();
        // tokio waits for it when it ends after all.
        ended.map(drop).map_err(|_| strays::stuck(group.as_raw_nonzero().get()))
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

async fn read(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    if let Some(mut from) = from {
        let _ = (&mut from).take(MAX_OUTPUT).read_to_end(into).await;
        // More is dropped, so that it does not block.
        let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    }
}

/// What a plugin that failed has said.
fn refused(call: &Call<'_>, status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Failure {
    let refusal: Option<Refusal> = serde_json::from_slice(stdout).ok().filter(|r: &Refusal| r.code != 0);
    let (code, mut why) = match refusal {
        Some(r) => {
            let mut why = plain(&r.msg);
            if !r.details.is_empty() {
                let _ = write!(why, ": {}", plain(&r.details));
            }
            let _ = write!(why, " (code {})", r.code);
            (Some(r.code), why)
        }
        None => match status.signal() {
            Some(signal) => (None, format!("it was killed by {}", strata_sys::signal::name(signal))),
            None => {
                let said = plain(&String::from_utf8_lossy(stdout));
                (None, format!("{status}{}{said}", if said.is_empty() { "" } else { ": " }))
            }
        },
    };
    add_complaint(&mut why, stderr);
    let kind = match code {
        Some(code::VERSION | code::FIELD | code::CONFIG) => Kind::FailedPrecondition,
        Some(code::LATER | code::UNAVAILABLE | code::LIMITED) => Kind::Unavailable,
        _ => Kind::Internal,
    };
    Failure { code, error: Error::new(kind, why).context(call) }
}

fn add_complaint(why: &mut String, stderr: &[u8]) {
    let text = plain(&String::from_utf8_lossy(stderr));
    if !text.is_empty() {
        let _ = write!(why, "; it wrote: {text}");
    }
}

/// Text of a plugin as part of a line: the end of it, where the reason is.
fn plain(text: &str) -> String {
    let line: Vec<&str> = text.split_whitespace().collect();
    let line: String = line.join(" ").chars().filter(|c| !c.is_control()).collect();
    let skip = line.chars().count().saturating_sub(MAX_COMPLAINT);
    line.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Each test has a pod of its own: a plugin that fails takes the pod's other processes with it.
    async fn run(pod_id: &str, script: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugin");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let runner = Runner { bin_dirs: vec![dir.path().into()], timeout: Duration::from_secs(limit) };
        let config = serde_json::json!({ "name": "net" });
        let call = Call {
            verb: "ADD",
            network: "net",
            program: "plugin",
            config: config.as_object().unwrap(),
            pod_id,
            netns: "/ns",
            interface: "eth0",
            args: "A=1;B=2",
        };
        // Another test's fork may hold the file open for writing for a moment (ETXTBSY).
        for _ in 0..50 {
            match runner.run(&call).await {
                Err(f) if f.error.to_string().contains("os error 26") => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => return other,
            }
        }
        panic!("the script stays busy");
    }

    #[tokio::test]
    async fn parameters_configuration_and_answer() {
        let script = "read c; echo \"$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS $c\"";
        let told = String::from_utf8(run("exec-test-told", &format!("{script}\nexit 0"), 20).await.unwrap())
            .unwrap();
        assert_eq!(told, "ADD exec-test-told /ns eth0 A=1;B=2 {\"name\":\"net\"}\n");
    }

    #[tokio::test]
    async fn failures_are_told_with_everything_that_is_known() {
        let refusal =
            r#"echo '{"cniVersion":"1.0.0","code":11,"msg":"busy","details":"lock"}'; echo why >&2; exit 1"#;
        let failure = run("exec-test-fails", refusal, 20).await.unwrap_err();
        let text = failure.error.to_string();
        assert_eq!((failure.code, failure.error.kind()), (Some(11), Kind::Unavailable));
        for part in ["ADD", "net", "plugin", "busy: lock", "code 11", "it wrote: why"] {
            assert!(text.contains(part), "{text}");
        }
        let failure = run("exec-test-fails", "kill -9 $$", 20).await.unwrap_err();
        assert!(failure.error.to_string().contains("SIGKILL"), "{}", failure.error);
        let failure = run("exec-test-fails", "exit 3", 20).await.unwrap_err();
        assert!(failure.code.is_none() && failure.error.to_string().contains('3'), "{}", failure.error);
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        // Long enough for a shell to start on a busy machine.
        let failure = run("exec-test-hangs", &script, 4).await.unwrap_err();
        assert_eq!(failure.error.kind(), Kind::DeadlineExceeded);
        let pid: i32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(" Z "), "{stat}");
    }

    #[tokio::test]
    async fn what_is_left_in_the_background_does_not_hold_it_up() {
        let told = run("exec-test-left", "echo done; sleep 5 & exit 0", 20).await.unwrap();
        assert_eq!(told, b"done\n");
        strays::end("exec-test-left").await.unwrap();
    }
}
