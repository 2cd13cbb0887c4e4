//! `strata restart`

use super::{Context, each};
use crate::error::Result;
use crate::output::Output;
use strata_api::debug::{StartContainerRequest, StopContainerRequest};

/// The same as `stop` takes: it stops, then starts.
pub(crate) use super::stop::Args;

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
