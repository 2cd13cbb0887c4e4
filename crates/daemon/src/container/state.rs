//! The states of a container and the one function that changes them.
//!
//! ```text
//!                created                started               exited
//!  Creating ───────────────▶ Created ───────────▶ Running ─────────────▶ Exited
//!     │                       │  ▲                   ▲                    │ │
//!     │                       │  └─────── revived ───│── (Strata only) ───┘ │
//!     │                       └──── exited ──────────│───────────▲          │
//!     │ failed                                       │ found     │ exited   │
//!     │                    Unknown ──────────────────┘───────────┘          │
//!     │                      │                                              │
//!     └─────────▶ Removing ◀─┴──────────────── removing ────────────────────┘
//! ```
//!
//! `Unknown` is a container whose shim has not yet said, after a restart of stratad, how it is. An exit is in the store
//! before the state says `Exited`.

/// Where a container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContainerState {
    /// Being made; nobody has its ID yet.
    Creating,
    /// Set up; its program waits at the barrier.
    Created,
    /// Its program runs (or is frozen).
    Running,
    /// Its program has ended, or could not be started.
    Exited,
    /// Not known yet, after a restart of stratad.
    Unknown,
    /// Being removed.
    Removing,
}

/// What changes a container's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is set up.
    Created,
    /// Its program runs.
    Started,
    /// Its program has ended, could not be started, or its shim is gone.
    Exited,
    /// It has been set up once more after its exit.
    Revived,
    /// Its removal has begun.
    Removing,
}

/// A change that the state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a container that is {} cannot become {change:?}", from.word())]
pub(crate) struct Refused {
    /// The state it is in.
    pub(crate) from: ContainerState,
    /// What was to change it.
    pub(crate) change: Change,
}

impl ContainerState {
    /// The state after a change.
    pub(crate) fn after(self, change: Change) -> Result<Self, Refused> {
        use ContainerState::{Created, Creating, Exited, Removing, Running, Unknown};
        match (self, change) {
            (Creating | Unknown, Change::Created) | (Exited, Change::Revived) => Ok(Created),
            (Created | Unknown, Change::Started) => Ok(Running),
            (Created | Running | Unknown, Change::Exited) => Ok(Exited),
            (Creating | Created | Exited | Unknown, Change::Removing) => Ok(Removing),
            (from, change) => Err(Refused { from, change }),
        }
    }

    /// As a word in a sentence.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Creating => "being created",
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Unknown => "of unknown state",
            Self::Removing => "being removed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, ContainerState as S};

    #[test]
    fn the_diagram_is_the_code() {
        let allowed = [
            (S::Creating, Change::Created, S::Created),
            (S::Creating, Change::Removing, S::Removing),
            (S::Created, Change::Started, S::Running),
            (S::Created, Change::Exited, S::Exited),
            (S::Created, Change::Removing, S::Removing),
            (S::Running, Change::Exited, S::Exited),
            (S::Exited, Change::Revived, S::Created),
            (S::Exited, Change::Removing, S::Removing),
            (S::Unknown, Change::Created, S::Created),
            (S::Unknown, Change::Started, S::Running),
            (S::Unknown, Change::Exited, S::Exited),
            (S::Unknown, Change::Removing, S::Removing),
        ];
        let states = [S::Creating, S::Created, S::Running, S::Exited, S::Unknown, S::Removing];
        let changes = [Change::Created, Change::Started, Change::Exited, Change::Revived, Change::Removing];
        for from in states {
            for change in changes {
                let want = allowed.iter().find(|(f, c, _)| (*f, *c) == (from, change)).map(|(_, _, to)| *to);
                assert_eq!(from.after(change).ok(), want, "{from:?} {change:?}");
            }
        }
    }
}
