//! Registry credentials as Docker and Podman keep them: a `config.json` (or `auth.json`), and helpers beside it.
//!
//! ```text
//!   { "auths":       { "registry.example":      { "auth": "<base64 of user:password>" },
//!                      "quay.io/team":          { … }                      Podman: for a part of a registry
//!                      "https://index.docker.io/v1/": { "identitytoken": … } },
//!     "credHelpers": { "registry.example": "ecr-login" },                  docker-credential-ecr-login
//!     "credsStore":  "secretservice" }                                     for every other registry
//! ```
//! * [`file`](ConfigFile): the file and its lookup.
//! * [`helper`]: the `docker-credential-*` protocol.
//! * [`places`]: where a user's files are.
//! * [`keep`]: logging in and out.

mod file;
pub mod helper;
pub mod keep;
pub mod places;

pub use file::{ConfigFile, Entry};

use std::fmt;
use std::path::PathBuf;

/// The registry that needs no name, as image references name it.
pub const DOCKER_HUB: &str = "docker.io";

/// What proves who somebody is: whatever is set, most often user name and password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// User name; empty: none.
    pub username: String,
    /// Password, or whatever a registry takes for one.
    pub password: String,
    /// An OAuth2 refresh token, for the registry's token server; empty: none.
    pub identity_token: String,
    /// A token that is sent to the registry as it is; empty: none.
    pub registry_token: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secrets must not reach a log.
        write!(f, "Login({:?}, …)", self.username)
    }
}

/// Why there are no credentials to be had. No text holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A file is there and cannot be read.
    #[error("{path}: {why}; make it readable, or remove it")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A file cannot be written.
    #[error("{path}: cannot be written: {why}; make it writable, or name another directory (DOCKER_CONFIG)")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A file is not JSON of the right shape.
    #[error("{path}: it is no Docker config.json: {why}; mend it, or move it away and log in again")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        why: String,
    },
    /// An entry's `auth` is damaged.
    #[error("{path}: auths {key:?}: auth must be base64 of user:password; log in again")]
    Auth {
        /// The file.
        path: PathBuf,
        /// Whose entry.
        key: String,
    },
    /// A helper is missing, fails, hangs or answers something else.
    #[error("docker-credential-{helper}, asked for {server}: {why}")]
    Helper {
        /// Its name.
        helper: String,
        /// What it was asked for.
        server: String,
        /// What is wrong.
        why: String,
    },
}
