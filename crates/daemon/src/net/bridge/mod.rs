//! The built-in network: a bridge on this node, addresses from a local pool, ports of the node.
//!
//! ```text
//!   pod: eth0 10.88.0.2/16 ── veth ── v<bridge><pod> ── strata0 10.88.0.1 ── the node, and beyond it as the node
//!   claims.rs  who has which address and port, in memory      link.rs      interfaces (rtnetlink)
//!   reserve.rs holds ports against programs of the node       firewall.rs  translation (nftables)
//! ```
//!
//! Ports of the node lead to pods from other machines, from the node itself (127.0.0.1 too) and from pods. IPv4 only.
//! Another firewall's DROP for forwarded packets is not overruled: packets from and to the bridge have to be accepted there.

mod claims;
mod firewall;
mod link;
mod reserve;

#[cfg(test)]
mod testnet;
#[cfg(test)]
mod tests;

use super::netlink::Netlink;
use super::{AttachRequest, Attachment, DetachRequest, Held, NetworkStatus, PodCidrs, Provider};
use crate::config;
use crate::error::{Error, Result};
use claims::{Claims, Subnet};
use firewall::{Firewall, Published};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use link::{POD_INTERFACE, Pair, mac};
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use strata_oci::Digest;
use tokio::sync::OnceCell;

/// What [`Attachment::provider`] says.
pub(crate) const NAME: &str = "builtin";
/// Whether the node forwards packets (ip-sysctl.rst), in the reader's network namespace.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// The built-in network.
#[derive(Debug)]
pub(crate) struct Bridge {
    name: String,
    /// Held while a pod is connected, so that it does not change meanwhile.
    subnet: tokio::sync::RwLock<Subnet>,
    claims: Mutex<Claims>,
    firewall: Firewall,
    netlink: OnceCell<Netlink>,
    /// The bridge's index once this process has set it up; the lock makes others wait meanwhile.
    index: tokio::sync::Mutex<Option<u32>>,
}

impl Bridge {
    /// The network that the configuration describes, with the addresses that the cluster has given to this node if there are
    /// any. Nothing is made before the first pod.
    ///
    /// # Errors
    /// If the subnet is none.
    pub(crate) fn new(config: &config::Network, cidrs: Option<&PodCidrs>) -> Result<Self> {
        let subnet = Subnet::parse(&cidrs.and_then(PodCidrs::ipv4).unwrap_or_else(|| config.subnet.clone()))?;
        let firewall = Firewall::new(&config.bridge, subnet);
        Ok(Self::with(config.bridge.clone(), subnet, firewall))
    }

    fn with(name: String, subnet: Subnet, firewall: Firewall) -> Self {
        Self {
            name,
            subnet: tokio::sync::RwLock::new(subnet),
            claims: Mutex::new(Claims::new(subnet)),
            firewall,
            netlink: OnceCell::new(),
            index: tokio::sync::Mutex::default(),
        }
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn netlink(&self) -> Result<&Netlink> {
        self.netlink.get_or_try_init(|| async { Netlink::open() }).await
    }

    /// The bridge, made if it is not there; somebody may have removed it since the last pod.
    async fn index(&self, subnet: Subnet) -> Result<u32> {
        let netlink = self.netlink().await?;
        let mut known = self.index.lock().await;
        if known.is_some() && *known == netlink.bridge(&self.name).await? {
            return Ok(known.unwrap_or_default());
        }
        let index = netlink.ensure_bridge(&self.name, subnet).await?;
        forward();
        *known = Some(index);
        Ok(index)
    }

    async fn connect(&self, request: &AttachRequest) -> Result<Attachment> {
        let held = self.subnet.read().await;
        let subnet = *held;
        let (bridge, netlink) = (self.index(subnet).await?, self.netlink().await?);
        let (ip, ports) = self.claims().claim(&request.pod_id, &request.owner, &request.ports)?;
        let attachment = Attachment {
            provider: NAME.into(),
            owner: request.owner.clone(),
            interface: POD_INTERFACE.into(),
            ips: vec![ip.into()],
            prefix: subnet.prefix(),
            gateway: Some(subnet.gateway().into()),
            mac: mac(ip).map(|byte| format!("{byte:02x}")).join(":"),
            ports: ports.clone(),
            result: None,
        };
        let host_interface = self.host_interface(&request.pod_id);
        let (host_interface, owner) = (host_interface.as_str(), request.owner.as_str());
        let pair = Pair { host_interface, owner, bridge, ip, subnet };
        // Both to their ends, even if one fails: nothing may happen any more once it is undone.
        let (wired, published) = tokio::join!(
            pair.connect(netlink, &request.netns),
            self.firewall.publish(&request.pod_id, Published { ip, ports })
        );
        match wired.and(published) {
            Ok(()) => Ok(attachment),
            Err(error) => match self.disconnect(&request.pod_id).await {
                Ok(()) => Err(error),
                Err(undo) => Err(error.context(format!("(and undoing it failed: {undo})"))),
            },
        }
    }

    /// The address is free only when nothing leads to it any more.
    async fn disconnect(&self, pod_id: &str) -> Result<()> {
        self.firewall.withdraw(pod_id).await?;
        self.netlink().await?.remove(&self.host_interface(pod_id)).await?;
        self.claims().release(pod_id);
        Ok(())
    }

    /// Takes other addresses, while no pod has any.
    async fn renumber(&self, cidrs: &PodCidrs) -> Result<()> {
        let texts = cidrs.texts().join(",");
        let wanted = cidrs.ipv4().and_then(|text| Subnet::parse(&text).ok()).ok_or_else(|| {
            Error::invalid(format!(
                "pod CIDR {texts}: the built-in network takes an IPv4 subnet of 8 to 30 bits; use CNI for others"
            ))
        })?;
        let mut subnet = self.subnet.write().await;
        if *subnet == wanted {
            return Ok(());
        }
        let pods = self.claims().held();
        if pods > 0 {
            return Err(Error::precondition(format!(
                "pod CIDR {texts}: {pods} pods of the built-in network have addresses of {subnet}, which would not be \
                 reached any more; remove them, those of `strata run` included, and it is taken"
            )));
        }
        let mut index = self.index.lock().await;
        let netlink = self.netlink().await?;
        if netlink.bridge(&self.name).await?.is_some() {
            netlink.remove(&self.name).await?;
        }
        self.firewall.renumber(wanted).await;
        *self.claims() = Claims::new(wanted);
        *index = None;
        tracing::info!(from = %*subnet, to = %wanted, "the built-in network has other addresses: the kubelet's pod CIDR");
        *subnet = wanted;
        Ok(())
    }

    async fn take_over(&self, held: Vec<Held>) -> Result<()> {
        let mut pods = BTreeMap::new();
        let mut interfaces = HashSet::new();
        let live = held.into_iter().filter(|h| h.live).filter_map(|h| Some((h.pod_id, h.attachment?)));
        for (pod_id, attachment) in live {
            interfaces.insert(self.host_interface(&pod_id));
            let Some(ip) = first_ipv4(&attachment) else { continue };
            self.claims().adopt(&pod_id, &attachment.owner, ip, &attachment.ports);
            pods.insert(pod_id, Published { ip, ports: attachment.ports });
        }
        let netlink = self.netlink().await?;
        for interface in netlink.ports_of(&self.name, &self.interface_prefix()).await? {
            if !interfaces.contains(&interface) {
                tracing::info!(interface, "removing the interface of a pod that is gone");
                netlink.remove(&interface).await?;
            }
        }
        if !interfaces.is_empty() {
            let subnet = *self.subnet.read().await;
            self.index(subnet).await?;
        }
        self.firewall.reset(pods, !interfaces.is_empty()).await
    }

    /// What our interfaces' names start with. It tells bridges apart, so that two daemons leave each other's alone.
    fn interface_prefix(&self) -> String {
        format!("v{}", Digest::sha256_of(self.name.as_bytes()).hex().get(..4).unwrap_or_default())
    }

    /// The node's end of a pod's pair: 15 bytes, all that the kernel takes.
    fn host_interface(&self, pod_id: &str) -> String {
        let is_id = |id: &&str| id.bytes().all(|b| b.is_ascii_hexdigit());
        let short = pod_id.get(..10).filter(is_id).map_or_else(
            || Digest::sha256_of(pod_id.as_bytes()).hex().get(..10).unwrap_or_default().to_owned(),
            str::to_owned,
        );
        self.interface_prefix() + &short
    }
}

fn first_ipv4(attachment: &Attachment) -> Option<Ipv4Addr> {
    attachment.ips.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    })
}

/// Lets the node forward packets, if it does not yet.
fn forward() {
    match std::fs::read_to_string(FORWARDING) {
        Ok(value) if value.trim() != "0" => {}
        _ => match std::fs::write(FORWARDING, "1") {
            Ok(()) => tracing::info!("net.ipv4.ip_forward is now 1: pods need it to reach beyond this node"),
            Err(error) => {
                tracing::warn!(%error, "{FORWARDING} cannot be set: pods cannot reach beyond this node");
            }
        },
    }
}

impl Provider for Bridge {
    fn name(&self) -> &'static str {
        NAME
    }

    fn status(&self) -> BoxFuture<'_, NetworkStatus> {
        // Pods can be attached without nftables; the message says what they then lack.
        let message = self.firewall.problem().unwrap_or_default();
        std::future::ready(NetworkStatus { message, ..NetworkStatus::ready() }).boxed()
    }

    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Attachment>> {
        async move { self.connect(&request).await }.boxed()
    }

    fn detach(&self, request: DetachRequest) -> BoxFuture<'_, Result<()>> {
        async move { self.disconnect(&request.pod_id).await }.boxed()
    }

    fn recover(&self, held: Vec<Held>) -> BoxFuture<'_, Result<()>> {
        async move { self.take_over(held).await.map_err(|e| e.context("recovering the built-in network")) }
            .boxed()
    }

    fn set_pod_cidr(&self, cidrs: PodCidrs) -> BoxFuture<'_, Result<()>> {
        async move { self.renumber(&cidrs).await }.boxed()
    }
}
