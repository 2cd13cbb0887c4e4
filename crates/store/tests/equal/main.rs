//! The merged tree of a stack of layers is that of sequential extraction by another program: GNU tar, with the whiteouts of
//! the OCI image spec (layer.md) applied first.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod compare;
mod corpus;
mod kinds;
mod layer;
mod oracle;
mod random;
mod round_trip;

use common::{mount_bare, open, privileged, pull};
use compare::{Tree, assert_equal};
use layer::{Entry, Layer};
use oracle::Oracle;
use std::path::Path;
use strata_sys::path::fd_path;

/// Pulls a stack into a fresh store below `dir`, and compares what a container would see with what extraction gives.
fn check(dir: &Path, layers: &[Layer]) {
    let oracle = Oracle::new(&dir.join("oracle"));
    for (n, layer) in layers.iter().enumerate() {
        oracle.apply(layer).unwrap_or_else(|e| panic!("layer {n}: {e}"));
    }
    let seen = seen(dir, layers);
    assert_equal(&oracle.tree(), &seen, layers);
}

/// What a container of an image of these layers would see.
fn seen(dir: &Path, layers: &[Layer]) -> Tree {
    let store = open(dir);
    let tars: Vec<_> = layers.iter().map(|l| l.tar.clone()).collect();
    let image = pull(&store, "image", &tars).unwrap_or_else(|e| panic!("{e}\n{layers:#?}"));
    let mounted = mount_bare(&store, 1, &image);
    Tree::read(&fd_path(&mounted))
}

/// Runs a case with each list of entries as a layer.
fn case(layers: &[&[Entry]]) {
    if privileged() {
        let layers: Vec<Layer> = layers.iter().map(|entries| Layer::new(*entries)).collect();
        check(tempfile::tempdir().unwrap().path(), &layers);
    }
}
