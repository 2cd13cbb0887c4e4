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
use strata_oci::Digest;
use strata_store::{PartUsage, Usage};

pub(super) async fn df(node: &Arc<Node>, verbose: bool) -> Result<debug::SystemDfResponse> {
    // This has the containers measured; the usage is told from memory.
    let mut containers = described(node, node.container_infos(), true).await?;
    let usage = node.store.usage();
    // Both as the same measurement says.
    let disks: HashMap<_, _> =
        usage.containers.iter().map(|c| (c.id.as_str(), c.writable.map_or(0, |w| w.disk))).collect();
    containers.iter_mut().for_each(|c| c.disk = disks.get(c.id.as_str()).copied().unwrap_or(0));
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
    let (names, trash) = (usage.name_bytes, usage.trash_bytes);
    let named = image_names(&usage);
    Ok(debug::SystemDfResponse {
        rows,
        images,
        containers,
        layers: usage.layers.iter().map(|l| layer(l, &named)).collect(),
        blobs: usage.blobs.iter().map(|b| blob(b, &named)).collect(),
        names,
        trash,
    })
}

/// Layers, blobs and names, each once, whoever shares them.
fn images_row(usage: &Usage) -> Row {
    Row {
        r#type: "Images".into(),
        total: usage.images.len() as u64,
        active: usage.images.iter().filter(|u| u.containers > 0).count() as u64,
        size: usage.image_bytes,
        reclaimable: usage.reclaimable,
    }
}

fn containers_row(containers: &[debug::Container]) -> Row {
    let active = |c: &&debug::Container| matches!(c.state(), State::Running | State::Paused | State::Unknown);
    let bytes = |c: &debug::Container| c.disk;
    Row {
        r#type: "Containers".into(),
        total: containers.len() as u64,
        active: containers.iter().filter(active).count() as u64,
        size: containers.iter().map(bytes).sum(),
        reclaimable: containers.iter().filter(|c| !active(c)).map(bytes).sum(),
    }
}

/// What people call images, by ID.
fn image_names(usage: &Usage) -> HashMap<&Digest, String> {
    let name = |u: &strata_store::ImageUsage| {
        let name = u.image.repo_tags.first().or_else(|| u.image.repo_digests.first());
        name.map_or_else(|| u.image.id.to_string(), |n| familiar(n))
    };
    usage.images.iter().map(|u| (&u.image.id, name(u))).collect()
}

fn users(part: &PartUsage, names: &HashMap<&Digest, String>) -> Vec<String> {
    part.images.iter().filter_map(|id| names.get(id).cloned()).collect()
}

fn layer(part: &PartUsage, names: &HashMap<&Digest, String>) -> debug::Layer {
    debug::Layer {
        diff_id: part.digest.to_string(),
        key: part.name.clone(),
        size: part.size,
        images: users(part, names),
        disk: part.disk,
    }
}

fn blob(part: &PartUsage, names: &HashMap<&Digest, String>) -> debug::Blob {
    debug::Blob { digest: part.name.clone(), size: part.size, images: users(part, names), disk: part.disk }
}

pub(super) async fn gc(node: &Node, request: debug::GcRequest) -> Result<debug::GcResponse> {
    if !request.explain.is_empty() {
        let explanation = super::explain::explain(node, &request.explain)?;
        return Ok(debug::GcResponse { explanation, ..Default::default() });
    }
    let store = node.store.clone();
    let report = blocking(move || Ok(store.gc(request.dry_run)?)).await?;
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(debug::GcResponse {
        layers: count(report.layers.len()),
        blobs: count(report.blobs.len()),
        bytes: report.bytes(),
        removed: report.layers.into_iter().chain(report.blobs).map(|c| c.name).collect(),
        explanation: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_run_can_be_freed() {
        let container =
            |state: State, disk| debug::Container { state: state.into(), disk, ..Default::default() };
        let row = containers_row(&[
            container(State::Running, 5),
            container(State::Exited, 7),
            container(State::Paused, 1),
        ]);
        assert_eq!((row.total, row.active, row.size, row.reclaimable), (3, 2, 13, 7));
    }

    #[test]
    fn parts_name_their_images() {
        let (known, gone) = (Digest::sha256_of(b"known"), Digest::sha256_of(b"gone"));
        let names: HashMap<_, _> = [(&known, "a:latest".to_owned())].into();
        let part = PartUsage {
            name: "chain-1".into(),
            digest: gone.clone(),
            size: 1,
            disk: 4096,
            images: vec![known.clone(), gone.clone()],
        };
        assert_eq!((layer(&part, &names).images, blob(&part, &names).disk), (vec!["a:latest".into()], 4096));
    }
}
