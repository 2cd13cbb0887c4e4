//! Random stacks over a few names, so that they meet often. `PROPTEST_CASES` says how many.

use crate::common::privileged;
use crate::compare::{Tree, assert_equal};
use crate::kinds::{acl, capabilities};
use crate::layer::{Entry, LONG_AGO, Layer, What};
use crate::oracle::Oracle;
use proptest::prelude::*;
use std::process::Command;

/// Enough for every push; many more were run when this was written.
const CASES: u32 = 40;

fn path() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![4 => Just("a"), 3 => Just("b"), 2 => Just("c"), 1 => Just("lib")];
    prop::collection::vec(name, 1..4).prop_map(|parts| parts.join("/").into_bytes())
}

fn target() -> impl Strategy<Value = Vec<u8>> {
    let targets =
        ["a", "b", "c", "a/b", "/b", "/a/a", "../a", "../../c", "b/../c", "/lib", "./a/.", "nowhere"];
    prop::sample::select(targets.to_vec()).prop_map(|t| t.as_bytes().to_vec())
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        6 => "[a-z]{0,3}".prop_map(|data| What::File(data.into_bytes())),
        7 => Just(What::Dir),
        5 => target().prop_map(What::Symlink),
        4 => path().prop_map(What::Link),
        4 => Just(What::Whiteout),
        3 => Just(What::Opaque),
        1 => Just(What::Fifo),
        1 => (1..300_u32, 0..300_u32).prop_map(|(major, minor)| What::Char(major, minor)),
        1 => (1..300_u32, 0..300_u32).prop_map(|(major, minor)| What::Block(major, minor)),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let modes = [0o755, 0o700, 0o1777, 0o2750, 0o4711, 0o644, 0];
    let mode = prop::sample::select(modes.to_vec());
    let time = (0..1000_i64, prop_oneof![Just(0), 1..1_000_000_000_u32]);
    (path(), what(), mode, 0..3_u32, time, 0..12_u8).prop_map(|(path, what, mode, id, (s, n), extra)| {
        let entry = Entry::new(path, what).mode(mode).owner(id, 2 * id).mtime(LONG_AGO + s, n);
        match (extra, &entry.what) {
            (0, What::File(_) | What::Dir) => entry.xattr("user.x", [extra, 0, 255]),
            (1, What::File(_)) => entry.xattr("security.capability", capabilities()),
            (2, What::Dir) => entry.mode(0o750).xattr("system.posix_acl_default", acl(7, (5, 5), 5, 0)),
            (3, What::Dir | What::File(_)) => {
                entry.mode(0o750).xattr("system.posix_acl_access", acl(7, (9, 4), 5, 0))
            }
            _ => entry,
        }
    })
}

fn layers() -> impl Strategy<Value = Vec<Layer>> {
    let layer = prop::collection::vec(entry(), 0..7).prop_map(Layer::new);
    prop::collection::vec(layer, 1..6)
}

/// The layers that GNU tar can extract, one on top of the other, and what they give.
fn extractable(dir: &std::path::Path, layers: Vec<Layer>) -> (Vec<Layer>, Tree) {
    let mut oracle = Oracle::new(&dir.join("oracle-0"));
    let mut extracted = Vec::new();
    for (n, layer) in layers.into_iter().enumerate() {
        let next = dir.join(format!("oracle-{}", n + 1));
        let copied = Command::new("cp").arg("-a").args([oracle.root(), &next]).status().unwrap();
        assert!(copied.success());
        let tried = Oracle::at(&next);
        if tried.apply(&layer).is_ok() {
            extracted.push(layer);
            oracle = tried;
        }
    }
    (extracted, oracle.tree())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES),
        failure_persistence: None,
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    })]

    #[test]
    fn merged_trees_are_those_of_extraction(layers in layers(), again in any::<prop::sample::Index>()) {
        if privileged() {
            let tmp = tempfile::tempdir().unwrap();
            let mut layers = layers;
            // The same layer may occur twice.
            if layers.len() > 2 {
                layers.push(layers[again.index(layers.len())].clone());
            }
            let (layers, expected) = extractable(tmp.path(), layers);
            if !layers.is_empty() {
                let seen = crate::seen(tmp.path(), &layers);
                assert_equal(&expected, &seen, &layers);
            }
        }
    }
}
