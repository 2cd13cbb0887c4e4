//! Pod networks: one seam, and what is behind it.
//!
//! ```text
//!                 intent() ─▶ what detaching needs  kept in pod.json before attaching begins
//!   pod/ ──────▶  attach(netns) ─▶ Attachment       kept in pod.json
//!                 detach(netns, intent, Attachment) idempotent, retried until it succeeds
//!                 recover(what pods hold)           once, before the first attach
//!                      │
//!         ┌────────────┴─────────────┐
//!     bridge/ (built in)         cni (the cluster's plugins)
//! ```
//!
//! [`devices`] lends pods interfaces of the node's, whatever network they are on.
//!
//! The caller makes and pins the network namespace, writes its intent durably before [`Provider::attach`], and the
//! [`Attachment`] after it. It also handles pods that need no provider: those on the node's network, and those with none.

pub(crate) mod bridge;
pub(crate) mod cni;
pub(crate) mod devices;
mod netlink;
pub(crate) mod podcidr;

use crate::error::{Error, Result};
use futures_util::future::BoxFuture;
pub(crate) use podcidr::PodCidrs;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use strata_api::cri;

/// Something that connects pods' network namespaces.
pub(crate) trait Provider: Send + Sync + fmt::Debug {
    /// Its name, kept in [`Attachment::provider`]: a pod is detached by the provider that attached it.
    fn name(&self) -> &'static str;

    /// Whether pods can be attached now.
    fn status(&self) -> BoxFuture<'_, NetworkStatus>;

    /// What detaching the pod will need whatever has become of the configuration by then. The caller writes it durably
    /// before it attaches the pod.
    fn intent<'a>(&'a self, _: &'a AttachRequest) -> BoxFuture<'a, Result<Option<Intent>>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Connects a pod. After a failure the caller detaches it.
    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Attachment>>;

    /// Disconnects a pod: success if it is not connected, or its namespace is gone.
    fn detach(&self, request: DetachRequest) -> BoxFuture<'_, Result<()>>;

    /// Disconnects a pod whose record is lost: what is known of it may be no more than its ID. Success as with `detach`.
    fn detach_lost(&self, request: DetachRequest) -> BoxFuture<'_, Result<()>> {
        self.detach(request)
    }

    /// Takes over what pods hold, and removes what others left behind.
    fn recover(&self, held: Vec<Held>) -> BoxFuture<'_, Result<()>>;

    /// Takes the addresses that the cluster has given to this node's pods.
    ///
    /// # Errors
    /// If they cannot be used, or not now.
    fn set_pod_cidr(&self, cidrs: PodCidrs) -> BoxFuture<'_, Result<()>>;
}

/// Whether a network is usable (CRI `RuntimeCondition` `NetworkReady`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetworkStatus {
    /// Whether pods can be attached.
    pub(crate) ready: bool,
    /// One word in CamelCase; empty if ready.
    pub(crate) reason: String,
    /// What is missing and what to do; empty if there is nothing to say.
    pub(crate) message: String,
}

impl NetworkStatus {
    /// Ready, with nothing to say.
    pub(crate) fn ready() -> Self {
        Self { ready: true, reason: String::new(), message: String::new() }
    }
}

/// A provider's own notes, as JSON in pod.json.
pub(crate) type Intent = serde_json::Value;

/// What a pod holds of a network, as its record says.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// The pod's ID.
    pub(crate) pod_id: String,
    /// Where its network namespace is pinned.
    pub(crate) netns: Option<PathBuf>,
    /// What its provider noted before it attached it.
    pub(crate) intent: Option<Intent>,
    /// What attaching answered; `None` if it never came that far.
    pub(crate) attachment: Option<Attachment>,
    /// Whether it was attached during this boot.
    pub(crate) live: bool,
    /// Whether it was up when the daemon ended.
    pub(crate) ready: bool,
}

/// A pod to be connected.
#[derive(Clone, Debug, Default)]
pub(crate) struct AttachRequest {
    /// The pod's ID, 64 hex digits.
    pub(crate) pod_id: String,
    /// What people call it, for messages: `default/web` or a container's name.
    pub(crate) owner: String,
    /// Where its network namespace is pinned.
    pub(crate) netns: PathBuf,
    /// Ports of the node that lead to it.
    pub(crate) ports: Vec<PortMapping>,
    /// What was asked for.
    pub(crate) config: Arc<cri::PodSandboxConfig>,
    /// What [`Provider::intent`] said.
    pub(crate) intent: Option<Intent>,
}

/// A pod to be disconnected.
#[derive(Clone, Debug)]
pub(crate) struct DetachRequest {
    /// The pod's ID.
    pub(crate) pod_id: String,
    /// Where its network namespace was pinned, if it was.
    pub(crate) netns: Option<PathBuf>,
    /// What [`Provider::intent`] said.
    pub(crate) intent: Option<Intent>,
    /// What attaching answered; `None` if it never came that far, or nobody knows.
    pub(crate) attachment: Option<Attachment>,
}

/// How a pod is connected. Kept in pod.json: fields may be added, never changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    /// The name of the provider that made it.
    pub(crate) provider: String,
    /// What people call the pod.
    #[serde(default)]
    pub(crate) owner: String,
    /// The interface inside the pod.
    pub(crate) interface: String,
    /// Its addresses, the first one being the pod's primary.
    pub(crate) ips: Vec<IpAddr>,
    /// Prefix length of the first address' subnet.
    #[serde(default)]
    pub(crate) prefix: u8,
    /// Where its default route goes.
    #[serde(default)]
    pub(crate) gateway: Option<IpAddr>,
    /// The interface's hardware address.
    #[serde(default)]
    pub(crate) mac: String,
    /// Port mappings, with the host ports that were chosen.
    #[serde(default)]
    pub(crate) ports: Vec<PortMapping>,
    /// A CNI result as the last plugin gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<serde_json::Value>,
}

/// A port of the node that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortMapping {
    /// The node's address; `None`: all of them.
    #[serde(default)]
    pub(crate) host_ip: Option<IpAddr>,
    /// The node's port; 0 in a request: any free one.
    pub(crate) host_port: u16,
    /// The pod's port.
    pub(crate) container_port: u16,
    /// Which kind of port.
    pub(crate) protocol: Protocol,
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    /// TCP
    #[default]
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// As nft and Docker write it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Protocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "" | "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            other => Err(Error::invalid(format!("port protocol {other:?}: must be tcp, udp or sctp"))),
        }
    }
}

impl PortMapping {
    /// A mapping from text and numbers as they come over gRPC.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for a port outside 16 bits, a container port 0, or what
    /// is no IP address. Unspecified addresses (`0.0.0.0`) mean all of them.
    pub(crate) fn parse(
        host_ip: &str,
        host_port: i64,
        container_port: i64,
        protocol: Protocol,
    ) -> Result<Self> {
        let port = |n: i64, what: &str| {
            u16::try_from(n)
                .map_err(|_| Error::invalid(format!("{what} port {n}: must lie between 0 and 65535")))
        };
        let host_ip = match host_ip {
            "" => None,
            text => {
                let ip: IpAddr = text.parse().map_err(|_| {
                    Error::invalid(format!("host address {text:?} of a port: must be an IP address"))
                })?;
                (!ip.is_unspecified()).then_some(ip)
            }
        };
        let (host_port, container_port) = (port(host_port, "host")?, port(container_port, "container")?);
        if container_port == 0 {
            return Err(Error::invalid("container port 0: must lie between 1 and 65535"));
        }
        Ok(Self { host_ip, host_port, container_port, protocol })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attachment_survives_its_record() {
        let attachment = Attachment {
            provider: "builtin".into(),
            owner: "default/web".into(),
            interface: "eth0".into(),
            ips: vec!["10.88.0.2".parse().unwrap()],
            prefix: 16,
            gateway: Some("10.88.0.1".parse().unwrap()),
            mac: "0a:58:0a:58:00:02".into(),
            ports: vec![PortMapping::parse("127.0.0.1", 8080, 80, Protocol::Tcp).unwrap()],
            result: Some(serde_json::json!({ "cniVersion": "1.0.0" })),
        };
        let text = serde_json::to_string(&attachment).unwrap();
        assert_eq!(serde_json::from_str::<Attachment>(&text).unwrap(), attachment);
    }

    #[test]
    fn ports_are_checked() {
        assert!(PortMapping::parse("", 65536, 80, Protocol::Tcp).is_err());
        assert!(PortMapping::parse("", 80, 0, Protocol::Tcp).is_err());
        assert!(PortMapping::parse("localhost", 80, 80, Protocol::Tcp).is_err());
        assert_eq!(PortMapping::parse("0.0.0.0", 80, 80, Protocol::Udp).unwrap().host_ip, None);
        assert!("icmp".parse::<Protocol>().is_err());
    }
}
