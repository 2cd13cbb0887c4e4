//! `strata history`

use super::Context;
use crate::error::Result;
use crate::listing::{self, Column};
use crate::names::{ellipsis, short_id};
use crate::output::Output;
use crate::{units, when};
use clap::ArgAction;
use jiff::Timestamp;
use serde_json::{Value, json};
use strata_api::debug::{HistoryEntry, ImageHistoryRequest};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Do not shorten anything
    #[arg(long)]
    no_trunc: bool,
    /// Print IDs only
    #[arg(short, long)]
    quiet: bool,
    /// Sizes and times for people; false: in bytes and RFC 3339
    #[arg(short = 'H', long, default_value_t = true, default_missing_value = "true", num_args = 0..=1,
        require_equals = true, action = ArgAction::Set)]
    human: bool,
    /// `json`, `table TEMPLATE` or a Go template
    #[arg(long)]
    format: Option<String>,
    /// The image
    image: String,
}

/// Longest CREATED BY.
const CREATED_BY: usize = 45;

/// 2000-01-01: what builders leave as a time before it is none.
const NO_TIME_BEFORE: i64 = 946_684_800_000_000_000;

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let mut client = context.client().await?;
    let request = ImageHistoryRequest { r#ref: args.image.clone() };
    let entries = client.image_history(request).await?.into_inner().entries;
    if args.quiet {
        for entry in &entries {
            Output::Stdout.line(id(entry, args.no_trunc))?;
        }
        return Ok(0);
    }
    let created = if args.human { ("CREATED", "CreatedSince") } else { ("CREATED AT", "CreatedAt") };
    let columns: [Column; 5] =
        [("IMAGE", "ID"), created, ("CREATED BY", "CreatedBy"), ("SIZE", "Size"), ("COMMENT", "Comment")];
    let now = Timestamp::now();
    let lines: Vec<Value> = entries.iter().map(|e| line(e, args, now)).collect();
    listing::print(args.format.as_deref(), &columns, &lines)?;
    Ok(0)
}

fn id(entry: &HistoryEntry, whole: bool) -> String {
    match entry.image_id.as_str() {
        "" => "<missing>".into(),
        id if whole => id.to_owned(),
        id => short_id(id),
    }
}

fn line(entry: &HistoryEntry, args: &Args, now: Timestamp) -> Value {
    let by = entry.created_by.replace('\t', " ");
    let known = entry.created_at >= NO_TIME_BEFORE;
    json!({
        "ID": id(entry, args.no_trunc),
        "CreatedSince": if known { when::ago(entry.created_at, now) } else { "N/A".into() },
        "CreatedAt": if known { when::rfc3339(entry.created_at) } else { "N/A".into() },
        "CreatedBy": if args.no_trunc { by } else { ellipsis(&by, CREATED_BY) },
        "Size": if args.human { units::short_size(entry.size) } else { entry.size.to_string() },
        "Comment": entry.comment,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_dockers() {
        let args = Args { no_trunc: false, quiet: false, human: true, format: None, image: String::new() };
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let entry = HistoryEntry {
            created_at: (now.as_second() - 7200) * 1_000_000_000,
            created_by: "/bin/sh -c #(nop) ADD file:0123456789012345678901234567890 in /".into(),
            size: 4_261_574,
            ..HistoryEntry::default()
        };
        let got = line(&entry, &args, now);
        assert_eq!(got["ID"], "<missing>");
        assert_eq!(got["CreatedSince"], "2 hours ago");
        assert_eq!(got["CreatedBy"], "/bin/sh -c #(nop) ADD file:01234567890123456…");
        assert_eq!(got["Size"], "4.26MB");
        let old = HistoryEntry { created_at: 1, ..entry };
        assert_eq!(line(&old, &args, now)["CreatedSince"], "N/A");
    }
}
