//! `strata image prune`

use super::Context;
use crate::error::{Error, Result};
use crate::names::familiar;
use crate::output::Output;
use crate::{units, when};
use jiff::Timestamp;
use std::io::BufRead;
use strata_api::debug::{PruneImagesRequest, PruneImagesResponse};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Remove all images that no container stands on, not only those without a tag
    #[arg(short, long)]
    all: bool,
    /// Only images that match: `until=TIME`, `label=NAME[=VALUE]`, `label!=NAME[=VALUE]`
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let filters = filters(&args.filter, Timestamp::now())?;
    if !args.force && !args.dry_run {
        Output::Stdout.bytes(warning(args).as_bytes())?;
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        read.map_err(|e| Error::io("standard input", e))?;
        if !agrees(&answer) {
            return Err(Error::local("image prune has been cancelled"));
        }
    }
    let request = PruneImagesRequest { all: args.all, dry_run: args.dry_run, filters };
    let answer = context.client().await?.prune_images(request).await?.into_inner();
    Output::Stdout.bytes(report(&answer, args.dry_run).as_bytes())?;
    Ok(0)
}

/// Times become such as mean the same to the daemon.
fn filters(texts: &[String], now: Timestamp) -> Result<Vec<String>> {
    let filter = |text: &String| match text.strip_prefix("until=") {
        Some(time) => when::parse(time, now).map(|t| format!("until={t}")).map_err(Error::local),
        None => Ok(text.clone()),
    };
    texts.iter().map(filter).collect()
}

fn warning(args: &Args) -> String {
    let mut text = if args.all {
        "WARNING! This will remove all images without at least one container associated to them.\n".to_owned()
    } else {
        "WARNING! This will remove all dangling images.\n".to_owned()
    };
    if !args.filter.is_empty() {
        text.push_str("\n  Items to be pruned will be filtered with:\n");
        args.filter.iter().for_each(|f| text.push_str(&format!("  - {f}\n")));
        text.push('\n');
    }
    text.push_str("Are you sure you want to continue? [y/N] ");
    text
}

fn agrees(answer: &str) -> bool {
    answer.trim().eq_ignore_ascii_case("y")
}

fn report(answer: &PruneImagesResponse, dry_run: bool) -> String {
    let mut text = String::new();
    if !answer.images.is_empty() {
        text.push_str(if dry_run { "Images that would be deleted:\n" } else { "Deleted Images:\n" });
        for image in &answer.images {
            image.untagged.iter().for_each(|n| text.push_str(&format!("untagged: {}\n", familiar(n))));
            image.deleted.iter().for_each(|id| text.push_str(&format!("deleted: {id}\n")));
        }
        text.push('\n');
    }
    let words = if dry_run { "Total reclaimable space" } else { "Total reclaimed space" };
    text.push_str(&format!("{words}: {}\n", units::long_size(answer.bytes)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_api::debug::PrunedImage;

    #[test]
    fn reports_are_dockers() {
        let image = PrunedImage {
            untagged: vec!["docker.io/library/a:1".into()],
            deleted: vec!["sha256:ab".into(), "sha256:cd".into()],
        };
        let answer = PruneImagesResponse { images: vec![image], bytes: 16_430_000 };
        assert_eq!(
            report(&answer, false),
            "Deleted Images:\nuntagged: a:1\ndeleted: sha256:ab\ndeleted: sha256:cd\n\nTotal reclaimed space: 16.43MB\n"
        );
        assert_eq!(report(&PruneImagesResponse::default(), true), "Total reclaimable space: 0B\n");
    }

    #[test]
    fn times_are_made_absolute() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let texts = ["until=24h".to_owned(), "label=until=24h".to_owned()];
        assert_eq!(filters(&texts, now).unwrap(), ["until=2026-11-20T10:00:00Z", "label=until=24h"]);
        assert!(filters(&["until=soon".to_owned()], now).is_err());
    }

    #[test]
    fn it_asks_before_it_removes() {
        let args = Args { all: true, filter: vec!["label=x".into()], force: false, dry_run: false };
        let text = warning(&args);
        assert!(
            text.starts_with("WARNING! This will remove all images without")
                && text.contains("  - label=x\n")
        );
        assert!(text.ends_with("[y/N] "));
        assert!(agrees("y\n") && agrees("Y") && !agrees("\n") && !agrees("yes!"));
    }
}
