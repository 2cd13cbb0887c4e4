//! RunPodSandbox and what is done to pods.

use super::scene::{Case, HOST_PORT, Scene, UNKNOWN, fails, fine};
use k8s_cri::v1::{self as cri, NamespaceMode, PodSandboxConfig};
use tonic::Code;

fn options(config: &mut PodSandboxConfig) -> &mut cri::NamespaceOption {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default()
}

fn port(change: impl FnOnce(&mut cri::PortMapping)) -> Vec<cri::PortMapping> {
    let mut port = cri::PortMapping { container_port: 80, host_port: 8080, ..Default::default() };
    change(&mut port);
    vec![port]
}

fn sysctl(config: &mut PodSandboxConfig, name: &str, value: &str) {
    config.linux.get_or_insert_default().sysctls.insert(name.into(), value.into());
}

type Change = Box<dyn FnOnce(&mut PodSandboxConfig)>;

#[expect(clippy::too_many_lines, reason = "a table")]
pub(crate) fn run<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::{AlreadyExists, InvalidArgument};
    let node = scene.node;
    let bad: Vec<(&str, Code, &str, Change)> = vec![
        ("no metadata", InvalidArgument, "metadata", Box::new(|c| c.metadata = None)),
        ("no name", InvalidArgument, "name", Box::new(|c| c.metadata.as_mut().unwrap().name.clear())),
        ("no uid", InvalidArgument, "uid", Box::new(|c| c.metadata.as_mut().unwrap().uid.clear())),
        ("blank in the host name", InvalidArgument, "hostname", Box::new(|c| c.hostname = "a b".into())),
        ("long host name", InvalidArgument, "hostname", Box::new(|c| c.hostname = "x".repeat(65))),
        (
            "relative cgroup parent",
            InvalidArgument,
            "cgroup_parent",
            Box::new(|c| c.linux.get_or_insert_default().cgroup_parent = "kubepods".into()),
        ),
        (
            "cgroup parent that leaves",
            InvalidArgument,
            "cgroup_parent",
            Box::new(|c| c.linux.get_or_insert_default().cgroup_parent = "/a/../../b".into()),
        ),
        (
            "relative log directory",
            InvalidArgument,
            "log_directory",
            Box::new(|c| c.log_directory = "logs".into()),
        ),
        (
            "log directory that leaves",
            InvalidArgument,
            "log_directory",
            Box::new(|c| c.log_directory = "/var/log/../../etc".into()),
        ),
        (
            "the node's sysctl",
            InvalidArgument,
            "vm.swappiness",
            Box::new(|c| sysctl(c, "vm.swappiness", "1")),
        ),
        ("no sysctl", InvalidArgument, "net..x", Box::new(|c| sysctl(c, "net..x", "1"))),
        (
            "unknown sysctl",
            InvalidArgument,
            "net/ipv4/no_such_thing",
            Box::new(|c| sysctl(c, "net.ipv4.no_such_thing", "1")),
        ),
        (
            "sysctl's value",
            InvalidArgument,
            "ip_forward",
            Box::new(|c| sysctl(c, "net.ipv4.ip_forward", "many")),
        ),
        (
            "sysctl of the node's network",
            InvalidArgument,
            "network namespace",
            Box::new(|c| {
                sysctl(c, "net.ipv4.ip_forward", "1");
                options(c).network = NamespaceMode::Node.into();
            }),
        ),
        (
            "lines in the DNS configuration",
            InvalidArgument,
            "DNS",
            Box::new(|c| c.dns_config.get_or_insert_default().servers = vec!["1.1.1.1\noptions x".into()]),
        ),
        (
            "host port",
            InvalidArgument,
            "host port",
            Box::new(|c| c.port_mappings = port(|p| p.host_port = 70_000)),
        ),
        (
            "negative port",
            InvalidArgument,
            "port -1",
            Box::new(|c| c.port_mappings = port(|p| p.host_port = -1)),
        ),
        (
            "container port",
            InvalidArgument,
            "container port 0",
            Box::new(|c| c.port_mappings = port(|p| p.container_port = 0)),
        ),
        (
            "host address",
            InvalidArgument,
            "localhost",
            Box::new(|c| c.port_mappings = port(|p| p.host_ip = "localhost".into())),
        ),
        (
            "one host port for two ports",
            InvalidArgument,
            "host port 8080/tcp",
            Box::new(|c| c.port_mappings = [port(|_| {}), port(|p| p.container_port = 81)].concat()),
        ),
        (
            "another pod's host port",
            AlreadyExists,
            "leads to",
            Box::new(|c| c.port_mappings = port(|p| p.host_port = HOST_PORT)),
        ),
        ("protocol", InvalidArgument, "protocol", Box::new(|c| c.port_mappings = port(|p| p.protocol = 99))),
        ("network mode", InvalidArgument, "namespace", Box::new(|c| options(c).network = 99)),
        ("PID mode", InvalidArgument, "namespace", Box::new(|c| options(c).pid = 99)),
        (
            "container's network",
            InvalidArgument,
            "network",
            Box::new(|c| options(c).network = NamespaceMode::Container.into()),
        ),
        (
            "PID target",
            InvalidArgument,
            "target",
            Box::new(|c| options(c).pid = NamespaceMode::Target.into()),
        ),
        (
            "taken by another configuration",
            AlreadyExists,
            "remove it",
            Box::new({
                let metadata = scene.pod.metadata.clone();
                move |c| c.metadata = metadata
            }),
        ),
    ];
    let mut cases: Vec<_> = bad
        .into_iter()
        .map(|(input, code, says, change)| {
            let config = scene.pod(change);
            fails("RunPodSandbox", input, code, says, move || node.try_run_pod(&config).map(drop))
        })
        .collect();
    cases.push(fails("RunPodSandbox", "nothing", InvalidArgument, "configuration", || {
        node.cri(async |mut c| c.run_pod_sandbox(cri::RunPodSandboxRequest::default()).await).map(drop)
    }));
    cases.push(fails("RunPodSandbox", "unknown handler", InvalidArgument, "no-such-handler", || {
        let request = cri::RunPodSandboxRequest {
            config: Some(scene.pod(|_| {})),
            runtime_handler: "no-such-handler".into(),
        };
        node.cri(async |mut c| c.run_pod_sandbox(request).await).map(drop)
    }));
    cases.push(fine("RunPodSandbox", "the same again", || {
        node.try_run_pod(&scene.pod).map(|id| assert_eq!(id, scene.pod_id))
    }));
    cases
}

pub(crate) fn others<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::{FailedPrecondition, InvalidArgument, NotFound};
    let node = scene.node;
    let status = |id: &str| {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true };
        node.cri(async |mut c| c.pod_sandbox_status(request).await).map(drop)
    };
    let stats = |id: &str| {
        let request = cri::PodSandboxStatsRequest { pod_sandbox_id: id.into() };
        node.cri(async |mut c| c.pod_sandbox_stats(request).await).map(drop)
    };
    let list = |id: &str| {
        let filter = Some(cri::PodSandboxFilter { id: id.into(), ..Default::default() });
        let request = cri::ListPodSandboxRequest { filter };
        let answer = node.cri(async |mut c| c.list_pod_sandbox(request).await)?;
        assert_eq!(answer.items, []);
        Ok(())
    };
    vec![
        fails("StopPodSandbox", "no ID", InvalidArgument, "ID", || node.stop_pod("")),
        fine("StopPodSandbox", "unknown ID", || node.stop_pod(UNKNOWN)),
        fine("StopPodSandbox", "a container's ID", || node.stop_pod(&scene.running)),
        fine("StopPodSandbox", "stopped", || node.stop_pod(&scene.stopped_pod)),
        fails("RemovePodSandbox", "no ID", InvalidArgument, "ID", || node.remove_pod("")),
        fine("RemovePodSandbox", "unknown ID", || node.remove_pod(UNKNOWN)),
        fine("RemovePodSandbox", "no ID at all", || node.remove_pod("../../etc")),
        fails("PodSandboxStatus", "no ID", InvalidArgument, "ID", move || status("")),
        fails("PodSandboxStatus", "unknown ID", NotFound, UNKNOWN, move || status(UNKNOWN)),
        fails("PodSandboxStatus", "a container's ID", NotFound, "pod", move || status(&scene.running)),
        fine("PodSandboxStatus", "stopped", move || status(&scene.stopped_pod)),
        fails("PodSandboxStats", "no ID", InvalidArgument, "ID", move || stats("")),
        fails("PodSandboxStats", "unknown ID", NotFound, UNKNOWN, move || stats(UNKNOWN)),
        fails("PodSandboxStats", "stopped", FailedPrecondition, "not ready", move || {
            stats(&scene.stopped_pod)
        }),
        fine("ListPodSandbox", "unknown ID", move || list(UNKNOWN)),
        fine("ListPodSandboxStats", "unknown ID", || {
            let filter = Some(cri::PodSandboxStatsFilter { id: UNKNOWN.into(), ..Default::default() });
            let request = cri::ListPodSandboxStatsRequest { filter };
            let answer = node.cri(async |mut c| c.list_pod_sandbox_stats(request).await)?;
            assert_eq!(answer.stats, []);
            Ok(())
        }),
    ]
}
