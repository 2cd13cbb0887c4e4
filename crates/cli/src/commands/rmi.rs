//! `strata rmi`, `strata image rm`

use super::{Context, each};
use crate::error::Result;
use crate::names::familiar;
use crate::output::{Output, complain};
use strata_api::debug::RemoveImageRequest;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Remove images that stopped containers use or that have several names; do not mind those that are not there
    #[arg(short, long)]
    force: bool,
    /// Keep untagged parents
    #[arg(long)]
    no_prune: bool,
    /// The images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let client = context.client().await?;
    each(&args.images, |name| {
        let mut client = client.clone();
        let request = RemoveImageRequest { r#ref: name, force: args.force, no_prune: args.no_prune };
        async move {
            let removed = match client.remove_image(request).await.map_err(crate::error::Error::from) {
                Err(e) if args.force && e.is_not_found() => {
                    complain(e.to_string());
                    return Ok(());
                }
                other => other?.into_inner(),
            };
            for name in removed.untagged {
                Output::Stdout.line(format!("Untagged: {}", familiar(&name)))?;
            }
            for id in removed.deleted {
                Output::Stdout.line(format!("Deleted: {id}"))?;
            }
            Ok(())
        }
    })
    .await
}
