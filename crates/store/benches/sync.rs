//! What it costs that a pull is durable: the same pull on a fresh, private ext4 on a loop device, as it is and with every
//! sync left out (answered by a supervisor in the kernel's place), by turns.
//!
//! `cargo bench -p strata-store --bench sync`, as root. `STRATA_BENCH_DIR` is where the device's file is (the system's
//! directory for temporary files), `STRATA_BENCH_ROUNDS` how often (7).
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/faults/watch.rs"]
mod watch;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use strata_oci::config::RootFs;
use strata_oci::document::{OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST};
use strata_oci::{Descriptor, Digest, ImageConfig, Manifest, Reference};
use strata_store::{LayerSource, NewImage, Options, Origin, Store};
use watch::{Seen, Verdict, mark, watch};

const LAYERS: usize = 6;
const LAYER_SIZE: usize = 64 << 20;
/// Bytes of the device.
const DISK: u64 = 1 << 30;
/// As many as a pull unpacks at once.
const AT_ONCE: usize = 3;
const SYNCS: &[&str] = &["fsync", "fdatasync", "syncfs", "sync_file_range"];
const STORE: &str = "STRATA_BENCH_STORE";
const BLOBS: &str = "STRATA_BENCH_BLOBS";

fn main() {
    if let Some(store) = std::env::var_os(STORE) {
        return work(Path::new(&store), Path::new(&std::env::var_os(BLOBS).unwrap()));
    }
    // What `cargo test --benches` asks for is no measurement.
    if !std::env::args().any(|arg| arg == "--bench") || !common::privileged() {
        return;
    }
    common::private_mounts();
    let rounds = std::env::var("STRATA_BENCH_ROUNDS").map_or(7, |n| n.parse().unwrap());
    let base = std::env::var_os("STRATA_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(base).unwrap();
    let blobs = make_blobs(dir.path());
    let (mut synced, mut unsynced) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        synced.push(pull_once(dir.path(), &blobs, Verdict::Go));
        unsynced.push(pull_once(dir.path(), &blobs, Verdict::Pretend));
    }
    let (synced, unsynced) = (median(synced), median(unsynced));
    let megabytes = (LAYERS * LAYER_SIZE) as f64 / 1e6;
    println!(
        "{LAYERS} layers of {:.0} MB, {AT_ONCE} at once, {rounds} rounds, medians",
        megabytes / LAYERS as f64
    );
    for (what, time) in [("synced", &synced), ("unsynced", &unsynced)] {
        let seconds = time.all.as_secs_f64();
        println!("{what:>10}: {:7.1} ms, {:6.1} MB/s", seconds * 1e3, megabytes / seconds);
    }
    println!(" last sync: {:7.1} ms", synced.last.as_secs_f64() * 1e3);
    println!("     ratio: {:.3}", synced.all.as_secs_f64() / unsynced.all.as_secs_f64());
}

struct Times {
    all: Duration,
    /// From the sync at the end on.
    last: Duration,
}

fn median(mut times: Vec<Times>) -> Times {
    times.sort_unstable_by_key(|t| t.all);
    let middle = times.len() / 2;
    times.swap_remove(middle)
}

/// Compressed layers of files as distributions have them: many small ones, some large, text and what does not compress.
fn make_blobs(dir: &Path) -> PathBuf {
    let (blobs, mut list) = (dir.join("blobs"), String::new());
    std::fs::create_dir(&blobs).unwrap();
    let mut random = 1_u64;
    let mut next = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap()
    };
    for n in 0..LAYERS {
        let (mut tar, mut size, mut count) = (common::Tar::new(), 0, 0);
        while size < LAYER_SIZE {
            let length = if count % 50 == 0 { 1 << 20 } else { 512 + next() % 40_000 };
            let mut text = String::with_capacity(length + 20);
            while text.len() < length {
                // About a third of it compresses away.
                write!(text, "{:x} the same words ", next()).unwrap();
            }
            tar = tar.file(&format!("usr/share/l{n}/d{}/f{count}", count % 40), &text);
            (size, count) = (size + text.len(), count + 1);
        }
        let (blob, descriptor, diff_id) = common::layer_of(&tar.done());
        std::fs::write(blobs.join(n.to_string()), blob).unwrap();
        writeln!(list, "{} {} {diff_id}", descriptor.digest, descriptor.size).unwrap();
    }
    std::fs::write(blobs.join("list"), list).unwrap();
    blobs
}

fn run(program: &str, args: &[&std::ffi::OsStr]) {
    let done = Command::new(program).args(args).output().unwrap();
    assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
}

/// One pull into a store on a fresh file system; syncs are answered as `syncs` says.
fn pull_once(dir: &Path, blobs: &Path, syncs: Verdict) -> Times {
    let (image, at) = (dir.join("disk"), dir.join("mounted"));
    if !image.exists() {
        std::fs::create_dir(&at).unwrap();
        // Written, not sparse: what the file's own file system does to find room is not what is measured.
        let file = std::fs::File::create(&image).unwrap();
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), DISK), &mut &file).unwrap();
    }
    let init = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
    run("mkfs.ext4", &["-q".as_ref(), "-E".as_ref(), init.as_ref(), image.as_ref()]);
    mount(&image, &at);
    run("sync", &["-f".as_ref(), image.as_ref()]);
    run("sync", &["-f".as_ref(), at.as_ref()]);
    let variables = [(STORE, at.to_str().unwrap().to_owned()), (BLOBS, blobs.to_str().unwrap().to_owned())];
    let (mut begun, mut last, mut took) = (Instant::now(), Instant::now(), None);
    let ended = watch(dir, &at, &variables, &mut |seen| match seen {
        Seen::Mark("begin") => {
            begun = Instant::now();
            Verdict::Go
        }
        Seen::Mark(_) => {
            took = Some(Times { all: begun.elapsed(), last: last.elapsed() });
            Verdict::Go
        }
        Seen::Step(step) if step.call == "syncfs" && syncs == Verdict::Go => {
            last = Instant::now();
            Verdict::Go
        }
        Seen::Step(step) if SYNCS.contains(&step.call) => syncs,
        Seen::Step(_) => Verdict::Go,
    });
    assert!(ended.status.success(), "{}", ended.output);
    nix::mount::umount(&at).unwrap();
    took.unwrap()
}

/// Past the page cache of the file's own file system, where that can be: a disk has no second cache, which would begin to
/// write only when it is told to flush.
fn mount(image: &Path, at: &Path) {
    let attach = |direct: &str| {
        let done = Command::new("losetup").args(["--find", "--show", direct]).arg(image).output().unwrap();
        done.status.success().then(|| String::from_utf8(done.stdout).unwrap())
    };
    let device = attach("--direct-io=on").or_else(|| attach("--direct-io=off")).unwrap();
    run("mount", &[device.trim().as_ref(), at.as_ref()]);
    // It goes with the mount.
    run("losetup", &["--detach".as_ref(), device.trim().as_ref()]);
}

/// In the worker: a pull as the daemon does it.
fn work(at: &Path, blobs: &Path) {
    let store = Store::open(&at.join("store"), Options::default()).unwrap();
    let list = std::fs::read_to_string(blobs.join("list")).unwrap();
    let layers: Vec<(Descriptor, Digest)> = list.lines().map(layer).collect();
    watch::be_watched_for(SYNCS);
    mark("begin");
    let lease = store.lease("bench").unwrap();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let n = next.fetch_add(1, Ordering::Relaxed)
                    && let Some((blob, diff_id)) = layers.get(n)
                {
                    let mut file = std::fs::File::open(blobs.join(n.to_string())).unwrap();
                    store.ingest_layer(&lease, LayerSource { blob, diff_id }, &mut file, &|_| {}).unwrap();
                }
            });
        }
    });
    let diff_ids = layers.iter().map(|(_, diff_id)| diff_id.clone()).collect();
    let rootfs = RootFs { diff_ids, ..RootFs::default() };
    let config = ImageConfig { os: "linux".into(), rootfs, ..ImageConfig::default() }.to_json();
    let digest = store.put_blob(&lease, &config).unwrap();
    let config = Descriptor { media_type: OCI_CONFIG.into(), digest, size: config.len() as u64 };
    let manifest = Manifest { config, layers: layers.into_iter().map(|(blob, _)| blob).collect() }.to_json();
    let new = NewImage {
        media_type: OCI_MANIFEST.into(),
        manifest: &manifest,
        names: vec![Reference::parse("bench:1").unwrap()],
        pulled: None,
        origin: Origin::Pull,
    };
    store.commit_image(&lease, &new).unwrap();
    mark("end");
}

fn layer(line: &str) -> (Descriptor, Digest) {
    let fields: Vec<&str> = line.split(' ').collect();
    let digest = |n: usize| Digest::parse(fields[n]).unwrap();
    let media_type = OCI_LAYER_GZIP.into();
    (Descriptor { media_type, digest: digest(0), size: fields[1].parse().unwrap() }, digest(2))
}
