//! What ADD answers, in every form that the specification has had.

use crate::error::{Error, Result};
use serde_json::Value;
use std::net::IpAddr;

/// The pod's side of a result.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    /// Addresses and the length of their subnets' prefixes.
    pub(super) ips: Vec<(IpAddr, u8)>,
    /// Where the first one's default route goes.
    pub(super) gateway: Option<IpAddr>,
    /// The interface's hardware address; empty if it is not told.
    pub(super) mac: String,
}

/// Reads a plugin's answer; it is JSON, and an object.
pub(super) fn parse(answer: &[u8], version: &str) -> Result<Value> {
    let fail = |why: &str| Error::internal(format!("it ended well, but its answer {why}"));
    if answer.trim_ascii().is_empty() {
        return Err(fail("is empty"));
    }
    let mut value: Value = serde_json::from_slice(answer).map_err(|e| fail(&format!("is no JSON: {e}")))?;
    let object = value.as_object_mut().ok_or_else(|| fail("is no JSON object"))?;
    // Plugins want to know the version of what they are given as prevResult.
    object.entry("cniVersion").or_insert_with(|| version.into());
    Ok(value)
}

/// The addresses of the pod's interface.
///
/// # Errors
/// If there are none, or what is no address.
pub(super) fn addresses(result: &Value, interface: &str) -> Result<Addresses> {
    let mut found = Addresses::default();
    if let Some(ips) = result.get("ips").and_then(Value::as_array) {
        let interfaces = result.get("interfaces").and_then(Value::as_array);
        let is_pods = |index: u64| {
            let at = usize::try_from(index).ok().and_then(|i| interfaces?.get(i));
            at.is_some_and(|i| {
                text(i, "sandbox").is_some_and(|s| !s.is_empty()) && text(i, "name") == Some(interface)
            })
        };
        // Without an interface it is the pod's: plugins that make none of their own answer so.
        let own = |ip: &&Value| ip.get("interface").and_then(Value::as_u64).is_none_or(is_pods);
        for ip in ips.iter().filter(own) {
            add(&mut found, text(ip, "address"), text(ip, "gateway"))?;
        }
        let own = interfaces.into_iter().flatten().find(|i| {
            text(i, "name") == Some(interface) && text(i, "sandbox").is_some_and(|s| !s.is_empty())
        });
        found.mac = own.and_then(|i| text(i, "mac")).unwrap_or_default().to_owned();
    } else {
        // Versions 0.1.0 and 0.2.0.
        for ip in ["ip4", "ip6"].iter().filter_map(|key| result.get(key)).filter(|ip| !ip.is_null()) {
            add(&mut found, text(ip, "ip"), text(ip, "gateway"))?;
        }
    }
    if found.ips.is_empty() {
        return Err(Error::internal(format!(
            "the network gave the pod no address for {interface}; it answered {result}"
        )));
    }
    Ok(found)
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

fn add(found: &mut Addresses, address: Option<&str>, gateway: Option<&str>) -> Result<()> {
    let parsed = address.and_then(|text| {
        let (ip, bits) = text.split_once('/')?;
        let (ip, bits) = (ip.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?);
        (bits <= if ip.is_ipv4() { 32 } else { 128 }).then_some((ip, bits))
    });
    let Some(parsed) = parsed else {
        let address = address.unwrap_or_default();
        return Err(Error::internal(format!("the network answered the address {address:?}, which is none")));
    };
    if found.ips.is_empty() {
        found.gateway = gateway.and_then(|g| g.parse().ok());
    }
    found.ips.push(parsed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_of_the_pods_interface() {
        let result = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                { "name": "cni0", "mac": "00:11:22:33:44:55" },
                { "name": "eth0", "mac": "aa:bb:cc:dd:ee:ff", "sandbox": "/run/netns/x" },
                { "name": "net1", "mac": "aa:bb:cc:dd:ee:00", "sandbox": "/run/netns/x" }
            ],
            "ips": [
                { "interface": 0, "address": "10.1.0.1/24" },
                { "interface": 1, "address": "10.1.0.2/24", "gateway": "10.1.0.1" },
                { "interface": 2, "address": "10.9.0.2/24" },
                { "address": "fd00::2/64", "gateway": "fd00::1" }
            ]
        });
        let found = addresses(&result, "eth0").unwrap();
        let want = [("10.1.0.2".parse().unwrap(), 24), ("fd00::2".parse().unwrap(), 64)];
        assert_eq!(found.ips, want);
        assert_eq!(found.gateway, Some("10.1.0.1".parse().unwrap()));
        assert_eq!(found.mac, "aa:bb:cc:dd:ee:ff");
    }

    #[test]
    fn the_first_versions() {
        let result =
            json!({ "ip4": { "ip": "10.1.0.2/24", "gateway": "10.1.0.1" }, "ip6": { "ip": "fd00::2/64" } });
        let found = addresses(&result, "eth0").unwrap();
        assert_eq!(found.ips.len(), 2);
        assert_eq!(found.gateway, Some("10.1.0.1".parse().unwrap()));
    }

    #[test]
    fn no_address_is_an_error() {
        for bad in [
            json!({}),
            json!({ "ips": [] }),
            json!({ "ips": [{ "address": "10.1.0.2" }] }),
            json!({ "ips": [{ "address": "10.1.0.2/33" }] }),
            json!({ "ips": [{ "interface": 7, "address": "10.1.0.2/24" }] }),
            json!({ "ips": { "address": "10.1.0.2/24" } }),
        ] {
            assert!(addresses(&bad, "eth0").is_err(), "{bad}");
        }
        assert!(
            parse(b"", "1.0.0").is_err() && parse(b"[]", "1.0.0").is_err() && parse(b"x", "1.0.0").is_err()
        );
        assert_eq!(parse(b"{}", "1.0.0").unwrap(), json!({ "cniVersion": "1.0.0" }));
    }
}
