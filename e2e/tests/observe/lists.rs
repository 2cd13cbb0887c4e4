use k8s_cri::v1 as cri;
use prost::Message;
use std::collections::BTreeSet;
use strata_api::cri as newer;
use strata_e2e::images::{Compression, Flavor, ImageBuilder, LayerBuilder};
use strata_e2e::node::{container, pod, test};
use tonic::{Code, Response, Status, Streaming};

/// A list of containers that no message holds.
const COUNT: usize = 5;
/// With all else that is told of it just below what a client takes that has not asked for more.
const LARGE: usize = (4 << 20) - (64 << 10);
const MESSAGE: usize = 16 << 20;

/// Everything that comes, in pieces that any client takes.
async fn all<T: Message>(mut stream: Streaming<T>) -> Result<Response<Vec<T>>, Status> {
    let mut all = Vec::new();
    while let Some(piece) = stream.message().await? {
        assert!(piece.encoded_len() < MESSAGE);
        all.push(piece);
    }
    Ok(Response::new(all))
}

#[test]
fn lists_beyond_one_message() {
    test(|node| {
        node.pull("busybox");
        let mut config = pod(node, "large");
        config.labels.insert("large".into(), "yes".into());
        let pod_id = node.run_pod(&config);
        let mut ids = BTreeSet::new();
        for n in 0..COUNT {
            let mut large = container(node, &format!("c{n}"), "exec sleep 1000");
            large.annotations.insert("large".into(), "x".repeat(LARGE));
            large.labels.insert("n".into(), n.to_string());
            ids.insert(node.run_container(&pod_id, &config, &large));
        }
        let refused = node
            .cri(async |mut c| c.list_containers(cri::ListContainersRequest::default()).await)
            .unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert!(refused.message().contains("StreamContainers"), "{refused:?}");
        let refused = node
            .cri(async |mut c| c.list_container_stats(cri::ListContainerStatsRequest::default()).await)
            .unwrap_err();
        assert!(refused.message().contains("StreamContainerStats"), "{refused:?}");

        let pieces = node
            .newest(async |mut c| {
                all(c.stream_containers(newer::StreamContainersRequest::default()).await?.into_inner()).await
            })
            .unwrap();
        let found: Vec<newer::Container> = pieces.into_iter().flat_map(|p| p.containers).collect();
        assert_eq!(
            (found.len(), found.iter().map(|c| c.id.clone()).collect::<BTreeSet<_>>()),
            (COUNT, ids.clone())
        );
        assert!(found.iter().map(Message::encoded_len).sum::<usize>() > MESSAGE);
        assert!(found.iter().all(|c| c.annotations["large"].len() == LARGE));

        let selector = |n: &str| [("n".to_owned(), n.to_owned())].into();
        let filter = newer::ContainerFilter { label_selector: selector("3"), ..Default::default() };
        let request = newer::StreamContainersRequest { filter: Some(filter) };
        let pieces =
            node.newest(async |mut c| all(c.stream_containers(request).await?.into_inner()).await).unwrap();
        assert_eq!((pieces.len(), pieces[0].containers.len()), (1, 1));
        let filter = newer::ContainerFilter { label_selector: selector("none"), ..Default::default() };
        let request = newer::StreamContainersRequest { filter: Some(filter) };
        let pieces =
            node.newest(async |mut c| all(c.stream_containers(request).await?.into_inner()).await).unwrap();
        assert!(pieces.is_empty());

        let pieces = node
            .newest(async |mut c| {
                all(c
                    .stream_container_stats(newer::StreamContainerStatsRequest::default())
                    .await?
                    .into_inner())
                .await
            })
            .unwrap();
        let found: BTreeSet<String> =
            pieces.into_iter().flat_map(|p| p.container_stats).map(|s| s.attributes.unwrap().id).collect();
        assert_eq!(found, ids);
        the_others(node, &pod_id);
        images(node);
    });
}

/// That a list as a whole is refused, with the call that serves it in pieces.
#[track_caller]
fn too_long<T: std::fmt::Debug>(whole: Result<T, Status>, pieces: &str) {
    let refused = whole.expect_err("more than a message holds");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains(pieces), "{refused:?}");
}

/// That these pieces are more than one message holds, and what they tell of is this.
#[track_caller]
fn in_pieces<T: Message>(pieces: &[T], found: Vec<&str>, wanted: &BTreeSet<String>) {
    let size: usize = pieces.iter().map(Message::encoded_len).sum();
    assert!(size > MESSAGE, "{size} bytes would have been one message");
    assert_eq!(found.len(), wanted.len());
    assert_eq!(found.into_iter().map(ToOwned::to_owned).collect::<BTreeSet<_>>(), *wanted);
}

/// Annotations are in lists and stats, namespaces in every label of a pod's metrics.
#[test]
fn pods_beyond_one_message() {
    test(|node| {
        node.pull("busybox");
        let large = |n: usize| {
            let mut config = pod(node, &format!("large{n}"));
            config.metadata.as_mut().unwrap().namespace = "n".repeat(64 << 10);
            config.annotations.insert("large".into(), "x".repeat(LARGE - (256 << 10)));
            let pod_id = node.run_pod(&config);
            node.run_container(&pod_id, &config, &container(node, "c", "exec sleep 1000"));
            pod_id
        };
        let ids: BTreeSet<String> = (0..8).map(large).collect();

        too_long(
            node.cri(async |mut c| c.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await),
            "StreamPodSandboxes",
        );
        let request = newer::StreamPodSandboxesRequest::default();
        let pieces = node
            .newest(async |mut c| all(c.stream_pod_sandboxes(request).await?.into_inner()).await)
            .unwrap();
        in_pieces(
            &pieces,
            pieces.iter().flat_map(|p| &p.pod_sandboxes).map(|p| p.id.as_str()).collect(),
            &ids,
        );

        too_long(
            node.cri(async |mut c| {
                c.list_pod_sandbox_stats(cri::ListPodSandboxStatsRequest::default()).await
            }),
            "StreamPodSandboxStats",
        );
        let request = newer::StreamPodSandboxStatsRequest::default();
        let pieces = node
            .newest(async |mut c| all(c.stream_pod_sandbox_stats(request).await?.into_inner()).await)
            .unwrap();
        let found = pieces.iter().flat_map(|p| &p.pod_sandbox_stats);
        in_pieces(&pieces, found.map(|s| s.attributes.as_ref().unwrap().id.as_str()).collect(), &ids);

        too_long(
            node.cri(async |mut c| c.list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {}).await),
            "StreamPodSandboxMetrics",
        );
        let request = newer::StreamPodSandboxMetricsRequest {};
        let pieces = node
            .newest(async |mut c| all(c.stream_pod_sandbox_metrics(request).await?.into_inner()).await)
            .unwrap();
        let found = pieces.iter().flat_map(|p| &p.pod_sandbox_metrics);
        in_pieces(&pieces, found.map(|m| m.pod_sandbox_id.as_str()).collect(), &ids);
        // Whoever cleans up after the test asks for the list as a whole.
        ids.iter().for_each(|id| node.remove_pod(id).unwrap());
    });
}

/// An image's user is in the list of images, whatever it is.
#[test]
fn images_beyond_one_message() {
    test(|node| {
        let layer = LayerBuilder::new().file("file", 0o644, "one").build();
        let ids: BTreeSet<String> = (0..9)
            .map(|n| {
                // Twice in the config, which may have 4 MiB.
                let user = format!("{n}{}", "u".repeat(LARGE / 2 - 4096));
                let image = ImageBuilder::new(Flavor::Oci)
                    .layer(&layer, Compression::Gzip, "one file")
                    .set("User", user.into())
                    .build();
                let id = image.id().to_owned();
                node.push(async |registry| registry.push(&image, &format!("e2e/large{n}"), "latest").await);
                node.pull(&format!("large{n}"));
                id
            })
            .collect();
        too_long(
            node.images(async |mut c| c.list_images(cri::ListImagesRequest::default()).await),
            "StreamImages",
        );
        let request = newer::StreamImagesRequest::default();
        let pieces = node
            .newest_images(async |mut c| all(c.stream_images(request).await?.into_inner()).await)
            .unwrap();
        in_pieces(&pieces, pieces.iter().flat_map(|p| &p.images).map(|i| i.id.as_str()).collect(), &ids);
    });
}

/// Lists that are short here, but in pieces all the same.
fn the_others(node: &strata_e2e::node::Node, pod_id: &str) {
    let state = newer::PodSandboxStateValue { state: newer::PodSandboxState::SandboxReady.into() };
    let filter = newer::PodSandboxFilter {
        state: Some(state),
        label_selector: [("large".to_owned(), "yes".to_owned())].into(),
        ..Default::default()
    };
    let request = newer::StreamPodSandboxesRequest { filter: Some(filter) };
    let pods =
        node.newest(async |mut c| all(c.stream_pod_sandboxes(request).await?.into_inner()).await).unwrap();
    assert_eq!((pods.len(), pods[0].pod_sandboxes[0].id.as_str()), (1, pod_id));
    // One pod's stats hold those of its containers: these here would be too large for any client.
    let small = node.run_pod(&pod(node, "small"));
    let filter = newer::PodSandboxStatsFilter { id: small.clone(), ..Default::default() };
    let request = newer::StreamPodSandboxStatsRequest { filter: Some(filter) };
    let stats = node
        .newest(async |mut c| all(c.stream_pod_sandbox_stats(request).await?.into_inner()).await)
        .unwrap();
    assert_eq!((stats.len(), stats[0].pod_sandbox_stats.len()), (1, 1));
    assert_eq!(stats[0].pod_sandbox_stats[0].attributes.as_ref().unwrap().id, small);
    let request = newer::StreamPodSandboxMetricsRequest {};
    let metrics = node
        .newest(async |mut c| all(c.stream_pod_sandbox_metrics(request).await?.into_inner()).await)
        .unwrap();
    let found =
        metrics.iter().flat_map(|p| &p.pod_sandbox_metrics).find(|m| m.pod_sandbox_id == pod_id).unwrap();
    assert_eq!(found.container_metrics.len(), COUNT);
    let whole = node
        .cri(async |mut c| c.list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {}).await)
        .unwrap();
    assert_eq!(whole.pod_metrics.len(), 2);
}

/// The list of images in pieces is the list as a whole, and its filter means one of them or none.
fn images(node: &strata_e2e::node::Node) {
    let image = node.image("busybox");
    let named = |image: &str| {
        let image = newer::ImageSpec { image: image.into(), ..Default::default() };
        Some(newer::ImageFilter { image: Some(image) })
    };
    let stream = |filter: Option<newer::ImageFilter>| -> Vec<newer::Image> {
        let request = newer::StreamImagesRequest { filter };
        let pieces =
            node.newest_images(async |mut c| all(c.stream_images(request).await?.into_inner()).await);
        pieces.unwrap().into_iter().flat_map(|piece| piece.images).collect()
    };
    let whole = node.images(async |mut c| c.list_images(cri::ListImagesRequest::default()).await).unwrap();
    let whole: Vec<_> =
        whole.images.into_iter().map(|i| (i.id, i.repo_tags, i.repo_digests, i.size)).collect();
    assert!(whole.iter().any(|(_, tags, ..)| tags.contains(&image)), "{whole:?}");
    let streamed: Vec<_> =
        stream(None).into_iter().map(|i| (i.id, i.repo_tags, i.repo_digests, i.size)).collect();
    assert_eq!(streamed, whole);
    let found = stream(named(&image));
    assert!(matches!(found.as_slice(), [one] if one.repo_tags.contains(&image)), "{found:?}");
    assert_eq!(stream(named("127.0.0.1:5000/e2e/absent:latest")), []);
}
