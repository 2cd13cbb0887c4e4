//! Threads that work on one thing together, and end before it does.

use crate::error::{Context, Error, Result};
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// Starts one by this name.
///
/// # Errors
/// If the kernel gives no more threads.
pub(crate) fn stage<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> Result<T> + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<T>>> {
    let thread = Builder::new().name(format!("strata-{name}")).spawn_scoped(scope, work);
    thread.context(|| format!("start the thread that is to {name}"))
}

/// What came of it.
pub(crate) fn joined<T>(stage: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    let result = stage.join();
    result.unwrap_or_else(|_| Err(Error::damaged("a stage of the pipeline panicked; this is a bug")))
}
