//! The states of a pod and the one function that changes them.
//!
//! ```text
//!              ready              stopping             stopped
//!  Creating ─────────▶ Ready ───────────────▶ Stopping ─────────▶ NotReady
//!    │  ▲                │ lost (its shim is gone) ──────────────────▲ │ │
//!    │  └────────────────│──────── revived (Strata only) ──────────────┘ │
//!    │ discarding        └ discarding ─▶ Discarding ◀── discarding ──────┘
//!    └──────────────────────────────────────▲
//! ```
//!
//! `Discarding` pods are hidden: half-made ones, and removed ones that still owe something, such as their network's
//! detachment. They are worked off in the background, also after a restart, and their record goes last.

use serde::{Deserialize, Serialize};

/// Where a pod stands. The record on disk has the same words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PodState {
    /// Being made; nobody has its ID yet.
    #[default]
    Creating,
    /// Containers can be made in it.
    Ready,
    /// Its containers are being killed.
    Stopping,
    /// Nothing of it runs.
    NotReady,
    /// Being taken apart for good.
    Discarding,
}

/// What changes a pod's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Everything is up.
    Ready,
    /// A stop has begun.
    Stopping,
    /// Nothing runs any more.
    Stopped,
    /// Its shim, or the whole machine, has gone down under it.
    Lost,
    /// It is set up once more for its one container.
    Revived,
    /// It is removed, or could not be made.
    Discarding,
}

/// A change that the state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pod that is {} cannot become {change:?}", from.word())]
pub(crate) struct Refused {
    /// The state it is in.
    pub(crate) from: PodState,
    /// What was to change it.
    pub(crate) change: Change,
}

impl PodState {
    /// The state after a change.
    pub(crate) fn after(self, change: Change) -> Result<Self, Refused> {
        use PodState::{Creating, Discarding, NotReady, Ready, Stopping};
        match (self, change) {
            (Creating, Change::Ready) => Ok(Ready),
            (Ready | Stopping, Change::Stopping) => Ok(Stopping),
            (Stopping, Change::Stopped) | (Ready | Stopping | NotReady, Change::Lost) => Ok(NotReady),
            (NotReady, Change::Revived) => Ok(Creating),
            (_, Change::Discarding) => Ok(Discarding),
            (from, change) => Err(Refused { from, change }),
        }
    }

    /// As a word in a sentence.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Creating => "being created",
            Self::Ready => "ready",
            Self::Stopping => "being stopped",
            Self::NotReady => "stopped",
            Self::Discarding => "being removed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, PodState as S};

    #[test]
    fn the_diagram_is_the_code() {
        let allowed = [
            (S::Creating, Change::Ready, S::Ready),
            (S::Ready, Change::Stopping, S::Stopping),
            (S::Stopping, Change::Stopping, S::Stopping),
            (S::Stopping, Change::Stopped, S::NotReady),
            (S::Ready, Change::Lost, S::NotReady),
            (S::Stopping, Change::Lost, S::NotReady),
            (S::NotReady, Change::Lost, S::NotReady),
            (S::NotReady, Change::Revived, S::Creating),
        ];
        let states = [S::Creating, S::Ready, S::Stopping, S::NotReady, S::Discarding];
        let changes = [
            Change::Ready,
            Change::Stopping,
            Change::Stopped,
            Change::Lost,
            Change::Revived,
            Change::Discarding,
        ];
        for from in states {
            for change in changes {
                let want = match change {
                    Change::Discarding => Some(S::Discarding),
                    _ => allowed.iter().find(|(f, c, _)| (*f, *c) == (from, change)).map(|(_, _, to)| *to),
                };
                assert_eq!(from.after(change).ok(), want, "{from:?} {change:?}");
            }
        }
    }
}
