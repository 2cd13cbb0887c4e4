//! Images: pull, list, history, tag.

use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::images::PullRequest;
use crate::node::Node;
use crate::tasks::blocking;
use std::sync::Arc;
use strata_api::{cri, debug};
use strata_oci::Reference;
use strata_store::{Image, ImageUsage};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// How much progress lies between a pull and a slow client.
const DEPTH: usize = 64;

/// The image that a text means; Docker's words if there is none.
pub(super) fn find(node: &Node, what: &str) -> Result<Arc<Image>> {
    if what.is_empty() {
        return Err(Error::invalid("no image is named: give a name or an ID"));
    }
    node.images.resolve(what).map_err(|e| match (e.kind(), Reference::parse(what)) {
        (Kind::NotFound, Ok(name)) => Error::not_found(format!("No such image: {}", name.familiar())),
        _ => e,
    })
}

/// A name as people write it.
pub(super) fn familiar(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |r| r.familiar())
}

pub(super) fn pull(
    node: &Arc<Node>,
    deadline: Option<Deadline>,
    request: &debug::PullImageRequest,
) -> Result<ReceiverStream<Result<debug::PullProgress, Status>>> {
    let platform = match request.platform.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|e| Error::invalid(format!("{e}")))?),
    };
    let auth = request.auth.clone().map(credentials);
    let request = PullRequest { reference: request.r#ref.clone(), auth, platform, deadline };
    let (out, stream) = mpsc::channel(DEPTH);
    tokio::spawn(pass_on(Arc::clone(node), request, out));
    Ok(ReceiverStream::new(stream))
}

/// Credentials of the strata command, as CRI has them.
pub(super) fn credentials(auth: debug::RegistryAuth) -> cri::AuthConfig {
    let debug::RegistryAuth { username, password, auth, server_address, identity_token, registry_token } =
        auth;
    cri::AuthConfig { username, password, auth, server_address, identity_token, registry_token }
}

/// Whether a registry takes credentials.
pub(super) async fn login(node: &Node, request: debug::LoginRequest) -> Result<debug::LoginResponse> {
    let auth = credentials(request.auth.unwrap_or_default());
    // What can stand before an image's name is a registry.
    let server = auth.server_address.clone();
    let reference =
        Reference::parse(&format!("{server}/image")).ok().filter(|r| r.registry() == server).ok_or_else(
            || Error::invalid(format!("{server:?} is no registry; name it as images do: HOST[:PORT]")),
        )?;
    let checked = node.images.registry().check(reference.registry(), &auth).await;
    checked.map_err(|e| e.context(format!("login at {server}")))?;
    Ok(debug::LoginResponse {})
}

/// Pulls, and sends what there is to say until the client goes away: then its place in the pull is given up.
async fn pass_on(
    node: Arc<Node>,
    request: PullRequest,
    out: mpsc::Sender<Result<debug::PullProgress, Status>>,
) {
    let reference = request.reference.clone();
    let (tell, mut news) = mpsc::channel(DEPTH);
    let pull = node.images.pull(request, Some(tell));
    tokio::pin!(pull);
    let result = loop {
        tokio::select! {
            biased;
            () = out.closed() => return,
            Some(progress) = news.recv() => {
                if out.send(Ok(progress)).await.is_err() {
                    return;
                }
            }
            result = &mut pull => break result,
        }
    };
    while let Ok(progress) = news.try_recv() {
        if out.send(Ok(progress)).await.is_err() {
            return;
        }
    }
    if let Err(e) = result {
        let _ = out.send(Err(refusal(&reference, e).into())).await;
    }
}

/// Docker's words where a registry wants credentials, or does not say that it does.
fn refusal(reference: &str, e: Error) -> Error {
    match (e.kind(), Reference::parse(reference)) {
        (Kind::PermissionDenied, Ok(name)) => e.context(format!(
            "pull access denied for {}, repository does not exist or may require 'docker login'",
            name.familiar_name()
        )),
        _ => e,
    }
}

pub(super) fn list(node: &Node, request: &debug::ListImagesRequest) -> Result<debug::ListImagesResponse> {
    let wanted = request.r#ref.as_str();
    let by_id = node.images.resolve(wanted).ok().map(|i| i.id.clone());
    let takes = |i: &Image| {
        wanted.is_empty() || by_id.as_ref() == Some(&i.id) || names(i).any(|name| matches(wanted, &name))
    };
    let kept = in_hidden_use(node);
    let usage = node.store.usage();
    let images = usage
        .images
        .iter()
        .filter(|u| takes(&u.image))
        .map(|u| image(u, kept.contains(&u.image.id.to_string())));
    Ok(debug::ListImagesResponse { images: images.collect() })
}

/// Images of containers that the kubelet does not see.
pub(super) fn in_hidden_use(node: &Node) -> std::collections::HashSet<String> {
    let infos = node.container_infos().into_iter();
    let hidden = infos.filter(|i| i.origin() == crate::request::Origin::Strata);
    hidden.map(|i| i.record.image_id.clone()).collect()
}

pub(super) fn image(usage: &ImageUsage, in_hidden_use: bool) -> debug::Image {
    let image = &usage.image;
    debug::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        created_at: image.created_at(),
        size: image.size,
        shared_size: usage.shared,
        unique_size: usage.unique,
        containers: u32::try_from(usage.containers).unwrap_or(u32::MAX),
        pinned: image.irreplaceable() || in_hidden_use,
        content_size: image.content_size,
        disk: usage.disk(),
    }
}

fn names(image: &Image) -> impl Iterator<Item = String> {
    image.repo_tags.iter().chain(&image.repo_digests).map(|n| familiar(n))
}

/// Whether a pattern such as `busybox`, `busybox:1.*` or `*/app` takes a name. Without a tag it takes all of them.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern = pattern.strip_prefix("docker.io/").unwrap_or(pattern);
    let pattern = pattern.strip_prefix("library/").unwrap_or(pattern);
    let (repository, rest) = split(name);
    let (wanted, tag) = split(pattern);
    glob(wanted.as_bytes(), repository.as_bytes())
        && (tag.is_empty() || glob(tag.as_bytes(), rest.as_bytes()))
}

/// Repository, and tag or digest with its sign.
fn split(name: &str) -> (&str, &str) {
    let slash = name.rfind('/').map_or(0, |i| i + 1);
    let at = name.find('@').or_else(|| name.rfind(':').filter(|colon| *colon >= slash));
    name.split_at(at.unwrap_or(name.len()))
}

/// `*` takes anything but a slash, `?` one such character.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), first) => {
            glob(rest, text) || first.is_some_and(|(c, t)| *c != b'/' && glob(pattern, t))
        }
        (Some((b'?', p)), Some((c, t))) => *c != b'/' && glob(p, t),
        (Some((a, p)), Some((b, t))) => a == b && glob(p, t),
        _ => false,
    }
}

pub(super) fn history(
    node: &Node,
    request: &debug::ImageHistoryRequest,
) -> Result<debug::ImageHistoryResponse> {
    let image = find(node, &request.r#ref)?;
    let entries = node.store.history(&image).into_iter().map(|e| debug::HistoryEntry {
        image_id: e.image.map(|id| id.to_string()).unwrap_or_default(),
        created_at: e.created_at,
        created_by: e.created_by,
        size: e.size,
        comment: e.comment,
        empty_layer: e.empty_layer,
        tags: e.tags,
    });
    Ok(debug::ImageHistoryResponse { entries: entries.collect() })
}

pub(super) async fn tag(node: &Node, request: debug::TagImageRequest) -> Result<debug::TagImageResponse> {
    let target = tag_name(&request.target)?;
    let image = find(node, &request.source)?;
    let store = node.store.clone();
    let known = Reference::parse(&request.source).map(|name| name.to_string()).unwrap_or_default();
    blocking(move || Ok(store.tag_as(&image.id, &known, &target)?)).await?;
    Ok(debug::TagImageResponse {})
}

/// A name to be given: it may have a tag, but no digest.
pub(super) fn tag_name(text: &str) -> Result<Reference> {
    let name = Reference::parse(text).map_err(|e| {
        Error::invalid(format!("Error parsing reference: {text:?} is not a valid repository/tag: {e}"))
    })?;
    if name.digest().is_some() {
        return Err(Error::invalid("refusing to create a tag with a digest reference"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_take_names() {
        for (pattern, name, takes) in [
            ("busybox", "busybox:latest", true),
            ("docker.io/library/busybox", "busybox:latest", true),
            ("busybox:la*", "busybox:latest", true),
            ("busybox:1", "busybox:latest", false),
            ("busy", "busybox:latest", false),
            ("*", "team/app:1", false),
            ("*/app", "team/app:1", true),
            ("localhost:5000/app", "localhost:5000/app:1", true),
            ("localhost:5000/app:2", "localhost:5000/app:1", false),
            ("b?sybox", "busybox:latest", true),
        ] {
            assert_eq!(matches(pattern, name), takes, "{pattern} {name}");
        }
    }

    #[test]
    fn names_to_give_have_no_digest() {
        assert_eq!(tag_name("mine").unwrap().to_string(), "docker.io/library/mine:latest");
        assert!(tag_name("Mine").is_err());
        let digest = format!("mine@sha256:{}", "a".repeat(64));
        assert!(tag_name(&digest).unwrap_err().to_string().starts_with("refusing"));
    }

    #[test]
    fn refusals_are_in_dockers_words() {
        let e = refusal("secret/app", Error::new(Kind::PermissionDenied, "401"));
        let words =
            "pull access denied for secret/app, repository does not exist or may require 'docker login'";
        assert_eq!(e.to_string(), format!("{words}: 401"));
        assert_eq!(refusal("x", Error::internal("disk")).to_string(), "disk");
    }
}
