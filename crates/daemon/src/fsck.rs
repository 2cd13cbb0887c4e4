//! Checking the store: what a check asks of registries, what it tells, and `stratad fsck`, when no daemon serves the store.

use crate::args;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::images::Images;
use crate::node::store_options;
use crate::registry;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use strata_api::debug;
use strata_api::debug::fsck_event::Event;
use strata_oci::Descriptor;
use strata_store::{BlobSource, FsckEvent, FsckOptions, FsckSummary, Lease, Store};
use tokio::runtime::Handle;

/// The registries that images came from, for a check that runs on a thread of its own.
pub(crate) struct Registries {
    /// What is asked.
    pub(crate) images: Arc<Images>,
    /// Where it runs.
    pub(crate) runtime: Handle,
}

impl BlobSource for Registries {
    fn fetch(&self, lease: &Arc<Lease>, blob: &Descriptor) -> Result<(), String> {
        self.runtime.block_on(self.images.refetch(lease, blob, None)).map_err(|e| e.to_string())
    }
}

/// An event as the wire has it.
pub(crate) fn event(event: FsckEvent) -> Event {
    match event {
        FsckEvent::Progress { done, total } => Event::Progress(debug::FsckProgress { done, total }),
        FsckEvent::Problem(p) => Event::Problem(debug::FsckProblem {
            what: p.what.to_string(),
            id: p.id,
            path: p.path,
            problem: p.problem,
            repaired: p.repaired,
            action: p.action,
            images: p.images,
        }),
    }
}

/// A summary as the wire has it.
pub(crate) fn summary(s: FsckSummary) -> debug::FsckSummary {
    debug::FsckSummary {
        images: s.images,
        layers: s.layers,
        blobs: s.blobs,
        files: s.files,
        bytes: s.bytes,
        problems: s.problems,
        repaired: s.repaired,
        notes: s.notes,
    }
}

/// `stratad fsck`: says on standard output what is wrong and what was done about it. The exit status is 1 if something is
/// wrong still.
///
/// # Errors
/// If there is no store, or a daemon serves it.
pub(crate) fn offline(config: &Config, wanted: &args::Fsck) -> Result<ExitCode> {
    let root = &config.root;
    if !root.join("lock").exists() {
        return Err(Error::not_found(format!(
            "{}: there is no store; name another place with --root",
            root.display()
        )));
    }
    rustix::process::umask(rustix::fs::Mode::empty());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::internal(format!("async runtime: {e}")))?;
    let store = Store::open_to_check(root, store_options(config)).map_err(|e| match e.kind() {
        strata_store::Kind::Locked => {
            let why = "a stratad serves this store: `strata fsck` asks it to check, or stop it first";
            Error::new(Kind::FailedPrecondition, format!("{}: {why}", root.display()))
        }
        _ => e.into(),
    })?;
    let client = registry::Client::new(&config.registry)?;
    let images = Arc::new(Images::new(Arc::clone(&store), client, &config.registry));
    let source = Registries { images, runtime: runtime.handle().clone() };
    let tell = |told| {
        if let Event::Problem(problem) = event(told) {
            crate::say(&problem.to_string());
        }
    };
    let options = FsckOptions {
        repair: wanted.repair,
        quick: wanted.quick,
        source: Some(&source),
        tell: &tell,
        cancel: &AtomicBool::new(false),
    };
    let summary = summary(store.fsck(&options)?);
    crate::say(&summary.to_string());
    Ok(if summary.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
