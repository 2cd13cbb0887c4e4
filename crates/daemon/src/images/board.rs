//! How far a pull has come.
//!
//! It is a state, not a queue of events: a waiter that is slow, or that joins late, sees the newest one, and a pull never
//! waits for somebody who watches it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use strata_api::debug::layer_progress::State;
use strata_api::debug::pull_progress::Event;
use strata_api::debug::{LayerProgress, PullProgress, PullResolved};
use strata_oci::{Descriptor, Digest};

/// A pull's progress, shared by the pull and those who watch it.
#[derive(Clone, Debug, Default)]
pub(super) struct Board(Arc<Mutex<Option<PullResolved>>>);

/// What a watcher has been told.
#[derive(Debug, Default)]
pub(super) struct Told(Option<PullResolved>);

impl Board {
    /// What the reference has led to.
    pub(super) fn resolved(&self, name: &str, digest: &Digest, layers: &[Descriptor]) {
        let waiting = |d: &Descriptor| LayerProgress {
            digest: d.digest.to_string(),
            state: State::Waiting.into(),
            current: 0,
            total: i64::try_from(d.size).unwrap_or(i64::MAX),
        };
        let resolved = PullResolved {
            name: name.to_owned(),
            digest: digest.to_string(),
            layers: layers.iter().map(waiting).collect(),
        };
        *self.lock() = Some(resolved);
    }

    /// How far the layer at this place of the manifest is.
    pub(super) fn layer(&self, place: usize, state: State, current: u64) {
        if let Some(layer) = self.lock().as_mut().and_then(|r| r.layers.get_mut(place)) {
            layer.state = state.into();
            layer.current = i64::try_from(current).unwrap_or(i64::MAX);
        }
    }

    /// What has changed since `told`, which is brought up to date.
    pub(super) fn news(&self, told: &mut Told) -> Vec<PullProgress> {
        let now = self.lock().clone();
        let Some(now) = now else { return Vec::new() };
        let event = |event| PullProgress { event: Some(event) };
        let news = match &told.0 {
            None => vec![event(Event::Resolved(now.clone()))],
            Some(old) => now
                .layers
                .iter()
                .zip(&old.layers)
                .filter(|(new, old)| new != old)
                .map(|(new, _)| event(Event::Layer(new.clone())))
                .collect(),
        };
        told.0 = Some(now);
        news
    }

    fn lock(&self) -> MutexGuard<'_, Option<PullResolved>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_news_are_told() {
        let board = Board::default();
        let mut told = Told::default();
        assert!(board.news(&mut told).is_empty());
        let layer = |text: &str| Descriptor {
            media_type: String::new(),
            digest: Digest::sha256_of(text.as_bytes()),
            size: 10,
        };
        board.resolved("docker.io/library/x:latest", &Digest::sha256_of(b"m"), &[layer("a"), layer("b")]);
        let first = board.news(&mut told);
        assert!(
            matches!(&first[..], [PullProgress { event: Some(Event::Resolved(r)) }] if r.layers.len() == 2)
        );
        assert!(board.news(&mut told).is_empty());
        board.layer(1, State::Downloading, 3);
        board.layer(1, State::Downloading, 7);
        board.layer(9, State::Complete, 7);
        let second = board.news(&mut told);
        assert!(matches!(&second[..], [PullProgress { event: Some(Event::Layer(l)) }] if l.current == 7));
    }
}
