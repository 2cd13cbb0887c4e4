//! `strata exec`

use super::Context;
use crate::error::{Error, Result};
use crate::options::env;
use crate::output::complain;
use crate::session::exec;
use crate::terminal;
use std::path::PathBuf;
use strata_api::debug::PrepareExecRequest;
use strata_wire::ExecPlan;

#[derive(Debug, clap::Args)]
#[command(override_usage = "strata exec [OPTIONS] CONTAINER COMMAND [ARG...]")]
pub(crate) struct Args {
    /// Send standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give the process a terminal
    #[arg(short, long)]
    tty: bool,
    /// Leave it in the background
    #[arg(short, long)]
    detach: bool,
    /// User: name or uid, and :group or :gid
    #[arg(short, long, default_value = "", hide_default_value = true)]
    user: String,
    /// Working directory inside the container
    #[arg(short, long, default_value = "", hide_default_value = true)]
    workdir: String,
    /// Environment variable NAME=value, or NAME to pass on this shell's
    #[arg(short, long, value_name = "ENV")]
    env: Vec<String>,
    /// File of environment variables
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Every capability
    #[arg(long)]
    privileged: bool,
    /// The container, then the command and its arguments
    #[arg(value_name = "CONTAINER COMMAND", required = true, num_args = 2.., trailing_var_arg = true)]
    container_and_command: Vec<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    match attempt(args, context).await {
        Err(e) if e.is_broken_pipe() || matches!(e, Error::Said(_)) => Err(e),
        Err(e) => {
            complain(format!("strata: {e}"));
            Ok(e.start_code(1))
        }
        ok => ok,
    }
}

async fn attempt(args: &Args, context: &Context) -> Result<i32> {
    let Some((container, command)) = args.container_and_command.split_first() else {
        return Err(Error::local("give a container and a command"));
    };
    let tty = args.tty && !args.detach;
    if tty && args.interactive && !terminal::stdin_is_terminal() {
        return Err(Error::local(
            "cannot attach stdin to a TTY-enabled container because stdin is not a terminal",
        ));
    }
    let (rows, cols) = if tty { terminal::size().unwrap_or_default() } else { (0, 0) };
    let request = PrepareExecRequest {
        r#ref: container.clone(),
        command: command.to_vec(),
        tty,
        user: args.user.clone(),
        workdir: args.workdir.clone(),
        env: env::collect(&args.env_file, &args.env)?,
        privileged: args.privileged,
        tty_rows: rows.into(),
        tty_cols: cols.into(),
    };
    let mut client = context.client().await?;
    let answer = client.prepare_exec(request).await?.into_inner();
    let plan: ExecPlan = serde_json::from_str(&answer.plan).map_err(|e| {
        Error::local(format!("stratad's exec plan cannot be read: {e}; is it another release?"))
    })?;
    match (args.detach, tty) {
        (true, _) => exec::detached(&answer.socket, plan).await.map(|()| 0),
        (false, true) => exec::terminal(&answer.socket, plan, args.interactive).await,
        (false, false) => exec::piped(&answer.socket, plan, args.interactive).await,
    }
}
