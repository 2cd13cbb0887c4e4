//! What is on disk when a step fails, when the process ends there, and when the power does.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

#[path = "../common/archives.rs"]
mod archives;
mod check;
mod churn;
#[path = "../common/mod.rs"]
mod common;
mod disk;
mod every_call;
mod order;
mod power_cut;
mod repairs;
mod scenes;
mod watch;

/// Not a test by itself: what the tests start to be watched, failed and killed.
#[test]
fn worker() {
    scenes::work_if_asked();
}
