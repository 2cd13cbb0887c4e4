//! `create`: from a request to a hidden pod and its one container.

use super::images::find;
use super::options::{self, Seccomp, Security};
use super::{names, sessions};
use crate::error::{Error, Kind, Result};
use crate::ids::new_id;
use crate::node::Node;
use crate::pod::short;
use crate::request::{ContainerRequest, Extras, NetworkMode, Origin, PodRequest};
use crate::tasks::blocking;
use std::sync::Arc;
use strata_api::cri::security_profile::ProfileType;
use strata_api::{cri, debug};
use strata_sys::durable;

/// The namespace of hidden pods.
const NAMESPACE: &str = "strata";
/// How often a made-up name is replaced if somebody was faster with it.
const NAME_ATTEMPTS: u32 = 4;

pub(super) async fn create(
    node: &Arc<Node>,
    request: debug::CreateContainerRequest,
) -> Result<debug::CreateContainerResponse> {
    // Before anything is made, and with NotFound: the client pulls then, and asks again.
    find(node, &request.image)?;
    let security = Security::parse(&request.security_opt)?;
    if let Seccomp::Text(text) = &security.seccomp {
        strata_oci::seccomp::Profile::parse(text.as_bytes())
            .map_err(|e| Error::invalid(format!("Decoding seccomp profile failed: {e}")))?;
    }
    let given = names::check_given(&request.name)?;
    let mut attempts = NAME_ATTEMPTS;
    loop {
        let name = match given {
            Some(name) => name.to_owned(),
            None => names::generate(|n| node.find_container(n).is_ok())?,
        };
        let uid = new_id()?;
        let seccomp = seccomp(node, security.seccomp.clone(), &uid).await?;
        let (pod, container) = requests(&request, &name, &uid, &security, seccomp.as_ref())?;
        match node.create_standalone(pod, container).await {
            Ok(id) => {
                return Ok(debug::CreateContainerResponse { id, warnings: warnings(&request) });
            }
            Err(e) => {
                node.forget_seccomp(&uid);
                if e.kind() != Kind::AlreadyExists || given.is_some() || attempts == 0 {
                    return Err(e);
                }
                attempts -= 1;
            }
        }
    }
}

/// Both requests.
fn requests(
    request: &debug::CreateContainerRequest,
    name: &str,
    uid: &str,
    security: &Security,
    seccomp: Option<&cri::SecurityProfile>,
) -> Result<(PodRequest, ContainerRequest)> {
    let network = options::network(&request.network)?;
    let namespaces = options::namespaces(&request.pid, &request.ipc)?;
    let pod = PodRequest {
        config: pod_config(request, name, uid, network, &namespaces)?,
        handler: String::new(),
        origin: Origin::Strata,
        network,
    };
    let container = ContainerRequest {
        config: container_config(request, name, &namespaces, security, seccomp)?,
        extras: extras(request, name, security)?,
    };
    Ok((pod, container))
}

fn pod_config(
    request: &debug::CreateContainerRequest,
    name: &str,
    uid: &str,
    network: NetworkMode,
    namespaces: &cri::NamespaceOption,
) -> Result<cri::PodSandboxConfig> {
    let hostname = match request.hostname.as_str() {
        "" if network == NetworkMode::Host => "",
        "" => short(uid),
        given => given,
    };
    let ports = match network {
        NetworkMode::Bridge => request.ports.iter().map(options::port).collect::<Result<_>>()?,
        // As with Docker: there is no address that they could lead to.
        _ => Vec::new(),
    };
    let dns = cri::DnsConfig { servers: request.dns.clone(), ..Default::default() };
    Ok(cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: uid.to_owned(),
            namespace: NAMESPACE.to_owned(),
            attempt: 0,
        }),
        hostname: hostname.to_owned(),
        dns_config: (!request.dns.is_empty()).then_some(dns),
        port_mappings: ports,
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces.clone()),
                privileged: request.privileged,
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn container_config(
    request: &debug::CreateContainerRequest,
    name: &str,
    namespaces: &cri::NamespaceOption,
    security: &Security,
    seccomp: Option<&cri::SecurityProfile>,
) -> Result<cri::ContainerConfig> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let context = cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            add_capabilities: request.cap_add.clone(),
            drop_capabilities: request.cap_drop.clone(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged: request.privileged,
        namespace_options: Some(namespaces.clone()),
        readonly_rootfs: request.readonly,
        no_new_privs: security.no_new_privs,
        seccomp: seccomp.cloned(),
        apparmor: security.apparmor.clone(),
        selinux_options: security.selinux.clone(),
        ..Default::default()
    };
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: request.image.clone(), ..Default::default() }),
        args: request.command.clone(),
        working_dir: request.workdir.clone(),
        envs: request.env.iter().filter_map(|e| variable(e)).collect(),
        mounts: request.mounts.iter().map(options::mount).collect::<Result<_>>()?,
        labels: request.labels.clone(),
        stdin: request.stdin,
        stdin_once: request.stdin_once,
        tty: request.tty,
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(options::resources(request, cpus)?),
            security_context: Some(context),
        }),
        ..Default::default()
    })
}

fn extras(request: &debug::CreateContainerRequest, name: &str, security: &Security) -> Result<Extras> {
    let entrypoint = request.entrypoint.as_ref().map(|e| match e.as_str() {
        "" => Vec::new(),
        program => vec![program.to_owned()],
    });
    let shared = request.mounts.iter().filter(|m| m.relabel == "z");
    Ok(Extras {
        name: Some(name.to_owned()),
        auto_remove: request.auto_remove,
        entrypoint,
        user: Some(request.user.clone()).filter(|u| !u.is_empty()),
        groups: request.group_add.clone(),
        tmpfs: request.tmpfs.clone(),
        pids_limit: request.pids_limit,
        rlimits: request.ulimits.iter().map(|u| options::ulimit(u)).collect::<Result<_>>()?,
        stop_signal: Some(request.stop_signal.clone()).filter(|s| !s.is_empty()),
        stop_timeout: request.stop_timeout,
        unlabelled: security.unlabelled,
        shared_mounts: shared.map(|m| m.target.clone()).collect(),
        tty_size: sessions::terminal_size(request.tty_rows, request.tty_cols),
        image_name: request.image.clone(),
    })
}

/// A name alone says nothing: the client has filled in what it has itself.
fn variable(line: &str) -> Option<cri::KeyValue> {
    let (key, value) = line.split_once('=')?;
    Some(cri::KeyValue { key: key.to_owned(), value: value.as_bytes().to_vec() })
}

fn warnings(request: &debug::CreateContainerRequest) -> Vec<String> {
    let mut warnings = Vec::new();
    if !request.ports.is_empty() && request.network == "host" {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    if request.init {
        let why = "--init does nothing yet: the program itself is process 1, and must wait for its children";
        warnings.push(why.to_owned());
    }
    warnings
}

/// The profile as CRI names it. A text becomes a file of the container's, which can be started again, and goes with it.
async fn seccomp(node: &Node, choice: Seccomp, id: &str) -> Result<Option<cri::SecurityProfile>> {
    let profile = |kind: ProfileType, path: String| cri::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: path,
    };
    match choice {
        Seccomp::Default => Ok(Some(profile(ProfileType::RuntimeDefault, String::new()))),
        Seccomp::Unconfined => Ok(Some(profile(ProfileType::Unconfined, String::new()))),
        Seccomp::File(path) => Ok(Some(profile(ProfileType::Localhost, path))),
        Seccomp::Text(text) => {
            let path = node.seccomp_file(id);
            let text_path = path.to_string_lossy().into_owned();
            blocking(move || {
                let fail = |e: strata_sys::Error| Error::internal(format!("seccomp profile: {e}"));
                let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
                    return Err(Error::internal(format!("seccomp profile {}: no file", path.display())));
                };
                durable::mkdir_all(dir, 0o700).map_err(fail)?;
                let fd = durable::open_dir(dir).map_err(fail)?;
                durable::write_file(&fd, name, text.as_bytes(), 0o600).map_err(fail)
            })
            .await?;
            Ok(Some(profile(ProfileType::Localhost, text_path)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(request: &debug::CreateContainerRequest) -> (PodRequest, ContainerRequest) {
        let uid = "ab".repeat(32);
        requests(request, "web", &uid, &Security::default(), None).unwrap()
    }

    #[test]
    fn a_request_becomes_a_pod_and_a_container() {
        let request = debug::CreateContainerRequest {
            image: "busybox".into(),
            command: vec!["sh".into()],
            entrypoint: Some(String::new()),
            env: vec!["A=b=c".into(), "ALONE".into()],
            user: "1000:app".into(),
            ports: vec![debug::PortMapping { host_port: 8080, container_port: 80, ..Default::default() }],
            dns: vec!["10.0.0.1".into()],
            tty: true,
            tty_rows: 24,
            tty_cols: 80,
            stop_timeout: Some(3),
            ..Default::default()
        };
        let (pod, container) = built(&request);
        let metadata = pod.config.metadata.unwrap();
        assert_eq!((metadata.name.as_str(), metadata.namespace.as_str()), ("web", "strata"));
        assert_eq!((pod.origin, pod.network), (Origin::Strata, NetworkMode::Bridge));
        assert_eq!(pod.config.hostname, "abababababab");
        assert_eq!(pod.config.port_mappings[0].host_port, 8080);
        assert_eq!(pod.config.dns_config.unwrap().servers, ["10.0.0.1"]);
        let options = pod.config.linux.unwrap().security_context.unwrap().namespace_options.unwrap();
        assert_eq!(options.pid(), cri::NamespaceMode::Container);
        assert_eq!(container.config.args, ["sh"]);
        assert_eq!(container.config.envs.len(), 1);
        assert_eq!(container.config.envs[0].value, b"b=c");
        assert_eq!(container.extras.entrypoint, Some(Vec::new()));
        assert_eq!(container.extras.user.as_deref(), Some("1000:app"));
        assert_eq!(container.extras.tty_size, Some((24, 80)));
        assert_eq!(container.extras.name.as_deref(), Some("web"));
        assert!(warnings(&request).is_empty());
    }

    #[test]
    fn the_hosts_network_has_no_ports_and_no_name() {
        let request = debug::CreateContainerRequest {
            network: "host".into(),
            ports: vec![debug::PortMapping { container_port: 80, ..Default::default() }],
            init: true,
            ..Default::default()
        };
        let (pod, _) = built(&request);
        assert!(pod.config.port_mappings.is_empty() && pod.config.hostname.is_empty());
        assert_eq!(warnings(&request).len(), 2);
    }
}
