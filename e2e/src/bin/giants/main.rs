//! `strata-e2e-giants`: how much memory and time stratad takes for images as large as they may be, and for larger ones.
//! Prints; asserts nothing.

mod cancelled;

use clap::{Parser, ValueEnum};
use std::time::{Duration, Instant};
use strata_e2e::Result;
use strata_e2e::giants::{self, Announced, Answer, Answers, Giants, MANIFEST, Packing};
use strata_e2e::node::process::{memory, reset_peak};
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
    /// `cancelled`: how often each pull is given up.
    #[arg(long, default_value_t = 10)]
    rounds: u32,
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
    /// How soon a pull has ended once its client has gone away.
    Cancelled,
}

const LISTEN: &str = "127.0.0.1:5002";

fn main() {
    let args = Args::parse();
    test_with(&args.config.replace("\\n", "\n"), |node| {
        let done = match args.what {
            What::Entries => entries(node, args.entries),
            What::Documents => documents(node),
            What::Layers => layers(node, &args),
            What::Cancelled => cancelled::all(node, args.rounds),
        };
        done.unwrap_or_else(|e| panic!("{e}"));
    });
}

fn entries(node: &Node, count: u64) -> Result<()> {
    let path = node.dir("layer");
    let begun = Instant::now();
    let layer = giants::layer(&path, |tar| giants::many_files(tar, count))?;
    println!("{count} entries: {} MB of gzip, made in {:.1?}", layer.size / 1_000_000, begun.elapsed());
    let server = Giants::start(node.netns(), LISTEN, giants::image("many", &[layer]))?;
    pull(node, &server, "many")
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
    let packing = args.zstd_window_log.map_or(Packing::Gzip, Packing::Zstd);
    let layers = giants::layers(&node.dir("layers"), args.layers, args.size, |_| packing)?;
    let packed: u64 = layers.iter().map(|layer| layer.size).sum();
    println!("{} layers of {} MB, {} MB packed", layers.len(), args.size, packed / 1_000_000);
    let server = Giants::start(node.netns(), LISTEN, giants::image("layers", &layers))?;
    pull(node, &server, "layers")
}

/// Pulls, and prints what came of it.
fn pull(node: &Node, server: &Giants, name: &str) -> Result<()> {
    let mib = |field: &str| memory(node.pid(), field).map(|kib| kib >> 10);
    reset_peak(node.pid())?;
    let before = mib("VmRSS")?;
    let begun = Instant::now();
    let image = format!("{LISTEN}/{name}");
    let output = node.within(|| node.strata_plain().args(["pull", "-q", &image]).output())?;
    let took = begun.elapsed();
    println!("{}", String::from_utf8_lossy(&output.stderr).trim());
    println!(
        "{} in {took:.1?}; {} MB sent; memory before {before} MiB, peak {} MiB, now {} MiB",
        output.status,
        server.sent() / 1_000_000,
        mib("VmHWM")?,
        mib("VmRSS")?
    );
    let begun = Instant::now();
    if output.status.success() {
        for command in ["fsck", "system df"] {
            reset_peak(node.pid())?;
            let (before, begun) = (mib("VmRSS")?, Instant::now());
            let output = node.within(|| node.strata_plain().args(command.split(' ')).output())?;
            let (took, peak) = (begun.elapsed(), mib("VmHWM")?);
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
