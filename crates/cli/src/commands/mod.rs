//! The command line: one file per command.

mod attach;
mod commit;
mod completion;
mod create;
mod diff;
mod exec;
mod fsck;
mod gc;
mod history;
mod images;
mod info;
mod inspect;
mod kill;
mod load;
mod login;
mod logs;
mod manual;
mod pods;
mod prune;
mod ps;
mod pull;
mod push;
mod restart;
mod rm;
mod rmi;
mod run;
mod save;
mod start;
mod stop;
mod system_df;
mod tag;
mod version;
mod wait;

use crate::client::{self, Client};
use crate::error::{Error, Result};
use crate::output::complain;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Where stratad listens unless it is told otherwise.
const SOCKET: &str = "/run/strata/strata.sock";

/// Containers and images of this node.
#[derive(Debug, Parser)]
#[command(name = "strata", version, propagate_version = false, max_term_width = 100)]
pub(crate) struct CommandLine {
    /// stratad's socket
    #[arg(long, global = true, env = "STRATA_SOCKET", default_value = SOCKET, value_name = "PATH")]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a container and run it
    Run(Box<run::Args>),
    /// Run a command in a running container
    Exec(exec::Args),
    /// List containers
    Ps(ps::Args),
    /// Pull an image
    Pull(pull::Args),
    /// Send an image to the registry of its name
    Push(push::Args),
    /// Write images into an archive
    Save(save::Args),
    /// Load the images of an archive
    Load(load::Args),
    /// List images
    Images(images::Args),
    /// Log in to a registry
    Login(login::Args),
    /// Forget the login at a registry
    Logout(login::Logout),
    /// Create a container without starting it
    Create(Box<create::Args>),
    /// Start containers
    Start(start::Args),
    /// Stop containers
    Stop(stop::Args),
    /// Stop containers and start them again
    Restart(restart::Args),
    /// Send a signal to containers
    Kill(kill::Args),
    /// Wait for containers to end and print their exit codes
    Wait(wait::Args),
    /// Remove containers
    Rm(rm::Args),
    /// Attach to a running container's standard streams
    Attach(attach::Args),
    /// Show what a container has written
    Logs(logs::Args),
    /// Show what a container has changed in its file system
    Diff(diff::Args),
    /// Make an image of a container's changes
    Commit(commit::Args),
    /// Show how an image came to be
    History(history::Args),
    /// Show everything about containers and images
    Inspect(inspect::Args),
    /// Give an image another name
    Tag(tag::Args),
    /// Remove images
    Rmi(rmi::Args),
    /// List pods, Kubernetes' included
    Pods(pods::Args),
    /// Remove what nothing needs any more, or explain why something is kept
    Gc(gc::Args),
    /// Check what is on disk, and repair it
    Fsck(fsck::Args),
    /// Manage images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Manage containers
    #[command(subcommand)]
    Container(ContainerCommand),
    /// The node
    #[command(subcommand)]
    System(SystemCommand),
    /// Show the node
    Info(info::Args),
    /// Show versions
    Version(version::Args),
    /// Print a shell's completions
    Completion(completion::Args),
    /// Write the manual pages
    #[command(hide = true)]
    Manual(manual::Args),
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// List images
    #[command(visible_alias = "list")]
    Ls(images::Args),
    /// Show everything about images
    Inspect(inspect::Named),
    /// Show how an image came to be
    History(history::Args),
    /// Pull an image
    Pull(pull::Args),
    /// Send an image to the registry of its name
    Push(push::Args),
    /// Write images into an archive
    Save(save::Args),
    /// Load the images of an archive
    Load(load::Args),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(rmi::Args),
    /// Give an image another name
    Tag(tag::Args),
    /// Remove images that no container stands on
    Prune(prune::Args),
}

#[derive(Debug, Subcommand)]
enum ContainerCommand {
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(ps::Args),
    /// Show everything about containers
    Inspect(inspect::Named),
    /// Create a container and run it
    Run(Box<run::Args>),
    /// Create a container without starting it
    Create(Box<create::Args>),
    /// Start containers
    Start(start::Args),
    /// Stop containers
    Stop(stop::Args),
    /// Stop containers and start them again
    Restart(restart::Args),
    /// Send a signal to containers
    Kill(kill::Args),
    /// Wait for containers to end and print their exit codes
    Wait(wait::Args),
    /// Remove containers
    #[command(visible_alias = "remove")]
    Rm(rm::Args),
    /// Attach to a running container's standard streams
    Attach(attach::Args),
    /// Run a command in a running container
    Exec(exec::Args),
    /// Show what a container has written
    Logs(logs::Args),
    /// Show what a container has changed in its file system
    Diff(diff::Args),
    /// Make an image of a container's changes
    Commit(commit::Args),
}

#[derive(Debug, Subcommand)]
enum SystemCommand {
    /// Show what takes how much space
    Df(system_df::Args),
    /// Show the node
    Info(info::Args),
}

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    socket: PathBuf,
}

impl Context {
    /// A connection to stratad.
    pub(crate) async fn client(&self) -> Result<Client> {
        client::connect(&self.socket).await
    }
}

/// Runs a command; its exit code.
pub(crate) async fn run(line: CommandLine) -> i32 {
    let context = Context { socket: line.socket };
    match dispatch(line.command, &context).await {
        Ok(code) => code,
        Err(Error::Said(code)) => code,
        // As a program that SIGPIPE ended.
        Err(e) if e.is_broken_pipe() => 128 + nix::sys::signal::Signal::SIGPIPE as i32,
        Err(e) => {
            complain(format!("strata: {e}"));
            1
        }
    }
}

async fn dispatch(command: Command, context: &Context) -> Result<i32> {
    use {Command as C, ContainerCommand as Cc, ImageCommand as I, SystemCommand as S};
    match command {
        C::Run(a) | C::Container(Cc::Run(a)) => run::run(&a, context).await,
        C::Exec(a) | C::Container(Cc::Exec(a)) => exec::run(&a, context).await,
        C::Ps(a) | C::Container(Cc::Ls(a)) => ps::run(&a, context).await,
        C::Pull(a) | C::Image(I::Pull(a)) => pull::run(&a, context).await,
        C::Push(a) | C::Image(I::Push(a)) => push::run(&a, context).await,
        C::Save(a) | C::Image(I::Save(a)) => save::run(&a, context).await,
        C::Load(a) | C::Image(I::Load(a)) => load::run(&a, context).await,
        C::Login(a) => login::run(&a, context).await,
        C::Logout(a) => login::logout(&a).await,
        C::Images(a) | C::Image(I::Ls(a)) => images::run(&a, context).await,
        C::Create(a) | C::Container(Cc::Create(a)) => create::run(&a, context).await,
        C::Start(a) | C::Container(Cc::Start(a)) => start::run(&a, context).await,
        C::Stop(a) | C::Container(Cc::Stop(a)) => stop::run(&a, context).await,
        C::Restart(a) | C::Container(Cc::Restart(a)) => restart::run(&a, context).await,
        C::Kill(a) | C::Container(Cc::Kill(a)) => kill::run(&a, context).await,
        C::Wait(a) | C::Container(Cc::Wait(a)) => wait::run(&a, context).await,
        C::Rm(a) | C::Container(Cc::Rm(a)) => rm::run(&a, context).await,
        C::Attach(a) | C::Container(Cc::Attach(a)) => attach::run(&a, context).await,
        C::Logs(a) | C::Container(Cc::Logs(a)) => logs::run(&a, context).await,
        C::Diff(a) | C::Container(Cc::Diff(a)) => diff::run(&a, context).await,
        C::Commit(a) | C::Container(Cc::Commit(a)) => commit::run(&a, context).await,
        C::History(a) | C::Image(I::History(a)) => history::run(&a, context).await,
        C::Inspect(a) => inspect::run(&a, context).await,
        C::Image(I::Inspect(a)) => inspect::run(&a.of(inspect::Type::Image), context).await,
        C::Container(Cc::Inspect(a)) => inspect::run(&a.of(inspect::Type::Container), context).await,
        C::Tag(a) | C::Image(I::Tag(a)) => tag::run(&a, context).await,
        C::Rmi(a) | C::Image(I::Rm(a)) => rmi::run(&a, context).await,
        C::Pods(a) => pods::run(&a, context).await,
        C::Gc(a) => gc::run(&a, context).await,
        C::Image(I::Prune(a)) => prune::run(&a, context).await,
        C::Fsck(a) => fsck::run(&a, context).await,
        C::System(S::Df(a)) => system_df::run(&a, context).await,
        C::Info(a) | C::System(S::Info(a)) => info::run(&a, context).await,
        C::Version(a) => version::run(&a, context).await,
        C::Completion(a) => completion::run(&a),
        C::Manual(a) => manual::run(&a),
    }
}

/// Does something to each of several things: all are tried, each failure is told. The exit code.
pub(crate) async fn each<F>(names: &[String], mut action: impl FnMut(String) -> F) -> Result<i32>
where
    F: Future<Output = Result<()>>,
{
    let mut code = 0;
    for name in names {
        match action(name.clone()).await {
            Ok(()) => {}
            Err(e) if e.is_broken_pipe() || e.is_away() => return Err(e),
            Err(e) => {
                complain(e.to_string());
                code = 1;
            }
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn aliases_and_flags_are_dockers() {
        for line in [
            "strata run -dit --name x -p 80:80 busybox sh -c true",
            "strata exec -it -u 1:1 -w /tmp -e A=b x sh -c true",
            "strata image ls -aq --no-trunc",
            "strata container rm -f a b",
            "strata --socket /x ps -aqn 3",
            "strata commit --pause=false -m x -a y -c CMD a b:c",
            "strata history -H=false --no-trunc x",
            "strata stop -t 3 -s INT x",
            "strata logs -ft --tail 10 --since 5m x",
            "strata logs -n all x",
            "strata login -u x --password-stdin r.example:5000",
            "strata logout r.example:5000",
            "strata system df -v",
            "strata save -o x.tar --format oci-archive a b:1",
            "strata image load -q -i x.tar",
            "strata push -q localhost:5000/a:1",
            "strata inspect -f {{.Id}} --type image x",
        ] {
            let parsed = CommandLine::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }
}
