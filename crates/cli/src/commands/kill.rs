//! `strata kill`

use super::{Context, each};
use crate::error::Result;
use crate::output::Output;
use strata_api::debug::KillContainerRequest;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Signal, by name or number
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let client = context.client().await?;
    each(&args.containers, |name| {
        let mut client = client.clone();
        let request = KillContainerRequest { r#ref: name.clone(), signal: args.signal.clone() };
        async move {
            client.kill_container(request).await?;
            Output::Stdout.line(name)
        }
    })
    .await
}
