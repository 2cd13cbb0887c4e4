//! `strata pods`

use super::Context;
use crate::error::Result;
use crate::listing::{self, Column};
use crate::names::short_id;
use crate::output::Output;
use crate::when;
use jiff::Timestamp;
use serde_json::{Value, json};
use strata_api::debug::{ListPodsRequest, Pod};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print IDs only
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten IDs
    #[arg(long)]
    no_trunc: bool,
    /// `json`, `table TEMPLATE` or a Go template
    #[arg(long)]
    format: Option<String>,
}

const COLUMNS: [Column; 8] = [
    ("POD ID", "ID"),
    ("NAME", "Name"),
    ("NAMESPACE", "Namespace"),
    ("READY", "Ready"),
    ("CONTAINERS", "Containers"),
    ("IPS", "IPs"),
    ("ATTEMPT", "Attempt"),
    ("CREATED", "CreatedSince"),
];

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let mut client = context.client().await?;
    let pods = client.list_pods(ListPodsRequest {}).await?.into_inner().pods;
    let id = |p: &Pod| if args.no_trunc { p.id.clone() } else { short_id(&p.id) };
    if args.quiet {
        pods.iter().try_for_each(|p| Output::Stdout.line(id(p)))?;
        return Ok(0);
    }
    let now = Timestamp::now();
    let line = |p: &Pod| {
        json!({
            "ID": id(p),
            "Name": p.name,
            "Namespace": p.namespace,
            "UID": p.uid,
            "Attempt": p.attempt.to_string(),
            "Ready": if p.ready { "Ready" } else { "NotReady" },
            "Containers": format!("{}/{}", p.containers_running, p.containers),
            "IPs": p.ips.join(","),
            "CreatedSince": when::ago(p.created_at, now),
            "CreatedAt": when::local(p.created_at),
            "Runtime": listing::handler(&p.handler),
        })
    };
    let lines: Vec<Value> = pods.iter().map(line).collect();
    let columns = listing::with_handlers(&COLUMNS, pods.iter().map(|p| p.handler.as_str()));
    listing::print(args.format.as_deref(), &columns, &lines)?;
    Ok(0)
}
