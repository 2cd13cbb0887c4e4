//! What takes up space, and what could be freed.

use super::containers::described;
use super::images::{familiar, image, in_hidden_use};
use crate::error::Result;
use crate::node::Node;
use crate::tasks::blocking;
use std::collections::HashMap;
use std::sync::Arc;
use strata_api::debug;
use strata_api::debug::container::State;
use strata_api::debug::system_df_response::Row;
use strata_store::Usage;

pub(super) async fn df(node: &Arc<Node>, verbose: bool) -> Result<debug::SystemDfResponse> {
    let store = node.store.clone();
    let usage = blocking(move || Ok(store.usage())).await?;
    let containers = described(node, node.container_infos(), true).await?;
    let nothing = |what: &str| Row { r#type: what.to_owned(), ..Row::default() };
    let rows = vec![
        images_row(&usage),
        containers_row(&containers),
        nothing("Local Volumes"),
        nothing("Build Cache"),
    ];
    if !verbose {
        return Ok(debug::SystemDfResponse { rows, ..Default::default() });
    }
    let kept = in_hidden_use(node);
    let images = usage.images.iter().map(|u| image(u, kept.contains(&u.image.id.to_string()))).collect();
    Ok(debug::SystemDfResponse { rows, images, containers, layers: layers(&usage) })
}

/// Layers and blobs, each once, whoever shares them.
fn images_row(usage: &Usage) -> Row {
    let active: Vec<_> = usage.images.iter().filter(|u| u.containers > 0).collect();
    // A blob that two images have counts once.
    let mut needed: HashMap<&str, u64> = HashMap::new();
    for i in &active {
        let blobs = i.image.layers.iter().map(|l| &l.blob).chain([&i.image.manifest]);
        needed.extend(blobs.map(|b| (b.digest.as_str(), b.size)));
    }
    let idle_blobs = usage.blob_bytes.saturating_sub(needed.values().sum());
    Row {
        r#type: "Images".into(),
        total: usage.images.len() as u64,
        active: active.len() as u64,
        size: usage.layer_bytes.saturating_add(usage.blob_bytes),
        reclaimable: usage.reclaimable.saturating_add(if usage.images.is_empty() {
            usage.blob_bytes
        } else {
            idle_blobs
        }),
    }
}

fn containers_row(containers: &[debug::Container]) -> Row {
    let active = |c: &&debug::Container| matches!(c.state(), State::Running | State::Paused | State::Unknown);
    let bytes = |c: &debug::Container| c.size_rw;
    Row {
        r#type: "Containers".into(),
        total: containers.len() as u64,
        active: containers.iter().filter(active).count() as u64,
        size: containers.iter().map(bytes).sum(),
        reclaimable: containers.iter().filter(|c| !active(c)).map(bytes).sum(),
    }
}

fn layers(usage: &Usage) -> Vec<debug::Layer> {
    let names: HashMap<_, _> = usage
        .images
        .iter()
        .map(|u| {
            let name = u.image.repo_tags.first().or_else(|| u.image.repo_digests.first());
            (&u.image.id, name.map_or_else(|| u.image.id.to_string(), |n| familiar(n)))
        })
        .collect();
    let layer = |l: &strata_store::LayerUsage| debug::Layer {
        diff_id: l.diff_id.to_string(),
        key: l.key.clone(),
        size: l.size,
        images: l.images.iter().filter_map(|id| names.get(id).cloned()).collect(),
    };
    usage.layers.iter().map(layer).collect()
}

pub(super) async fn gc(node: &Node, request: debug::GcRequest) -> Result<debug::GcResponse> {
    let store = node.store.clone();
    blocking(move || {
        if !request.explain.is_empty() {
            let mut explanation = store.explain(&request.explain)?;
            if explanation.is_empty() {
                explanation
                    .push(format!("nothing keeps {}: the next collection removes it", request.explain));
            }
            return Ok(debug::GcResponse { explanation, ..Default::default() });
        }
        let report = store.gc(request.dry_run)?;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(debug::GcResponse {
            layers: count(report.layers.len()),
            blobs: count(report.blobs.len()),
            bytes: report.bytes,
            removed: report.layers.into_iter().chain(report.blobs).collect(),
            explanation: Vec::new(),
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_oci::{Descriptor, Digest, ImageConfig};
    use strata_store::{Image, ImageLayer, ImageUsage, Origin};

    fn blob(text: &str, size: u64) -> Descriptor {
        Descriptor { media_type: String::new(), digest: Digest::sha256_of(text.as_bytes()), size }
    }

    fn usage(name: &str, layers: &[(&str, u64)], containers: usize) -> ImageUsage {
        let layer = |(text, size): &(&str, u64)| ImageLayer {
            diff_id: Digest::sha256_of(text.as_bytes()),
            key: (*text).into(),
            size: *size * 2,
            blob: blob(text, *size),
        };
        let image = Image {
            id: Digest::sha256_of(name.as_bytes()),
            config: ImageConfig::default(),
            layers: layers.iter().map(layer).collect(),
            repo_tags: vec![format!("docker.io/library/{name}:latest")],
            repo_digests: vec![],
            size: 0,
            content_size: 0,
            origin: Origin::Pull,
            since: 0,
            manifest: blob(&format!("manifest of {name}"), 1),
        };
        ImageUsage { image: Arc::new(image), shared: 0, unique: 0, containers }
    }

    #[test]
    fn shared_blobs_count_once() {
        let all = Usage {
            images: vec![
                usage("a", &[("base", 10), ("a", 5)], 1),
                usage("b", &[("base", 10)], 2),
                usage("c", &[("base", 10), ("c", 7)], 0),
            ],
            layers: vec![],
            layer_bytes: 44,
            blob_bytes: 10 + 5 + 7 + 3,
            reclaimable: 14,
        };
        let row = images_row(&all);
        assert_eq!((row.total, row.active, row.size), (3, 2, 69));
        // Layer c's files and blob, and its manifest.
        assert_eq!(row.reclaimable, 14 + 7 + 1);
        assert_eq!(images_row(&Usage::default()).reclaimable, 0);
    }

    #[test]
    fn what_does_not_run_can_be_freed() {
        let container =
            |state: State, size_rw| debug::Container { state: state.into(), size_rw, ..Default::default() };
        let row = containers_row(&[
            container(State::Running, 5),
            container(State::Exited, 7),
            container(State::Paused, 1),
        ]);
        assert_eq!((row.total, row.active, row.size, row.reclaimable), (3, 2, 13, 7));
    }

    #[test]
    fn layers_name_their_images() {
        let mut all = Usage { images: vec![usage("a", &[("base", 1)], 0)], ..Usage::default() };
        let image = all.images[0].image.clone();
        all.layers.push(strata_store::LayerUsage {
            diff_id: image.layers[0].diff_id.clone(),
            key: "base".into(),
            size: 2,
            images: vec![image.id.clone(), Digest::sha256_of(b"gone")],
        });
        assert_eq!(layers(&all)[0].images, ["a:latest"]);
    }
}
