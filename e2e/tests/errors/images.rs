//! ImageService, and the strata command's calls for images.

use super::scene::{Case, Scene, UNKNOWN, fails, fine};
use k8s_cri::v1 as cri;
use strata_api::debug;
use strata_e2e::node::Node;
use tonic::{Code, Status, Streaming};

/// An image that no registry has.
pub(crate) const ABSENT: &str = "127.0.0.1:5000/e2e/absent:latest";

fn spec(image: &str) -> Option<cri::ImageSpec> {
    Some(cri::ImageSpec { image: image.into(), ..Default::default() })
}

/// The first error of a stream, wherever it comes.
pub(crate) async fn drain<T>(stream: tonic::Response<Streaming<T>>) -> Result<tonic::Response<()>, Status> {
    let mut stream = stream.into_inner();
    while stream.message().await?.is_some() {}
    Ok(tonic::Response::new(()))
}

pub(crate) fn cri<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::{FailedPrecondition, InvalidArgument, NotFound};
    let node = scene.node;
    let status = |image: Option<cri::ImageSpec>| {
        let request = cri::ImageStatusRequest { image, verbose: false };
        node.images(async |mut c| c.image_status(request).await).map(|answer| assert_eq!(answer.image, None))
    };
    let remove = |image: Option<cri::ImageSpec>| {
        let request = cri::RemoveImageRequest { image };
        node.images(async |mut c| c.remove_image(request).await).map(drop)
    };
    let pull = |image: Option<cri::ImageSpec>| {
        let request = cri::PullImageRequest { image, ..Default::default() };
        node.images(async |mut c| c.pull_image(request).await).map(drop)
    };
    let mut cases = vec![
        fails("ImageStatus", "nothing", InvalidArgument, "image", move || status(None)),
        fails("ImageStatus", "no name", InvalidArgument, "image", move || status(spec(""))),
        fine("ImageStatus", "malformed", move || status(spec("A b"))),
        fine("ImageStatus", "unknown", move || status(spec(ABSENT))),
        fine("ImageStatus", "unknown ID", move || status(spec(UNKNOWN))),
        fails("PullImage", "nothing", InvalidArgument, "image", move || pull(None)),
        fails("PullImage", "no name", InvalidArgument, "image", move || pull(spec(""))),
        fails("PullImage", "unknown", NotFound, "absent", move || pull(spec(ABSENT))),
        fails("RemoveImage", "nothing", InvalidArgument, "image", move || remove(None)),
        fine("RemoveImage", "malformed", move || remove(spec("A b"))),
        fine("RemoveImage", "unknown", move || remove(spec(ABSENT))),
        fails("RemoveImage", "in use", FailedPrecondition, "in use", move || {
            remove(spec(&node.image("busybox")))
        }),
        fine("ListImages", "unknown", || {
            let request = cri::ListImagesRequest { filter: Some(cri::ImageFilter { image: spec(ABSENT) }) };
            node.images(async |mut c| c.list_images(request).await)
                .map(|answer| assert_eq!(answer.images, []))
        }),
    ];
    for name in ["registry.example/UPPER", "A b", "host/name@sha256:12", "../../etc", "a\0b"] {
        cases.push(fails("PullImage", name, InvalidArgument, "", move || pull(spec(name))));
    }
    let broken = |auth: cri::AuthConfig| {
        let request = cri::PullImageRequest {
            image: spec(&node.image("busybox")),
            auth: Some(auth),
            ..Default::default()
        };
        node.images(async |mut c| c.pull_image(request).await).map(drop)
    };
    cases.push(fails("PullImage", "malformed credentials", InvalidArgument, "base64", move || {
        broken(cri::AuthConfig { auth: "no base64!".into(), ..Default::default() })
    }));
    cases
}

fn tag(node: &Node, source: &str, target: &str) -> Result<(), Status> {
    let request = debug::TagImageRequest { source: source.into(), target: target.into() };
    node.debug(async |mut c| c.tag_image(request).await).map(drop)
}

pub(crate) fn debug<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::{FailedPrecondition, InvalidArgument, NotFound};
    let node = scene.node;
    let busybox = node.image("busybox");
    let remove = |name: &str, force| {
        let request = debug::RemoveImageRequest { r#ref: name.into(), force, ..Default::default() };
        node.debug(async |mut c| c.remove_image(request).await).map(drop)
    };
    let pull = |name: &str, platform: &str| {
        let request = debug::PullImageRequest { r#ref: name.into(), platform: platform.into(), auth: None };
        node.debug(async |mut c| drain(c.pull_image(request).await?).await)
    };
    let push = |name: &str| {
        let request = debug::PushImageRequest { r#ref: name.into(), auth: None };
        node.debug(async |mut c| drain(c.push_image(request).await?).await)
    };
    let prune = |filter: &str| {
        let request = debug::PruneImagesRequest { filters: vec![filter.into()], ..Default::default() };
        node.debug(async |mut c| c.prune_images(request).await).map(drop)
    };
    let login = |auth: Option<debug::RegistryAuth>| {
        node.debug(async |mut c| c.login(debug::LoginRequest { auth }).await).map(drop)
    };
    vec![
        fails("TagImage", "no source", InvalidArgument, "", || tag(node, "", "e2e/x:1")),
        fails("TagImage", "unknown source", NotFound, "absent", || tag(node, ABSENT, "e2e/x:1")),
        fails("TagImage", "no target", InvalidArgument, "", {
            let name = busybox.clone();
            move || tag(node, &name, "")
        }),
        fails("TagImage", "malformed target", InvalidArgument, "A b", {
            let name = busybox.clone();
            move || tag(node, &name, "A b")
        }),
        fails("TagImage", "a digest for a target", InvalidArgument, "", {
            let name = busybox.clone();
            move || tag(node, &name, &format!("e2e/x@sha256:{UNKNOWN}"))
        }),
        fails("debug RemoveImage", "no name", InvalidArgument, "", move || remove("", false)),
        fails("debug RemoveImage", "unknown", NotFound, "absent", move || remove(ABSENT, false)),
        fails("debug RemoveImage", "malformed", NotFound, "A b", move || remove("A b", false)),
        fails("debug RemoveImage", "in use", FailedPrecondition, "conflict", move || remove(&busybox, false)),
        fails("debug PullImage", "no name", InvalidArgument, "", move || pull("", "")),
        fails("debug PullImage", "malformed", InvalidArgument, "A b", move || pull("A b", "")),
        fails("debug PullImage", "unknown", NotFound, "absent", move || pull(ABSENT, "")),
        fails("debug PullImage", "platform", InvalidArgument, "platform", move || {
            pull(&node.image("busybox"), "no/such/platform/here")
        }),
        fails("PushImage", "no name", InvalidArgument, "", move || push("")),
        fails("PushImage", "unknown", NotFound, "absent", move || push(ABSENT)),
        fails("PruneImages", "filter", InvalidArgument, "nonsense", move || prune("nonsense=1")),
        fails("PruneImages", "time", InvalidArgument, "until", move || prune("until=tomorrow")),
        fails("Login", "nothing", InvalidArgument, "", move || login(None)),
    ]
}

/// An archive as the strata command sends it.
fn load(node: &Node, data: &[u8]) -> Result<(), Status> {
    let chunks: Vec<_> = data.chunks(1 << 16).map(|c| debug::ArchiveChunk { data: c.to_vec() }).collect();
    node.debug(async |mut c| drain(c.load_images(tokio_stream(chunks)).await?).await)
}

fn tokio_stream(
    chunks: Vec<debug::ArchiveChunk>,
) -> impl tonic::codegen::tokio_stream::Stream<Item = debug::ArchiveChunk> + Send + 'static {
    tonic::codegen::tokio_stream::iter(chunks)
}

pub(crate) fn archives<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::{InvalidArgument, NotFound};
    let node = scene.node;
    let save = |names: &[&str], format: i32| {
        let refs = names.iter().map(|name| (*name).to_owned()).collect();
        let request = debug::SaveImagesRequest { refs, format };
        node.debug(async |mut c| drain(c.save_images(request).await?).await)
    };
    vec![
        fails("SaveImages", "nothing", InvalidArgument, "", move || save(&[], 0)),
        fails("SaveImages", "unknown", NotFound, "absent", move || save(&[ABSENT], 0)),
        fails("SaveImages", "format", InvalidArgument, "format", move || save(&[&node.image("busybox")], 99)),
        fails("LoadImages", "nothing", InvalidArgument, "", move || load(node, &[])),
        fails("LoadImages", "no archive", InvalidArgument, "", move || load(node, &[b'x'; 100_000])),
        fails("LoadImages", "an empty archive", InvalidArgument, "", move || load(node, &[0; 10_240])),
    ]
}
