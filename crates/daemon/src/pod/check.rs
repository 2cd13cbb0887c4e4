//! What a pod may be asked for: refused before anything is made.

use super::userns;
use crate::error::{Error, Result};
use crate::net::{PortMapping, Protocol};
use crate::request::{Origin, PodRequest};
use std::path::Path;
use strata_api::cri;

/// Ports of the node that are to lead to a pod.
pub(super) fn ports(config: &cri::PodSandboxConfig, origin: Origin) -> Result<Vec<PortMapping>> {
    // Without a port of the node it only says what the container listens on.
    let wanted = config.port_mappings.iter().filter(|p| p.host_port != 0 || origin == Origin::Strata);
    let parsed = wanted.map(|p| {
        let protocol = match cri::Protocol::try_from(p.protocol) {
            Ok(cri::Protocol::Tcp) => Protocol::Tcp,
            Ok(cri::Protocol::Udp) => Protocol::Udp,
            Ok(cri::Protocol::Sctp) => Protocol::Sctp,
            Err(_) => {
                return Err(Error::invalid(format!(
                    "port protocol {}: must be TCP, UDP or SCTP",
                    p.protocol
                )));
            }
        };
        PortMapping::parse(&p.host_ip, p.host_port.into(), p.container_port.into(), protocol)
    });
    parsed.collect()
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
    // A mode that is not known must not become the default one, which may be less strict.
    if let Some(unknown) = [options.network, options.pid, options.ipc]
        .into_iter()
        .find(|m| cri::NamespaceMode::try_from(*m).is_err())
    {
        return Err(Error::invalid(format!("namespace mode {unknown}: there is no such mode in CRI v1")));
    }
    if [options.network(), options.ipc()].contains(&cri::NamespaceMode::Container) {
        return Err(Error::invalid(
            "network and IPC namespaces are the pod's or the node's, never a container's",
        ));
    }
    if options.pid() == cri::NamespaceMode::Target {
        return Err(Error::invalid("a pod has no target for its PID namespace"));
    }
    userns::of_pod(config).map(drop)
}
