//! `stratad`: serves CRI and the strata command.

mod args;
mod config;
mod container;
mod error;
mod ids;
mod logging;
mod net;
mod node;
mod notify;
mod pod;
mod request;
mod shim;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let config = match args.configuration() {
        Ok(config) => config,
        Err(e) => return fail(&e),
    };
    if args.check_config {
        say("ok");
        return ExitCode::SUCCESS;
    }
    logging::init(&config.log);
    ExitCode::SUCCESS
}

#[allow(clippy::print_stdout)]
fn say(text: &str) {
    println!("{text}");
}

#[allow(clippy::print_stderr)]
fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("stratad: {error}");
    ExitCode::FAILURE
}
