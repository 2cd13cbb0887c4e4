//! `strata-e2e-giants`: how much memory and time stratad takes for images as large as they may be, and for larger ones.
//! Prints; asserts nothing.

use clap::{Parser, ValueEnum};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};
use strata_e2e::Result;
use strata_e2e::giants::{self, Announced, Answer, Answers, Giants, Hashing, MANIFEST, Stored};
use strata_e2e::node::{Node, leaks, test_with};

/// Pulls giants with a stratad of its own (that of `STRATA_BIN_DIR`), and prints its peak of memory.
#[derive(Parser)]
#[command(name = "strata-e2e-giants")]
struct Args {
    /// What is pulled.
    what: What,
    /// `entries`: how many files the layer has.
    #[arg(long, default_value_t = 10_000_000)]
    entries: u64,
    /// `layers`: how many of them.
    #[arg(long, default_value_t = 40)]
    layers: usize,
    /// `layers`: how many MB each has, uncompressed.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// `layers`: the base-2 logarithm of zstd's window; gzip without it.
    #[arg(long)]
    zstd_window_log: Option<u32>,
    /// Further lines of stratad's configuration: keys of `[registry]`, then other tables.
    #[arg(long, default_value = "")]
    config: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// A layer of many empty files.
    Entries,
    /// Manifests, configs and errors of 1 GB.
    Documents,
    /// An image of many layers.
    Layers,
}

const LISTEN: &str = "127.0.0.1:5002";

fn main() {
    let args = Args::parse();
    test_with(&args.config.replace("\\n", "\n"), |node| {
        let done = match args.what {
            What::Entries => entries(node, args.entries),
            What::Documents => documents(node),
            What::Layers => layers(node, &args),
        };
        done.unwrap_or_else(|e| panic!("{e}"));
    });
}

fn entries(node: &Node, count: u64) -> Result<()> {
    let path = node.dir("layer");
    let begun = Instant::now();
    let layer = write_layer(&path, "application/vnd.oci.image.layer.v1.tar+gzip", |file| {
        let mut tar = Hashing::new(GzEncoder::new(file, Compression::fast()));
        giants::many_files(&mut tar, count)?;
        tar.write_all(&[0; 1024])?;
        Ok(tar)
    })?;
    println!("{count} entries: {} MB of gzip, made in {:.1?}", layer.size / 1_000_000, begun.elapsed());
    let server = Giants::start(node.netns(), LISTEN, giants::image("many", &[layer]))?;
    pull(node, &server, "many")
}

fn write_layer(
    path: &Path,
    media_type: &'static str,
    write: impl FnOnce(Hashing<File>) -> Result<Hashing<GzEncoder<Hashing<File>>>>,
) -> Result<Stored> {
    let tar = write(Hashing::new(File::create(path)?))?;
    let (gzip, diff_id, _) = tar.into_parts();
    let (digest, size) = gzip.finish()?.finish();
    Ok(Stored { path: path.to_owned(), media_type, digest, size, diff_id })
}

fn documents(node: &Node) -> Result<()> {
    const GB: u64 = 1_000_000_000;
    let manifest = |answer| -> Answers { [("/v2/huge/manifests/latest".to_owned(), answer)].into() };
    let huge = || Answer::endless(MANIFEST, "{\"schemaVersion\":2,", GB);
    let config = || Answer::endless("application/json", "{", GB);
    let wrong = giants::digest(b"");
    let with_config = |size, answer| {
        let mut answers = giants::with_config("huge", &wrong, size, Vec::new());
        answers.insert(format!("/v2/huge/blobs/{wrong}"), answer);
        answers
    };
    let token = |answer: Answer| {
        let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{LISTEN}/token\"");
        let mut answers = manifest(Answer::of("text/plain", "").with("401 Unauthorized", &challenge));
        answers.insert("/token".into(), answer);
        answers
    };
    let deep = "[".repeat(2_000_000);
    let deep = format!("{{\"x\":{deep}");
    // Of few bytes in a document each becomes many in memory.
    let crowded = |item: &str| {
        let items = vec![item; (4 << 20) / (item.len() + 1) - 50].join(",");
        let text = format!(
            "{{\"os\":\"linux\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[]}},\"x\":[{items}]}}"
        );
        let digest = giants::digest(text.as_bytes());
        let mut answers = giants::with_config("huge", &digest, text.len() as u64, Vec::new());
        answers.insert(format!("/v2/huge/blobs/{digest}"), Answer::of("application/json", text));
        answers
    };
    for (what, answers) in [
        ("config of a million empty objects", crowded("{}")),
        ("config of half a million small objects", crowded("{\"a\":0}")),
        ("manifest", manifest(huge())),
        ("manifest, chunked", manifest(huge().announcing(Announced::Chunked))),
        ("manifest that says 1000 bytes", manifest(huge().announcing(Announced::Length(1000)))),
        ("error", manifest(huge().with("404 Not Found", ""))),
        ("error, chunked", manifest(huge().announcing(Announced::Chunked).with("404 Not Found", ""))),
        ("config that the manifest tells", with_config(GB, config())),
        ("config that the manifest hides", with_config(1000, config())),
        ("config, chunked", with_config(1000, config().announcing(Announced::Chunked))),
        ("config that says 1000 bytes", with_config(1000, config().announcing(Announced::Length(1000)))),
        ("token", token(Answer::endless("application/json", "{", GB))),
        (
            "token, chunked",
            token(Answer::endless("application/json", "{", GB).announcing(Announced::Chunked)),
        ),
        ("deep manifest", manifest(Answer::of(MANIFEST, deep.clone()))),
    ] {
        let server = Giants::start(node.netns(), LISTEN, answers)?;
        println!("--- {what}");
        pull(node, &server, "huge")?;
    }
    Ok(())
}

fn layers(node: &Node, args: &Args) -> Result<()> {
    let common = common(args.size << 20);
    let packed = match args.zstd_window_log {
        None => gzip(&common)?,
        Some(log) => zstd(&common, log)?,
    };
    let mut layers = Vec::new();
    for n in 0..args.layers {
        let path = node.dir(&format!("layer-{n}"));
        let own = file(&format!("layer-{n}"), format!("{n}").as_bytes())?;
        let mut tar = Hashing::new(std::io::sink());
        tar.write_all(&own)?;
        tar.write_all(&common)?;
        let (diff_id, _) = tar.finish();
        let mut blob = Hashing::new(File::create(&path)?);
        // Members and frames one after the other are legal in both formats.
        let (own, media_type) = match args.zstd_window_log {
            None => (gzip(&own)?, "application/vnd.oci.image.layer.v1.tar+gzip"),
            Some(log) => (zstd(&own, log)?, "application/vnd.oci.image.layer.v1.tar+zstd"),
        };
        blob.write_all(&own)?;
        blob.write_all(&packed)?;
        let (digest, size) = blob.finish();
        layers.push(Stored { path, media_type, digest, size, diff_id });
    }
    println!("{} layers of {} MB, {} MB packed", layers.len(), args.size, packed.len() / 1_000_000);
    let server = Giants::start(node.netns(), LISTEN, giants::image("layers", &layers))?;
    pull(node, &server, "layers")
}

/// A tar's end, before it files of 1 MiB that compress to about half of it.
fn common(size: usize) -> Vec<u8> {
    let (mut tar, mut state) = (Vec::new(), 0x9e37_79b9_7f4a_7c15_u64);
    for n in 0..size >> 20 {
        let mut bytes = Vec::with_capacity(1 << 20);
        while bytes.len() < 1 << 20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
            bytes.extend_from_slice(b"        ");
        }
        tar.extend(file(&format!("usr/lib/file-{n}"), &bytes).unwrap_or_else(|e| panic!("{e}")));
    }
    tar.extend_from_slice(&[0; 1024]);
    tar
}

fn file(path: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_mode(0o644);
    header.set_size(bytes.len() as u64);
    header.set_cksum();
    let mut tar = header.as_bytes().to_vec();
    tar.extend_from_slice(bytes);
    tar.resize(tar.len().div_ceil(512) * 512, 0);
    Ok(tar)
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes)?;
    Ok(gzip.finish()?)
}

fn zstd(bytes: &[u8], window_log: u32) -> Result<Vec<u8>> {
    let mut zstd = zstd::Encoder::new(Vec::new(), 1)?;
    zstd.window_log(window_log)?;
    zstd.write_all(bytes)?;
    Ok(zstd.finish()?)
}

/// Pulls, and prints what came of it.
fn pull(node: &Node, server: &Giants, name: &str) -> Result<()> {
    let status = Path::new("/proc").join(node.pid().to_string());
    // The peak begins anew (proc_pid_clear_refs(5)).
    std::fs::write(status.join("clear_refs"), "5")?;
    let memory = |field: &str| -> Result<u64> {
        let text = std::fs::read_to_string(status.join("status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field")?;
        Ok(line.split_whitespace().next().ok_or("no number")?.parse::<u64>()? >> 10)
    };
    let before = memory("VmRSS:")?;
    let begun = Instant::now();
    let image = format!("{LISTEN}/{name}");
    let output = node.within(|| node.strata_plain().args(["pull", "-q", &image]).output())?;
    let took = begun.elapsed();
    println!("{}", String::from_utf8_lossy(&output.stderr).trim());
    println!(
        "{} in {took:.1?}; {} MB sent; memory before {before} MiB, peak {} MiB, now {} MiB",
        output.status,
        server.sent() / 1_000_000,
        memory("VmHWM:")?,
        memory("VmRSS:")?
    );
    let begun = Instant::now();
    if output.status.success() {
        for command in ["fsck", "system df"] {
            std::fs::write(status.join("clear_refs"), "5")?;
            let (before, begun) = (memory("VmRSS:")?, Instant::now());
            let output = node.within(|| node.strata_plain().args(command.split(' ')).output())?;
            let (took, peak) = (begun.elapsed(), memory("VmHWM:")?);
            println!("{command}: {} in {took:.1?}; before {before} MiB, peak {peak} MiB", output.status);
        }
        let _ = node.within(|| node.strata_plain().args(["rmi", &image]).output())?;
    }
    while !leaks::unfinished(&node.dir("")).is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    println!(
        "tmp/ and trash/ are empty after {:.1?}; layers: {:?}",
        begun.elapsed(),
        leaks::names(&node.dir("root/layers"))
    );
    Ok(())
}
