//! A registry whose answers may be of any size: they are made while they are sent.

mod layers;

pub use layers::{Packing, file, layer, layers};

use crate::Result;
use crate::node::netns::Netns;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Writes a body.
pub type Body = Arc<dyn Fn(&mut dyn Write) -> std::io::Result<()> + Send + Sync>;

/// What an answer says about its own length.
#[derive(Clone, Copy, Debug)]
pub enum Announced {
    /// So many bytes; whether that is true is another matter.
    Length(u64),
    /// Nothing: `Transfer-Encoding: chunked`.
    Chunked,
}

/// One answer.
#[derive(Clone)]
pub struct Answer {
    /// The status and its reason: `200 OK`.
    pub status: &'static str,
    /// Lines of the header, each `Name: value`.
    pub headers: Vec<String>,
    /// The length.
    pub announced: Announced,
    /// The body.
    pub body: Body,
}

impl Answer {
    /// Bytes that are there.
    pub fn of(media_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self {
            status: "200 OK",
            headers: vec![format!("Content-Type: {media_type}")],
            announced: Announced::Length(bytes.len() as u64),
            body: Arc::new(move |to| to.write_all(&bytes)),
        }
    }

    /// `before`, then spaces until `length` bytes are full: JSON that goes on for as long as anybody reads it.
    pub fn endless(media_type: &str, before: &str, length: u64) -> Self {
        let before = before.to_owned();
        let body = move |to: &mut dyn Write| {
            let (spaces, mut left) = (vec![b' '; 64 << 10], length.saturating_sub(before.len() as u64));
            to.write_all(before.as_bytes())?;
            while left > 0 {
                let most = spaces.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                to.write_all(&spaces[..most])?;
                left -= most as u64;
            }
            Ok(())
        };
        Self { announced: Announced::Length(length), body: Arc::new(body), ..Self::of(media_type, "") }
    }

    /// A file.
    pub fn file(path: &Path, length: u64) -> Self {
        let path = path.to_owned();
        let body = move |mut to: &mut dyn Write| std::io::copy(&mut File::open(&path)?, &mut to).map(drop);
        Self {
            announced: Announced::Length(length),
            body: Arc::new(body),
            ..Self::of("application/octet-stream", "")
        }
    }

    /// The same with another length announced.
    pub fn announcing(mut self, announced: Announced) -> Self {
        self.announced = announced;
        self
    }

    /// The same with another status and one more header.
    pub fn with(mut self, status: &'static str, header: &str) -> Self {
        self.status = status;
        self.headers.extend((!header.is_empty()).then(|| header.to_owned()));
        self
    }
}

/// Answers by path.
pub type Answers = HashMap<String, Answer>;

/// A running server; dropping ends it.
pub struct Giants {
    address: SocketAddr,
    netns: Netns,
    sent: Arc<AtomicU64>,
    stopping: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Giants {
    /// Listens in a network namespace. What has no answer is not found.
    pub fn start(netns: &Netns, listen: &str, answers: Answers) -> Result<Self> {
        let address: SocketAddr = listen.parse()?;
        let listener = netns.run(|| TcpListener::bind(address))?;
        let (sent, stopping): (Arc<AtomicU64>, Arc<AtomicBool>) = (Arc::default(), Arc::default());
        let (counted, told, answers) = (Arc::clone(&sent), Arc::clone(&stopping), Arc::new(answers));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if told.load(Ordering::Relaxed) {
                    return;
                }
                let (counted, answers) = (Arc::clone(&counted), Arc::clone(&answers));
                // A client that has read enough goes away: that is what the tests are about.
                std::thread::spawn(move || drop(serve(&stream, &answers, &counted)));
            }
        });
        Ok(Self { address, netns: netns.another()?, sent, stopping, thread: Some(thread) })
    }

    /// Bytes of bodies that clients (and the kernel's buffers) have taken.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Giants {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = self.netns.run(|| TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One request; the connection ends with its answer.
fn serve(stream: &TcpStream, answers: &Answers, sent: &AtomicU64) -> std::io::Result<()> {
    let mut request = BufReader::new(stream);
    let mut first = String::new();
    request.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if request.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
    }
    let path = first.split_whitespace().nth(1).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let missing = || Answer::of("text/plain", "no such thing").with("404 Not Found", "");
    let answer = answers.get(path).cloned().unwrap_or_else(missing);
    let length = match answer.announced {
        Announced::Length(n) => format!("Content-Length: {n}"),
        Announced::Chunked => "Transfer-Encoding: chunked".into(),
    };
    let mut head = format!("HTTP/1.1 {}\r\nConnection: close\r\n{length}\r\n", answer.status);
    answer.headers.iter().for_each(|line| head = format!("{head}{line}\r\n"));
    let mut out = stream;
    write!(out, "{head}\r\n")?;
    let chunked = matches!(answer.announced, Announced::Chunked);
    let mut to = std::io::BufWriter::with_capacity(256 << 10, Sink { out: stream, chunked, sent });
    (answer.body)(&mut to)?;
    to.flush()?;
    if chunked {
        out.write_all(b"0\r\n\r\n")?;
    }
    // Closing with something unread would be a reset, which may overtake the answer.
    stream.shutdown(std::net::Shutdown::Write)?;
    std::io::copy(&mut request.take(1 << 20), &mut std::io::sink()).map(drop)
}

struct Sink<'a> {
    out: &'a TcpStream,
    chunked: bool,
    sent: &'a AtomicU64,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.chunked {
            write!(self.out, "{:x}\r\n", bytes.len())?;
            self.out.write_all(bytes)?;
            self.out.write_all(b"\r\n")?;
        } else {
            self.out.write_all(bytes)?;
        }
        self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A layer in a file.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The compressed tar.
    pub path: PathBuf,
    /// The media type.
    pub media_type: &'static str,
    /// Of the compressed tar.
    pub digest: String,
    /// Bytes of the compressed tar.
    pub size: u64,
    /// Of the tar.
    pub diff_id: String,
}

/// The answers for an image `name:latest` of layers in files.
pub fn image(name: &str, layers: &[Stored]) -> Answers {
    let diff_ids: Vec<_> = layers.iter().map(|l| l.diff_id.clone()).collect();
    let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
    let config = json!({ "architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs });
    let config = config.to_string();
    let list =
        layers.iter().map(|l| json!({ "mediaType": l.media_type, "digest": l.digest, "size": l.size }));
    let mut answers = with_config(name, &digest(config.as_bytes()), config.len() as u64, list.collect());
    let path = |digest: &str| format!("/v2/{name}/blobs/{digest}");
    answers.insert(path(&digest(config.as_bytes())), Answer::of("application/json", config));
    answers.extend(layers.iter().map(|l| (path(&l.digest), Answer::file(&l.path, l.size))));
    answers
}

/// The answer for the manifest of an image `name:latest` with this config and these layers' descriptors.
pub fn with_config(name: &str, config: &str, size: u64, layers: Vec<Value>) -> Answers {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": size },
        "layers": Value::Array(layers),
    });
    [(format!("/v2/{name}/manifests/latest"), Answer::of(MANIFEST, manifest.to_string()))].into()
}

/// The media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Digests and counts what goes through.
pub struct Hashing<W> {
    to: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    /// Before a writer.
    pub fn new(to: W) -> Self {
        Self { to, hasher: Sha256::new(), size: 0 }
    }

    /// The writer, the digest, and how many bytes there were.
    pub fn into_parts(self) -> (W, String, u64) {
        (self.to, format!("sha256:{}", hex::encode(self.hasher.finalize())), self.size)
    }

    /// The digest, and how many bytes there were.
    pub fn finish(self) -> (String, u64) {
        let (_, digest, size) = self.into_parts();
        (digest, size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// Writes the headers of `count` empty files, a thousand in each directory: `d0/f0`, `d0/f1`…; no end of the archive.
pub fn many_files(to: &mut dyn Write, count: u64) -> std::io::Result<()> {
    let mut block = Vec::with_capacity(512 << 10);
    for n in 0..count {
        let mut header = tar::Header::new_ustar();
        header.set_path(format!("usr/share/some/package-{}/file-{n}", n / 1000))?;
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000 + n % 1000);
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        block.extend_from_slice(header.as_bytes());
        if block.len() == block.capacity() || n + 1 == count {
            to.write_all(&block)?;
            block.clear();
        }
    }
    Ok(())
}
