//! Hooks: programs of the node's administrator that are run at points of a container's life (OCI runtime specification, config.md,
//! "POSIX-platform Hooks").
//!
//! ```text
//!  stratad                                    strata-shim                  container's process
//!     │ ── Create{plan with hooks} ─────────────▶ │ ── clone3 ────────────────▶ │ mounts, devices
//!     │ ◀─ Prepared{pid} ──────────────────────── │ ◀─ mounted ──────────────── │ waits before pivot_root
//!     │ prestart, createRuntime                   │                             │
//!     │ ── Continue ────────────────────────────▶ │ createContainer             │
//!     │                                           │ ── go on ─────────────────▶ │ pivot_root, …
//!     │ ◀─ Created ────────────────────────────── │ ◀─ ready ────────────────── │ waits before its program
//!     │ ── Start ───────────────────────────────▶ │ startContainer              │
//!     │ ◀─ Started ────────────────────────────── │ ── go ────────────────────▶ │ execve
//!     │ poststart                                 │                             │
//!     ⋮ poststop, once it has ended               ⋮
//! ```
//!
//! Hooks of the node's namespaces are stratad's to run, those of the container's the shim's. A shim that speaks a version before
//! [`SINCE`] knows nothing of them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The first version of the protocol with hooks.
pub const SINCE: u32 = 2;

/// The version of the OCI runtime specification that bundles and states comply with.
pub const OCI_VERSION: &str = "1.3.0";

/// A point of a container's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Point {
    /// As [`Self::CreateRuntime`], and before it; deprecated.
    Prestart,
    /// In the node's namespaces, once the container's are made and mounted, before `pivot_root`.
    CreateRuntime,
    /// In the container's namespaces, after those.
    CreateContainer,
    /// In the container, before its program.
    StartContainer,
    /// In the node's namespaces, once its program runs.
    Poststart,
    /// In the node's namespaces, once it has ended.
    Poststop,
}

impl Point {
    /// All, in order.
    pub const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    /// Its name in the specification.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// The point of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|point| point.name() == name)
    }
}

/// One hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// When.
    pub point: Point,
    /// The program: an absolute path, in the node's file system or, for [`Point::StartContainer`], in the container's.
    pub path: String,
    /// argv, with the program's name; empty: the path alone.
    #[serde(default)]
    pub args: Vec<String>,
    /// Its whole environment, `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Seconds after which it is killed and has failed; 0: as long as what it belongs to may take.
    #[serde(default)]
    pub timeout: u32,
}

impl Hook {
    /// argv
    #[must_use]
    pub fn argv(&self) -> &[String] {
        if self.args.is_empty() { std::slice::from_ref(&self.path) } else { &self.args }
    }

    /// How long it may take where all that it belongs to may take `left`.
    #[must_use]
    pub fn limit(&self, left: Duration) -> Duration {
        if self.timeout == 0 { left } else { left.min(Duration::from_secs(self.timeout.into())) }
    }
}

impl std::fmt::Display for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} hook {}", self.point.name(), self.path)
    }
}

/// What a shim has to know of a container's hooks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// The bundle's directory, with its `config.json`; it exists.
    pub bundle: String,
    /// Where the container's root is to be seen in its mount namespace before `pivot_root`: a directory that exists.
    pub root: String,
    /// [`Point::CreateContainer`], then [`Point::StartContainer`], each in order. Others are not the shim's.
    pub hooks: Vec<Hook>,
    /// What the state tells of the container.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl Hooks {
    /// The state of the container (runtime.md, "State").
    #[must_use]
    pub fn state<'a>(&'a self, id: &'a str, status: Status, pid: i32) -> State<'a> {
        State {
            oci_version: OCI_VERSION,
            id,
            status,
            pid: Some(pid).filter(|pid| *pid > 0),
            bundle: &self.bundle,
            annotations: &self.annotations,
        }
    }
}

/// What a hook reads on its standard input (runtime.md, "State").
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State<'a> {
    oci_version: &'static str,
    id: &'a str,
    status: Status,
    /// Of the container's process, as the hook's namespace has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    bundle: &'a str,
    annotations: &'a BTreeMap<String, String>,
}

/// Where a container stands, in the specification's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Before `pivot_root`.
    Creating,
    /// Before its program.
    Created,
    /// Its program runs.
    Running,
    /// It has ended.
    Stopped,
}

/// How much of what a hook writes is told, in bytes: the end of it, where the reason is.
pub const MAX_SAID: usize = 2048;

/// What a hook has written, as part of a message: its last bytes, in one line.
#[must_use]
pub fn plain(said: &[u8]) -> String {
    let end = &said[said.len().saturating_sub(MAX_SAID)..];
    let text = String::from_utf8_lossy(end);
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).collect()
}

/// Why a hook has failed, for a message: how it ended, or when it was killed, and what it wrote.
#[must_use]
pub fn complaint(hook: &Hook, how: &str, said: &[u8]) -> String {
    match plain(said) {
        said if said.is_empty() => format!("the {hook} {how}"),
        said => format!("the {hook} {how}; it wrote: {said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_written_as_the_specification_names_them() {
        for point in Point::ALL {
            assert_eq!(serde_json::to_value(point).unwrap(), point.name());
            assert_eq!(Point::of_name(point.name()), Some(point));
        }
        assert_eq!(Point::of_name("preStart"), None);
    }

    #[test]
    fn a_state_says_what_the_specification_asks_for() {
        let annotations = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let hooks = Hooks { bundle: "/run/b".into(), annotations, ..Hooks::default() };
        let state = |status, pid| serde_json::to_value(hooks.state("c1", status, pid)).unwrap();
        let expected = serde_json::json!({ "ociVersion": "1.3.0", "id": "c1", "status": "creating", "pid": 7, "bundle": "/run/b",
            "annotations": { "a": "b" } });
        assert_eq!(state(Status::Creating, 7), expected);
        assert!(state(Status::Stopped, 0).get("pid").is_none());
    }

    #[test]
    fn what_a_hook_says_is_bounded_and_one_line() {
        assert_eq!(plain(b"one\n two\t\x1b[1mthree\n"), "one two [1mthree");
        let long = [b'x'; 3 * MAX_SAID];
        assert_eq!(plain(&long).len(), MAX_SAID);
    }

    #[test]
    fn a_hook_has_no_more_time_than_what_it_belongs_to() {
        let hook = |timeout| Hook {
            point: Point::Poststop,
            path: "/h".into(),
            args: Vec::new(),
            env: Vec::new(),
            timeout,
        };
        let left = Duration::from_secs(10);
        assert_eq!(hook(0).limit(left), left);
        assert_eq!(hook(3).limit(left), Duration::from_secs(3));
        assert_eq!(hook(30).limit(left), left);
        assert_eq!(hook(0).argv(), ["/h"]);
    }
}
