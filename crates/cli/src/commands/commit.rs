//! `strata commit`

use super::Context;
use crate::error::Result;
use crate::output::Output;
use clap::ArgAction;
use strata_api::debug::CommitRequest;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Author
    #[arg(short, long, default_value = "", hide_default_value = true)]
    author: String,
    /// Message
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Dockerfile instruction to apply: CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Pause the container meanwhile
    #[arg(short, long, default_value_t = true, default_missing_value = "true", num_args = 0..=1,
        require_equals = true, action = ArgAction::Set)]
    pause: bool,
    /// Do not pause the container meanwhile
    #[arg(long)]
    no_pause: bool,
    /// The container
    container: String,
    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]", default_value = "", hide_default_value = true)]
    image: String,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let mut client = context.client().await?;
    let request = CommitRequest {
        r#ref: args.container.clone(),
        image: args.image.clone(),
        message: args.message.clone(),
        author: args.author.clone(),
        changes: args.change.clone(),
        no_pause: args.no_pause || !args.pause,
    };
    Output::Stdout.line(client.commit(request).await?.into_inner().image_id)?;
    Ok(0)
}
