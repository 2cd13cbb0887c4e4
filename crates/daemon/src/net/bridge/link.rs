//! Interfaces, by rtnetlink(7): the bridge in the daemon's network namespace, and one veth pair per pod.

use super::claims::Subnet;
use crate::error::{Error, Kind, Result};
use crate::net::netlink::{Netlink, errno, failed};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoPortKind, InfoVeth, LinkAttribute, LinkInfo};
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use rustix::io::Errno;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use strata_sys::ns::{self, NsKind};

/// What the pod's end is called.
pub(super) const POD_INTERFACE: &str = "eth0";
/// The kernel's limit for an alias (IFALIASZ, 256 bytes), less its own NUL byte and the one that is sent, which it counts too.
const MAX_ALIAS: usize = 254;

impl Netlink {
    /// Removes an interface; one that is not there is success.
    pub(super) async fn remove(&self, name: &str) -> Result<()> {
        let Some(link) = self.get(name).await? else { return Ok(()) };
        match self.handle.link().del(link.header.index).execute().await {
            Err(e) if errno(&e) != Some(Errno::NODEV) => {
                Err(failed(&format!("interface {name}: RTM_DELLINK"), &e))
            }
            _ => Ok(()),
        }
    }

    /// Names of interfaces that start with `prefix` and are ports of this bridge, or of none.
    pub(super) async fn ports_of(&self, bridge: &str, prefix: &str) -> Result<Vec<String>> {
        let master = self.get(bridge).await?.map(|l| l.header.index);
        let ours = self.all().await?.into_iter().filter_map(|link| {
            let mut name = None;
            let mut controller = None;
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(n) => name = Some(n),
                    LinkAttribute::Controller(index) => controller = Some(index),
                    _ => {}
                }
            }
            name.filter(|n| n.starts_with(prefix) && (controller.is_none() || controller == master))
        });
        Ok(ours.collect())
    }

    /// The index of the bridge, if it is there.
    pub(super) async fn bridge(&self, name: &str) -> Result<Option<u32>> {
        let Some(link) = self.get(name).await? else { return Ok(None) };
        let is_bridge = link.attributes.iter().any(|a| match a {
            LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
            _ => false,
        });
        if is_bridge {
            return Ok(Some(link.header.index));
        }
        Err(Error::precondition(format!(
            "interface {name} exists and is no bridge; set another name as bridge under [network]"
        )))
    }

    /// Makes the bridge, with the gateway's address, as far as it is not there, and brings it up.
    pub(super) async fn ensure_bridge(&self, name: &str, subnet: Subnet) -> Result<u32> {
        let what = |call: &str, e: &rtnetlink::Error| failed(&format!("bridge {name}: {call}"), e);
        let index = match self.bridge(name).await? {
            Some(index) => index,
            None => {
                self.check_overlap(subnet).await?;
                // An address of its own: otherwise it would change with the ports, and connections would stall.
                let bridge = LinkBridge::new(name).address(mac(subnet.gateway()).to_vec()).build();
                match self.handle.link().add(bridge).execute().await {
                    Err(e) if errno(&e) != Some(Errno::EXIST) => return Err(what("RTM_NEWLINK", &e)),
                    _ => {}
                }
                let vanished = || Error::new(Kind::Unavailable, format!("bridge {name} vanished; try again"));
                self.bridge(name).await?.ok_or_else(vanished)?
            }
        };
        let gateway = subnet.gateway().into();
        match self.handle.address().add(index, gateway, subnet.prefix()).execute().await {
            Err(e) if errno(&e) != Some(Errno::EXIST) => return Err(what("RTM_NEWADDR", &e)),
            _ => {}
        }
        let up = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().change(up).execute().await.map_err(|e| what("RTM_NEWLINK", &e))?;
        Ok(index)
    }

    /// Refuses a subnet that another interface is in: replies to it would go astray.
    async fn check_overlap(&self, subnet: Subnet) -> Result<()> {
        let mut addresses = std::pin::pin!(self.handle.address().get().execute());
        let read = |e| failed("addresses: RTM_GETADDR", &e);
        while let Some(message) = addresses.try_next().await.map_err(read)? {
            for attribute in &message.attributes {
                let AddressAttribute::Address(std::net::IpAddr::V4(ip)) = attribute else { continue };
                if subnet.overlaps(*ip, message.header.prefix_len) {
                    return Err(Error::precondition(format!(
                        "subnet {subnet}: interface {} has the address {ip}/{} in it; set another subnet under [network]",
                        message.header.index, message.header.prefix_len
                    )));
                }
            }
        }
        Ok(())
    }

    /// Loopback up, in a pod.
    async fn loopback_up(&self) -> Result<()> {
        let up = LinkUnspec::new_with_name("lo").up().build();
        let set = self.handle.link().change(up).execute().await;
        set.map_err(|e| failed("interface lo in the pod: RTM_NEWLINK", &e))
    }

    /// Makes the pair, the pod's end here and up, the other one in `host`.
    async fn add_pair(&self, pair: &Pair<'_>, host: &OwnedFd) -> Result<()> {
        let peer = LinkUnspec::new_with_name(pair.host_interface).setns_by_fd(host.as_raw_fd()).build();
        let veth = LinkVeth::new(POD_INTERFACE, pair.host_interface)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .address(mac(pair.ip).to_vec())
            .up()
            .build();
        let added = self.handle.link().add(veth).execute().await;
        added.map_err(|e| failed(&format!("veth pair {} in the pod: RTM_NEWLINK", pair.host_interface), &e))
    }

    /// Address and default route of the pod's end.
    async fn address(&self, pair: &Pair<'_>) -> Result<()> {
        let what =
            |call: &str, e: &rtnetlink::Error| failed(&format!("{POD_INTERFACE} in the pod: {call}"), e);
        let Some(link) = self.get(POD_INTERFACE).await? else {
            return Err(Error::new(Kind::Unavailable, format!("{POD_INTERFACE} vanished from the pod")));
        };
        let (index, subnet) = (link.header.index, pair.subnet);
        let add = self.handle.address().add(index, pair.ip.into(), subnet.prefix()).execute();
        add.await.map_err(|e| what("RTM_NEWADDR", &e))?;
        let route =
            RouteMessageBuilder::<Ipv4Addr>::new().gateway(subnet.gateway()).output_interface(index).build();
        self.handle.route().add(route).execute().await.map_err(|e| what("RTM_NEWROUTE", &e))
    }

    /// Makes the node's end a port of the bridge. It takes back what it sent, or a pod could not reach itself by a port of
    /// the node: with br_netfilter, translated packets do not leave the bridge.
    async fn join(&self, pair: &Pair<'_>) -> Result<()> {
        let name = pair.host_interface;
        let what = |e| failed(&format!("interface {name}: RTM_NEWLINK"), &e);
        let change = |message| self.handle.link().change(message).execute();
        let joined = LinkUnspec::new_with_name(name).alias(alias(pair.owner)).controller(pair.bridge).up();
        change(joined.build()).await.map_err(what)?;
        let port = LinkMessageBuilder::<LinkBridgePort>::default().set_port_kind(InfoPortKind::Bridge);
        change(port.name(name).hairpin(true).build()).await.map_err(what)
    }
}

/// At most as much of a name as the kernel takes.
fn alias(owner: &str) -> String {
    let mut bytes = 0;
    let fits = |c: &char| {
        bytes += c.len_utf8();
        bytes <= MAX_ALIAS
    };
    owner.chars().take_while(fits).collect()
}

/// What connects one pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'a> {
    pub(super) host_interface: &'a str,
    pub(super) owner: &'a str,
    pub(super) bridge: u32,
    pub(super) ip: Ipv4Addr,
    pub(super) subnet: Subnet,
}

impl Pair<'_> {
    /// Connects a pod. The pair is made inside the pod: moving an end there later would wait for an RCU grace period.
    ///
    /// # Errors
    /// What was made stays: the caller removes the node's end, and the other one goes with it.
    pub(super) async fn connect(&self, node: &Netlink, netns: &Path) -> Result<()> {
        let host = ns::open_self(NsKind::Net)
            .map_err(|e| Error::internal(format!("the daemon's network namespace: {e}")))?;
        let pod = Netlink::open_in(netns).await?;
        pod.add_pair(self, &host).await?;
        let inside = async {
            pod.loopback_up().await?;
            pod.address(self).await
        };
        tokio::try_join!(inside, node.join(self))?;
        Ok(())
    }
}

/// The hardware address that goes with an address: locally administered, and the same whenever the pod comes back.
pub(super) fn mac(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x0a, 0x58, a, b, c, d]
}
