//! `strata stop`

use super::{Context, each};
use crate::error::Result;
use crate::output::Output;
use strata_api::debug::StopContainerRequest;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds to wait before SIGKILL (-1: for ever); the container's own, else 10
    #[arg(short, long, visible_alias = "time", value_name = "SECONDS", allow_negative_numbers = true)]
    pub(super) timeout: Option<i64>,
    /// Signal instead of the container's own
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub(super) signal: String,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub(super) containers: Vec<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let client = context.client().await?;
    each(&args.containers, |name| {
        let mut client = client.clone();
        let request =
            StopContainerRequest { r#ref: name.clone(), timeout: args.timeout, signal: args.signal.clone() };
        async move {
            client.stop_container(request).await?;
            Output::Stdout.line(name)
        }
    })
    .await
}
