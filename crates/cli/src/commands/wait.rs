//! `strata wait`

use super::{Context, each};
use crate::error::Result;
use crate::foreground::exit_code;
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let client = context.client().await?;
    each(&args.containers, |name| {
        let mut client = client.clone();
        async move {
            let code = exit_code(&mut client, &name).await?;
            Output::Stdout.line(code.to_string())
        }
    })
    .await
}
