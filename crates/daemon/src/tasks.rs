//! Operations that outlive the call that asked for them: tonic drops a handler when its client goes away, and what it was
//! in the middle of must not stop there.

use crate::error::{Error, Result};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use tokio_util::task::TaskTracker;

/// The operations under way that the end of stratad would cut off.
static UNDER_WAY: LazyLock<TaskTracker> = LazyLock::new(TaskTracker::new);

/// Waits until no operation is under way.
pub(crate) async fn all_done() {
    // It is waited for when closed only; a closed one takes more all the same.
    UNDER_WAY.close();
    UNDER_WAY.wait().await;
}

/// Runs an operation in a task of its own and waits for it.
pub(crate) async fn detached<T: Send + 'static>(
    operation: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    outcome(UNDER_WAY.spawn(operation)).await
}

async fn outcome<T>(task: tokio::task::JoinHandle<Result<T>>) -> Result<T> {
    match task.await {
        Ok(result) => result,
        Err(e) => Err(Error::internal(format!("the operation ended early: {e}"))),
    }
}

/// Runs what blocks, such as the disk, off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    outcome(tokio::task::spawn_blocking(work)).await
}

type Making = Shared<BoxFuture<'static, Result<String>>>;

/// Things being made, by key: a second request for the same one joins the first.
#[derive(Debug)]
pub(crate) struct Flights<R>(Arc<Mutex<HashMap<String, (R, Making)>>>);

impl<R> Default for Flights<R> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<R: Clone + PartialEq + Send + 'static> Flights<R> {
    /// Joins the making of `key`, or begins it with `make`; `None` if it is being made from another request.
    ///
    /// Once it has been made, or not, it is forgotten, and the registries of what is there answer.
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
        // Moved into the task: even one that panics must not leave its key taken.
        let (made, landing) = (make(), Landing { flights: self.0.clone(), key: key.to_owned() });
        let task = UNDER_WAY.spawn(async move {
            let made = made.await;
            drop(landing);
            made
        });
        let making = outcome(task).boxed().shared();
        flights.insert(key.to_owned(), (request.clone(), making.clone()));
        Some(making)
    }
}

/// Forgets a flight when it is over.
struct Landing<R> {
    flights: Arc<Mutex<HashMap<String, (R, Making)>>>,
    key: String,
}

impl<R> Drop for Landing<R> {
    fn drop(&mut self) {
        let over = self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        // Whoever joined it may hold the last share of it: not under the lock.
        drop(over);
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
        // Another request has the key once the first is over.
        assert_ne!(flights.join("a", &2, make).unwrap().await.unwrap(), "0");
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_waited_for_at_the_end() {
        let (open, mut gate) = tokio::sync::watch::channel(false);
        let work = async move {
            let _ = gate.wait_for(|open| *open).await;
            Ok(())
        };
        // As a handler that tonic drops.
        assert!(detached(work).now_or_never().is_none());
        assert!(all_done().now_or_never().is_none());
        open.send_replace(true);
        all_done().await;
    }

    #[tokio::test]
    async fn a_key_is_free_after_a_panic_and_without_a_caller() {
        let flights: Flights<u32> = Flights::default();
        let panics = || async { panic!("in the middle of it") }.boxed();
        let failed = flights.join("a", &1, panics).unwrap().await.unwrap_err();
        assert!(failed.to_string().contains("ended early"), "{failed}");
        let good = || async { Ok("made".to_owned()) }.boxed();
        assert_eq!(flights.join("a", &2, good).unwrap().await.unwrap(), "made");
        // Nor does it take a caller for it to be made.
        drop(flights.join("b", &1, good).unwrap());
        while flights.join("b", &2, good).is_none() {
            tokio::task::yield_now().await;
        }
    }
}
