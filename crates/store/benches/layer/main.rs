//! How fast a layer comes into the store: each stage alone, all of them as the pipeline, and the pipeline's share of what the
//! stages would allow. Also what `diff` and `commit` cost on top of
//! such a layer, and how much memory forty layers take at once.
//!
//! ```text
//! cargo bench -p strata-store                                   a layer of 600 MB, made of this machine's /usr
//! STRATA_BENCH_MB=100 cargo bench -p strata-store               a smaller one
//! STRATA_BENCH_DIR=/mnt/fresh cargo bench -p strata-store       where the files are written
//! ```
//! As root, and without STRATA_BENCH_DIR, the files go to an ext4 made for this in a file that is mounted by a loop device:
//! on a file system that is in use, creating many files soon after deleting many takes several times as long.
//!
//! What the stages allow: none is faster than the slowest stage alone, and all together have so many cores. So a layer takes
//! at least the longer one of the slowest stage's time and the CPU time of all stages divided by the cores. On a machine that
//! does something else besides, times of the wall clock say little: the CPU times, printed beside them, hold.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod fixture;
mod memory;
mod report;
mod scratch;

use criterion::{BatchSize, BenchmarkId, Criterion, SamplingMode, Throughput};
use fixture::{Fixture, Packed};
use report::Report;
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
    let fixture = Fixture::of(megabytes());
    let scratch = Scratch::make();
    let mut report = Report::default();
    stages(&mut criterion, &fixture, &scratch, &mut report);
    pipelines(&mut criterion, &fixture, &scratch, &mut report);
    report.print(&fixture);
    memory::print(&scratch);
    on_top(&mut criterion, &fixture, &scratch);
    criterion.final_summary();
}

fn megabytes() -> u64 {
    std::env::var("STRATA_BENCH_MB").ok().and_then(|n| n.parse().ok()).unwrap_or(600)
}

fn stages(criterion: &mut Criterion, fixture: &Fixture, scratch: &Scratch, report: &mut Report) {
    let mut group = criterion.benchmark_group("stage");
    group.sampling_mode(SamplingMode::Flat);
    let tar = &fixture.tar;
    group.throughput(Throughput::Bytes(tar.len() as u64));
    group.bench_function("hash", |b| {
        b.iter_custom(|n| report.time("hash", n, || (), |()| drop(std::hint::black_box(hash(tar)))));
    });
    for packed in &fixture.packed {
        let name = format!("inflate {}", packed.name);
        group.bench_function(&name, |b| {
            b.iter_custom(|n| report.time(&name, n, || (), |()| assert_eq!(inflate(packed), tar.len())));
        });
    }
    group.bench_function("untar", |b| {
        let work = |dir: scratch::Dir| {
            strata_store::stages::untar(tar, &dir.path().join("fs")).unwrap();
            dir
        };
        b.iter_custom(|n| report.time("untar", n, || scratch.dir(), work));
    });
    // What comes in is hashed and written as it is: less than the tar, so these two are not in MB/s of it.
    for packed in &fixture.packed {
        let name = format!("receive {}", packed.name);
        group.throughput(Throughput::Bytes(packed.blob.len() as u64));
        group.bench_function(&name, |b| {
            let work = |dir: scratch::Dir| {
                hash(&packed.blob);
                write(&packed.blob, File::create_new(dir.path().join("blob")).unwrap());
                dir
            };
            b.iter_custom(|n| report.time(&name, n, || scratch.dir(), work));
        });
    }
    group.finish();
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

fn pipelines(criterion: &mut Criterion, fixture: &Fixture, scratch: &Scratch, report: &mut Report) {
    let mut group = criterion.benchmark_group("pipeline");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Bytes(fixture.tar.len() as u64));
    for packed in &fixture.packed {
        let name = format!("pipeline {}", packed.name);
        group.bench_function(BenchmarkId::from_parameter(packed.name), |b| {
            let setup = || {
                let dir = scratch.dir();
                let store = Store::open(dir.path(), Options::default()).unwrap();
                (store, dir)
            };
            let work = |(store, dir): (std::sync::Arc<Store>, scratch::Dir)| {
                let lease = store.lease("bench").unwrap();
                let layer = LayerSource { blob: &packed.descriptor, diff_id: &fixture.diff_id };
                store.ingest_layer(&lease, layer, &mut packed.blob.as_slice(), &|_| {}).unwrap();
                (lease, store, dir)
            };
            b.iter_custom(|n| report.time(&name, n, setup, work));
        });
    }
    group.finish();
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
