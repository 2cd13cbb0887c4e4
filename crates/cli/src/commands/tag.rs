//! `strata tag`

use super::Context;
use crate::error::Result;
use strata_api::debug::TagImageRequest;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    /// Its other name
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let mut client = context.client().await?;
    client.tag_image(TagImageRequest { source: args.source.clone(), target: args.target.clone() }).await?;
    Ok(0)
}
