//! Ports of the node, held by bound sockets that never listen: the packets go to the pod before they would get there.

use crate::error::{Error, Kind, Result};
use crate::net::Protocol;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

/// Binds a port of the node, any free one for 0, and says which. SCTP's are not bound: not every kernel has it.
///
/// # Errors
/// [`Kind::AlreadyExists`] if it is in use, [`Kind::InvalidArgument`] if the address is not the node's.
pub(super) fn reserve(
    host_ip: Option<Ipv4Addr>,
    port: u16,
    protocol: Protocol,
) -> Result<(Option<OwnedFd>, u16)> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
        Protocol::Sctp if port == 0 => {
            return Err(Error::unimplemented("a free host port cannot be chosen for sctp; name one"));
        }
        Protocol::Sctp => return Ok((None, port)),
    };
    let address = SocketAddrV4::new(host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED), port);
    let failed = |errno| refusal(address, protocol, errno);
    let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None).map_err(failed)?;
    // No SO_REUSEADDR: two sockets that do not listen could share the port.
    bind(&socket, &address).map_err(failed)?;
    let bound = getsockname(&socket).and_then(SocketAddrV4::try_from).map_err(failed)?;
    Ok((Some(socket), bound.port()))
}

fn refusal(address: SocketAddrV4, protocol: Protocol, errno: Errno) -> Error {
    let (kind, advice) = match errno {
        Errno::ADDRINUSE => (Kind::AlreadyExists, "a program of the node has it in use; choose another"),
        Errno::ADDRNOTAVAIL => (Kind::InvalidArgument, "the node does not have this address"),
        _ => (Kind::Unavailable, "it cannot be reserved"),
    };
    Error::new(kind, format!("host port {address}/{protocol}: {advice} ({errno})"))
}
