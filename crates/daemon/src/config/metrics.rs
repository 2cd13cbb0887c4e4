//! `[metrics]`: where Prometheus asks.

use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What stratad tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Metrics {
    /// `address:port` or `unix:/path`; empty: nothing is served.
    pub(crate) address: String,
}

/// An address that can be listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MetricsAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl Metrics {
    /// The address; `None` if there is to be none.
    pub(crate) fn parse(&self) -> Result<Option<MetricsAddress>, &'static str> {
        if self.address.is_empty() {
            return Ok(None);
        }
        if let Some(path) = self.address.strip_prefix("unix:").map(PathBuf::from) {
            let why = "a unix socket must be an absolute path, as in \"unix:/run/strata/metrics.sock\"";
            return if path.is_absolute() { Ok(Some(MetricsAddress::Unix(path))) } else { Err(why) };
        }
        let why = "must be an IP address with a port, as in \"127.0.0.1:9977\", or unix:/path";
        self.address.parse().map(|a| Some(MetricsAddress::Tcp(a))).map_err(|_| why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |text: &str| Metrics { address: text.into() }.parse();
        assert_eq!(parse(""), Ok(None));
        assert_eq!(parse("[::1]:9977"), Ok(Some(MetricsAddress::Tcp("[::1]:9977".parse().unwrap()))));
        assert_eq!(parse("unix:/run/m"), Ok(Some(MetricsAddress::Unix("/run/m".into()))));
        for bad in ["9977", "localhost:9977", "127.0.0.1", "unix:m", "http://127.0.0.1:9977"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
