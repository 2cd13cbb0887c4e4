//! `strata push`

use super::Context;
use crate::bars::{Bars, Look};
use crate::credentials;
use crate::error::{Error, Result};
use crate::names;
use crate::output::Output;
use strata_api::debug::push_layer::State;
use strata_api::debug::push_progress::Event;
use strata_api::debug::{PushImageRequest, PushLayer, PushResult};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the name only
    #[arg(short, long)]
    quiet: bool,
    /// Name[:tag], which says the registry too
    #[arg(value_name = "NAME[:TAG]")]
    image: String,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let mut client = context.client().await?;
    let parts = names::parts(&args.image);
    let auth = credentials::for_image(&args.image).await?;
    let mut stream =
        client.push_image(PushImageRequest { r#ref: args.image.clone(), auth }).await?.into_inner();
    let mut bars = None;
    if !args.quiet {
        if parts.tag.is_none() && parts.digest.is_none() {
            Output::Stdout.line("Using default tag: latest")?;
        }
        bars = Some(Bars::new(Output::Stdout));
    }
    let mut result = None;
    let mut told = args.quiet;
    while let Some(progress) = stream.message().await? {
        if !told {
            let repository = names::familiar(parts.repository);
            Output::Stdout.line(format!("The push refers to repository [{repository}]"))?;
            told = true;
        }
        match progress.event {
            Some(Event::Layer(layer)) => bars.iter_mut().try_for_each(|b| show(b, &layer))?,
            Some(Event::Result(r)) => result = Some(r),
            None => {}
        }
    }
    drop(bars);
    let broken = || Error::Broken("stratad ended the push without saying how it went".into());
    let PushResult { name, digest, size } = result.ok_or_else(broken)?;
    if args.quiet {
        Output::Stdout.line(&name)?;
    } else {
        let tag = names::parts(&name).tag.unwrap_or_default();
        Output::Stdout.line(format!("{tag}: digest: {digest} size: {size}"))?;
    }
    Ok(0)
}

fn show(bars: &mut Bars, layer: &PushLayer) -> Result<()> {
    let look = match layer.state() {
        State::Waiting => Look::Waiting("Preparing"),
        State::Uploading => Look::Moving("Pushing"),
        State::Pushed => Look::Done("Pushed"),
        State::Exists => Look::Done("Layer already exists"),
        State::Mounted => Look::Done("Mounted from another repository"),
    };
    bars.layer(&layer.digest, look, layer.current, layer.total)
}
