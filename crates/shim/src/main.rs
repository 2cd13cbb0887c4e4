//! `strata-shim`: one small process for each pod. It creates the pod's containers, is their parent, owns their streams
//! and logs, and leaves when the pod is gone. One thread, one epoll loop; see `strata_wire` for what it is told.
//!
//! ```text
//!            ┌────────────── epoll ──────────────┐
//!  listener ─┤ accept           connections ─────┤ requests, attach frames   (conn, requests, attach)
//!  signalfd ─┤ reap → containers, execs, hooks   │                           (containers, execs, hooks)
//!  channels ─┤ children's reports                │
//!  streams  ─┤ output → log, attached clients    │                           (streams, log)
//!  deadline ─┤ create and exec timeouts, drains  │                           (containers, execs)
//!            └───────────────────────────────────┘
//! ```

mod attach;
mod clock;
mod conn;
mod containers;
mod execs;
mod family;
mod hooks;
mod joined;
mod log;
mod oom;
mod poll;
mod requests;
mod setup;
mod shim;
mod streams;

use std::process::ExitCode;

fn main() -> ExitCode {
    match setup::start().and_then(shim::Shim::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Standard error is the pod's shim.log.
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "strata-shim: {e}");
            ExitCode::FAILURE
        }
    }
}
