//! What a pod gives its containers: namespaces, names, kernel parameters; and what a node must have for it.

use super::{refused, sleeper};
use k8s_cri::v1::{self as cri, NamespaceMode, security_profile::ProfileType};
use strata_api::cri as newest;
use strata_e2e::images::{Compression, Flavor, ImageBuilder, catalog};
use strata_e2e::node::{Node, container, pod, security, test};
use tonic::Code;

fn options(config: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default()
}

/// A namespace of the node itself.
fn own(node: &Node, name: &str) -> String {
    let path = std::fs::read_link(format!("/proc/{}/ns/{name}", node.pid())).unwrap();
    path.display().to_string() + "\n"
}

#[test]
fn namespaces_are_the_pods_or_the_nodes() {
    test(|node| {
        let namespace = |id: &str, name: &str| node.exec(id, &format!("readlink /proc/self/ns/{name}"));
        let (_, plain) = sleeper(node, "plain", |_, _| ());
        for name in ["net", "ipc", "uts", "pid", "mnt"] {
            assert_ne!(namespace(&plain, name), own(node, name), "{name}");
        }
        let (pod_id, host) = sleeper(node, "host", |pod, config| {
            let modes = cri::NamespaceOption {
                network: NamespaceMode::Node.into(),
                pid: NamespaceMode::Node.into(),
                ipc: NamespaceMode::Node.into(),
                ..Default::default()
            };
            *options(pod) = modes.clone();
            security(config).namespace_options = Some(modes);
        });
        for name in ["net", "ipc", "pid"] {
            assert_eq!(namespace(&host, name), own(node, name), "{name}");
        }
        let told = node.pod_status(&pod_id).linux.unwrap().namespaces.unwrap().options.unwrap();
        assert_eq!(
            (told.network(), told.pid(), told.ipc()),
            (NamespaceMode::Node, NamespaceMode::Node, NamespaceMode::Node)
        );
        // Containers of one pod share what is the pod's, its processes too if it says so.
        let mut config = pod(node, "shared");
        options(&mut config).pid = NamespaceMode::Pod.into();
        let shared = node.run_pod(&config);
        let ids = ["a", "b"].map(|name| {
            let mut wanted = container(node, name, "trap exit TERM; while :; do sleep 0.1; done");
            let pid = NamespaceMode::Pod.into();
            security(&mut wanted).namespace_options =
                Some(cri::NamespaceOption { pid, ..Default::default() });
            node.run_container(&shared, &config, &wanted)
        });
        for name in ["net", "ipc", "uts", "pid"] {
            assert_eq!(namespace(&ids[0], name), namespace(&ids[1], name), "{name}");
        }
        assert_ne!(namespace(&ids[0], "mnt"), namespace(&ids[1], "mnt"));
        let (code, message) = refused(node, &shared, "odd", |config| {
            let network = NamespaceMode::Node.into();
            security(config).namespace_options = Some(cri::NamespaceOption { network, ..Default::default() });
        });
        assert!(code == Code::InvalidArgument && message.contains("network"), "{message}");
    });
}

#[test]
fn names_and_kernel_parameters_are_the_pods() {
    test(|node| {
        let (_, id) = sleeper(node, "names", |pod, _| {
            pod.hostname = "chosen".into();
            pod.dns_config = Some(cri::DnsConfig {
                servers: vec!["192.0.2.53".into()],
                searches: vec!["a.example".into(), "b.example".into()],
                options: vec!["ndots:5".into(), "edns0".into()],
            });
            let sysctls = [
                ("kernel.shm_rmid_forced", "1"),
                ("net.ipv4.ip_local_port_range", "20000 30000"),
                ("fs.mqueue.msg_max", "100"),
                ("kernel.domainname", "example"),
                ("net/ipv4/tcp_syncookies", "0"),
            ];
            pod.linux.get_or_insert_default().sysctls =
                sysctls.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        });
        let script = "hostname; echo $HOSTNAME; cat /etc/hostname; cat /etc/resolv.conf; grep -c chosen /etc/hosts; \
                      cd /proc/sys && cat kernel/shm_rmid_forced net/ipv4/ip_local_port_range fs/mqueue/msg_max \
                      kernel/domainname net/ipv4/tcp_syncookies";
        assert_eq!(
            node.exec(&id, script),
            "chosen\nchosen\nchosen\nsearch a.example b.example\nnameserver 192.0.2.53\noptions ndots:5 edns0\n1\n\
             1\n20000\t30000\n100\nexample\n0\n"
        );
        for (name, value) in
            [("kernel.panic", "1"), ("net.ipv4.no_such", "1"), ("kernel.shm_rmid_forced", "many")]
        {
            let mut config = pod(node, "bad");
            config.linux.get_or_insert_default().sysctls = [(name.to_owned(), value.to_owned())].into();
            let error = node.try_run_pod(&config).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{name}: {error:?}");
            assert!(error.message().contains(name.rsplit('.').next().unwrap()), "{name}: {error:?}");
        }
    });
}

#[test]
fn seccomp_is_what_kubernetes_says() {
    test(|node| {
        let mode = |name: &str, profile: Option<ProfileType>| {
            let (out, _) = node.script(name, "grep Seccomp: /proc/self/status", |config| {
                security(config).seccomp =
                    profile.map(|p| cri::SecurityProfile { profile_type: p.into(), ..Default::default() });
            });
            out.trim().rsplit('\t').next().unwrap().to_owned()
        };
        assert_eq!(mode("default", Some(ProfileType::RuntimeDefault)), "2");
        // Nothing said is nothing asked for (CRI, LinuxContainerSecurityContext.seccomp).
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let unconfined = own.lines().find_map(|l| l.strip_prefix("Seccomp:")).unwrap().trim();
        assert_eq!(mode("unset", None), unconfined);
        assert_eq!(mode("unconfined", Some(ProfileType::Unconfined)), unconfined);
    });
}

#[test]
fn modules_that_the_kernel_lacks_are_named() {
    test(|node| {
        node.pull("busybox");
        let pod_id = node.run_pod(&pod(node, "modules"));
        let lacks = |path: &str| !std::path::Path::new(path).exists();
        if lacks("/sys/kernel/security/apparmor") {
            for kind in [ProfileType::RuntimeDefault, ProfileType::Localhost] {
                let profile = cri::SecurityProfile { profile_type: kind.into(), localhost_ref: "x".into() };
                let (code, message) =
                    refused(node, &pod_id, "modules", |c| security(c).apparmor = Some(profile.clone()));
                assert!(code == Code::FailedPrecondition && message.contains("AppArmor"), "{message}");
            }
            let mut config = container(node, "free", "true");
            let profile_type = ProfileType::Unconfined.into();
            security(&mut config).apparmor =
                Some(cri::SecurityProfile { profile_type, ..Default::default() });
            node.create(&pod_id, &pod(node, "modules"), &config);
        }
        if lacks("/sys/fs/selinux") {
            let label = cri::SeLinuxOption { level: "s0:c1,c2".into(), ..Default::default() };
            let (code, message) =
                refused(node, &pod_id, "label", |c| security(c).selinux_options = Some(label.clone()));
            assert!(code == Code::FailedPrecondition && message.contains("SELinux"), "{message}");
            let mut config = pod(node, "labelled");
            config.linux.get_or_insert_default().security_context =
                Some(cri::LinuxSandboxSecurityContext { selinux_options: Some(label), ..Default::default() });
            assert_eq!(node.try_run_pod(&config).unwrap_err().code(), Code::FailedPrecondition);
        }
    });
}

#[test]
fn stop_signals_are_sent_and_told() {
    test(|node| {
        let busybox = catalog::busybox_layer().unwrap();
        let image = ImageBuilder::new(Flavor::Oci)
            .layer(&busybox, Compression::Gzip, "COPY busybox /")
            .set("StopSignal", serde_json::json!("SIGUSR2"))
            .build();
        node.push(async |registry| registry.push(&image, "e2e/signal", "latest").await);
        node.pull("busybox");
        node.pull("signal");
        let config = pod(node, "signals");
        let pod_id = node.run_pod(&config);
        let script = "trap 'exit 11' USR1; trap 'exit 12' USR2; trap 'exit 15' TERM; echo ready; while :; do sleep 0.1; done";
        let cases = [
            ("plain", "busybox", newest::Signal::RuntimeDefault, newest::Signal::Sigterm, 15),
            ("image", "signal", newest::Signal::RuntimeDefault, newest::Signal::Sigusr2, 12),
            ("pod", "signal", newest::Signal::Sigusr1, newest::Signal::Sigusr1, 11),
        ];
        for (name, image, asked, told, code) in cases {
            let config = newest::ContainerConfig {
                metadata: Some(newest::ContainerMetadata { name: name.into(), attempt: 0 }),
                image: Some(newest::ImageSpec { image: node.image(image), ..Default::default() }),
                command: vec!["/bin/sh".into(), "-c".into(), script.into()],
                log_path: format!("{name}.log"),
                stop_signal: asked.into(),
                ..Default::default()
            };
            let request = newest::CreateContainerRequest {
                pod_sandbox_id: pod_id.clone(),
                config: Some(config),
                ..Default::default()
            };
            let id = node.newest(async |mut c| c.create_container(request).await).unwrap().container_id;
            node.try_start(&id).unwrap();
            strata_e2e::eventually(10, "its traps are set", || {
                if node.log(&id).is_empty() { Err("nothing is said".into()) } else { Ok(()) }
            });
            let request = newest::ContainerStatusRequest { container_id: id.clone(), verbose: false };
            let status =
                node.newest(async |mut c| c.container_status(request).await).unwrap().status.unwrap();
            assert_eq!(status.stop_signal(), told, "{name}");
            node.stop_container(&id, 20).unwrap();
            assert_eq!(node.wait_exit(&id).exit_code, code, "{name}");
        }
    });
}

#[test]
fn checkpoints_are_not_built_and_say_so() {
    test(|node| {
        let (_, id) = sleeper(node, "kept", |_, _| ());
        let request =
            cri::CheckpointContainerRequest { container_id: id, location: "/tmp/x".into(), timeout: 1 };
        let error = node.cri(async |mut c| c.checkpoint_container(request).await).unwrap_err();
        assert_eq!(error.code(), Code::Unimplemented);
        assert!(error.message().contains("CheckpointContainer"), "{error:?}");
    });
}
