//! `-p`.

use std::net::IpAddr;
use strata_api::debug::PortMapping;

/// Reads `[ip:][hostPort:]containerPort[/protocol]`, where ports may be ranges of the same length.
pub(crate) fn parse(text: &str) -> Result<Vec<PortMapping>, String> {
    let bad = |why: &str| format!("invalid publish value '{text}': {why}");
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(bad("the protocol is none of tcp, udp and sctp"));
    }
    let (before, container) = ports.rsplit_once(':').map_or((None, ports), |(b, c)| (Some(b), c));
    let (host_ip, host) = match before {
        None => ("", ""),
        // In brackets, an IPv6 address; a host port may follow it.
        Some(b) => match b.strip_prefix('[').and_then(|b| b.split_once(']')) {
            Some((ip, host)) => (ip, host.strip_prefix(':').unwrap_or(host)),
            None => b.rsplit_once(':').unwrap_or(("", b)),
        },
    };
    if !host_ip.is_empty() && host_ip.parse::<IpAddr>().is_err() {
        return Err(bad(&format!("invalid IP address: {host_ip}")));
    }
    let container = range(container).map_err(|e| bad(&format!("invalid containerPort: {e}")))?;
    let host = if host.is_empty() {
        None
    } else {
        Some(range(host).map_err(|e| bad(&format!("invalid hostPort: {e}")))?)
    };
    let count = container.1 - container.0;
    if host.is_some_and(|(first, last)| last - first != count) {
        return Err(bad("the ranges of container and host ports differ in length"));
    }
    let mapping = |i| PortMapping {
        host_ip: host_ip.to_owned(),
        host_port: host.map_or(0, |(first, _)| first + i),
        container_port: container.0 + i,
        protocol: protocol.clone(),
    };
    Ok((0..=count).map(mapping).collect())
}

fn range(text: &str) -> Result<(u32, u32), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |s: &str| match s.parse::<u16>() {
        Ok(n) if n > 0 => Ok(u32::from(n)),
        _ => Err(format!("'{text}' is not between 1 and 65535")),
    };
    match (port(first)?, port(last)?) {
        (first, last) if first <= last => Ok((first, last)),
        _ => Err(format!("the range '{text}' is backwards")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(ip: &str, host: u32, container: u32, protocol: &str) -> PortMapping {
        PortMapping {
            host_ip: ip.into(),
            host_port: host,
            container_port: container,
            protocol: protocol.into(),
        }
    }

    #[test]
    fn ports_are_read_in_every_form() {
        assert_eq!(parse("80"), Ok(vec![one("", 0, 80, "tcp")]));
        assert_eq!(parse("8080:80/udp"), Ok(vec![one("", 8080, 80, "udp")]));
        assert_eq!(parse("127.0.0.1:8080:80"), Ok(vec![one("127.0.0.1", 8080, 80, "tcp")]));
        assert_eq!(parse("127.0.0.1::80"), Ok(vec![one("127.0.0.1", 0, 80, "tcp")]));
        assert_eq!(parse("[::1]:8080:80"), Ok(vec![one("::1", 8080, 80, "tcp")]));
        assert_eq!(parse("80-81:90-91").unwrap(), [one("", 80, 90, "tcp"), one("", 81, 91, "tcp")]);
        for bad in ["", "0", "x", "80:90-91", "70000:1", "80/icmp", "1.2.3:80:80", "91-90", "a:80"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
