//! Operations that outlive the call that asked for them: tonic drops a handler when its client goes away, and what it was
//! in the middle of must not stop there.

use crate::error::{Error, Result};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};

/// Runs an operation in a task of its own and waits for it.
pub(crate) async fn detached<T: Send + 'static>(
    operation: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(operation).await {
        Ok(result) => result,
        Err(e) => Err(Error::internal(format!("the operation ended early: {e}"))),
    }
}

/// Runs what blocks, such as the disk, off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::internal(format!("the operation ended early: {e}"))),
    }
}

type Making = Shared<BoxFuture<'static, Result<String>>>;

/// Things being made, by key: a second request for the same one joins the first.
#[derive(Debug)]
pub(crate) struct Flights<R>(Mutex<HashMap<String, (R, Making)>>);

impl<R> Default for Flights<R> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<R: Clone + PartialEq> Flights<R> {
    /// Joins the making of `key`, or begins it with `make`; `None` if it is being made from another request.
    pub(crate) fn join(
        &self,
        key: &str,
        request: &R,
        make: impl FnOnce() -> BoxFuture<'static, Result<String>>,
    ) -> Option<Making> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((same, making)) = flights.get(key) {
            return (same == request).then(|| making.clone());
        }
        let making = detached(make()).boxed().shared();
        flights.insert(key.to_owned(), (request.clone(), making.clone()));
        Some(making)
    }

    /// It has been made, or not; from now on the registries of what is there answer.
    pub(crate) fn done(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn the_same_request_joins_and_another_does_not() {
        let flights: Flights<u32> = Flights::default();
        let made = Arc::new(AtomicUsize::new(0));
        let (open, gate) = tokio::sync::watch::channel(false);
        let make = || {
            let (made, mut gate) = (made.clone(), gate.clone());
            async move {
                let _ = gate.wait_for(|open| *open).await;
                Ok(format!("{}", made.fetch_add(1, Ordering::SeqCst)))
            }
            .boxed()
        };
        let first = flights.join("a", &1, make).unwrap();
        let second = flights.join("a", &1, make).unwrap();
        assert!(flights.join("a", &2, make).is_none());
        let gone = flights.join("b", &2, make).unwrap();
        drop(gone);
        open.send_replace(true);
        assert_eq!((first.await.unwrap(), second.await.unwrap()), ("0".into(), "0".into()));
        flights.done("a");
        assert!(flights.join("a", &2, make).is_some());
    }
}
