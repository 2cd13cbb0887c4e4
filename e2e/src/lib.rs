//! The harness of the end-to-end tests.
//!
//! - [`images`]: images made from Debian's packages, and a client that pushes them to a registry.
//! - [`node`]: a daemon of one's own, with a registry, a network namespace and cgroups of its own. Start at
//!   [`node::test`].
//! - [`command`]: programs with a time limit, and what they wrote.
//! - [`critest`]: cri-tools' validation suite.
//! - [`giants`]: a registry whose answers may be of any size.
//! - [`faults`], [`tls`]: a proxy that misbehaves, and certificates.
//! - [`pty`]: programs that want a terminal.

pub mod command;
pub mod critest;
pub mod faults;
pub mod giants;
pub mod images;
pub mod kubelet;
pub mod node;
pub mod pty;
pub mod tls;

/// What goes wrong in a harness is shown to a person, never matched on.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A time limit, stretched three times for machines that are busy with other things, or `TEST_PATIENCE` (a whole number) times
/// for slower ones. Only what has failed takes so long.
pub fn patience(seconds: u64) -> std::time::Duration {
    let factor = std::env::var("TEST_PATIENCE").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    std::time::Duration::from_secs(seconds.saturating_mul(factor))
}

/// Says why a test does nothing here. Where everything is there that any test needs, `TEST_SKIPS=fail` says so: a test that would
/// do nothing fails.
#[track_caller]
pub fn skip(why: impl std::fmt::Display) {
    let refused = std::env::var_os("TEST_SKIPS").is_some_and(|value| value == "fail");
    assert!(!refused, "skipped, where no test is to be: {why}");
    println!("skipped: {why}");
}

/// Asks again and again until there is an answer; panics with what the last refusal was.
#[track_caller]
pub fn eventually<T>(seconds: u64, what: &str, mut ask: impl FnMut() -> std::result::Result<T, String>) -> T {
    let limit = patience(seconds);
    let until = std::time::Instant::now() + limit;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) if std::time::Instant::now() > until => panic!("{what}: not within {limit:?}: {why}"),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(20)),
        }
    }
}
