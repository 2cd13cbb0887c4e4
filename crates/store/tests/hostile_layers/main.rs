//! What an image may not do, and what it may although it looks odd.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod entries;
mod raw;
mod rig;
mod sparse;
mod streams;
