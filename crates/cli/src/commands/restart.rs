//! `strata restart`

use super::{Context, each};
use crate::error::Result;
use crate::output::Output;
use strata_api::debug::{StartContainerRequest, StopContainerRequest};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds to wait before SIGKILL (-1: for ever); the container's own, else 10
    #[arg(short, long, visible_alias = "time", value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i64>,
    /// Signal instead of the container's own
    #[arg(short, long, default_value = "", hide_default_value = true)]
    signal: String,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let client = context.client().await?;
    each(&args.containers, |name| {
        let mut client = client.clone();
        let stop =
            StopContainerRequest { r#ref: name.clone(), timeout: args.timeout, signal: args.signal.clone() };
        async move {
            client.stop_container(stop).await?;
            client.start_container(StartContainerRequest { r#ref: name.clone() }).await?;
            Output::Stdout.line(name)
        }
    })
    .await
}
