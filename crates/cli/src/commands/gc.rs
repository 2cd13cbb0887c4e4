//! `strata gc`

use super::Context;
use crate::error::Result;
use crate::output::Output;
use crate::units;
use strata_api::debug::{GcRequest, GcResponse};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Say why an image, a layer, a blob or a container is kept; a name, an ID or the beginning of one
    #[arg(long, value_name = "ID", conflicts_with = "dry_run")]
    explain: Option<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let request = GcRequest { dry_run: args.dry_run, explain: args.explain.clone().unwrap_or_default() };
    let mut client = context.client().await?;
    let answer = client.gc(request).await?.into_inner();
    if args.explain.is_some() {
        answer.explanation.iter().try_for_each(|line| Output::Stdout.line(line))?;
        return Ok(0);
    }
    Output::Stdout.bytes(report(&answer, args.dry_run).as_bytes())?;
    Ok(0)
}

fn report(answer: &GcResponse, dry_run: bool) -> String {
    let word = if dry_run { "Would delete" } else { "Deleted" };
    let mut text: String = answer.removed.iter().map(|id| format!("{word}: {id}\n")).collect();
    let count = |n: u32, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    if !answer.removed.is_empty() {
        text.push('\n');
    }
    text.push_str(&format!(
        "{}: {} ({}, {})\n",
        if dry_run { "Total reclaimable space" } else { "Total reclaimed space" },
        units::long_size(answer.bytes),
        count(answer.layers, "layer"),
        count(answer.blobs, "blob"),
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_and_how_much() {
        let answer = GcResponse {
            layers: 1,
            blobs: 0,
            bytes: 1_234_567,
            removed: vec!["sha256:ab".into()],
            explanation: vec![],
        };
        assert_eq!(
            report(&answer, false),
            "Deleted: sha256:ab\n\nTotal reclaimed space: 1.235MB (1 layer, 0 blobs)\n"
        );
        assert_eq!(report(&GcResponse::default(), true), "Total reclaimable space: 0B (0 layers, 0 blobs)\n");
    }
}
