//! `strata system df`

use super::{Context, images, ps};
use crate::error::Result;
use crate::listing::{self, Column};
use crate::names::short_id;
use crate::output::Output;
use crate::{units, when};
use jiff::Timestamp;
use serde_json::{Value, json};
use strata_api::debug::system_df_response::Row;
use strata_api::debug::{Container, Image, SystemDfRequest, SystemDfResponse};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show every image, container and layer
    #[arg(short, long)]
    verbose: bool,
    /// `json`, `table TEMPLATE` or a Go template
    #[arg(long, conflicts_with = "verbose")]
    format: Option<String>,
}

const COLUMNS: [Column; 5] = [
    ("TYPE", "Type"),
    ("TOTAL", "TotalCount"),
    ("ACTIVE", "Active"),
    ("SIZE", "Size"),
    ("RECLAIMABLE", "Reclaimable"),
];
const IMAGES: [Column; 8] = [
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
    ("SHARED SIZE", "SharedSize"),
    ("UNIQUE SIZE", "UniqueSize"),
    ("CONTAINERS", "Containers"),
];
const CONTAINERS: [Column; 8] = [
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("LOCAL VOLUMES", "LocalVolumes"),
    ("SIZE", "WritableSize"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("NAMES", "Names"),
];
const LAYERS: [Column; 3] = [("LAYER", "Key"), ("SIZE", "Size"), ("IMAGES", "Images")];
const BLOBS: [Column; 3] = [("BLOB", "Key"), ("SIZE", "Size"), ("IMAGES", "Images")];
const VOLUMES: [Column; 3] = [("VOLUME NAME", "Name"), ("LINKS", "Links"), ("SIZE", "Size")];
const CACHE: [Column; 7] = [
    ("CACHE ID", "ID"),
    ("CACHE TYPE", "CacheType"),
    ("SIZE", "Size"),
    ("CREATED", "CreatedSince"),
    ("LAST USED", "LastUsedSince"),
    ("USAGE", "UsageCount"),
    ("SHARED", "Shared"),
];

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let mut client = context.client().await?;
    let answer = client.system_df(SystemDfRequest { verbose: args.verbose }).await?.into_inner();
    if args.verbose {
        Output::Stdout.bytes(verbose(&answer, Timestamp::now())?.as_bytes())?;
    } else {
        let lines: Vec<Value> = answer.rows.iter().map(row).collect();
        listing::print(args.format.as_deref(), &COLUMNS, &lines)?;
    }
    Ok(0)
}

fn row(row: &Row) -> Value {
    json!({
        "Type": row.r#type,
        "TotalCount": row.total.to_string(),
        "Active": row.active.to_string(),
        "Size": units::long_size(row.size),
        "Reclaimable": reclaimable(row),
    })
}

/// `1.2GB (34%)`; without a size there is no share of it.
fn reclaimable(row: &Row) -> String {
    let size = units::long_size(row.reclaimable);
    match u128::from(row.reclaimable) * 100 / u128::from(row.size.max(1)) {
        _ if row.size == 0 || row.r#type == "Build Cache" => size,
        percent => format!("{size} ({percent}%)"),
    }
}

fn verbose(answer: &SystemDfResponse, now: Timestamp) -> Result<String> {
    let images: Vec<Value> = answer.images.iter().flat_map(|i| image(i, now)).collect();
    let containers: Vec<Value> = answer.containers.iter().map(|c| container(c, now)).collect();
    let part = |key: &str, disk, images: &[String]| {
        let images: Vec<&str> = images.iter().map(|i| crate::names::familiar(i)).collect();
        json!({ "Key": key, "Size": units::short_size(disk), "Images": images.join(", ") })
    };
    let layers = answer.layers.iter().map(|l| part(&l.key, l.disk, &l.images)).collect();
    let blobs = answer.blobs.iter().map(|b| part(&b.digest, b.disk, &b.images)).collect();
    let cache = answer.rows.iter().find(|row| row.r#type == "Build Cache").map_or(0, |row| row.size);
    let cache = format!("Build cache usage: {}", units::long_size(cache));
    let heading = |what: &str| format!("{what} space usage:");
    let sections = [
        (heading("Images"), &IMAGES[..], images),
        (heading("Containers"), &CONTAINERS[..], containers),
        (heading("Local Volumes"), &VOLUMES[..], Vec::new()),
        (cache, &CACHE[..], Vec::new()),
        (heading("Layers"), &LAYERS[..], layers),
        (heading("Blobs"), &BLOBS[..], blobs),
    ];
    let mut text = String::new();
    for (heading, columns, lines) in sections {
        let table = listing::text(None, columns, &lines)?;
        text.push_str(&format!("{heading}\n\n{table}\n"));
    }
    // Layers, blobs and these are what the images take up together.
    text.push_str(&format!("Names of images: {}\n", units::short_size(answer.names)));
    if answer.trash > 0 {
        let trash = units::short_size(answer.trash);
        text.push_str(&format!("Being deleted, and counted nowhere above: {trash}\n"));
    }
    Ok(text)
}

fn image(i: &Image, now: Timestamp) -> Vec<Value> {
    images::names_of(i, None, false)
        .into_iter()
        .map(|(repository, tag, _)| {
            json!({
                "Repository": repository,
                "Tag": tag,
                "ID": short_id(&i.id),
                "CreatedSince": when::ago(i.created_at, now),
                "Size": units::short_size(i.disk),
                "SharedSize": units::short_size(i.shared_size),
                "UniqueSize": units::short_size(i.unique_size),
                "Containers": i.containers.to_string(),
            })
        })
        .collect()
}

fn container(c: &Container, now: Timestamp) -> Value {
    let mut line = ps::line(c, false, now);
    if let Value::Object(line) = &mut line {
        line.insert("LocalVolumes".into(), "0".into());
        line.insert("WritableSize".into(), units::short_size(c.disk).into());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_in_percent() {
        let share = |size, reclaim, r#type: &str| {
            reclaimable(&Row { r#type: r#type.into(), total: 1, active: 0, size, reclaimable: reclaim })
        };
        assert_eq!(share(3_530_000_000, 1_200_000_000, "Images"), "1.2GB (33%)");
        assert_eq!(share(0, 0, "Containers"), "0B");
        assert_eq!(share(10, 10, "Build Cache"), "10B");
        assert_eq!(share(u64::MAX, u64::MAX, "Images"), "18.45EB (100%)");
    }

    #[test]
    fn sections_have_headings() {
        let text = verbose(&SystemDfResponse::default(), Timestamp::now()).unwrap();
        assert!(text.starts_with("Images space usage:\n\nREPOSITORY   TAG "));
        assert!(
            text.contains("\n\nLayers space usage:\n\nLAYER     SIZE      IMAGES\n\nBlobs space usage:\n")
        );
        assert!(text.ends_with("Names of images: 0B\n"), "{text}");
        let deleting = SystemDfResponse { trash: 2_000_000, ..SystemDfResponse::default() };
        let text = verbose(&deleting, Timestamp::now()).unwrap();
        assert!(text.ends_with("Being deleted, and counted nowhere above: 2MB\n"), "{text}");
    }
}
