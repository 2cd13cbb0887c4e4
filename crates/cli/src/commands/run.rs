//! `strata run`
//!
//! Create, attach, start, in this order: no output is missed. Then the session, and the container's exit code.

use super::Context;
use super::create::{create, refuse};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::foreground::{Foreground, Outcome, prepare};
use crate::options::Options;
use crate::output::Output;
use crate::session::attach::Wanted;
use crate::{detach, terminal};
use clap::ArgAction;
use strata_api::debug::{RemoveContainerRequest, StartContainerRequest};

#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true, override_usage = "strata run [OPTIONS] IMAGE [COMMAND] [ARG...]")]
pub(crate) struct Args {
    /// Run in the background and print the container's ID
    #[arg(short, long)]
    detach: bool,
    /// Streams to attach to: stdin, stdout, stderr
    #[arg(short, long, value_name = "STREAM", ignore_case = true, value_parser = ["stdin", "stdout", "stderr"])]
    attach: Vec<String>,
    /// Keys that leave a terminal's session
    #[arg(long, value_name = "KEYS", default_value = detach::DEFAULT)]
    detach_keys: String,
    /// Pass signals on to the container
    #[arg(long, default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true,
        action = ArgAction::Set)]
    sig_proxy: bool,
    #[command(flatten)]
    options: Options,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let (mut client, id, foreground) = match begin(args, context).await {
        Ok(begun) => begun,
        Err(e) if e.is_broken_pipe() => return Err(e),
        Err(e) => return refuse("run", &e),
    };
    let Some(foreground) = foreground else {
        Output::Stdout.line(id)?;
        return Ok(0);
    };
    let outcome = foreground.follow(&mut client, args.sig_proxy).await?;
    if args.options.rm && outcome != Outcome::Left {
        remove(&mut client, &id).await;
    }
    Ok(outcome.code())
}

/// Creates, attaches and starts.
async fn begin(args: &Args, context: &Context) -> Result<(Client, String, Option<Foreground>)> {
    let wanted = wanted(args)?;
    let mut client = context.client().await?;
    let id = create(&mut client, &args.options, wanted.is_some()).await?;
    let started = async {
        let foreground = match wanted {
            Some(wanted) => Some(Foreground::begin(&prepare(&mut client, &id).await?, wanted).await?),
            None => None,
        };
        client.start_container(StartContainerRequest { r#ref: id.clone() }).await?;
        Ok(foreground)
    };
    match started.await {
        Ok(foreground) => Ok((client, id, foreground)),
        Err(e) => {
            if args.options.rm {
                remove(&mut client, &id).await;
            }
            Err(e)
        }
    }
}

/// The streams to attach to; `None`: in the background.
fn wanted(args: &Args) -> Result<Option<Wanted>> {
    let has = |stream: &str| args.attach.iter().any(|a| a.eq_ignore_ascii_case(stream));
    if args.detach {
        return if args.attach.is_empty() {
            Ok(None)
        } else {
            Err(Error::local("conflicting options: cannot specify both --attach and --detach"))
        };
    }
    let all = args.attach.is_empty();
    let stdin = args.options.interactive && (all || has("stdin"));
    if args.options.tty && stdin && !terminal::stdin_is_terminal() {
        return Err(Error::local("the input device is not a TTY"));
    }
    let detach_keys = detach::parse(&args.detach_keys).map_err(Error::Local)?;
    Ok(Some(Wanted {
        stdin,
        stdout: all || has("stdout"),
        stderr: all || has("stderr"),
        wait: true,
        detach_keys,
        redraw: false,
    }))
}

/// stratad removes it by itself; asking too makes sure that its name is free once this process has ended.
async fn remove(client: &mut Client, id: &str) {
    let _ = client.remove_container(RemoveContainerRequest { r#ref: id.to_owned(), force: true }).await;
}
