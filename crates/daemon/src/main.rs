//! `stratad`: serves CRI and the strata command.

mod apparmor;
mod args;
mod cdi;
mod cgroups;
mod config;
mod container;
mod cri;
mod deadline;
mod debug;
mod error;
mod events;
mod fsck;
mod handlers;
mod ids;
mod images;
mod logging;
mod metrics;
mod net;
mod node;
mod notify;
mod pod;
mod recover;
mod registry;
mod regular;
mod request;
mod selinux;
mod server;
mod shim;
mod streaming;
mod tasks;
mod usage;
mod watchdog;

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
    if let Some(args::Command::Fsck(wanted)) = &args.command {
        return fsck::offline(&config, wanted).unwrap_or_else(|e| fail(&e));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&format!("async runtime: {e}")),
    };
    let served = runtime.block_on(run(config));
    // Blocking work that hangs in a device must not keep a daemon from ending that is meant to be killable.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&e),
    }
}

async fn run(config: config::Config) -> error::Result<()> {
    raise_open_files();
    strata_sys::memory::return_large_pieces();
    // Modes of what is made here are what they say.
    rustix::process::umask(rustix::fs::Mode::empty());
    let node = tasks::blocking(move || node::Node::open(config)).await?;
    tokio::spawn(node.spawner.children().clone().reap_forever());
    metrics::http::start(&node).await?;
    node.check_driver().await?;
    node.recover().await?;
    tokio::spawn(node.clone().follow_reloads());
    server::serve(node, asked_to_stop()).await
}

/// Every pod and every waiting client has a descriptor; the hard limit is the administrator's word.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// SIGTERM or SIGINT. Containers go on: only the daemon ends.
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::warn!("signals cannot be watched; SIGKILL ends stratad as well as anything");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("stopping; containers go on");
    let _ = notify::notify("STOPPING=1");
}

#[allow(clippy::print_stdout)]
fn say(text: &str) {
    println!("{text}");
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    logging::complain(error);
    ExitCode::FAILURE
}
