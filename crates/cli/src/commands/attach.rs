//! `strata attach`

use super::Context;
use crate::error::{Error, Result};
use crate::foreground::{Foreground, prepare};
use crate::session::attach::Wanted;
use crate::{detach, terminal};
use clap::ArgAction;
use strata_api::debug::ContainerLogRequest;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Do not send standard input
    #[arg(long)]
    no_stdin: bool,
    /// Keys that leave a terminal's session
    #[arg(long, value_name = "KEYS", default_value = detach::DEFAULT)]
    detach_keys: String,
    /// Pass signals on to the container
    #[arg(long, default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true,
        action = ArgAction::Set)]
    sig_proxy: bool,
    /// The container
    container: String,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let detach_keys = detach::parse(&args.detach_keys).map_err(Error::Local)?;
    let mut client = context.client().await?;
    // Preparing would set an ended container up once more, for whoever means to start it.
    let state =
        client.container_log(ContainerLogRequest { r#ref: args.container.clone() }).await?.into_inner();
    if !state.running {
        return Err(Error::local("you cannot attach to a stopped container, start it first"));
    }
    let to = prepare(&mut client, &state.container_id).await?;
    let stdin = to.stdin && !args.no_stdin;
    if to.tty && stdin && !terminal::stdin_is_terminal() {
        return Err(Error::local(
            "cannot attach stdin to a TTY-enabled container because stdin is not a terminal",
        ));
    }
    let foreground = Foreground::begin(
        &to,
        Wanted { stdin, stdout: true, stderr: true, wait: false, detach_keys, redraw: true },
    )
    .await?;
    Ok(foreground.follow(&mut client, args.sig_proxy).await?.code())
}
