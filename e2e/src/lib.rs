//! The harness of the end-to-end tests.
//!
//! - [`images`]: images made from Debian's packages, and a client that pushes them to a registry.

pub mod images;

/// What goes wrong in a harness is shown to a person, never matched on.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
