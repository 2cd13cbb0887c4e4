//! Options of `strata run` as CRI says them.

use crate::error::{Error, Result};
use crate::request::NetworkMode;
use strata_api::cri::security_profile::ProfileType;
use strata_api::{cri, debug};

/// The least memory that a container can start with: Docker's bound.
const MIN_MEMORY: i64 = 6 << 20;
/// The CFS period that Docker's `--cpus` is counted in, in microseconds.
const CPU_PERIOD: i64 = 100_000;

/// What `--security-opt` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Security {
    pub(super) no_new_privs: bool,
    pub(super) seccomp: Seccomp,
    pub(super) apparmor: Option<cri::SecurityProfile>,
    pub(super) selinux: Option<cri::SeLinuxOption>,
    /// `label=disable`
    pub(super) unlabelled: bool,
}

/// Which seccomp profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Seccomp {
    /// The runtime's own.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// A file of this node.
    File(String),
    /// A profile's text.
    Text(String),
}

impl Security {
    /// # Errors
    /// For options that are not known.
    pub(super) fn parse(options: &[String]) -> Result<Self> {
        let mut all = Self::default();
        for option in options {
            let (key, value) = option
                .split_once('=')
                .or_else(|| option.split_once(':'))
                .map_or((option.as_str(), None), |(k, v)| (k, Some(v)));
            match (key, value) {
                ("no-new-privileges", None | Some("true")) => all.no_new_privs = true,
                ("no-new-privileges", Some("false")) => all.no_new_privs = false,
                ("seccomp", Some(value)) => all.seccomp = Seccomp::of(value),
                ("apparmor", Some(value)) => all.apparmor = Some(apparmor(value)),
                ("label", Some("disable")) => all.unlabelled = true,
                ("label", Some(value)) => {
                    let part = value.split_once(':').filter(|(_, text)| !text.is_empty());
                    let own = all.selinux.get_or_insert_default();
                    match part {
                        Some(("user", user)) => user.clone_into(&mut own.user),
                        Some(("role", role)) => role.clone_into(&mut own.role),
                        Some(("type", kind)) => kind.clone_into(&mut own.r#type),
                        Some(("level", level)) => level.clone_into(&mut own.level),
                        _ => return Err(Error::invalid(format!("invalid --security-opt 2: {option:?}"))),
                    }
                }
                _ => return Err(Error::invalid(format!("invalid --security-opt 2: {option:?}"))),
            }
        }
        Ok(all)
    }
}

impl Seccomp {
    fn of(value: &str) -> Self {
        match value {
            "unconfined" => Self::Unconfined,
            "builtin" | "default" | "runtime/default" => Self::Default,
            text if text.trim_start().starts_with('{') => Self::Text(text.to_owned()),
            path => Self::File(path.to_owned()),
        }
    }
}

fn apparmor(name: &str) -> cri::SecurityProfile {
    let (kind, localhost) = match name {
        "unconfined" => (ProfileType::Unconfined, ""),
        "runtime/default" => (ProfileType::RuntimeDefault, ""),
        name => (ProfileType::Localhost, name),
    };
    cri::SecurityProfile { profile_type: kind.into(), localhost_ref: localhost.to_owned() }
}

/// Limits of memory and processor time.
///
/// # Errors
/// In Docker's words for numbers that no container could run with.
pub(super) fn resources(
    request: &debug::CreateContainerRequest,
    cpus: usize,
) -> Result<cri::LinuxContainerResources> {
    if request.memory != 0 && request.memory < MIN_MEMORY {
        return Err(Error::invalid("Minimum memory limit allowed is 6MB"));
    }
    let most = i64::try_from(cpus).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    if request.nano_cpus != 0 && !(10_000_000..=most).contains(&request.nano_cpus) {
        return Err(Error::invalid(format!(
            "Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )));
    }
    let limited = request.nano_cpus != 0;
    Ok(cri::LinuxContainerResources {
        memory_limit_in_bytes: request.memory,
        cpu_period: if limited { CPU_PERIOD } else { 0 },
        cpu_quota: request.nano_cpus / (1_000_000_000 / CPU_PERIOD),
        cpu_shares: request.cpu_shares,
        cpuset_cpus: request.cpuset_cpus.clone(),
        ..Default::default()
    })
}

/// `name=soft[:hard]`, the name as getrlimit(2) has it or in Docker's short form; -1 is no limit.
///
/// # Errors
/// For what is not of that form.
pub(super) fn ulimit(text: &str) -> Result<(String, u64, u64)> {
    let bad = || {
        Error::invalid(format!(
            "invalid ulimit {text:?}: expected name=soft[:hard], such as nofile=1024:4096"
        ))
    };
    let (name, limits) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(bad)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let value = |n: &str| match n {
        "-1" | "unlimited" => Ok(u64::MAX),
        n => n.parse().map_err(|_| bad()),
    };
    let (soft, hard) = (value(soft)?, value(hard)?);
    if soft > hard {
        return Err(Error::invalid(format!(
            "ulimit {name}: the soft limit {soft} is above the hard one, {hard}"
        )));
    }
    let name = name.to_ascii_uppercase();
    let name = if name.starts_with("RLIMIT_") { name } else { format!("RLIMIT_{name}") };
    Ok((name, soft, hard))
}

/// A bind mount.
///
/// # Errors
/// For a propagation that is none.
pub(super) fn mount(mount: &debug::BindMount) -> Result<cri::Mount> {
    use cri::MountPropagation::{PropagationBidirectional, PropagationHostToContainer, PropagationPrivate};
    let propagation = match mount.propagation.as_str() {
        "" | "private" | "rprivate" => PropagationPrivate,
        "slave" | "rslave" => PropagationHostToContainer,
        "shared" | "rshared" => PropagationBidirectional,
        other => {
            return Err(Error::invalid(format!("mount on {}: invalid propagation {other:?}", mount.target)));
        }
    };
    if !mount.target.starts_with('/') {
        let text = format!("invalid mount path: '{}': mount path must be absolute", mount.target);
        return Err(Error::invalid(text));
    }
    if mount.source.is_empty() {
        return Err(Error::invalid(format!(
            "mount on {}: Strata has no volumes of its own: give a path of the host too",
            mount.target
        )));
    }
    Ok(cri::Mount {
        container_path: mount.target.clone(),
        host_path: mount.source.clone(),
        readonly: mount.readonly,
        propagation: propagation.into(),
        selinux_relabel: !mount.relabel.is_empty(),
        ..Default::default()
    })
}

/// A port of the node.
///
/// # Errors
/// For numbers and protocols that are none.
pub(super) fn port(port: &debug::PortMapping) -> Result<cri::PortMapping> {
    let protocol = match port.protocol.as_str() {
        "" | "tcp" => cri::Protocol::Tcp,
        "udp" => cri::Protocol::Udp,
        "sctp" => cri::Protocol::Sctp,
        other => return Err(Error::invalid(format!("invalid proto: {other}"))),
    };
    let number = |n: u32| {
        u16::try_from(n)
            .map_err(|_| Error::invalid(format!("invalid port {n}: must lie between 0 and 65535")))
    };
    let (host, container) = (number(port.host_port)?, number(port.container_port)?);
    Ok(cri::PortMapping {
        protocol: protocol.into(),
        container_port: container.into(),
        host_port: host.into(),
        host_ip: port.host_ip.clone(),
    })
}

/// The network.
///
/// # Errors
/// For one that Strata does not have.
pub(super) fn network(name: &str) -> Result<NetworkMode> {
    match name {
        "" | "default" | "bridge" => Ok(NetworkMode::Bridge),
        "host" => Ok(NetworkMode::Host),
        "none" => Ok(NetworkMode::None),
        other => Err(Error::invalid(format!("network {other} not found: Strata has bridge, host and none"))),
    }
}

/// The namespaces that can be the host's, as CRI's options of a pod and its container.
///
/// # Errors
/// For modes that Strata does not have.
pub(super) fn namespaces(pid: &str, ipc: &str) -> Result<cri::NamespaceOption> {
    use cri::NamespaceMode::{Container, Node, Pod};
    let pid = match pid {
        "" | "private" => Container,
        "host" => Node,
        other => return Err(Error::invalid(format!("--pid: invalid PID mode {other:?}: Strata has host"))),
    };
    let ipc = match ipc {
        "" | "private" | "shareable" => Pod,
        "host" => Node,
        other => {
            return Err(Error::invalid(format!(
                "--ipc: invalid IPC mode {other:?}: Strata has private and host"
            )));
        }
    };
    Ok(cri::NamespaceOption { network: Pod.into(), pid: pid.into(), ipc: ipc.into(), ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_options() {
        let parse =
            |list: &[&str]| Security::parse(&list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let all =
            parse(&["no-new-privileges", "seccomp=unconfined", "apparmor=mine", "label=disable"]).unwrap();
        assert!(all.no_new_privs && all.seccomp == Seccomp::Unconfined && all.unlabelled);
        let label = parse(&["label=type:spc_t", "label:level:s0:c1,c2"]).unwrap().selinux.unwrap();
        assert_eq!(
            (label.r#type.as_str(), label.level.as_str(), label.user.as_str()),
            ("spc_t", "s0:c1,c2", "")
        );
        assert!(
            parse(&["label=type"]).is_err()
                && parse(&["label=type:"]).is_err()
                && parse(&["label=x:y"]).is_err()
        );
        assert_eq!(all.apparmor.unwrap().localhost_ref, "mine");
        assert!(!parse(&["no-new-privileges:false"]).unwrap().no_new_privs);
        assert_eq!(parse(&["seccomp={\"a\":1}"]).unwrap().seccomp, Seccomp::Text("{\"a\":1}".into()));
        assert_eq!(parse(&["seccomp=/p.json"]).unwrap().seccomp, Seccomp::File("/p.json".into()));
        assert!(parse(&["whatever=1"]).is_err() && parse(&["seccomp"]).is_err());
    }

    #[test]
    fn limits() {
        let request =
            |memory, nano_cpus| debug::CreateContainerRequest { memory, nano_cpus, ..Default::default() };
        let r = resources(&request(64 << 20, 1_500_000_000), 2).unwrap();
        assert_eq!((r.cpu_quota, r.cpu_period, r.memory_limit_in_bytes), (150_000, 100_000, 64 << 20));
        let none = resources(&request(0, 0), 2).unwrap();
        assert_eq!((none.cpu_quota, none.cpu_period), (0, 0));
        let error = |memory, cpus| resources(&request(memory, cpus), 2).unwrap_err().to_string();
        assert_eq!(error(1 << 20, 0), "Minimum memory limit allowed is 6MB");
        assert_eq!(
            error(0, 3_000_000_000),
            "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"
        );
        assert_eq!(ulimit("nofile=1024:-1").unwrap(), ("RLIMIT_NOFILE".into(), 1024, u64::MAX));
        for bad in ["nofile", "=1", "nofile=2:1", "nofile=x"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_ports_mounts_and_namespaces() {
        assert_eq!(network("").unwrap(), NetworkMode::Bridge);
        assert!(network("container:x").is_err());
        let p = debug::PortMapping { container_port: 80, protocol: "udp".into(), ..Default::default() };
        assert_eq!(port(&p).unwrap().protocol(), cri::Protocol::Udp);
        assert!(port(&debug::PortMapping { host_port: 70_000, ..p }).is_err());
        let m = debug::BindMount { source: "/a".into(), target: "/b".into(), ..Default::default() };
        let slave = mount(&debug::BindMount { propagation: "rslave".into(), ..m.clone() }).unwrap();
        assert_eq!(slave.propagation(), cri::MountPropagation::PropagationHostToContainer);
        assert!(mount(&debug::BindMount { source: String::new(), ..m }).is_err());
        assert_eq!(namespaces("host", "").unwrap().pid(), cri::NamespaceMode::Node);
        assert_eq!(namespaces("", "").unwrap().pid(), cri::NamespaceMode::Container);
        assert!(namespaces("container:x", "").is_err() && namespaces("", "none").is_err());
    }
}
