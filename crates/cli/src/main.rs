//! `strata`: containers and images of this node, with the words of Docker's command line.
//!
//! A thin client: what it is asked it asks stratad, over a unix socket. Interactive sessions go straight to the shim
//! of the container's pod, once stratad has said where that is, and outlive a restart of stratad.
//!
//! * `commands`: one file per command.
//! * `options`: what `run` and `create` take.
//! * `session`: attach and exec.
//! * `template`, `listing`, `table`, `units`, `when`, `names`: how things are shown.

mod bars;
mod client;
mod commands;
mod credentials;
mod crilog;
mod detach;
mod error;
mod foreground;
mod jsontext;
mod listing;
mod names;
mod options;
mod output;
mod pulling;
mod session;
mod signals;
mod table;
mod template;
mod terminal;
mod units;
mod when;

use clap::Parser;
use std::process::ExitCode;

/// Docker's exit code for a command line that makes no sense.
const USAGE: u8 = 125;

fn main() -> ExitCode {
    terminal::restore_on_panic();
    let line = match commands::CommandLine::try_parse() {
        Ok(line) => line,
        Err(e) => {
            let code = if e.use_stderr() { USAGE } else { 0 };
            // Nobody is left to be told that telling failed.
            let _ = e.print();
            return ExitCode::from(code);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            output::complain(format!("strata: cannot start: {e}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(commands::run(line));
    terminal::restore();
    // A thread may still wait for standard input.
    runtime.shutdown_background();
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1))
}
