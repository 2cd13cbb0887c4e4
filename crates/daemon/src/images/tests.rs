//! Pulls from a registry on loopback into a real store.

mod damage;
mod hostile;
mod together;

use super::*;
use crate::config;
use crate::error::Kind;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use strata_api::debug::layer_progress::State;
use strata_api::debug::pull_progress::Event;
use strata_oci::document::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use strata_store::Options;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What is served: media type and bytes by the end of the path. While it is held, blobs stop in the middle.
#[derive(Default)]
struct Shelf {
    things: Mutex<HashMap<String, (String, Vec<u8>)>>,
    seen: Mutex<Vec<String>>,
    held: AtomicBool,
}

impl Shelf {
    fn put(&self, kind: &str, name: Option<&str>, media_type: &str, bytes: &[u8]) -> serde_json::Value {
        let digest = Digest::sha256_of(bytes);
        let mut things = self.things.lock().unwrap();
        for name in name.into_iter().chain([digest.as_str()]) {
            things.insert(format!("{kind}/{name}"), (media_type.to_owned(), bytes.to_vec()));
        }
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// An image of these files, a layer each, and its descriptor.
    fn image(&self, name: Option<&str>, architecture: &str, files: &[&str]) -> serde_json::Value {
        let tars: Vec<_> = files.iter().map(|f| tar(f)).collect();
        let layers: Vec<_> = tars.iter().map(|t| self.put("blobs", None, LAYER, t)).collect();
        let diff_ids: Vec<_> = tars.iter().map(|t| Digest::sha256_of(t)).collect();
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = self.put("blobs", None, OCI_CONFIG, config.to_string().as_bytes());
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        self.put("manifests", name, OCI_MANIFEST, manifest.to_string().as_bytes())
    }

    fn seen(&self, part: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|p| p.contains(part)).count()
    }
}

/// A tar of one file that is large enough to come in several pieces.
fn tar(name: &str) -> Vec<u8> {
    let mut tar = entry(name, &name.as_bytes().repeat(100_000));
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// A file in a tar.
fn entry(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut field = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    field(0, name);
    for (at, number) in [(100, 0o644), (108, 0), (116, 0)] {
        field(at, &format!("{number:07o}"));
    }
    field(124, &format!("{:011o}", content.len()));
    field(136, &format!("{:011o}", 1_700_000_000));
    field(148, "        0");
    field(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut entry = [&header[..], content].concat();
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

async fn serve(stream: TcpStream, shelf: Arc<Shelf>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut first, mut line) = (String::new(), String::new());
        if !stream.read_line(&mut first).await.is_ok_and(|n| n > 0) {
            return;
        }
        while stream.read_line(&mut line).await.is_ok() && line.trim() != "" {
            line.clear();
        }
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        shelf.seen.lock().unwrap().push(path.clone());
        let key = path.rsplitn(3, '/').take(2).collect::<Vec<_>>();
        let found = shelf.things.lock().unwrap().get(&format!("{}/{}", key[1], key[0])).cloned();
        let Some((media_type, bytes)) = found else {
            let _ = stream.write_all(b"HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n").await;
            continue;
        };
        let length = bytes.len();
        let head =
            format!("HTTP/1.1 200 X\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\n\r\n");
        let stops = media_type == LAYER && shelf.held.load(Ordering::SeqCst);
        let sent = if stops { &bytes[..length / 2] } else { &bytes[..] };
        if stream.write_all(&[head.as_bytes(), sent].concat()).await.is_err() {
            return;
        }
        while stops && shelf.held.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if stops && stream.write_all(&bytes[length / 2..]).await.is_err() {
            return;
        }
    }
}

struct Rig {
    dir: tempfile::TempDir,
    shelf: Arc<Shelf>,
    images: Arc<Images>,
    address: String,
}

/// A registry and a store; `None` where files cannot have owners.
async fn rig() -> Option<Rig> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return None;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shelf = Arc::new(Shelf::default());
    let served = Arc::clone(&shelf);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&served)));
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    let config = config::Registry { config_path: "/nonexistent".into(), ..config::Registry::default() };
    let client = registry::Client::new(&config).unwrap();
    let images = Arc::new(Images::new(store, client, &config));
    Some(Rig { dir, shelf, images, address })
}

impl Rig {
    fn request(&self, name: &str) -> PullRequest {
        let reference = format!("{}/{name}", self.address);
        PullRequest { reference, platform: Some("linux/amd64".parse().unwrap()), ..PullRequest::default() }
    }

    async fn pull(&self, name: &str) -> Result<PullOutcome> {
        self.images.pull(self.request(name), None).await
    }

    /// What lies in tmp/, once the threads that wrote there have ended.
    async fn unfinished(&self) -> Vec<String> {
        let names = || -> Vec<String> {
            let entries = std::fs::read_dir(self.dir.path().join("tmp")).unwrap();
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
        };
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while !names().is_empty() && std::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        names()
    }
}

#[tokio::test]
async fn an_index_leads_to_an_image_that_is_known_by_the_index() {
    let Some(rig) = rig().await else { return };
    let mut entries = Vec::new();
    for (architecture, file) in [("arm64", "arm"), ("amd64", "intel")] {
        let mut entry = rig.shelf.image(None, architecture, &[file, "shared"]);
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        entries.push(entry);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries }).to_string();
    rig.shelf.put("manifests", Some("v1"), OCI_INDEX, index.as_bytes());
    let pulled = rig.pull("app:v1").await.unwrap();
    assert!(!pulled.up_to_date && pulled.digest.verifies(index.as_bytes()));
    assert_eq!(pulled.image.config.architecture, "amd64");
    assert_eq!(pulled.image.repo_digests, [format!("{}/app@{}", rig.address, pulled.digest)]);
    let lease = rig.images.store.lease("test").unwrap();
    assert!(rig.images.store.has_blob(&lease, &pulled.digest));
    let blobs = rig.shelf.seen("/blobs/");
    assert!(rig.pull("app:v1").await.unwrap().up_to_date);
    assert_eq!(rig.shelf.seen("/blobs/"), blobs);
    assert_eq!(rig.images.resolve(pulled.image.id.short()).unwrap().id, pulled.image.id);
    let by_digest = rig.pull(&format!("app:ignored@{}", pulled.digest)).await.unwrap();
    assert_eq!(by_digest.image.repo_tags, [format!("{}/app:v1", rig.address)]);
}

#[tokio::test]
async fn progress_begins_with_the_layers_and_ends_with_the_result() {
    let Some(rig) = rig().await else { return };
    rig.shelf.image(Some("v1"), "amd64", &["a", "b", "a"]);
    let (tell, mut news) = mpsc::channel(64);
    let outcome = rig.images.pull(rig.request("app:v1"), Some(tell)).await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = news.recv().await {
        events.push(event.event.unwrap());
    }
    let Some(Event::Resolved(resolved)) = events.first() else { panic!("{events:?}") };
    assert_eq!(resolved.layers.len(), 3);
    let Some(Event::Result(result)) = events.last() else { panic!("{events:?}") };
    assert_eq!(result.image_id, outcome.image.id.to_string());
    let mut last: HashMap<&str, State> =
        resolved.layers.iter().map(|l| (l.digest.as_str(), l.state())).collect();
    for event in &events {
        if let Event::Layer(l) = event {
            last.insert(&l.digest, l.state());
        }
    }
    assert!(last.values().all(|s| matches!(s, State::Complete | State::Exists)), "{last:?}");
}
