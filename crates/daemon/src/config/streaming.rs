//! `[streaming]`: the server of Exec, Attach and PortForward.

use super::{ConfigError, bad};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The server of Exec, Attach and PortForward.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Streaming {
    /// Where it listens; port 0: any that is free.
    pub(crate) address: SocketAddr,
    /// The server's certificate, in PEM; empty: no TLS.
    pub(crate) tls_cert: PathBuf,
    /// Its key.
    pub(crate) tls_key: PathBuf,
    /// How long a session may be silent, in seconds.
    pub(crate) idle_timeout: u64,
    /// How long one connection of a port forward may hold up the others, in seconds; 0: for ever.
    pub(crate) stall_timeout: u64,
}

impl Default for Streaming {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            // As long as the kubelet's (streamingConnectionIdleTimeout).
            idle_timeout: 4 * 60 * 60,
            // As long as clients wait for a new stream (client-go's createStreamResponseTimeout).
            stall_timeout: 30,
        }
    }
}

impl Streaming {
    /// Certificate and key, if TLS is spoken.
    pub(crate) fn tls_files(&self) -> Option<(&Path, &Path)> {
        (!self.tls_cert.as_os_str().is_empty()).then_some((&*self.tls_cert, &*self.tls_key))
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let ip = self.address.ip();
        if ip.is_unspecified() {
            let why = "must be an address at which the kubelet reaches this node, since it is sent there";
            return Err(bad("streaming.address", self.address, why));
        }
        if !ip.is_loopback() && self.tls_files().is_none() {
            let why = "must be loopback without tls_cert and tls_key: the tokens in the URLs could be read on the way";
            return Err(bad("streaming.address", self.address, why));
        }
        for (key, path, other) in [
            ("streaming.tls_cert", &self.tls_cert, &self.tls_key),
            ("streaming.tls_key", &self.tls_key, &self.tls_cert),
        ] {
            let (named, other_named) = (!path.as_os_str().is_empty(), !other.as_os_str().is_empty());
            if named != other_named {
                return Err(bad(key, path.display(), "tls_cert and tls_key go together"));
            }
            if named && !path.is_absolute() {
                return Err(bad(key, path.display(), "must be an absolute path"));
            }
        }
        if self.idle_timeout == 0 {
            return Err(bad("streaming.idle_timeout", self.idle_timeout, "must be at least 1 second"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), String> {
        let streaming: Streaming = toml::from_str(text).map_err(|e| e.to_string())?;
        streaming.check().map_err(|e| e.to_string())
    }

    #[test]
    fn only_loopback_goes_without_tls() {
        check("").unwrap();
        check("address = \"[::1]:10010\"").unwrap();
        check("address = \"192.0.2.1:10010\"\ntls_cert = \"/c\"\ntls_key = \"/k\"").unwrap();
        for (text, why) in [
            ("address = \"192.0.2.1:10010\"", "must be loopback"),
            ("address = \"0.0.0.0:10010\"", "must be an address"),
            ("address = \"localhost:1\"", "invalid socket address"),
            ("tls_cert = \"/c\"", "go together"),
            ("tls_key = \"/k\"", "go together"),
            ("tls_cert = \"c\"\ntls_key = \"/k\"", "absolute"),
            ("idle_timeout = 0", "at least 1"),
            ("port = 1", "unknown field"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
