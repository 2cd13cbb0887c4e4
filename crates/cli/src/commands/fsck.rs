//! `strata fsck`

use super::Context;
use crate::error::{Error, Result};
use crate::output::Output;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use strata_api::debug::FsckRequest;
use strata_api::debug::fsck_event::Event;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Repair what can be repaired: from blobs that are here, or from the registries
    #[arg(long)]
    repair: bool,
    /// Read no file's content: sizes and attributes only
    #[arg(long)]
    quick: bool,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let mut client = context.client().await?;
    let request = FsckRequest { repair: args.repair, quick: args.quick };
    let mut stream = client.fsck(request).await?.into_inner();
    let bar = bar();
    let mut summary = None;
    while let Some(event) = stream.message().await? {
        match event.event {
            Some(Event::Problem(problem)) => bar.suspend(|| Output::Stdout.line(problem.to_string()))?,
            Some(Event::Progress(progress)) => {
                bar.set_length(progress.total);
                bar.set_position(progress.done);
            }
            Some(Event::Summary(s)) => summary = Some(s),
            None => {}
        }
    }
    bar.finish_and_clear();
    let summary =
        summary.ok_or_else(|| Error::Broken("stratad ended the check without saying how it went".into()))?;
    Output::Stdout.line(summary.to_string())?;
    Ok(i32::from(!summary.is_clean()))
}

/// On a terminal, how many bytes have been read of how many.
fn bar() -> ProgressBar {
    let target = if Output::Stdout.is_terminal() {
        ProgressDrawTarget::stdout()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(None, target);
    // The template is well formed; the default is a bar too.
    let style = ProgressStyle::with_template("Checking [{bar:40}] {decimal_bytes}/{decimal_total_bytes}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style.progress_chars("=> "))
}
