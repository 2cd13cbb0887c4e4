//! `strata pull`

use super::Context;
use crate::error::Result;
use crate::names;
use crate::output::Output;
use crate::pulling;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the name only
    #[arg(short, long)]
    quiet: bool,
    /// Platform os/arch[/variant]; this node's by default
    #[arg(long, default_value = "", hide_default_value = true)]
    platform: String,
    /// Name[:tag][@digest]
    #[arg(value_name = "IMAGE")]
    image: String,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let mut client = context.client().await?;
    let parts = names::parts(&args.image);
    let view = (!args.quiet).then_some(Output::Stdout);
    if view.is_some() && parts.tag.is_none() && parts.digest.is_none() {
        Output::Stdout.line("Using default tag: latest")?;
    }
    let result = pulling::pull(&mut client, &args.image, &args.platform, view).await?;
    Output::Stdout.line(&result.name)?;
    Ok(0)
}
