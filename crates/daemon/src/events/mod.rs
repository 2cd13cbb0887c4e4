//! What happens to Kubernetes' pods and containers, for those who follow it (CRI's GetContainerEvents).
//!
//! An event is told where the state changes, under the lock of what it is about: the order is that of the changes, and whoever
//! follows misses none. Nobody waits for a follower. One that lets [`BACKLOG`] events pile up is cut off and told so, since it
//! would believe something wrong of the node from then on; it lists everything again, as after a restart of stratad.

use crate::container::Live;
use crate::container::state::{Change, ContainerState};
use crate::error::{Error, Kind};
use crate::ids::now;
use crate::pod::PodInfo;
use crate::pod::state::PodState;
use crate::request::Origin;
use futures_util::Stream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

/// How many events may wait for one follower.
pub(crate) const BACKLOG: usize = 4096;

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happened {
    /// It is there.
    Created,
    /// It runs.
    Started,
    /// It does not run any more.
    Stopped,
    /// It is not there any more.
    Deleted,
}

/// What has happened to what, and when.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// What.
    pub(crate) happened: Happened,
    /// The container's ID; the pod's own for what happens to a pod.
    pub(crate) id: String,
    /// When, in nanoseconds since 1970.
    pub(crate) at: i64,
    /// The pod, at that moment.
    pub(crate) pod: PodInfo,
    /// How the container stood at that moment; `None` if it is about a pod, or the container has gone.
    pub(crate) live: Option<Live>,
}

/// Where events are told and followed.
#[derive(Clone, Debug)]
pub(crate) struct Hub {
    tell: broadcast::Sender<Arc<Event>>,
    closing: CancellationToken,
    cut: Arc<AtomicU64>,
}

impl Default for Hub {
    fn default() -> Self {
        Self::with_backlog(BACKLOG)
    }
}

impl Hub {
    fn with_backlog(backlog: usize) -> Self {
        let (tell, _) = broadcast::channel(backlog);
        Self { tell, closing: CancellationToken::new(), cut: Arc::default() }
    }

    fn tell(&self, happened: Happened, id: &str, pod: &PodInfo, live: Option<&Live>) {
        let event = Event { happened, id: id.to_owned(), at: now(), pod: pod.clone(), live: live.cloned() };
        // Nobody may follow.
        let _ = self.tell.send(Arc::new(event));
    }

    fn heard(&self, origin: Origin) -> bool {
        origin == Origin::Kubernetes && self.tell.receiver_count() > 0
    }

    /// A container's state has changed from `before` to what `live` says.
    pub(crate) fn container_changed(
        &self,
        origin: Origin,
        id: &str,
        pod: impl FnOnce() -> PodInfo,
        (before, change): (ContainerState, Change),
        live: &Live,
    ) {
        // What recovery finds out has happened before anybody could follow.
        let found = before == ContainerState::Unknown && change != Change::Exited;
        if found || !self.heard(origin) {
            return;
        }
        let happened = match change {
            Change::Created => Happened::Created,
            Change::Started => Happened::Started,
            Change::Exited => Happened::Stopped,
            _ => return,
        };
        let pod = pod();
        // It has ended before the answer to its start was here.
        let ran = live.exit.as_ref().is_some_and(|e| e.started_at > 0);
        if happened == Happened::Stopped && before == ContainerState::Created && ran {
            self.tell(Happened::Started, id, &pod, Some(live));
        }
        self.tell(happened, id, &pod, Some(live));
    }

    /// A container has gone, with everything it had.
    pub(crate) fn container_deleted(&self, origin: Origin, id: &str, pod: impl FnOnce() -> PodInfo) {
        if self.heard(origin) {
            self.tell(Happened::Deleted, id, &pod(), None);
        }
    }

    /// A pod's state has changed from `before` to what it says.
    pub(crate) fn pod_changed(&self, before: PodState, pod: impl FnOnce() -> PodInfo, origin: Origin) {
        if !self.heard(origin) {
            return;
        }
        let pod = pod();
        let told: &[Happened] = match (before, pod.state) {
            (PodState::Creating, PodState::Ready) => &[Happened::Created, Happened::Started],
            (PodState::Ready | PodState::Stopping, PodState::NotReady | PodState::Discarding) => {
                &[Happened::Stopped]
            }
            _ => &[],
        };
        for happened in told {
            self.tell(*happened, &pod.id, &pod, None);
        }
    }

    /// A pod has gone, with its containers.
    pub(crate) fn pod_deleted(&self, pod: &PodInfo) {
        if self.heard(pod.origin) {
            self.tell(Happened::Deleted, &pod.id, pod, None);
        }
    }

    /// Everything that happens from now on. It ends with an error for a follower that is too slow, and when the daemon stops.
    pub(crate) fn follow(&self) -> impl Stream<Item = Result<Arc<Event>, Error>> + Send + 'static {
        let (events, closing, cut) = (self.tell.subscribe(), self.closing.clone(), self.cut.clone());
        futures_util::stream::unfold(Some((events, closing, cut)), async |state| {
            let (mut events, closing, cut) = state?;
            let next = tokio::select! {
                next = events.recv() => next,
                () = closing.cancelled() => Err(RecvError::Closed),
            };
            let why = match next {
                Ok(event) => return Some((Ok(event), Some((events, closing, cut)))),
                Err(RecvError::Closed) => Error::new(
                    Kind::Unavailable,
                    "stratad stops; follow the events again once it is back, and list pods and containers then",
                ),
                Err(RecvError::Lagged(lost)) => {
                    cut.fetch_add(1, Ordering::Relaxed);
                    let why = format!(
                        "events are not taken as fast as they happen: {lost} are lost; list pods and containers, and \
                         follow the events again"
                    );
                    Error::new(Kind::ResourceExhausted, why)
                }
            };
            Some((Err(why), None))
        })
    }

    /// How many follow.
    pub(crate) fn followers(&self) -> usize {
        self.tell.receiver_count()
    }

    /// How many have been cut off because they were too slow.
    pub(crate) fn cut_off(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Ends all following: the daemon stops.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::sample;
