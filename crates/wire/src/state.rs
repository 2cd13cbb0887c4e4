//! What a shim knows of its containers, as it says it and as it leaves it behind.
//!
//! ```text
//!            Create            Start             program ends
//!   (none) ─────────▶ Created ───────▶ Running ───────────────▶ Exited ──Remove──▶ (none)
//!                        └──────────── setup or exec fails ──────▲
//! ```
//!
//! `<state>/pods/<pod>/<container>.exit` holds an [`ExitRecord`], written beside and renamed, before the event goes out.

use serde::{Deserialize, Serialize};

/// One container, as its shim sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Its ID.
    pub id: String,
    /// Where it stands.
    pub phase: Phase,
    /// Its init, in the shim's PID namespace; 0 once it has ended.
    pub pid: i32,
    /// When its program started, in nanoseconds since 1970; 0: not yet.
    pub started_at: i64,
    /// How it ended.
    pub exit: Option<ExitRecord>,
    /// Whether stdin has been closed for good.
    #[serde(default)]
    pub stdin_closed: bool,
}

/// A container's phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Set up, waiting at the barrier.
    Created,
    /// Its program runs.
    Running,
    /// Its program has ended.
    Exited,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The container.
    pub id: String,
    /// Exit code, or 128 and the signal's number.
    pub exit_code: i32,
    /// The signal that ended it, if one did.
    #[serde(default)]
    pub signal: Option<i32>,
    /// When its program started, in nanoseconds since 1970; 0: never.
    pub started_at: i64,
    /// When it ended, in nanoseconds since 1970.
    pub finished_at: i64,
    /// Whether the kernel killed a process of it for memory.
    pub oom_killed: bool,
    /// Log bytes that could not be written (a full disk).
    #[serde(default)]
    pub log_bytes_dropped: u64,
}
