//! `gc --explain`: what keeps an image, a layer, a blob or a container, in lines that a person can follow to a name, a
//! container or an operation.

use crate::container::ContainerInfo;
use crate::error::{Error, Kind, Result};
use crate::node::Node;
use crate::pod::short;
use crate::request::Origin;
use strata_store::{Explained, Reason, Thing};

/// What the store knows, and what the node knows about the containers it names.
pub(super) fn explain(node: &Node, what: &str) -> Result<Vec<String>> {
    let container = node.find_container(what);
    let mut found = match node.store.explain(what).map_err(Error::from) {
        Ok(found) => found,
        Err(e) if e.kind() == Kind::NotFound && container.is_ok() => Vec::new(),
        Err(e) => return Err(e),
    };
    // By name: a container and an image may have the same one.
    if let Ok(container) = container {
        let thing = Thing::Container(container.id().to_owned());
        if !found.iter().any(|e| e.thing == thing) {
            let reasons = vec![Reason::Until("a container stays until it is removed")];
            found.push(Explained { thing, bytes: None, reasons });
        }
    }
    Ok(found.iter().flat_map(|e| lines(node, e)).collect())
}

fn lines(node: &Node, explained: &Explained) -> Vec<String> {
    let thing = match &explained.thing {
        Thing::Container(id) => container(node, id),
        other => other.to_string(),
    };
    let mut lines = vec![match explained.bytes {
        Some(bytes) => format!("{thing} ({bytes} bytes on disk)"),
        None => thing,
    }];
    for reason in &explained.reasons {
        lines.extend(because(node, reason).into_iter().map(|line| format!("  {line}")));
    }
    if explained.reasons.is_empty() {
        lines.push("  nothing keeps it: the next gc removes it".into());
    }
    if let Thing::Container(id) = &explained.thing
        && let Some(c) = node.containers.get(id)
    {
        let record = c.record();
        lines.push(format!("  it stands on image {}", record.image_id));
    }
    lines
}

fn because(node: &Node, reason: &Reason) -> Vec<String> {
    match reason {
        Reason::Name(name) => vec![format!("named {name}")],
        Reason::Image { id, part, names, containers } => {
            let names = if names.is_empty() { "which has no name".to_owned() } else { names.join(", ") };
            let first = format!("{part} of image {id} ({names})");
            let users = containers.iter().map(|id| format!("  which {} stands on", container(node, id)));
            [first].into_iter().chain(users).collect()
        }
        Reason::BaseOf { variant, image } => vec![format!(
            "layer {variant} of image {id} was made from it, and can only be made again from it",
            id = image
        )],
        Reason::Container(id) => vec![format!("{} stands on it", container(node, id))],
        Reason::Operation { what, running } => {
            vec![format!("a running operation holds it: {what} (for {}s)", running.as_secs())]
        }
        Reason::Until(what) => vec![(*what).to_owned()],
    }
}

/// A container as a person finds it again: its ID, its name, and its pod if that is Kubernetes'.
fn container(node: &Node, id: &str) -> String {
    match node.containers.get(id) {
        Some(container) => described(&container.info(), &container.pod().info().metadata()),
        None => format!("container {}", short(id)),
    }
}

fn described(info: &ContainerInfo, pod: &strata_api::cri::PodSandboxMetadata) -> String {
    let id = short(info.id());
    match (info.origin(), &info.record.config.metadata) {
        (Origin::Kubernetes, Some(own)) => {
            format!("container {id} ({} of pod {}/{})", own.name, pod.namespace, pod.name)
        }
        _ => format!("container {id} ({})", info.name),
    }
}
