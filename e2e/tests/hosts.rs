//! Where a daemon finds registries, whom it believes, and what it shows them: the system's authorities, its own credentials, and
//! what hosts.toml says of mirrors.

use crate::registry::remove;
use serde_json::json;
use std::path::{Path, PathBuf};
use strata_e2e::faults::{Asked, Fault, Proxy};
use strata_e2e::images::{Compression, Flavor, catalog};
use strata_e2e::node::{Node, registry, test, test_with};
use strata_e2e::tls::Authority;
use tonic::Code;

/// Where mirrors listen.
const MIRROR: &str = "127.0.0.1:5001";
/// Where a registry with TLS and passwords listens.
const GUARDED: &str = "127.0.0.1:5443";
/// `secret`, as htpasswd(1) has it with bcrypt.
const HTPASSWD: &str = "e2e:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A program that is asked for credentials (docker-credential-helpers' protocol), in a directory of its own; it notes who asked.
fn helper(node: &Node, answer: &str) -> PathBuf {
    let dir = node.dir("helpers");
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("docker-credential-e2e");
    let asked = dir.join("asked").display().to_string();
    let script = format!("#!/bin/sh\nread -r server\necho \"$1 $server\" >> {asked}\n{answer}\n");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    dir
}

fn asked(helpers: &Path) -> String {
    std::fs::read_to_string(helpers.join("asked")).unwrap_or_default()
}

#[test]
fn the_systems_authorities_and_the_nodes_own_credentials() {
    test_with("tries = 2\nretry_pause = 0.01\n", |node| {
        let authority = Authority::new(node.dir("pki")).unwrap();
        let (pair, ca) = (authority.server().unwrap(), authority.ca().display().to_string());
        std::fs::write(node.dir("htpasswd"), HTPASSWD).unwrap();
        let more = format!(
            "  tls:\n    certificate: {}\n    key: {}\nauth:\n  htpasswd:\n    realm: e2e\n    path: {}\n",
            pair.cert.display(),
            pair.key.display(),
            node.dir("htpasswd").display()
        );
        let _registry = node.another_registry(GUARDED, &more);
        // Nothing is said of authorities.
        node.set_hosts(GUARDED, "hosts.toml", &format!("server = \"https://{GUARDED}\"\n"));
        let image = format!("{GUARDED}/e2e/busybox");
        let auth_file = node.dir("auth.json");
        std::fs::write(&auth_file, json!({ "credHelpers": { GUARDED: "e2e" } }).to_string()).unwrap();
        let good = "printf '{\"Username\":\"e2e\",\"Secret\":\"secret\"}'";
        let helpers = helper(node, good);
        let path = format!("{}:{}", helpers.display(), std::env::var("PATH").unwrap());
        let named = format!("[registry]\nauth_file = {auth_file:?}\n");

        node.reconfigure_with(|text| text.replace("[registry]\n", &named), &[("PATH", &path)]);
        let error = node.try_pull(&image).unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error}");
        assert!(error.message().contains("certificate"), "{error}");
        // What the system believes is what its file says (openssl(1), SSL_CERT_FILE).
        let both = [("PATH", path.as_str()), ("SSL_CERT_FILE", ca.as_str())];
        node.reconfigure_with(|text| text, &both);
        node.try_pull(&image).unwrap();
        assert!(asked(&helpers).lines().all(|line| line == format!("get {GUARDED}")), "{}", asked(&helpers));
        assert!(!asked(&helpers).is_empty());
        remove(node, &image);
        // An image of another registry is none of the helper's business.
        let before = asked(&helpers);
        let other = node.pull("busybox");
        assert_eq!(asked(&helpers), before);
        remove(node, &other);

        // The helper is asked for each pull, and its failure told.
        let wrong = "printf '{\"Username\":\"e2e\",\"Secret\":\"wrong-one\"}'";
        let broken = "echo the keyring is locked; exit 1";
        for (answer, code, words) in [
            (wrong, Code::PermissionDenied, ["e2e/busybox", "refused the credentials"]),
            (broken, Code::FailedPrecondition, ["docker-credential-e2e", "the keyring is locked"]),
        ] {
            helper(node, answer);
            let error = node.try_pull(&image).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(words.iter().all(|word| error.message().contains(word)), "{error}");
        }
        std::fs::remove_file(helpers.join("docker-credential-e2e")).unwrap();
        let error = node.try_pull(&image).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        let words = ["docker-credential-e2e", "not installed", GUARDED];
        assert!(words.iter().all(|word| error.message().contains(word)), "{error}");
        let log = std::fs::read_to_string(node.dir("stratad.log")).unwrap();
        assert!(!log.contains("wrong-one") && !log.contains("\"secret\""), "{log}");
    });
}

/// Pulls through a mirror that has these lines in hosts.toml, and removes the image; what the mirror was asked for.
#[track_caller]
fn pull_by(node: &Node, proxy: &Proxy, url: &str, lines: &str, image: &str) -> Vec<String> {
    let name = "mirrored.example";
    let text = format!("server = \"http://{}\"\n[host.\"{url}\"]\n{lines}", registry::HOST);
    node.set_hosts(name, "hosts.toml", &text);
    let before = proxy.seen().len();
    let image = format!("{name}/{image}");
    node.try_pull(&image).unwrap_or_else(|e| panic!("{lines}: {e}"));
    remove(node, &image);
    let seen = proxy.seen().into_iter().skip(before);
    seen.map(|asked: Asked| asked.path.trim_end_matches("?ns=mirrored.example").to_owned()).collect()
}

#[test]
fn mirrors_are_asked_for_what_they_can() {
    test(|node| {
        let proxy = Proxy::start(node.netns(), MIRROR, registry::HOST).unwrap();
        let url = format!("http://{MIRROR}");
        let image = catalog::busybox(Flavor::Oci, Compression::Gzip).unwrap();
        let tag = "/v2/e2e/busybox/manifests/latest".to_owned();
        let manifest = format!("/v2/e2e/busybox/manifests/{}", image.digest());
        let mut blobs: Vec<String> =
            image.layers.iter().chain([&image.config]).map(|b| b.digest.clone()).collect();
        blobs.iter_mut().for_each(|digest| *digest = format!("/v2/e2e/busybox/blobs/{digest}"));
        let with = |first: &str| -> Vec<String> {
            let mut all: Vec<_> = blobs.iter().cloned().chain([first.to_owned()]).collect();
            all.sort();
            all
        };
        let asked = |lines: &str, image: &str| {
            let mut seen = pull_by(node, &proxy, &url, lines, image);
            seen.sort();
            seen
        };
        let by_digest = format!("e2e/busybox@{}", image.digest());
        assert_eq!(asked("", "e2e/busybox"), with(&tag));
        assert_eq!(asked("capabilities = [\"pull\", \"resolve\"]\n", "e2e/busybox"), with(&tag));
        // What a tag means it may not say; what proves itself may come from it.
        let mut only_blobs = blobs.clone();
        only_blobs.sort();
        assert_eq!(asked("capabilities = [\"pull\"]\n", "e2e/busybox"), only_blobs);
        assert_eq!(asked("capabilities = [\"pull\"]\n", &by_digest), with(&manifest));
        // Nothing comes from one that has no content.
        for lines in ["capabilities = [\"resolve\"]\n", "capabilities = [\"push\"]\n"] {
            assert_eq!(asked(lines, "e2e/busybox"), Vec::<String>::new(), "{lines}");
            assert_eq!(asked(lines, &by_digest), Vec::<String>::new(), "{lines}");
        }
        // Where nobody else may be asked, there is nobody.
        let name = "resolving.example";
        let text = format!("server = \"{url}\"\ncapabilities = [\"pull\"]\n");
        node.set_hosts(name, "hosts.toml", &text);
        let error = node.try_pull(&format!("{name}/e2e/busybox")).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        let words = [name, "hosts.toml", "\"pull\" and \"resolve\""];
        assert!(words.iter().all(|word| error.message().contains(word)), "{error}");
        let image = format!("{name}/{by_digest}");
        node.try_pull(&image).unwrap();
        remove(node, &image);
    });
}

#[test]
fn a_mirrors_path_is_its_own() {
    test(|node| {
        // It has the registry's content below a path of its own, with or without `/v2`.
        let to_registry = |asked: &Asked| {
            let rest = asked.path.strip_prefix("/of/a/proxy").unwrap_or("/nothing");
            let rest = rest.strip_prefix("/v2").unwrap_or(rest);
            let location = format!("http://{}/v2{rest}", registry::HOST);
            Fault::Answer(307, vec![("location", location)], String::new())
        };
        let proxy = Proxy::server(node.netns(), MIRROR, to_registry).unwrap();
        let url = format!("http://{MIRROR}/of/a/proxy");
        for (lines, base) in [
            ("override_path = true\n", "/of/a/proxy/e2e/busybox/"),
            ("override_path = false\n", "/of/a/proxy/v2/e2e/busybox/"),
        ] {
            let seen = pull_by(node, &proxy, &url, lines, "e2e/busybox");
            assert_eq!(seen.len(), 3, "manifest, config and layer: {seen:?}");
            assert!(seen.iter().all(|path| path.starts_with(base)), "{lines}: {seen:?}");
        }
    });
}
