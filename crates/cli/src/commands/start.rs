//! `strata start`

use super::{Context, each};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::foreground::{Foreground, prepare};
use crate::output::Output;
use crate::session::attach::Wanted;
use crate::{detach, terminal};
use strata_api::debug::{PrepareAttachResponse, StartContainerRequest};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show standard output and standard error, and pass signals on
    #[arg(short, long)]
    attach: bool,
    /// Send standard input too
    #[arg(short, long)]
    interactive: bool,
    /// Keys that leave a terminal's session
    #[arg(long, value_name = "KEYS", default_value = detach::DEFAULT)]
    detach_keys: String,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let mut client = context.client().await?;
    if args.attach || args.interactive {
        return match args.containers.as_slice() {
            [one] => attached(args, &mut client, one).await,
            _ => Err(Error::local("you cannot start and attach multiple containers at once")),
        };
    }
    each(&args.containers, |name| {
        let mut client = client.clone();
        async move {
            start(&mut client, &name).await?;
            Output::Stdout.line(name)
        }
    })
    .await
}

async fn start(client: &mut Client, container: &str) -> Result<()> {
    client.start_container(StartContainerRequest { r#ref: container.to_owned() }).await?;
    Ok(())
}

/// Attaches before it starts, so that no output is missed; stratad sets a container that has ended up once more.
async fn attached(args: &Args, client: &mut Client, container: &str) -> Result<i32> {
    let to = prepare(client, container).await?;
    let foreground = begin(args, &to).await?;
    start(client, container).await?;
    Ok(foreground.follow(client, true).await?.code())
}

async fn begin(args: &Args, to: &PrepareAttachResponse) -> Result<Foreground> {
    let stdin = args.interactive && to.stdin;
    if to.tty && stdin && !terminal::stdin_is_terminal() {
        return Err(Error::local("the input device is not a TTY"));
    }
    let detach_keys = detach::parse(&args.detach_keys).map_err(Error::Local)?;
    Foreground::begin(
        to,
        Wanted { stdin, stdout: true, stderr: true, wait: true, detach_keys, redraw: false },
    )
    .await
}
