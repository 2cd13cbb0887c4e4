//! exec, attach and port-forward through the kubelet's server.

use super::{Kubelet, NAME, SERVER};
use crate::command::{Output, finished};
use std::io::Write as _;
use std::process::{Command, Stdio};

impl Kubelet<'_> {
    /// `kubectl exec`: `how` is what follows in the query, such as `input=1&output=1`, and `websocket` for that protocol.
    #[must_use = "say .ok() or .fails()"]
    #[track_caller]
    pub fn exec(&self, pod: &str, container: &str, script: &str, how: &str, input: &str) -> Output {
        let script: String = script.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let url = format!(
            "{SERVER}/exec/default/{pod}-{NAME}/{container}?command=sh&command=-c&command={script}&{how}"
        );
        self.converse(&["stream", &url], input)
    }

    /// `kubectl attach`.
    #[must_use = "say .ok() or .fails()"]
    #[track_caller]
    pub fn attach(&self, pod: &str, container: &str, how: &str, input: &str) -> Output {
        self.converse(&["stream", &format!("{SERVER}/attach/default/{pod}-{NAME}/{container}?{how}")], input)
    }

    /// `kubectl port-forward`: sends something to a pod's port, and gives the answer.
    #[must_use = "say .ok() or .fails()"]
    #[track_caller]
    pub fn forward(&self, pod: &str, port: u16, input: &str) -> Output {
        let url = format!("{SERVER}/portForward/default/{pod}-{NAME}");
        self.converse(&["forward", &url, &port.to_string()], input)
    }

    #[track_caller]
    fn converse(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.client_command();
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let terminal = args.iter().any(|arg| arg.contains("tty=1"));
        let done = self.node.within(|| talk(&mut command, input, !terminal));
        finished(args.join(" "), &done.unwrap_or_else(|e| panic!("kubelet-client: {e}")))
    }
}

fn talk(command: &mut Command, input: &str, ends: bool) -> std::io::Result<std::process::Output> {
    let mut child = command.spawn()?;
    // A short text: it fits into the pipe.
    let mut stdin = child.stdin.take();
    if let Some(stdin) = &mut stdin {
        stdin.write_all(input.as_bytes())?;
    }
    // A terminal's input does not end before the terminal does.
    let held = stdin.filter(|_| !ends);
    let done = child.wait_with_output();
    drop(held);
    done
}
