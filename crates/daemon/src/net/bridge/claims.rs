//! Which pod has which address and which ports of the node. In memory: [`recover`](super::Bridge) rebuilds it from pod
//! records, so that nothing can leak.

use super::reserve;
use crate::error::{Error, Kind, Result};
use crate::net::{PortMapping, Protocol};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

/// The addresses that pods get, and their gateway's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subnet {
    network: u32,
    prefix: u8,
}

impl Subnet {
    /// Reads `10.88.0.0/16`; bits of a host in it do not matter.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            let address: Ipv4Addr = address.parse().ok()?;
            let prefix: u8 = prefix.parse().ok()?;
            (8..=30).contains(&prefix).then(|| Self { network: u32::from(address) & mask(prefix), prefix })
        });
        parsed.ok_or_else(|| {
            Error::invalid(format!("network.subnet {text:?}: must be an IPv4 subnet such as 10.88.0.0/16"))
        })
    }

    pub(super) fn prefix(self) -> u8 {
        self.prefix
    }

    /// The node's address on the bridge.
    pub(super) fn gateway(self) -> Ipv4Addr {
        (self.network + 1).into()
    }

    pub(super) fn network(self) -> Ipv4Addr {
        self.network.into()
    }

    /// Whether the two have an address in common.
    pub(super) fn overlaps(self, address: Ipv4Addr, prefix: u8) -> bool {
        let mask = mask(self.prefix.min(prefix));
        u32::from(address) & mask == self.network & mask
    }

    /// How many pods there is room for.
    fn room(self) -> u32 {
        // Without the network's, the gateway's and the broadcast address; at least 1.
        !mask(self.prefix) - 2
    }

    /// The address of a pod by its number, below [`room`](Self::room).
    fn pod(self, number: u32) -> Ipv4Addr {
        (self.network + 2 + number % self.room()).into()
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

/// `prefix` is at least 1.
fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

/// What one pod holds.
#[derive(Debug)]
struct Claim {
    owner: String,
    ip: Ipv4Addr,
    ports: Vec<PortMapping>,
    /// Bound, so that no program of the node takes the ports meanwhile.
    _sockets: Vec<OwnedFd>,
}

/// What all pods hold.
#[derive(Debug)]
pub(super) struct Claims {
    subnet: Subnet,
    /// Addresses are given out in turn, so that one is not used again at once.
    next: u32,
    used: HashSet<Ipv4Addr>,
    pods: HashMap<String, Claim>,
}

impl Claims {
    pub(super) fn new(subnet: Subnet) -> Self {
        Self { subnet, next: 0, used: HashSet::new(), pods: HashMap::new() }
    }

    /// Claims an address and ports; the mappings come back with the host ports that were chosen.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`] for a pod that holds some or a port that is taken, [`Kind::ResourceExhausted`] if no
    /// address is left. Nothing is claimed then.
    pub(super) fn claim(
        &mut self,
        pod_id: &str,
        owner: &str,
        ports: &[PortMapping],
    ) -> Result<(Ipv4Addr, Vec<PortMapping>)> {
        if let Some(held) = self.pods.get(pod_id) {
            let why = format!("it has the address {} already; detach it first", held.ip);
            return Err(Error::new(Kind::AlreadyExists, why));
        }
        let mut chosen: Vec<PortMapping> = Vec::with_capacity(ports.len());
        let mut sockets = Vec::new();
        for wanted in ports {
            let host_ip = ipv4(wanted.host_ip)?;
            if wanted.host_port != 0 {
                self.check_free(wanted, &chosen)?;
            }
            let (socket, host_port) = reserve::reserve(host_ip, wanted.host_port, wanted.protocol)?;
            sockets.extend(socket);
            chosen.push(PortMapping { host_port, ..wanted.clone() });
        }
        let ip = self.free_address()?;
        self.insert(pod_id, Claim { owner: owner.into(), ip, ports: chosen.clone(), _sockets: sockets });
        Ok((ip, chosen))
    }

    /// Takes over what a living pod holds. Ports that a program of the node has taken meanwhile stay the pod's.
    pub(super) fn adopt(&mut self, pod_id: &str, owner: &str, ip: Ipv4Addr, ports: &[PortMapping]) {
        let mut sockets = Vec::new();
        for port in ports {
            let host_ip = ipv4(port.host_ip).ok().flatten();
            match reserve::reserve(host_ip, port.host_port, port.protocol) {
                Ok((socket, _)) => sockets.extend(socket),
                Err(error) => tracing::warn!(pod = owner, %error, "a port of the node is used twice"),
            }
        }
        self.insert(pod_id, Claim { owner: owner.into(), ip, ports: ports.to_vec(), _sockets: sockets });
    }

    /// How many pods hold something.
    pub(super) fn held(&self) -> usize {
        self.pods.len()
    }

    /// Gives back what a pod holds, if anything.
    pub(super) fn release(&mut self, pod_id: &str) {
        if let Some(claim) = self.pods.remove(pod_id) {
            self.used.remove(&claim.ip);
        }
    }

    fn insert(&mut self, pod_id: &str, claim: Claim) {
        self.used.insert(claim.ip);
        self.pods.insert(pod_id.into(), claim);
    }

    fn free_address(&mut self) -> Result<Ipv4Addr> {
        for _ in 0..self.subnet.room() {
            let ip = self.subnet.pod(self.next);
            self.next = self.next.wrapping_add(1) % self.subnet.room();
            if !self.used.contains(&ip) {
                return Ok(ip);
            }
        }
        let why = format!(
            "all {} addresses of {} are in use; remove pods, or set a larger subnet under [network]",
            self.subnet.room(),
            self.subnet
        );
        Err(Error::new(Kind::ResourceExhausted, why))
    }

    /// Says who has a port, which the kernel would not.
    fn check_free(&self, wanted: &PortMapping, chosen: &[PortMapping]) -> Result<()> {
        let (port, protocol) = (wanted.host_port, wanted.protocol);
        if chosen.iter().any(|p| clashes(p, wanted)) {
            return Err(Error::invalid(format!("host port {port}/{protocol} is asked for twice")));
        }
        match self.pods.values().find(|claim| claim.ports.iter().any(|p| clashes(p, wanted))) {
            Some(claim) => Err(Error::new(
                Kind::AlreadyExists,
                format!(
                    "host port {port}/{protocol} leads to {}; choose another, or remove that one",
                    claim.owner
                ),
            )),
            None => Ok(()),
        }
    }
}

fn clashes(one: &PortMapping, other: &PortMapping) -> bool {
    let key = |p: &PortMapping| -> (u16, Protocol) { (p.host_port, p.protocol) };
    key(one) == key(other)
        && (one.host_ip.is_none() || other.host_ip.is_none() || one.host_ip == other.host_ip)
}

/// A mapping's address of the node.
pub(super) fn ipv4(host_ip: Option<IpAddr>) -> Result<Option<Ipv4Addr>> {
    match host_ip {
        None => Ok(None),
        Some(IpAddr::V4(ip)) => Ok(Some(ip)),
        Some(IpAddr::V6(ip)) => Err(Error::unimplemented(format!(
            "host address {ip} of a port: the built-in network is IPv4 only; name an IPv4 address, or none"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(subnet: &str) -> Claims {
        Claims::new(Subnet::parse(subnet).unwrap())
    }

    #[test]
    fn subnets() {
        let subnet = Subnet::parse("10.88.3.4/16").unwrap();
        assert_eq!(subnet.to_string(), "10.88.0.0/16");
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 88, 0, 1));
        assert!(subnet.overlaps(Ipv4Addr::new(10, 88, 9, 9), 24));
        assert!(subnet.overlaps(Ipv4Addr::new(10, 1, 1, 1), 8));
        assert!(!subnet.overlaps(Ipv4Addr::new(10, 89, 0, 1), 16));
        for bad in ["", "10.88.0.0", "10.88.0.0/31", "10.88.0.0/7", "fd00::/64", "x/16"] {
            assert!(Subnet::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_used_up_and_given_back() {
        let mut claims = claims("192.0.2.0/29");
        let got: HashSet<_> =
            (0..5).map(|n| claims.claim(&n.to_string(), "x", &[]).unwrap().0.to_string()).collect();
        let expected = (2..7).map(|n| format!("192.0.2.{n}")).collect::<HashSet<_>>();
        assert_eq!(got, expected);
        let error = claims.claim("6", "x", &[]).unwrap_err();
        assert_eq!(error.kind(), Kind::ResourceExhausted);
        assert!(error.to_string().contains("192.0.2.0/29"), "{error}");
        claims.release("3");
        claims.release("3");
        assert_eq!(claims.claim("7", "x", &[]).unwrap().0, Ipv4Addr::new(192, 0, 2, 5));
        assert_eq!(claims.claim("7", "x", &[]).unwrap_err().kind(), Kind::AlreadyExists);
    }

    #[test]
    fn an_address_is_not_used_again_at_once() {
        let mut claims = claims("192.0.2.0/24");
        let first = claims.claim("a", "x", &[]).unwrap().0;
        claims.release("a");
        assert_ne!(claims.claim("a", "x", &[]).unwrap().0, first);
    }

    #[test]
    fn ports_are_claimed_once() {
        let mut claims = claims("192.0.2.0/24");
        let any = PortMapping { host_ip: None, host_port: 0, container_port: 80, protocol: Protocol::Tcp };
        let (_, chosen) = claims.claim("a", "default/web", &[any.clone(), any.clone()]).unwrap();
        assert!(chosen[0].host_port != 0 && chosen[0].host_port != chosen[1].host_port);
        let same = PortMapping { host_ip: Some("127.0.0.1".parse().unwrap()), ..chosen[0].clone() };
        let error = claims.claim("b", "x", &[any, same.clone()]).unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists);
        assert!(error.to_string().contains("default/web"), "{error}");
        let udp = PortMapping { protocol: Protocol::Udp, ..same.clone() };
        assert!(claims.claim("b", "x", &[udp.clone(), udp]).unwrap_err().to_string().contains("twice"));
        claims.release("a");
        claims.claim("c", "x", std::slice::from_ref(&same)).unwrap();
        // A program of the node holds it.
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let held = PortMapping { host_port: taken.local_addr().unwrap().port(), ..same };
        let error = claims.claim("d", "x", &[held]).unwrap_err();
        assert!(error.kind() == Kind::AlreadyExists && error.to_string().contains("in use"), "{error}");
        let v6 = PortMapping::parse("::1", 1, 1, Protocol::Tcp).unwrap();
        assert_eq!(claims.claim("e", "x", &[v6]).unwrap_err().kind(), Kind::Unimplemented);
    }
}
