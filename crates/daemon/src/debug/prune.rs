//! `image prune`: images that no container stands on, those without a tag or all of them, by the same door as `rmi`.

use crate::error::{Error, Kind, Result};
use crate::images::Removal;
use crate::node::Node;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use strata_api::debug::{PruneImagesRequest, PruneImagesResponse};
use strata_oci::Digest;
use strata_store::{Image, Removed, Usage};

pub(super) async fn prune(node: &Arc<Node>, request: PruneImagesRequest) -> Result<PruneImagesResponse> {
    let filters = Filters::parse(&request.filters)?;
    let usage = node.store.usage();
    let candidates = usage.images.iter().filter(|u| u.containers == 0).map(|u| &u.image);
    let candidates: Vec<&Arc<Image>> =
        candidates.filter(|i| (request.all || i.repo_tags.is_empty()) && filters.take(i)).collect();
    if request.dry_run {
        return Ok(response(forecast(&usage, &candidates)));
    }
    let mut pruned = Vec::new();
    for image in candidates {
        let removal = Removal { id: image.id.clone(), name: None, force: false };
        match node.remove_image(removal, |_| "a container has been made of it".into()).await {
            Ok(removed) => pruned.push(removed),
            // A container was made of it, or somebody else removed it, since it was looked at.
            Err(e) if matches!(e.kind(), Kind::FailedPrecondition | Kind::NotFound) => {
                tracing::debug!(image = %image.id, error = %e, "not pruned");
            }
            Err(e) => return Err(e.context(format!("image {}", image.id.short()))),
        }
    }
    Ok(response(pruned))
}

fn response(pruned: Vec<Removed>) -> PruneImagesResponse {
    let mut response = PruneImagesResponse::default();
    for removed in pruned {
        response.bytes = response.bytes.saturating_add(removed.bytes);
        response
            .images
            .push(strata_api::debug::PrunedImage { untagged: removed.untagged, deleted: removed.deleted });
    }
    response
}

/// What removing these images would do: a layer or a blob goes with the last image that has it.
fn forecast(usage: &Usage, candidates: &[&Arc<Image>]) -> Vec<Removed> {
    let mut staying: HashSet<&Digest> = usage.images.iter().map(|u| &u.image.id).collect();
    candidates.iter().for_each(|image| {
        staying.remove(&image.id);
    });
    let mut removed: BTreeMap<&Digest, Removed> = BTreeMap::new();
    for (parts, listed) in [(&usage.layers, true), (&usage.blobs, false)] {
        for part in parts.iter().filter(|p| !p.images.iter().any(|id| staying.contains(id))) {
            let last = candidates.iter().rev().find(|image| part.images.contains(&image.id));
            if let Some(image) = last {
                let of = removed.entry(&image.id).or_default();
                of.bytes = of.bytes.saturating_add(part.disk);
                if listed {
                    of.deleted.push(part.name.clone());
                }
            }
        }
    }
    candidates
        .iter()
        .map(|image| {
            let own = removed.remove(&image.id).unwrap_or_default();
            Removed {
                untagged: image.repo_tags.iter().chain(&image.repo_digests).cloned().collect(),
                deleted: [image.id.to_string()].into_iter().chain(own.deleted).collect(),
                bytes: own.bytes,
            }
        })
        .collect()
}

/// Which of them: Docker's filters.
#[derive(Debug, Default, PartialEq, Eq)]
struct Filters {
    /// Made before this, in nanoseconds since 1970.
    until: Option<i64>,
    /// Every one of these labels.
    with: Vec<Label>,
    /// Not every one of these.
    without: Vec<Label>,
}

#[derive(Debug, PartialEq, Eq)]
struct Label {
    name: String,
    value: Option<String>,
}

impl Label {
    fn parse(text: &str) -> Self {
        match text.split_once('=') {
            Some((name, value)) => Self { name: name.to_owned(), value: Some(value.to_owned()) },
            None => Self { name: text.to_owned(), value: None },
        }
    }

    fn is_of(&self, image: &Image) -> bool {
        let labels = &image.config.config.labels;
        labels.get(&self.name).is_some_and(|value| self.value.as_ref().is_none_or(|v| v == value))
    }
}

impl Filters {
    fn parse(filters: &[String]) -> Result<Self> {
        let mut parsed = Self::default();
        for filter in filters {
            let invalid =
                || Error::invalid(format!("invalid filter '{filter}'; give until=, label= or label!="));
            match filter.split_once('=').ok_or_else(invalid)? {
                ("label", label) => parsed.with.push(Label::parse(label)),
                ("label!", label) => parsed.without.push(Label::parse(label)),
                ("until", _) if parsed.until.is_some() => {
                    return Err(Error::invalid("more than one until filter specified"));
                }
                ("until", time) => {
                    let time: jiff::Timestamp = time.parse().map_err(|e| {
                        Error::invalid(format!(
                            "invalid filter '{filter}': {e}; give a time as RFC 3339 has it"
                        ))
                    })?;
                    parsed.until = Some(i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX));
                }
                _ => return Err(invalid()),
            }
        }
        Ok(parsed)
    }

    fn take(&self, image: &Image) -> bool {
        let old = self.until.is_none_or(|until| image.created_at() < until);
        let unwanted = !self.without.is_empty() && self.without.iter().all(|l| l.is_of(image));
        old && self.with.iter().all(|l| l.is_of(image)) && !unwanted
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use strata_oci::ImageConfig;
    use strata_store::{ImageUsage, PartUsage};

    fn image(name: &str) -> Arc<Image> {
        let mut config =
            ImageConfig { created: Some("2024-05-01T10:00:00Z".into()), ..ImageConfig::default() };
        config.config.labels.insert("app".into(), name.into());
        let tag = format!("docker.io/library/{name}:latest");
        Arc::new(samples::image(name, &[&tag], config))
    }

    fn filters(texts: &[&str]) -> Result<Filters> {
        Filters::parse(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn filters_take_as_dockers_do() {
        let a = image("a");
        for (texts, takes) in [
            (&[][..], true),
            (&["label=app"], true),
            (&["label=app=a"], true),
            (&["label=app=b"], false),
            (&["label=app", "label=other"], false),
            (&["label!=app=a"], false),
            (&["label!=app=a", "label!=other"], true),
            (&["until=2024-05-01T10:00:01Z"], true),
            (&["until=2024-05-01T10:00:00Z"], false),
        ] {
            assert_eq!(filters(texts).unwrap().take(&a), takes, "{texts:?}");
        }
        for wrong in [&["x=y"][..], &["label"], &["until=soon"], &["until=2024-05-01T10:00:00Z"; 2]] {
            assert_eq!(filters(wrong).unwrap_err().kind(), Kind::InvalidArgument, "{wrong:?}");
        }
    }

    #[test]
    fn a_shared_layer_goes_with_the_last_image_that_has_it() {
        let images = [image("a"), image("b"), image("c")];
        let part = |name: &str, disk, of: &[usize]| PartUsage {
            name: name.into(),
            digest: Digest::sha256_of(name.as_bytes()),
            size: 0,
            disk,
            images: of.iter().map(|n| images[*n].id.clone()).collect(),
        };
        let usage = Usage {
            images: images
                .iter()
                .map(|i| ImageUsage { image: i.clone(), shared: 0, unique: 0, containers: 0 })
                .collect(),
            layers: vec![part("all", 1, &[0, 1, 2]), part("both", 10, &[0, 1]), part("only a", 100, &[0])],
            blobs: vec![part("blob", 1000, &[1])],
            ..Usage::default()
        };
        let removed = forecast(&usage, &[&images[0], &images[1]]);
        assert_eq!(removed[0].deleted, [images[0].id.to_string(), "only a".into()]);
        assert_eq!(removed[1].deleted, [images[1].id.to_string(), "both".into()]);
        assert_eq!((removed[0].bytes, removed[1].bytes), (100, 1010));
        assert_eq!(removed[0].untagged, ["docker.io/library/a:latest"]);
        assert_eq!(response(removed).bytes, 1110);
    }
}
