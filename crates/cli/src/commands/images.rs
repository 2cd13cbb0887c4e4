//! `strata images`, `strata image ls`

use super::Context;
use crate::error::{Error, Result};
use crate::listing::{self, Column};
use crate::names::{familiar, parts, short_id};
use crate::output::Output;
use crate::{units, when};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use strata_api::debug::{Image, ListImagesRequest};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show all images (untagged ones are always shown)
    #[arg(short, long)]
    all: bool,
    /// Print IDs only
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten IDs
    #[arg(long)]
    no_trunc: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Show those images only: dangling=true|false, reference=PATTERN
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// `json`, `table TEMPLATE` or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Show images of this name only
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

const COLUMNS: [Column; 5] = [
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
];
const COLUMNS_WITH_DIGESTS: [Column; 6] =
    [COLUMNS[0], COLUMNS[1], ("DIGEST", "Digest"), COLUMNS[2], COLUMNS[3], COLUMNS[4]];

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let filters = args.filter.iter().map(|f| Filter::parse(f)).collect::<Result<Vec<_>, _>>();
    let filters = filters.map_err(Error::Local)?;
    let mut client = context.client().await?;
    let request = ListImagesRequest { r#ref: args.reference.clone().unwrap_or_default() };
    let mut images = client.list_images(request).await?.into_inner().images;
    images.retain(|i| filters.iter().all(|f| f.takes(i)));
    images.sort_by_key(|i| std::cmp::Reverse(i.created_at));
    if args.quiet {
        let mut seen = BTreeSet::new();
        for image in images.iter().filter(|i| seen.insert(&i.id)) {
            Output::Stdout.line(id(image, args.no_trunc))?;
        }
        return Ok(0);
    }
    let now = Timestamp::now();
    let wanted = args.reference.as_deref();
    let lines: Vec<Value> = images.iter().flat_map(|i| rows(i, wanted, args, now)).collect();
    let columns: &[Column] = if args.digests { &COLUMNS_WITH_DIGESTS } else { &COLUMNS };
    listing::print(args.format.as_deref(), columns, &lines)?;
    Ok(0)
}

fn id(image: &Image, whole: bool) -> String {
    if whole { image.id.clone() } else { short_id(&image.id) }
}

/// One line per name of an image; one without names has a line too.
fn rows(image: &Image, wanted: Option<&str>, args: &Args, now: Timestamp) -> Vec<Value> {
    names_of(image, wanted, args.digests)
        .into_iter()
        .map(|(repository, tag, digest)| {
            json!({
                "Repository": repository,
                "Tag": tag,
                "Digest": digest,
                "ID": id(image, args.no_trunc),
                "CreatedSince": when::ago(image.created_at, now),
                "CreatedAt": when::local(image.created_at),
                "Size": units::short_size(image.size),
                "SharedSize": units::short_size(image.shared_size),
                "UniqueSize": units::short_size(image.unique_size),
                "Containers": image.containers.to_string(),
            })
        })
        .collect()
}

const NONE: &str = "<none>";

/// Repository, tag and digest of each of an image's names.
pub(super) fn names_of(image: &Image, wanted: Option<&str>, digests: bool) -> Vec<(String, String, String)> {
    let digest_of = |repository: &str| {
        image
            .repo_digests
            .iter()
            .map(|d| parts(familiar(d)))
            .find(|d| d.repository == repository)
            .and_then(|d| d.digest)
            .unwrap_or(NONE)
            .to_owned()
    };
    let mut names: Vec<(String, String, String)> = image
        .repo_tags
        .iter()
        .map(|t| parts(familiar(t)))
        .filter(|t| wanted.is_none_or(|w| matches(familiar(w), t.repository, t.tag.unwrap_or_default())))
        .map(|t| (t.repository.to_owned(), t.tag.unwrap_or(NONE).to_owned(), digest_of(t.repository)))
        .collect();
    if image.repo_tags.is_empty() {
        let by_digest = image.repo_digests.iter().map(|d| parts(familiar(d)));
        names.extend(
            by_digest
                .map(|d| (d.repository.to_owned(), NONE.to_owned(), d.digest.unwrap_or(NONE).to_owned())),
        );
        if !digests {
            names.dedup_by(|a, b| a.0 == b.0);
        }
    }
    // An image that was asked for by its ID, or that has no name.
    if names.is_empty() && (image.repo_tags.is_empty() || wanted.is_some()) {
        return if image.repo_tags.is_empty() {
            vec![(NONE.into(), NONE.into(), NONE.into())]
        } else {
            names_of(image, None, digests)
        };
    }
    names
}

/// Whether a name is what was asked for; a pattern without a tag takes every tag.
fn matches(pattern: &str, repository: &str, tag: &str) -> bool {
    let wanted = parts(pattern);
    glob(wanted.repository.as_bytes(), repository.as_bytes())
        && wanted.tag.is_none_or(|t| glob(t.as_bytes(), tag.as_bytes()))
}

/// `*` is any text without a slash, `?` one character.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob(rest, text) || text.split_first().is_some_and(|(c, t)| *c != b'/' && glob(pattern, t))
        }
        (Some((b'?', p)), Some((c, t))) if *c != b'/' => glob(p, t),
        (Some((a, p)), Some((b, t))) if a == b => glob(p, t),
        _ => false,
    }
}

#[derive(Debug, PartialEq)]
enum Filter {
    Dangling(bool),
    Reference(String),
}

impl Filter {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("dangling", "true" | "1")) => Ok(Self::Dangling(true)),
            Some(("dangling", "false" | "0")) => Ok(Self::Dangling(false)),
            Some(("reference", pattern)) => Ok(Self::Reference(familiar(pattern).to_owned())),
            _ => Err(format!("invalid filter '{text}'; there are dangling=true|false and reference=PATTERN")),
        }
    }

    fn takes(&self, image: &Image) -> bool {
        match self {
            Self::Dangling(wanted) => image.repo_tags.is_empty() == *wanted,
            Self::Reference(pattern) => image
                .repo_tags
                .iter()
                .map(|t| parts(familiar(t)))
                .any(|t| matches(pattern, t.repository, t.tag.unwrap_or_default())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(tags: &[&str], digests: &[&str]) -> Image {
        let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        Image { id: "sha256:ab".into(), repo_tags: own(tags), repo_digests: own(digests), ..Image::default() }
    }

    fn three(a: &str, b: &str, c: &str) -> (String, String, String) {
        (a.into(), b.into(), c.into())
    }

    #[test]
    fn every_name_has_a_line() {
        let i = image(
            &["docker.io/library/busybox:1", "docker.io/library/busybox:latest", "localhost:5000/x:1"],
            &["docker.io/library/busybox@sha256:cd"],
        );
        let all = [
            three("busybox", "1", "sha256:cd"),
            three("busybox", "latest", "sha256:cd"),
            three("localhost:5000/x", "1", "<none>"),
        ];
        assert_eq!(names_of(&i, None, true), all);
        assert_eq!(names_of(&i, Some("busybox:1"), true), all[..1]);
        assert_eq!(names_of(&i, Some("busy*"), true), all[..2]);
        assert_eq!(names_of(&i, Some("sha256:ab"), true), all);
    }

    #[test]
    fn images_without_names_have_a_line_too() {
        assert_eq!(names_of(&image(&[], &[]), None, false), [three("<none>", "<none>", "<none>")]);
        let pulled = image(&[], &["quay.io/a/b@sha256:cd"]);
        assert_eq!(names_of(&pulled, None, false), [three("quay.io/a/b", "<none>", "sha256:cd")]);
    }

    #[test]
    fn filters_are_dockers() {
        assert_eq!(Filter::parse("dangling=true"), Ok(Filter::Dangling(true)));
        assert!(Filter::parse("dangling").is_err() && Filter::parse("size=1").is_err());
        let i = image(&["docker.io/grafana/grafana:1"], &[]);
        let takes = |f: &str| Filter::parse(f).unwrap().takes(&i);
        assert!(takes("reference=grafana/*") && takes("reference=grafana/grafana:1"));
        assert!(!takes("reference=*") && !takes("reference=grafana/grafana:2") && !takes("dangling=true"));
    }
}
