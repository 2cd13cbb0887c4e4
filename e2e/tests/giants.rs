//! Images that are larger than anything should be, at their real size.

use strata_e2e::giants::{self, Announced, Answer, Answers, Giants, MANIFEST, Packing};
use strata_e2e::node::{Node, leaks, process, test, test_with};

const LISTEN: &str = "127.0.0.1:5002";
const GB: u64 = 1_000_000_000;

/// The pull must fail with these words after no more than so many bytes, and leave nothing.
#[track_caller]
fn refused(node: &Node, what: &str, answers: Answers, words: &[&str], most: u64) {
    let server = Giants::start(node.netns(), LISTEN, answers).unwrap_or_else(|e| panic!("{what}: {e}"));
    let error = node.try_pull(&format!("{LISTEN}/huge")).unwrap_err().to_string();
    for word in words.iter().chain(&["127.0.0.1:5002/huge"]) {
        assert!(error.contains(word), "{what}: {error}");
    }
    assert!(server.sent() <= most, "{what}: {} bytes were sent", server.sent());
    let left = || leaks::unfinished(&node.dir("")).into_iter().filter(|name| name.starts_with("tmp"));
    strata_e2e::eventually(10, what, || left().next().map_or(Ok(()), Err));
    for dir in ["root/blobs/sha256", "root/layers", "root/refs"] {
        assert_eq!(leaks::names(&node.dir(dir)), Vec::<String>::new(), "{what}: {dir}");
    }
}

fn manifest(answer: Answer) -> Answers {
    [("/v2/huge/manifests/latest".to_owned(), answer)].into()
}

#[test]
fn documents_of_a_gigabyte_are_not_read() {
    // What the sockets' buffers hold has been sent too.
    const SOME: u64 = 64 << 20;
    test_with("tries = 1\n", |node| {
        let huge = || Answer::endless(MANIFEST, "{\"schemaVersion\":2,", GB);
        let larger = ["manifest", "larger than 4194304 bytes"];
        refused(node, "a manifest", manifest(huge()), &larger, SOME);
        let chunked = huge().announcing(Announced::Chunked);
        refused(node, "a manifest of unknown length", manifest(chunked.clone()), &larger, SOME);
        let short = huge().announcing(Announced::Length(1000));
        refused(node, "a manifest that lies", manifest(short), &["cannot be parsed"], SOME);
        let error = chunked.with("404 Not Found", "");
        refused(node, "an error", manifest(error), &["404 Not Found"], SOME);
        let digest = giants::digest(b"");
        let config = |size, answer| {
            let mut answers = giants::with_config("huge", &digest, size, Vec::new());
            answers.insert(format!("/v2/huge/blobs/{digest}"), answer);
            answers
        };
        let json = || Answer::endless("application/json", "{", GB);
        refused(node, "a config", config(GB, json()), &[&digest, "too many"], 1 << 20);
        refused(node, "a config that hides", config(1000, json()), &[&digest, "1000"], SOME);
        let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{LISTEN}/token\"");
        let mut answers = manifest(Answer::of("text/plain", "").with("401 Unauthorized", &challenge));
        answers.insert("/token".into(), json().announcing(Announced::Chunked));
        refused(node, "a token", answers, &["/token", "larger than 65536 bytes"], SOME);
        let crowd = format!("{{\"schemaVersion\":2,\"x\":[{}0]}}", "{\"a\":0},".repeat(400_000));
        let crowd = Answer::of(MANIFEST, crowd);
        refused(node, "a manifest of many values", manifest(crowd), &["JSON values"], SOME);
    });
}

#[test]
fn ten_million_entries_end_at_the_limit() {
    // The rest of them is never made: the stream goes on for as long as it is read.
    test_with("tries = 1\n[limits]\nlayer_entries = 20000\n", |node| {
        let layer = giants::digest(b"no layer has these bytes");
        let size = 200_000_000;
        let list = vec![serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": size,
        })];
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [layer] },
        });
        let config = config.to_string();
        let digest = giants::digest(config.as_bytes());
        let mut answers = giants::with_config("huge", &digest, config.len() as u64, list);
        answers.insert(format!("/v2/huge/blobs/{digest}"), Answer::of("application/json", config));
        let body = |to: &mut dyn std::io::Write| {
            let mut gzip = flate2::write::GzEncoder::new(to, flate2::Compression::fast());
            giants::many_files(&mut gzip, 10_000_000)?;
            gzip.finish().map(drop)
        };
        let stream = Answer { body: std::sync::Arc::new(body), ..Answer::of("application/octet-stream", "") };
        let stream = stream.announcing(Announced::Length(size));
        answers.insert(format!("/v2/huge/blobs/{layer}"), stream);
        let words = [layer.as_str(), "usr/share/some/package-19/file-", "limits.layer_entries allows, 20000"];
        refused(node, "ten million entries", answers, &words, 100 << 20);
    });
}

#[test]
fn forty_layers_take_less_than_256_mib() {
    test(|node| {
        // Windows for twelve of which there is memory, and such that there is for only one at a time.
        let packing =
            |n| if n % 2 == 0 { Packing::Gzip } else { Packing::Zstd(if n % 4 == 1 { 23 } else { 27 }) };
        let layers = giants::layers(&node.dir("layers"), 40, 8, packing).unwrap();
        let image = format!("{LISTEN}/forty");
        for at_once in ["", "max_concurrent_downloads = 40\nmax_node_downloads = 40\n"] {
            node.reconfigure(|text| text.replace("[registry]\n", &format!("[registry]\n{at_once}")));
            let _server = Giants::start(node.netns(), LISTEN, giants::image("forty", &layers)).unwrap();
            process::reset_peak(node.pid()).unwrap();
            node.try_pull(&image).unwrap();
            let peak = process::memory(node.pid(), "VmHWM").unwrap() >> 10;
            println!("forty layers: {peak} MiB {at_once:?}");
            assert!(peak < 256, "{peak} MiB with {at_once:?}");
            assert_eq!(leaks::names(&node.dir("root/layers")).len(), 40);
            node.strata(&["rmi", &image]).ok();
        }
    });
}
