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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn what_came_of_a_thread_is_told_even_if_it_panicked() {
        std::thread::scope(|scope| {
            assert_eq!(joined(stage(scope, "count", || Ok(7)).unwrap()).unwrap(), 7);
            let failing = stage(scope, "fail", || Err::<(), _>(Error::invalid("no layer"))).unwrap();
            assert_eq!(joined(failing).unwrap_err().to_string(), "no layer");
            let panicking = stage(scope, "panic", || panic!("a bug that a test has made")).unwrap();
            let error = joined::<()>(panicking).unwrap_err();
            assert_eq!(error.kind(), Kind::Damaged);
            assert!(error.to_string().contains("this is a bug"), "{error}");
        });
    }
}
