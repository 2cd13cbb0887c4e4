//! How much memory many layers take that come at once.

use crate::fixture::Fixture;
use crate::scratch::Scratch;
use strata_store::{LayerSource, Options, Store};

const AT_ONCE: usize = 40;

/// Brings in one layer of 20 MB forty times at once, as if all came from the network together: more than a pull does, which
/// fetches a few at a time. Prints by how much memory grew at most.
pub(crate) fn print(scratch: &Scratch) {
    let fixture = Fixture::of(20);
    for packed in &fixture.packed {
        let dir = scratch.dir();
        let store = Store::open(dir.path(), Options::default()).unwrap();
        let lease = store.lease("bench").unwrap();
        // The peak begins anew (proc_pid_clear_refs(5)).
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = status("VmRSS:");
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    let layer = LayerSource { blob: &packed.descriptor, diff_id: &fixture.diff_id };
                    store.ingest_layer(&lease, layer, &mut packed.blob.as_slice(), &|_| {}).unwrap();
                });
            }
        });
        let grown = status("VmHWM:").saturating_sub(before) >> 10;
        println!("{AT_ONCE} layers at once, {}: {grown} MiB more", packed.name);
    }
}

/// A line of /proc/self/status, in KiB.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
