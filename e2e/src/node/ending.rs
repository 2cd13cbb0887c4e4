//! A program that is told to end leaves nothing of its nodes, as one that comes to its end.

use super::{cgroups, leaks, lock};
use crate::Result;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Directory and cgroup of each node of this process.
static NODES: Mutex<Vec<(PathBuf, String)>> = Mutex::new(Vec::new());

pub(super) fn begun(dir: &Path, cgroup: &str) {
    lock(&NODES).push((dir.into(), cgroup.into()));
}

pub(super) fn over(dir: &Path) {
    lock(&NODES).retain(|(other, _)| other != dir);
}

/// From now on SIGTERM, SIGINT and SIGHUP end this process once everything of its nodes has been removed.
///
/// # Errors
/// If signals cannot be waited for.
pub fn remove_nodes_on_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut term, mut int, mut hup) = {
        let _within = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?)
    };
    std::thread::spawn(move || {
        let told = runtime.block_on(async {
            tokio::select! {
                _ = term.recv() => SignalKind::terminate(),
                _ = int.recv() => SignalKind::interrupt(),
                _ = hup.recv() => SignalKind::hangup(),
            }
        });
        let nodes = lock(&NODES).clone();
        for (dir, cgroup) in nodes {
            // Somebody may just have been starting something.
            for _ in 0..50 {
                leaks::wipe(&dir, &cgroup);
                if !dir.exists() && cgroups::below(&cgroup).is_empty() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        std::process::exit(128 + told.as_raw_value());
    });
    Ok(())
}
