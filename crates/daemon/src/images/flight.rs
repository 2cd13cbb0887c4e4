//! One pull however many wait for it.

use super::board::{Board, Told};
use super::fetch::Fetch;
use super::{Images, PullOutcome};
use crate::error::{Error, Kind, Result};
use prost::Message as _;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use strata_api::cri::AuthConfig;
use strata_api::debug::pull_progress::Event;
use strata_api::debug::{PullProgress, PullResult};
use strata_oci::{Digest, Platform, Reference};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How often a watcher is told what is new.
const PACE: Duration = Duration::from_millis(100);

/// What must be equal for two pulls to be one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    reference: Reference,
    platform: String,
    /// Of the credentials, so that no further copy of a secret is kept.
    auth: Option<Digest>,
}

type Outcome = Option<Result<PullOutcome>>;

/// A pull under way.
#[derive(Debug)]
struct Flight {
    board: Board,
    outcome: watch::Receiver<Outcome>,
    cancel: CancellationToken,
}

/// The pulls under way, each with how many wait for it.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Key, (Arc<Flight>, usize)>>);

/// A place among those who wait for a pull. The last one to be dropped cancels it.
#[derive(Debug)]
pub(super) struct Seat {
    images: Arc<Images>,
    key: Key,
    flight: Arc<Flight>,
}

impl Key {
    pub(super) fn new(reference: &Reference, platform: &Platform, auth: Option<&AuthConfig>) -> Self {
        Self {
            reference: reference.clone(),
            platform: platform.to_string(),
            auth: auth.map(|a| Digest::sha256_of(&a.encode_to_vec())),
        }
    }
}

impl Flights {
    /// Takes a seat in the pull with this key, which is started if there is none.
    pub(super) fn join(images: &Arc<Images>, key: Key, fetch: impl FnOnce(Board) -> Fetch) -> Seat {
        let mut all = images.flights.lock();
        let (flight, waiters) = all.entry(key.clone()).or_insert_with(|| (start(images, &key, fetch), 0));
        *waiters += 1;
        let flight = Arc::clone(flight);
        Seat { images: Arc::clone(images), key, flight }
    }

    /// Takes a pull that has ended out; later ones start anew. One that was cancelled has been taken out, and another one
    /// may be in its place.
    fn ended(&self, key: &Key, cancelled: &CancellationToken) {
        let mut all = self.lock();
        if !cancelled.is_cancelled() {
            all.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (Arc<Flight>, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start(images: &Arc<Images>, key: &Key, fetch: impl FnOnce(Board) -> Fetch) -> Arc<Flight> {
    let (tell, outcome) = watch::channel(None);
    let (board, cancel) = (Board::default(), CancellationToken::new());
    let fetch = fetch(board.clone());
    let (images, key, cancelled) = (Arc::clone(images), key.clone(), cancel.clone());
    let counted = images.pulls().begin();
    tokio::spawn(async move {
        tokio::select! {
            // Whoever cancelled it has taken it out already.
            () = cancelled.cancelled() => {}
            result = fetch.run() => {
                counted.ended(&result);
                images.flights.ended(&key, &cancelled);
                tell.send_replace(Some(result));
            }
        }
    });
    Arc::new(Flight { board, outcome, cancel })
}

impl Seat {
    /// Waits for the result, and passes on how it goes.
    pub(super) async fn wait(self, progress: Option<mpsc::Sender<PullProgress>>) -> Result<PullOutcome> {
        let mut outcome = self.flight.outcome.clone();
        let Some(progress) = progress else {
            return ended(outcome.wait_for(Option::is_some).await.ok().and_then(|o| o.clone()));
        };
        let mut told = Told::default();
        let outcome = loop {
            let done = tokio::time::timeout(PACE, outcome.wait_for(Option::is_some)).await;
            let done = done.map(|result| ended(result.ok().and_then(|o| o.clone())));
            for news in self.flight.board.news(&mut told) {
                // Nobody reads the news any more: the result may still be wanted.
                let _ = progress.send(news).await;
            }
            if let Ok(result) = done {
                break result?;
            }
        };
        // Layers may have gone on after the reference was told.
        for news in self.flight.board.news(&mut told) {
            let _ = progress.send(news).await;
        }
        let result = PullResult {
            name: outcome.name.clone(),
            digest: outcome.digest.to_string(),
            image_id: outcome.image.id.to_string(),
            up_to_date: outcome.up_to_date,
        };
        let _ = progress.send(PullProgress { event: Some(Event::Result(result)) }).await;
        Ok(outcome)
    }
}

fn ended(outcome: Outcome) -> Result<PullOutcome> {
    outcome
        .unwrap_or_else(|| Err(Error::new(Kind::Internal, "the pull ended without a result; this is a bug")))
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.images.flights.lock();
        // A pull that has ended may have been followed by another one with the same key.
        let Some((flight, waiters)) = all.get_mut(&self.key) else { return };
        if !Arc::ptr_eq(flight, &self.flight) {
            return;
        }
        *waiters -= 1;
        if *waiters == 0 {
            flight.cancel.cancel();
            all.remove(&self.key);
        }
    }
}
