//! Pulls from registries that misbehave, and pulls that are given up.

use k8s_cri::v1 as cri;
use std::time::Duration;
use strata_e2e::faults::{Asked, Fault, Proxy};
use strata_e2e::images::{Compression, Flavor, catalog};
use strata_e2e::node::{Node, leaks, registry, test, test_with};
use tonic::Code;

/// Where the misbehaving proxy listens.
const PROXY: &str = "127.0.0.1:5001";
/// Keys of `[registry]` for impatient pulls; a registry on a busy machine still answers in this time.
const IMPATIENT: &str = "stall_timeout = 2\nretry_pause = 0.01\ntries = 3\n";

fn layer() -> String {
    catalog::busybox(Flavor::Oci, Compression::Gzip).unwrap().layers[0].digest.clone()
}

pub(crate) fn remove(node: &Node, image: &str) {
    node.strata(&["rmi", image]).ok();
}

/// No image, and once the garbage is collected no bytes of one either.
#[track_caller]
fn nothing_stays(node: &Node, what: &str) {
    assert_eq!(node.strata(&["image", "ls", "-q"]).ok().text(), "", "{what}");
    strata_e2e::eventually(10, what, || {
        let left = leaks::unfinished(&node.dir("")).into_iter();
        let left: Vec<_> = left.filter(|name| name.starts_with("tmp")).collect();
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    });
    node.strata(&["gc"]).ok();
    for dir in ["root/blobs/sha256", "root/layers"] {
        assert_eq!(leaks::names(&node.dir(dir)), Vec::<String>::new(), "{what}: {dir}");
    }
}

/// The pull must succeed; how often the layer was asked for, with the ranges.
#[track_caller]
fn survives(
    node: &Node,
    proxy: &Proxy,
    what: &str,
    fault: impl Fn(&Asked) -> Fault + Send + Sync + 'static,
) -> Vec<Option<String>> {
    let (image, layer) = (format!("{PROXY}/e2e/busybox"), layer());
    let wanted = layer.clone();
    proxy.set(move |asked| if asked.path.contains(&wanted) { fault(asked) } else { Fault::Pass });
    node.try_pull(&image).unwrap_or_else(|e| panic!("{what}: {e}"));
    node.strata(&["run", "--rm", &image, "cat", "/etc/passwd"]).ok().has(&["root"]);
    remove(node, &image);
    proxy.seen().into_iter().filter(|a| a.path.contains(&layer)).map(|a| a.range).collect()
}

/// The pull must fail with this code and these words, and leave nothing.
#[track_caller]
fn fails(
    node: &Node,
    proxy: &Proxy,
    code: Code,
    words: &[&str],
    fault: impl Fn(&Asked) -> Fault + Send + Sync + 'static,
) {
    let layer = layer();
    let wanted = layer.clone();
    proxy.set(move |asked| if asked.path.contains(&wanted) { fault(asked) } else { Fault::Pass });
    let error = node.try_pull(&format!("{PROXY}/e2e/busybox")).unwrap_err();
    let text = error.message();
    assert_eq!(error.code(), code, "{text}");
    for word in words.iter().chain([&"e2e/busybox", &layer.as_str()]) {
        assert!(text.contains(word), "{word:?} in {text}");
    }
    nothing_stays(node, text);
}

fn at_first(fault: Fault) -> impl Fn(&Asked) -> Fault + Send + Sync + 'static {
    move |asked| if asked.before == 0 { fault.clone() } else { Fault::Pass }
}

#[test]
fn faults_of_a_transfer_are_survived() {
    test_with(IMPATIENT, |node| {
        let proxy = Proxy::start(node.netns(), PROXY, registry::HOST).unwrap();
        for fault in [Fault::Cut, Fault::Stall] {
            let ranges = survives(node, &proxy, &format!("{fault:?}"), at_first(fault));
            assert!(ranges.len() == 2 && ranges[0].is_none() && ranges[1].is_some(), "{ranges:?}");
        }
        for later in [Fault::IgnoreRange, Fault::WrongRange] {
            let told = format!("{later:?}");
            let ranges = survives(node, &proxy, &told, move |asked| match asked.before {
                0 => Fault::Cut,
                _ => later.clone(),
            });
            assert!(ranges.len() >= 2 && ranges[1].is_some(), "{told}: {ranges:?}");
        }
        // Cut again and again, but further each time.
        let ranges =
            survives(node, &proxy, "cuts", |asked| if asked.before < 2 { Fault::Cut } else { Fault::Pass });
        assert_eq!(ranges.len(), 3, "{ranges:?}");
        for status in [429, 503] {
            let later = vec![("retry-after", "1".to_owned())];
            let busy = Fault::Answer(status, later, String::new());
            assert_eq!(survives(node, &proxy, "busy", at_first(busy)).len(), 2);
        }
        let target = format!("http://{}/v2/e2e/busybox/blobs/{}", registry::HOST, layer());
        let redirect = Fault::Answer(307, vec![("location", target)], String::new());
        assert_eq!(survives(node, &proxy, "redirect", move |_| redirect.clone()).len(), 1);
    });
}

#[test]
fn faults_that_stay_are_told_and_leave_nothing() {
    test_with(IMPATIENT, |node| {
        let proxy = Proxy::start(node.netns(), PROXY, registry::HOST).unwrap();
        fails(node, &proxy, Code::DataLoss, &["digest", "push the image again"], |_| Fault::Corrupt);
        fails(node, &proxy, Code::Unavailable, &["nothing came for 2 s"], |_| Fault::Stall);
        fails(node, &proxy, Code::DataLoss, &["2 bytes, but the manifest says"], |_| {
            Fault::Answer(200, vec![], "no".into())
        });
        let busy =
            |status, wait: &str| Fault::Answer(status, vec![("retry-after", wait.to_owned())], String::new());
        fails(node, &proxy, Code::Unavailable, &["429", "limits pulls"], move |_| busy(429, "3600"));
        assert_eq!(
            proxy.seen().iter().filter(|a| a.path.contains("/blobs/")).count(),
            2,
            "nobody waits an hour"
        );
        fails(node, &proxy, Code::Unavailable, &["502", "try again later"], move |_| busy(502, "0"));
        let loops = Fault::Answer(302, vec![("location", format!("./{}", layer()))], String::new());
        fails(node, &proxy, Code::Unavailable, &["more than 10 redirects"], move |_| loops.clone());
        let away = Fault::Answer(
            302,
            vec![("location", "http://192.0.2.1/x?signature=hidden".into())],
            String::new(),
        );
        fails(node, &proxy, Code::Unavailable, &["plain HTTP on 192.0.2.1"], move |_| away.clone());
        let missing = r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#;
        let missing = Fault::Answer(404, vec![], missing.into());
        fails(node, &proxy, Code::NotFound, &["BLOB_UNKNOWN"], move |_| missing.clone());

        // What a mirror spoils, the registry itself makes good.
        let name = "mirrored.example";
        let hosts = format!("server = \"http://{}\"\n[host.\"http://{PROXY}\"]\n", registry::HOST);
        node.set_hosts(name, "hosts.toml", &hosts);
        let image = format!("{name}/e2e/busybox:latest");
        for fault in [
            Fault::Corrupt,
            Fault::Answer(500, vec![], String::new()),
            Fault::Answer(200, vec![], "no".into()),
        ] {
            let told = format!("{fault:?}");
            proxy.set(move |asked| if asked.path.contains("/blobs/") { fault.clone() } else { Fault::Pass });
            node.try_pull(&image).unwrap_or_else(|e| panic!("{told}: {e}"));
            assert!(
                proxy.seen().iter().all(|a| a.path.ends_with("?ns=mirrored.example")),
                "{:?}",
                proxy.seen()
            );
            remove(node, &image);
            nothing_stays(node, &told);
        }
    });
}

#[test]
fn whoever_stops_waiting_leaves_nothing() {
    test(|node| {
        let proxy = Proxy::start(node.netns(), PROXY, registry::HOST).unwrap();
        let layer = layer();
        proxy.set(move |asked| if asked.path.contains(&layer) { Fault::Stall } else { Fault::Pass });
        let image = format!("{PROXY}/e2e/busybox");
        let wanted = cri::PullImageRequest {
            image: Some(cri::ImageSpec { image: image.clone(), ..Default::default() }),
            ..Default::default()
        };
        let late = |request: cri::PullImageRequest| {
            let mut request = tonic::Request::new(request);
            request.set_timeout(strata_e2e::patience(1));
            request
        };
        let request = late(wanted.clone());
        let error = node.images(async |mut c| c.pull_image(request).await).unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
        assert!(
            error.message().contains("e2e/busybox") && error.message().contains("not done within"),
            "{error}"
        );
        nothing_stays(node, "a deadline");

        use strata_api::debug::PullImageRequest;
        let mut request = tonic::Request::new(PullImageRequest { r#ref: image, ..Default::default() });
        request.set_timeout(strata_e2e::patience(1));
        let error = node.debug(async |mut c| {
            let mut stream = c.pull_image(request).await?.into_inner();
            while stream.message().await?.is_some() {}
            Ok(tonic::Response::new(()))
        });
        assert_eq!(error.unwrap_err().code(), Code::DeadlineExceeded);
        nothing_stays(node, "a deadline of the strata command");

        let gone = node.images(async |mut c| {
            let left = tokio::time::timeout(Duration::from_millis(300), c.pull_image(wanted)).await;
            Ok(tonic::Response::new(left.is_err()))
        });
        assert!(gone.unwrap());
        nothing_stays(node, "a client that went away");
    });
}

#[test]
fn what_is_no_image_is_refused_by_its_media_type() {
    use strata_e2e::giants::{self, Answer, Giants, MANIFEST};
    test_with(IMPATIENT, |node| {
        let own = "application/vnd.example.thing.v7+json";
        let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]}}"#;
        let digest = giants::digest(config.as_bytes());
        let layer =
            |media_type: &str| serde_json::json!({ "mediaType": media_type, "digest": digest, "size": 5 });
        let of_layer = |media_type: &str| {
            giants::with_config("odd", &digest, config.len() as u64, vec![layer(media_type)])
        };
        let manifest = |media_type: &str, text: &serde_json::Value| -> giants::Answers {
            [("/v2/odd/manifests/latest".to_owned(), Answer::of(media_type, text.to_string()))].into()
        };
        let artifact = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": layer("application/vnd.cncf.helm.config.v1+json"),
            "layers": [layer("application/vnd.cncf.helm.chart.content.v1.tar+gzip")],
        });
        let first = serde_json::json!({ "schemaVersion": 1, "name": "odd", "tag": "latest", "fsLayers": [] });
        let brotli = "application/vnd.oci.image.layer.v1.tar+brotli";
        let encrypted = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
        for (what, answers, words) in [
            (
                "a manifest",
                manifest(own, &serde_json::json!({ "mediaType": own })),
                [own, "neither an image manifest nor an index"],
            ),
            (
                "a document of no type",
                manifest("text/html", &serde_json::json!({})),
                ["text/html", "neither an image manifest nor an index"],
            ),
            (
                "schema 1",
                manifest("application/vnd.docker.distribution.manifest.v1+prettyjws", &first),
                ["v1+prettyjws", "schema 1"],
            ),
            ("a layer", of_layer(brotli), [brotli, "only tar, tar+gzip and tar+zstd layers are"]),
            ("an encrypted layer", of_layer(encrypted), [encrypted, "push the image without encryption"]),
            (
                "an artifact",
                manifest(MANIFEST, &artifact),
                ["application/vnd.cncf.helm.config.v1+json", "not a container image"],
            ),
        ] {
            let mut answers = answers;
            answers.insert(format!("/v2/odd/blobs/{digest}"), Answer::of("application/octet-stream", config));
            let _server = Giants::start(node.netns(), PROXY, answers).unwrap();
            let error = node.try_pull(&format!("{PROXY}/odd")).unwrap_err();
            assert_eq!(error.code(), Code::FailedPrecondition, "{what}: {error}");
            let name = format!("{PROXY}/odd:latest");
            for word in words.iter().chain([&name.as_str()]) {
                assert!(error.message().contains(word), "{what}: no {word:?} in: {error}");
            }
            nothing_stays(node, what);
        }
    });
}
