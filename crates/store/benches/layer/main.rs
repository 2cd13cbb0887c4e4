//! How fast a layer comes into the store: each stage alone, all of them as the pipeline, and the pipeline's share of what the
//! stages would allow. Also what `diff` and `commit` cost on top of
//! such a layer, and how much memory forty layers take at once.
//!
//! ```text
//! cargo bench -p strata-store                                   a layer of 600 MB, made of this machine's /usr
//! STRATA_BENCH_MB=100 cargo bench -p strata-store               a smaller one
//! STRATA_BENCH_ROUNDS=20 cargo bench -p strata-store            more rounds of pipeline beside stages than eight
//! STRATA_BENCH_DIR=/mnt/fresh cargo bench -p strata-store       where the files are written
//! ```
//! As root, and without STRATA_BENCH_DIR, the files go to an ext4 made for this in a file that is mounted by a loop device:
//! on a file system that is in use, creating many files soon after deleting many takes several times as long.
//!
//! What the stages allow: none is faster than the slowest stage alone, and all together have so many cores. So a layer takes
//! at least the longer one of the slowest stage's time and the CPU time of all stages divided by the cores. The pipeline's
//! share of both is that of the same round: on a virtual machine a new page of memory costs ten times as much at one moment as
//! at another. A machine that does something else besides tells nothing.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod fixture;
mod memory;
mod report;
mod scratch;

use criterion::{BatchSize, Criterion, SamplingMode, Throughput};
use fixture::{Fixture, Packed};
use report::{Report, Took};
use scratch::Scratch;
use std::fs::File;
use std::io::{Read, Write};
use std::time::Duration;
use strata_oci::config::{Execution, RootFs};
use strata_oci::digest::Hasher;
use strata_oci::document::{OCI_CONFIG, OCI_MANIFEST};
use strata_oci::{Descriptor, ImageConfig, Manifest, Reference};
use strata_store::{CommitOptions, LayerSource, NewImage, Options, Origin, Store};

/// As much at a time as the pipeline passes on.
const CHUNK: usize = 256 << 10;

fn main() {
    let mut criterion =
        Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(100)).configure_from_args();
    let fixture = Fixture::of(number("STRATA_BENCH_MB", 600));
    let scratch = Scratch::make();
    let works: Vec<Work<'_>> =
        stages(&fixture, &scratch).into_iter().chain(pipelines(&fixture, &scratch)).collect();
    for work in &works {
        let mut group = criterion.benchmark_group(work.group);
        group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Bytes(work.bytes));
        group.bench_function(&work.name, |b| b.iter_custom(|n| (0..n).map(|_| (work.run)().wall).sum()));
        group.finish();
    }
    compare(&works, &fixture);
    memory::print(&scratch);
    on_top(&mut criterion, &fixture, &scratch);
    criterion.final_summary();
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

/// One thing that is measured.
struct Work<'a> {
    group: &'static str,
    name: String,
    /// What goes through it.
    bytes: u64,
    run: Box<dyn Fn() -> Took + 'a>,
}

impl<'a> Work<'a> {
    /// Neither what prepares it is measured nor what cleans up after it.
    fn new<S, T>(
        group: &'static str,
        name: impl Into<String>,
        bytes: usize,
        setup: impl Fn() -> S + 'a,
        work: impl Fn(S) -> T + 'a,
    ) -> Self {
        let run = move || {
            let ready = setup();
            let (took, done) = Took::by(|| work(ready));
            drop(done);
            took
        };
        Self { group, name: name.into(), bytes: bytes as u64, run: Box::new(run) }
    }
}

/// Everything once in each round: what changes from minute to minute, as what a new page costs in a virtual machine, then
/// changes the pipeline and its stages alike. The first round has pages made, and does not count.
fn compare(works: &[Work<'_>], fixture: &Fixture) {
    let mut report = Report::default();
    for round in 0..=number("STRATA_BENCH_ROUNDS", 8) {
        for work in works {
            let took = (work.run)();
            if round > 0 {
                report.add(&work.name, took);
            }
        }
    }
    report.print(fixture);
}

fn stages<'a>(fixture: &'a Fixture, scratch: &'a Scratch) -> Vec<Work<'a>> {
    let tar = &fixture.tar;
    let stage = "stage";
    let mut all = vec![
        Work::new(stage, "hash", tar.len(), || (), |()| drop(std::hint::black_box(hash(tar)))),
        Work::new(
            stage,
            "untar",
            tar.len(),
            || scratch.dir(),
            |dir| {
                strata_store::stages::untar(tar, dir.path()).unwrap();
                dir
            },
        ),
    ];
    for packed in &fixture.packed {
        let inflated = move |()| assert_eq!(inflate(packed), tar.len());
        all.push(Work::new(stage, format!("inflate {}", packed.name), tar.len(), || (), inflated));
        // What comes in is hashed and written as it is: less than the tar, so this one is not in MB/s of it.
        let receive = |dir: scratch::Dir| {
            hash(&packed.blob);
            write(&packed.blob, File::create_new(dir.path().join("blob")).unwrap());
            dir
        };
        all.push(Work::new(
            stage,
            format!("receive {}", packed.name),
            packed.blob.len(),
            || scratch.dir(),
            receive,
        ));
    }
    all
}

fn hash(bytes: &[u8]) -> strata_oci::Digest {
    let mut hasher = Hasher::sha256();
    bytes.chunks(CHUNK).for_each(|chunk| hasher.update(chunk));
    hasher.finish()
}

fn write(bytes: &[u8], mut file: File) {
    bytes.chunks(CHUNK).for_each(|chunk| file.write_all(chunk).unwrap());
}

fn inflate(packed: &Packed) -> usize {
    let blob = packed.blob.as_slice();
    let mut tar: Box<dyn Read + '_> = match packed.name {
        "gzip" => Box::new(flate2::bufread::MultiGzDecoder::new(blob)),
        "zstd" => Box::new(zstd::stream::read::Decoder::with_buffer(blob).unwrap()),
        _ => Box::new(blob),
    };
    let (mut buffer, mut total) = (vec![0; CHUNK], 0);
    loop {
        match tar.read(&mut buffer).unwrap() {
            0 => return total,
            n => total += n,
        }
    }
}

fn pipelines<'a>(fixture: &'a Fixture, scratch: &'a Scratch) -> Vec<Work<'a>> {
    let of = |packed: &'a Packed| {
        let setup = || {
            let dir = scratch.dir();
            let store = Store::open(dir.path(), Options::default()).unwrap();
            (store, dir)
        };
        let ingest = |(store, dir): (std::sync::Arc<Store>, scratch::Dir)| {
            let lease = store.lease("bench").unwrap();
            let layer = LayerSource { blob: &packed.descriptor, diff_id: &fixture.diff_id };
            store.ingest_layer(&lease, layer, &mut packed.blob.as_slice(), &|_| {}).unwrap();
            (lease, store, dir)
        };
        Work::new("pipeline", format!("pipeline {}", packed.name), fixture.tar.len(), setup, ingest)
    };
    fixture.packed.iter().map(of).collect()
}

/// `diff` and `commit` of a container that has written 10 MB, on top of the layer.
fn on_top(criterion: &mut Criterion, fixture: &Fixture, scratch: &Scratch) {
    const CHANGED: usize = 10_000_000;
    let dir = scratch.dir();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    let id = "cd".repeat(32);
    let image = image(&store, fixture);
    let lease = store.lease("bench").unwrap();
    let snapshot = store.create_snapshot(&lease, &id, &image).unwrap();
    store.put_container(&id, b"{}").unwrap();
    // From the middle, where the files are like those of any other layer.
    let from = fixture.tar.len() / 2;
    for (n, data) in fixture.tar[from..].chunks(100_000).take(CHANGED / 100_000).enumerate() {
        std::fs::write(snapshot.upper.join(format!("changed-{n}")), data).unwrap();
    }
    let mut group = criterion.benchmark_group("10 MB changed");
    group.bench_function("diff", |b| b.iter(|| store.diff(&id).unwrap()));
    group.throughput(Throughput::Bytes(CHANGED as u64));
    group.bench_function("commit", |b| {
        b.iter_batched(
            || (),
            |()| store.commit(&id, &CommitOptions::default()).unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("compressing alone", |b| {
        b.iter(|| {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(&fixture.tar[from..][..CHANGED.min(fixture.tar.len() - from)]).unwrap();
            gzip.finish().unwrap()
        });
    });
    group.finish();
}

fn image(store: &Store, fixture: &Fixture) -> std::sync::Arc<strata_store::Image> {
    let lease = store.lease("bench").unwrap();
    let packed = &fixture.packed[0];
    let layer = LayerSource { blob: &packed.descriptor, diff_id: &fixture.diff_id };
    store.ingest_layer(&lease, layer, &mut packed.blob.as_slice(), &|_| {}).unwrap();
    let config = ImageConfig {
        os: "linux".into(),
        architecture: "amd64".into(),
        config: Execution::default(),
        rootfs: RootFs { diff_ids: vec![fixture.diff_id.clone()], ..RootFs::default() },
        ..ImageConfig::default()
    };
    let config = config.to_json();
    let digest = store.put_blob(&lease, &config).unwrap();
    let config = Descriptor { media_type: OCI_CONFIG.into(), digest, size: config.len() as u64 };
    let manifest = Manifest { config, layers: vec![packed.descriptor.clone()] }.to_json();
    let new = NewImage {
        media_type: OCI_MANIFEST.into(),
        manifest: &manifest,
        names: vec![Reference::parse("bench").unwrap()],
        pulled: None,
        origin: Origin::Pull,
    };
    store.commit_image(&lease, &new).unwrap()
}
