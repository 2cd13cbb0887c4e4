//! The addresses of this node's pods, as the kubelet says them (CRI `UpdateRuntimeConfig`), and where they are kept: it says
//! them once, and not again to a stratad that has restarted.

use crate::error::{Error, Result};
use std::net::IpAddr;
use std::path::Path;
use strata_sys::durable;

/// The file below the root.
const FILE: &str = "pod-cidr";

/// Subnets, the first one being the primary; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodCidrs(Vec<(IpAddr, u8)>);

impl PodCidrs {
    /// Reads `10.1.0.0/24,fd00:1::/64`; bits of a host in it do not matter. `None` for an empty text, which says nothing.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::error::Kind::InvalidArgument), naming what is no subnet.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        text.split(',').map(|part| subnet(part.trim())).collect::<Result<Vec<_>>>().map(|all| Some(Self(all)))
    }

    /// As text, in order.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.0.iter().map(|(address, bits)| format!("{address}/{bits}")).collect()
    }

    /// The default routes of their families (`0.0.0.0/0`, `::/0`).
    pub(crate) fn routes(&self) -> Vec<String> {
        let v4 = self.0.iter().any(|(a, _)| a.is_ipv4()).then(|| "0.0.0.0/0".to_owned());
        let v6 = self.0.iter().any(|(a, _)| a.is_ipv6()).then(|| "::/0".to_owned());
        v4.into_iter().chain(v6).collect()
    }

    /// The first IPv4 subnet.
    pub(crate) fn ipv4(&self) -> Option<String> {
        self.0.iter().find(|(a, _)| a.is_ipv4()).map(|(address, bits)| format!("{address}/{bits}"))
    }

    /// What was kept by an earlier daemon, if anything; what cannot be read is warned of.
    pub(crate) fn kept(root: &Path) -> Option<Self> {
        let path = root.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
            Err(e) => {
                tracing::warn!(path = %path.display(), error = %e, "the pod CIDR is unknown until the kubelet says it again");
                return None;
            }
        };
        Self::parse(&text).unwrap_or_else(|e| {
            tracing::warn!(path = %path.display(), error = %e, "the pod CIDR is unknown until the kubelet says it again");
            None
        })
    }

    /// Keeps them, durably.
    pub(crate) fn keep(&self, root: &Path) -> Result<()> {
        let text = self.texts().join(",") + "\n";
        durable::open_dir(root)
            .and_then(|dir| durable::write_file(dir, FILE.as_ref(), text.as_bytes(), 0o644))
            .map_err(|e| Error::internal(format!("the pod CIDR cannot be kept in {}: {e}", root.display())))
    }
}

fn subnet(text: &str) -> Result<(IpAddr, u8)> {
    let parsed = text.split_once('/').and_then(|(address, bits)| {
        let address: IpAddr = address.parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        match address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32_u32.checked_sub(bits.into())?).unwrap_or(0);
                Some((IpAddr::V4((u32::from(a) & mask).into()), bits))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128_u32.checked_sub(bits.into())?).unwrap_or(0);
                Some((IpAddr::V6((u128::from(a) & mask).into()), bits))
            }
        }
    });
    parsed.ok_or_else(|| Error::invalid(format!("pod CIDR {text:?}: must be a subnet such as 10.1.0.0/24")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_of_both_families() {
        let both = PodCidrs::parse(" 10.1.2.3/24 , fd00::5/64").unwrap().unwrap();
        assert_eq!(both.texts(), ["10.1.2.0/24", "fd00::/64"]);
        assert_eq!(both.routes(), ["0.0.0.0/0", "::/0"]);
        assert_eq!(both.ipv4().unwrap(), "10.1.2.0/24");
        assert_eq!(PodCidrs::parse("").unwrap(), None);
        for bad in ["10.1.0.0", "10.1.0.0/33", "fd00::/129", "10.0.0.0/8,,", "x/8"] {
            assert!(PodCidrs::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn they_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(PodCidrs::kept(dir.path()), None);
        let cidrs = PodCidrs::parse("10.1.0.0/24").unwrap().unwrap();
        cidrs.keep(dir.path()).unwrap();
        assert_eq!(PodCidrs::kept(dir.path()), Some(cidrs));
        std::fs::write(dir.path().join(FILE), "nonsense").unwrap();
        assert_eq!(PodCidrs::kept(dir.path()), None);
    }
}
