//! `[registry]`.

use super::{ConfigError, bad};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Registries.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Registry {
    /// A directory with one `<host>/hosts.toml` per registry.
    pub(crate) config_path: PathBuf,
    /// A Docker `config.json` with credentials for pulls that bring none; empty: none.
    pub(crate) auth_file: PathBuf,
    /// Credentials for pulls that bring none, by registry, or by registry and the beginning of a path.
    pub(crate) auth: BTreeMap<String, Auth>,
    /// How many layers of one image are fetched at a time.
    pub(crate) max_concurrent_downloads: u32,
    /// How many layers are fetched at a time on this node.
    pub(crate) max_node_downloads: u32,
    /// How long a connection may take.
    pub(crate) connect_timeout: Seconds,
    /// How long a registry may be silent.
    pub(crate) stall_timeout: Seconds,
    /// How often something is tried.
    pub(crate) tries: u32,
    /// How long the pause before the second try is, at most; each further one is twice as long.
    pub(crate) retry_pause: Seconds,
}

/// Credentials for one registry.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Auth {
    /// User name.
    pub(crate) username: String,
    /// Password.
    pub(crate) password: String,
    /// base64 of `user:password`, in place of both.
    pub(crate) auth: String,
    /// An OAuth2 refresh token.
    pub(crate) identity_token: String,
    /// Sent to the registry as it is.
    pub(crate) registry_token: String,
}

impl Auth {
    /// Whether its `auth` can be read, if it has one.
    fn is_readable(&self) -> bool {
        strata_credentials::Entry { auth: self.auth.clone(), ..Default::default() }.is_readable()
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secrets must not reach a log.
        f.write_str("Auth(…)")
    }
}

/// A time: `30` or `0.5` seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) Duration);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds)
            .map(Self)
            .map_err(|_| serde::de::Error::custom(format!("{seconds} is no number of seconds")))
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            config_path: "/etc/strata/certs.d".into(),
            auth_file: PathBuf::new(),
            auth: BTreeMap::new(),
            max_concurrent_downloads: 3,
            max_node_downloads: 12,
            connect_timeout: Seconds(Duration::from_secs(10)),
            stall_timeout: Seconds(Duration::from_secs(30)),
            tries: 5,
            retry_pause: Seconds(Duration::from_millis(250)),
        }
    }
}

impl Registry {
    /// Refuses values that would only fail later.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !self.auth_file.as_os_str().is_empty() && !self.auth_file.is_absolute() {
            let why = "must be an absolute path or empty";
            return Err(bad("registry.auth_file", self.auth_file.display(), why));
        }
        if let Some((host, _)) = self.auth.iter().find(|(_, auth)| !auth.is_readable()) {
            return Err(bad("registry.auth", host, "auth must be base64 of user:password"));
        }
        for (key, count) in [
            ("registry.max_concurrent_downloads", self.max_concurrent_downloads),
            ("registry.max_node_downloads", self.max_node_downloads),
            ("registry.tries", self.tries),
        ] {
            if !(1..=1000).contains(&count) {
                return Err(bad(key, count, "must lie between 1 and 1000"));
            }
        }
        for (key, time) in [
            ("registry.connect_timeout", self.connect_timeout),
            ("registry.stall_timeout", self.stall_timeout),
        ] {
            if time.0.is_zero() {
                return Err(bad(key, time.0.as_secs_f64(), "must be more than nothing"));
            }
        }
        Ok(())
    }
}
