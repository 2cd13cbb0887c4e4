//! Interfaces of the node's that are lent to pods (OCI runtime specification 1.3, config-linux.md, "Network Devices").
//!
//! ```text
//!   look ─▶ what the pod's record says from here on, durably
//!   lend ─▶ alias ─▶ the pod's namespace and the new name ─▶ addresses ─▶ up
//!   give_back ─▶ down ─▶ the node's namespace and the old name ─▶ addresses ─▶ up, if it was ─▶ the old alias
//! ```
//!
//! A move takes an interface's addresses, routes and state away, and keeps its hardware address and its MTU. On its way an interface is
//! known by its alias, which it has from before the first move until after the last one: whatever was cut off is gone on with.

use super::netlink::{Netlink, errno, failed};
use crate::error::{Error, Kind, Result};
use crate::pod::short;
use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use strata_sys::ns::{self, NsKind};

/// What an interface is called that comes back while another one has its name.
const SPARE: &str = "netdev%d";

/// An interface that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetDevice {
    /// Its name on the node.
    pub(crate) host: String,
    /// Its name in the pod.
    pub(crate) name: String,
}

/// One that is lent, and as what it is to come back. Kept in pod.json: fields may be added, never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lent {
    /// Which one.
    pub(crate) device: NetDevice,
    /// Its permanent addresses of global scope, with the lengths of their prefixes.
    pub(crate) addresses: Vec<(IpAddr, u8)>,
    /// Whether it was up.
    pub(crate) up: bool,
    /// Its alias.
    pub(crate) alias: String,
}

impl Lent {
    /// By what it is known on its way.
    fn mark(&self, pod: &str) -> String {
        mark(pod) + &self.device.host
    }
}

/// What the aliases of a pod's interfaces begin with.
fn mark(pod: &str) -> String {
    format!("strata {} ", short(pod))
}

/// What is needed to know of an interface.
#[derive(Debug)]
struct Link {
    index: u32,
    name: String,
    alias: String,
    up: bool,
    loopback: bool,
    /// Whether it is a port of another one.
    port: bool,
}

impl Link {
    fn of(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            alias: String::new(),
            up: flags.contains(LinkFlags::Up),
            loopback: flags.contains(LinkFlags::Loopback),
            port: false,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = alias,
                LinkAttribute::Controller(index) => link.port = index != 0,
                _ => {}
            }
        }
        link
    }

    fn change(&self) -> LinkMessageBuilder<LinkUnspec> {
        LinkUnspec::new_with_index(self.index)
    }
}

impl Netlink {
    async fn named(&self, name: &str) -> Result<Option<Link>> {
        Ok(self.get(name).await?.map(Link::of))
    }

    async fn marked(&self, mark: &str) -> Result<Option<Link>> {
        Ok(self.all().await?.into_iter().map(Link::of).find(|link| link.alias == mark))
    }

    async fn set(&self, name: &str, change: LinkMessageBuilder<LinkUnspec>) -> Result<()> {
        let set = self.handle.link().change(change.build()).execute().await;
        set.map_err(|e| failed(&format!("interface {name}: RTM_NEWLINK"), &e))
    }

    /// The permanent addresses of global scope.
    async fn addresses(&self, link: &Link) -> Result<Vec<(IpAddr, u8)>> {
        let all: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|e| failed("addresses: RTM_GETADDR", &e))?;
        let kept = |a: &AddressMessage| {
            let header = &a.header;
            header.index == link.index
                && header.scope == AddressScope::Universe
                && header.flags.contains(AddressHeaderFlags::Permanent)
        };
        // Of a point-to-point link the local one is its own.
        let own = |a: AddressMessage| {
            let (mut local, mut any) = (None, None);
            for attribute in a.attributes {
                match attribute {
                    AddressAttribute::Local(ip) => local = Some(ip),
                    AddressAttribute::Address(ip) => any = Some(ip),
                    _ => {}
                }
            }
            Some((local.or(any)?, a.header.prefix_len))
        };
        Ok(all.into_iter().filter(kept).filter_map(own).collect())
    }

    async fn add_addresses(&self, link: &Link, addresses: &[(IpAddr, u8)]) -> Result<()> {
        for (ip, prefix) in addresses {
            match self.handle.address().add(link.index, *ip, *prefix).execute().await {
                Err(e) if errno(&e) != Some(Errno::EXIST) => {
                    return Err(failed(&format!("address {ip} of interface {}: RTM_NEWADDR", link.name), &e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Looks at an interface of the node's that is asked for, and whether the pod has room for it.
///
/// # Errors
/// [`Kind::FailedPrecondition`] if it is not there or cannot be lent, [`Kind::AlreadyExists`] if the pod has another one of its name.
pub(crate) async fn look(netns: &Path, wanted: &NetDevice) -> Result<Lent> {
    let (node, pod) = (Netlink::open()?, Netlink::open_in(netns).await?);
    let link = node.named(&wanted.host).await?.ok_or_else(|| absent(wanted))?;
    if link.loopback || link.port {
        let why = if link.loopback { "the node's loopback interface" } else { "a port of a bridge or bond" };
        return Err(Error::precondition(format!("interface {} is {why}, and cannot be lent", wanted.host)));
    }
    let addresses = node.addresses(&link).await?;
    has_no(&pod, wanted).await?;
    Ok(Lent { device: wanted.clone(), addresses, up: link.up, alias: link.alias })
}

fn absent(wanted: &NetDevice) -> Error {
    Error::precondition(format!(
        "the node has no interface {}; is it in another pod, or its driver not loaded?",
        wanted.host
    ))
}

async fn has_no(pod: &Netlink, wanted: &NetDevice) -> Result<()> {
    match pod.named(&wanted.name).await? {
        None => Ok(()),
        Some(_) => Err(Error::new(
            Kind::AlreadyExists,
            format!("the pod has an interface {} already: {} needs another name", wanted.name, wanted.host),
        )),
    }
}

/// Moves an interface into a pod, or goes on with that.
///
/// # Errors
/// What it has come to by then can be given back.
pub(crate) async fn lend(pod_id: &str, netns: &Path, lent: &Lent) -> Result<()> {
    let (node, pod) = (Netlink::open()?, Netlink::open_in(netns).await?);
    let (mark, NetDevice { host, name }) = (lent.mark(pod_id), &lent.device);
    if pod.marked(&mark).await?.is_none() {
        let link = node.named(host).await?.ok_or_else(|| absent(&lent.device))?;
        has_no(&pod, &lent.device).await?;
        node.set(host, link.change().alias(&mark)).await?;
        let to = ns::open(netns).map_err(|e| Error::internal(format!("the pod's network namespace: {e}")))?;
        let change = link.change().setns_by_fd(to.as_raw_fd()).name(name).build();
        node.handle.link().change(change).execute().await.map_err(|e| match errno(&e) {
            // NETIF_F_NETNS_LOCAL: bridges and the like.
            Some(Errno::INVAL) => Error::precondition(format!(
                "interface {host} is of a kind that cannot leave the node's network namespace"
            )),
            _ => failed(&format!("interface {host}: RTM_NEWLINK"), &e),
        })?;
    }
    let gone = || Error::new(Kind::Unavailable, format!("interface {name} vanished from the pod"));
    let link = pod.marked(&mark).await?.ok_or_else(gone)?;
    if link.name != *name {
        pod.set(&link.name, link.change().name(name)).await?;
    }
    pod.add_addresses(&link, &lent.addresses).await?;
    pod.set(name, link.change().up()).await
}

/// Moves an interface back as it was, from wherever it is on its way. One that is nowhere has gone with what it belonged to.
///
/// # Errors
/// If the kernel refuses: to be tried again.
pub(crate) async fn give_back(pod_id: &str, netns: Option<&Path>, lent: &Lent) -> Result<()> {
    let (mark, host) = (lent.mark(pod_id), &lent.device.host);
    if let Some(netns) = netns {
        let pod = Netlink::open_in(netns).await?;
        if let Some(link) = pod.marked(&mark).await? {
            move_back(&pod, &link, host).await?;
        }
    }
    let node = Netlink::open()?;
    let Some(link) = node.marked(&mark).await? else { return Ok(()) };
    if link.name == *host {
        node.add_addresses(&link, &lent.addresses).await?;
        if lent.up {
            node.set(host, link.change().up()).await?;
        }
    } else {
        tracing::warn!(
            pod = short(pod_id),
            interface = link.name,
            was = host,
            "a pod's network device has come back by another name and without addresses: the node has a new one of its name"
        );
    }
    node.set(&link.name, link.change().alias(&lent.alias)).await
}

async fn move_back(pod: &Netlink, link: &Link, host: &str) -> Result<()> {
    let own = ns::open_self(NsKind::Net)
        .map_err(|e| Error::internal(format!("the daemon's network namespace: {e}")))?;
    pod.set(&link.name, link.change().down()).await?;
    let to =
        |name: &str| pod.handle.link().change(link.change().setns_by_fd(own.as_raw_fd()).name(name).build());
    let moved = match to(host).execute().await {
        // Another one has its name. It may have been moved and not renamed then.
        Err(e) if errno(&e) == Some(Errno::EXIST) => match pod.marked(&link.alias).await? {
            Some(_) => to(SPARE).execute().await,
            None => Ok(()),
        },
        other => other,
    };
    moved.map_err(|e| failed(&format!("interface {}: RTM_NEWLINK", link.name), &e))
}

/// What a namespace tells of the interfaces that were lent to a pod whose record is lost.
///
/// # Errors
/// If the kernel cannot be asked.
pub(crate) async fn found(pod_id: &str, netns: &Path) -> Result<Vec<Lent>> {
    let (pod, mark, mut found) = (Netlink::open_in(netns).await?, mark(pod_id), Vec::new());
    for link in pod.all().await?.into_iter().map(Link::of) {
        let Some(host) = link.alias.strip_prefix(&mark) else { continue };
        let device = NetDevice { host: host.to_owned(), name: link.name.clone() };
        let addresses = pod.addresses(&link).await?;
        found.push(Lent { device, addresses, up: link.up, alias: String::new() });
    }
    Ok(found)
}
