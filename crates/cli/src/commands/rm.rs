//! `strata rm`, `strata container rm`

use super::{Context, each};
use crate::error::{Error, Result};
use crate::output::{Output, complain};
use strata_api::debug::RemoveContainerRequest;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kill those that run; do not mind those that are not there
    #[arg(short, long)]
    force: bool,
    /// Accepted for Docker's sake: Strata has no anonymous volumes
    #[arg(short, long)]
    volumes: bool,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let client = context.client().await?;
    each(&args.containers, |name| {
        let mut client = client.clone();
        async move {
            let request = RemoveContainerRequest { r#ref: name.clone(), force: args.force };
            match client.remove_container(request).await.map_err(Error::from) {
                Err(e) if args.force && e.is_not_found() => {
                    complain(e.to_string());
                    Ok(())
                }
                Err(e) => Err(e),
                Ok(_) => Output::Stdout.line(name),
            }
        }
    })
    .await
}
