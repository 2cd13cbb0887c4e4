//! What plugins are told of a pod: `CNI_ARGS`, and the arguments that they ask for by their capabilities (CNI's CONVENTIONS,
//! "Dynamic Plugin specific fields").

use crate::error::{Error, Result};
use crate::net::{AttachRequest, PodCidrs};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// The pod annotations that Kubernetes has for it (kubernetes.io, "Network Plugins", "Support traffic shaping").
const BANDWIDTH: [(&str, &str, &str); 2] = [
    ("kubernetes.io/ingress-bandwidth", "ingressRate", "ingressBurst"),
    ("kubernetes.io/egress-bandwidth", "egressRate", "egressBurst"),
];
/// The burst that goes with a rate, in bits: as large as the plugins take it, as with other runtimes.
const BURST: u32 = u32::MAX;
/// What a rate may be, in bits a second: as with other runtimes.
const RATES: std::ops::RangeInclusive<u128> = 1_000..=1_000_000_000_000_000;

/// `CNI_ARGS`: who the pod is in Kubernetes.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for names that would be taken for further arguments.
pub(super) fn environment(request: &AttachRequest) -> Result<String> {
    let metadata = request.config.metadata.clone().unwrap_or_default();
    let pairs = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &metadata.namespace),
        ("K8S_POD_NAME", &metadata.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &request.pod_id),
        ("K8S_POD_UID", &metadata.uid),
    ];
    if let Some((key, bad)) = pairs.iter().find(|(_, value)| value.contains([';', '=', '\0', '\n'])) {
        return Err(Error::invalid(format!("{key} {bad:?}: must not hold \";\" or \"=\" for CNI plugins")));
    }
    Ok(pairs.map(|(key, value)| format!("{key}={value}")).join(";"))
}

/// What there is to be told, by the names of capabilities.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for a bandwidth that is none.
pub(super) fn capabilities(request: &AttachRequest, cidrs: Option<&PodCidrs>) -> Result<Map<String, Value>> {
    let config = &request.config;
    let mut all = Map::new();
    let mut add = |name: &str, value: Value| drop(all.insert(name.to_owned(), value));
    if !request.ports.is_empty() {
        let ports = request.ports.iter().map(|p| {
            json!({
                "hostPort": p.host_port,
                "containerPort": p.container_port,
                "protocol": p.protocol.as_str(),
                "hostIP": p.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            })
        });
        add("portMappings", ports.collect());
    }
    if let Some(bandwidth) = bandwidth(&config.annotations)? {
        add("bandwidth", bandwidth);
    }
    if let Some(dns) = &config.dns_config {
        let dns = json!({ "servers": dns.servers, "searches": dns.searches, "options": dns.options });
        add("dns", dns);
    }
    if let Some(cidrs) = cidrs {
        // One range set each (host-local: an address of every set).
        add("ipRanges", cidrs.texts().iter().map(|subnet| json!([{ "subnet": subnet }])).collect());
    }
    if let Some(linux) = config.linux.as_ref().filter(|l| !l.cgroup_parent.is_empty()) {
        add("cgroupPath", linux.cgroup_parent.clone().into());
    }
    // The name is containerd's; plugins ask for it by that.
    add("io.kubernetes.cri.pod-annotations", json!(config.annotations));
    Ok(all)
}

fn bandwidth(annotations: &HashMap<String, String>) -> Result<Option<Value>> {
    let mut limits = Map::new();
    for (annotation, rate, burst) in BANDWIDTH {
        let Some(text) = annotations.get(annotation) else { continue };
        let bits = quantity(text).filter(|bits| RATES.contains(bits)).ok_or_else(|| {
            Error::invalid(format!(
                "annotation {annotation}: {text:?} must be a rate between 1k and 1P, in bits a second"
            ))
        })?;
        limits.insert(rate.into(), u64::try_from(bits).unwrap_or(u64::MAX).into());
        limits.insert(burst.into(), BURST.into());
    }
    Ok((!limits.is_empty()).then_some(limits.into()))
}

/// A quantity of Kubernetes' (`10M`, `1.5Gi`, `1e6`), rounded up; `None` if it is none, negative, or beyond all measure.
fn quantity(text: &str) -> Option<u128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || whole.len() > 18 || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    // In billionths, so that nothing is lost.
    let padded = format!("{}{fraction:0<9}", if whole.is_empty() { "0" } else { whole });
    let billionths: u128 = padded.parse().ok()?;
    let decimal = |power: i32| {
        let factor = 10_u128.checked_pow(power.unsigned_abs())?;
        if power < 0 { Some(billionths.div_ceil(factor)) } else { billionths.checked_mul(factor) }
    };
    let binary = |power: u32| billionths.checked_mul(1_u128 << (10 * power));
    let scaled = match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        other => {
            let power: i32 = other.strip_prefix(['e', 'E'])?.parse().ok()?;
            if power.abs() > 30 { None } else { decimal(power) }
        }
    }?;
    Some(scaled.div_ceil(1_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{PortMapping, Protocol};
    use std::sync::Arc;
    use strata_api::cri;

    fn request(change: impl FnOnce(&mut cri::PodSandboxConfig)) -> AttachRequest {
        let mut config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: "web".into(),
                uid: "u-1".into(),
                namespace: "default".into(),
                attempt: 0,
            }),
            ..Default::default()
        };
        change(&mut config);
        AttachRequest { pod_id: "abc".into(), config: Arc::new(config), ..Default::default() }
    }

    #[test]
    fn who_the_pod_is() {
        assert_eq!(
            environment(&request(|_| {})).unwrap(),
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1"
        );
        let hostile =
            request(|c| c.metadata.as_mut().unwrap().name = "x;K8S_POD_NAMESPACE=kube-system".into());
        assert!(environment(&hostile).is_err());
    }

    #[test]
    fn what_plugins_may_ask_for() {
        let mut wanted = request(|c| {
            c.annotations.insert("kubernetes.io/ingress-bandwidth".into(), "10M".into());
            c.dns_config = Some(cri::DnsConfig { servers: vec!["10.0.0.10".into()], ..Default::default() });
            c.linux = Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: "/kubepods/x".into(),
                ..Default::default()
            });
        });
        wanted.ports = vec![PortMapping::parse("127.0.0.1", 8080, 80, Protocol::Udp).unwrap()];
        let cidrs = PodCidrs::parse("10.1.0.0/24,fd00::/64").unwrap();
        let told = Value::Object(capabilities(&wanted, cidrs.as_ref()).unwrap());
        assert_eq!(
            told["portMappings"],
            json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "127.0.0.1" }])
        );
        assert_eq!(
            told["bandwidth"],
            json!({ "ingressRate": 10_000_000, "ingressBurst": 4_294_967_295_u32 })
        );
        assert_eq!(told["dns"]["servers"], json!(["10.0.0.10"]));
        assert_eq!(told["ipRanges"], json!([[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "fd00::/64" }]]));
        assert_eq!(told["cgroupPath"], json!("/kubepods/x"));
        let least = capabilities(&request(|_| {}), None).unwrap();
        assert_eq!(least.keys().collect::<Vec<_>>(), ["io.kubernetes.cri.pod-annotations"]);
    }

    #[test]
    fn quantities() {
        for (text, want) in [
            ("10M", 10_000_000),
            ("1.5k", 1500),
            ("1Ki", 1024),
            (".5Ki", 512),
            ("1e3", 1000),
            ("12E2", 1200),
            ("1500m", 2),
            ("1", 1),
        ] {
            assert_eq!(quantity(text), Some(want), "{text}");
        }
        for bad in ["", "M", "-1", "1.2.3", "1 M", "1e", "1e99", "9999999999999999999999", "10Mi5", "1µ"] {
            assert_eq!(quantity(bad), None, "{bad}");
        }
        for bad in ["999", "2P", "fast"] {
            let wanted = request(|c| {
                c.annotations.insert("kubernetes.io/egress-bandwidth".into(), bad.into());
            });
            let error = capabilities(&wanted, None).unwrap_err().to_string();
            assert!(error.contains("egress-bandwidth") && error.contains(bad), "{error}");
        }
    }
}
