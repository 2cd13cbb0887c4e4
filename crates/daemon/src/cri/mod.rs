//! CRI v1, as the kubelet speaks it: one thin method per RPC. Pods and containers of the strata command are not Kubernetes'
//! to see.
//!
//! * `image`: ImageService.
//! * `runtime`: RuntimeService; `pods`, `containers`, `resources`, `stats`, `pod_metrics`, `events`, `lists`, `status`,
//!   `streaming`: what its answers say.

mod containers;
mod events;
pub(crate) mod image;
mod lists;
mod pod_metrics;
mod pods;
mod resources;
pub(crate) mod runtime;
mod stats;
mod status;
mod streaming;

use crate::error::{Error, Kind, Result};
use std::collections::HashMap;

/// Whether labels have all those that a selector names.
fn selected(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}

/// What `verbose` adds to a status: JSON under `info`, as crictl shows it.
fn info(verbose: bool, json: impl FnOnce() -> serde_json::Value) -> HashMap<String, String> {
    if verbose { [("info".to_owned(), json().to_string())].into() } else { HashMap::new() }
}

/// The answer of what is not built, by name.
fn unbuilt(rpc: &str, why: &str) -> tonic::Status {
    Error::unimplemented(format!("{rpc} is not built yet: {why}")).into()
}

/// Absence is success.
fn gone_is_fine<T>(result: Result<T>) -> Result<()> {
    match result {
        Err(e) if e.kind() != Kind::NotFound => Err(e),
        _ => Ok(()),
    }
}
