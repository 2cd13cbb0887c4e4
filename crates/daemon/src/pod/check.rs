//! What a pod may be asked for: refused before anything is made.

use super::userns;
use crate::error::{Error, Result};
use crate::net::{PortMapping, Protocol};
use crate::request::{Origin, PodRequest, known};
use std::path::Path;
use strata_api::cri;

/// Ports of the node that are to lead to a pod. What is said twice is one port.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for one that cannot be, and for one that is to lead to two places.
pub(super) fn ports(config: &cri::PodSandboxConfig, origin: Origin) -> Result<Vec<PortMapping>> {
    // Without a port of the node it only says what the container listens on.
    let wanted = config.port_mappings.iter().filter(|p| p.host_port != 0 || origin == Origin::Strata);
    let mut ports: Vec<PortMapping> = Vec::new();
    for p in wanted {
        let protocol = match known(p.protocol, "port_mappings.protocol")? {
            cri::Protocol::Tcp => Protocol::Tcp,
            cri::Protocol::Udp => Protocol::Udp,
            cri::Protocol::Sctp => Protocol::Sctp,
        };
        let port = PortMapping::parse(&p.host_ip, p.host_port.into(), p.container_port.into(), protocol)?;
        let same = |other: &&PortMapping| {
            port.host_port != 0
                && (other.host_ip, other.host_port, other.protocol)
                    == (port.host_ip, port.host_port, protocol)
        };
        match ports.iter().find(same).map(|other| other.container_port) {
            None => ports.push(port),
            Some(other) if other == port.container_port => {}
            Some(other) => {
                return Err(Error::invalid(format!(
                    "host port {}/{protocol} is to lead to the container ports {other} and {}; choose another for one of them",
                    port.host_port, port.container_port
                )));
            }
        }
    }
    Ok(ports)
}

/// Refuses what makes no sense, before anything is made.
pub(super) fn request(request: &PodRequest) -> Result<()> {
    let config = &request.config;
    let metadata =
        config.metadata.as_ref().ok_or_else(|| Error::invalid("the pod's metadata are missing"))?;
    if metadata.name.is_empty() || metadata.uid.is_empty() {
        return Err(Error::invalid("the pod's metadata need a name and a uid"));
    }
    ports(config, request.origin)?;
    let logs = Path::new(&config.log_directory);
    if !config.log_directory.is_empty()
        && (!logs.is_absolute() || logs.components().any(|c| c == std::path::Component::ParentDir))
    {
        return Err(Error::invalid(format!(
            "log_directory {:?}: must be an absolute path, without \"..\"",
            config.log_directory
        )));
    }
    let hostname = &config.hostname;
    if hostname.len() > 64 || hostname.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/') {
        return Err(Error::invalid(format!(
            "hostname {hostname:?}: must have at most 64 bytes and no blanks"
        )));
    }
    if config.linux.is_none() {
        return Ok(());
    }
    let options = super::run::namespace_options(config);
    let network: cri::NamespaceMode = known(options.network, "namespace_options.network")?;
    let ipc: cri::NamespaceMode = known(options.ipc, "namespace_options.ipc")?;
    let pid: cri::NamespaceMode = known(options.pid, "namespace_options.pid")?;
    if [network, ipc].contains(&cri::NamespaceMode::Container) {
        return Err(Error::invalid(
            "network and IPC namespaces are the pod's or the node's, never a container's",
        ));
    }
    if pid == cri::NamespaceMode::Target {
        return Err(Error::invalid("a pod has no target for its PID namespace"));
    }
    userns::of_pod(config).map(drop)
}
